use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;
use crate::reason::{DropReason, SkipReason};
use crate::rule_set::OutputSlot;

fn ring(max_records: u64) -> (RingWriter, RingReader) {
    let fd = create_ring().unwrap();
    (RingWriter::map(&fd, max_records).unwrap(), RingReader::map(fd.as_fd()).unwrap())
}

fn numbered(number: u64) -> Words {
    let mut words = Words::default();
    words.set_numbers(number, number);
    words.set_event(number, TraceEvent::Matched);
    words
}

fn event() -> impl Strategy<Value = TraceEvent> {
    let slot = any::<u32>().prop_map(OutputSlot);
    prop_oneof![
        Just(TraceEvent::Received),
        Just(TraceEvent::Matched),
        (0..SkipReason::COUNT).prop_map(|place| TraceEvent::Skipped(SkipReason::ALL[place])),
        slot.clone().prop_map(TraceEvent::Sent),
        (slot, 0..DropReason::COUNT, any::<u16>()).prop_map(|(output, place, errno)| TraceEvent::Dropped {
            output,
            reason: DropReason::ALL[place],
            errno
        }),
    ]
}

proptest! {
    #[test]
    fn a_record_is_read_as_written(
        event in event(),
        source: (IpAddr, u16),
        destination: (IpAddr, u16),
        numbers: (u64, u64, u64),
        sizes: (u16, u32, u16),
        ttl: u8,
        dscp: u8,
        frame in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut words = Words::default();
        let flow = Flow { source, destination };
        words.set_frame(&frame);
        words.set_flow(&flow, ttl, dscp);
        words.set_sizes(sizes.0, sizes.1, sizes.2);
        words.set_numbers(numbers.0, numbers.1);
        words.set_event(numbers.2, event);
        let (writer, reader) = ring(2);
        writer.write(&words, true);
        writer.write(&words, false);
        let expected = TraceRecord {
            time_ns: numbers.2,
            event,
            arrival: numbers.0,
            run: numbers.1,
            flow,
            ttl,
            dscp,
            segments: sizes.0,
            segment_bytes: sizes.2,
            bytes: sizes.1,
            frame_bytes: u32::try_from(frame.len()).unwrap(),
            frame: frame[..frame.len().min(FRAME_BYTES)].to_vec(),
        };
        let bare = TraceRecord { frame: Vec::new(), ..expected.clone() };
        prop_assert_eq!(reader.read(0, 9).records, vec![(0, expected), (1, bare)]);
    }

    #[test]
    fn arbitrary_content_is_read_without_panic(
        header: [u64; 7],
        garbage in proptest::collection::vec(any::<u64>(), RECORD_WORDS * 4),
        from: u64,
    ) {
        let fd = create_ring().unwrap();
        let words = WritableWords::map(fd.as_fd(), RING_WORDS).unwrap();
        for (word, value) in words.words().iter().zip(header.into_iter().chain([0; 9]).chain(garbage)) {
            word.store(value, Ordering::Relaxed);
        }
        let reader = RingReader::map(fd.as_fd()).unwrap();
        prop_assert!(reader.read(from, 10).records.len() <= 10);
        prop_assert!(reader.read(0, 10).records.len() <= 10);
    }
}

#[test]
fn a_slow_reader_gets_the_number_of_lost_records() {
    let (writer, reader) = ring(u64::MAX);
    let all = CAPACITY + 1000;
    for number in 0..all {
        writer.write(&numbered(number), false);
    }
    let reading = reader.read(10, usize::MAX);
    assert_eq!((reading.lost, reading.next), (990, all));
    assert_eq!(reading.records.first().map(|(number, _)| *number), Some(1000));
    assert_eq!(reading.records.len() as u64, CAPACITY);
    let nothing = reader.read(reading.next, 9);
    assert_eq!(nothing, Reading { next: all, ..Reading::default() });
    assert_eq!(reader.read(all + 5, 9).records, [], "a position beyond the end");
}

#[test]
fn records_are_limited_and_a_replacement_continues() {
    let fd = create_ring().unwrap();
    let reader = RingReader::map(fd.as_fd()).unwrap();
    let first = RingWriter::map(&fd, 3).unwrap();
    (0..2).for_each(|number| first.write(&numbered(number), true));
    assert_eq!((first.next_run(), first.count_arrival(), first.is_full()), (1, 1, false));
    drop(first);
    let second = RingWriter::map(&fd, 3).unwrap();
    assert_eq!((second.next_run(), second.count_arrival()), (2, 2));
    (2..9).for_each(|number| second.write(&numbered(number), true));
    assert!(second.is_full());
    let state = reader.state();
    assert_eq!((state.written, state.arrivals, state.full), (3, 2, true));
    assert_eq!(reader.read(0, 9).records.len(), 3);
}

/// The writer overtakes the reader continuously; records are never torn.
#[test]
fn a_concurrent_reader_gets_complete_records_only() {
    let (writer, reader) = ring(u64::MAX);
    let done = AtomicBool::new(false);
    let (mut read, mut lost) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..20 * CAPACITY {
                writer.write(&numbered(number), true);
            }
            done.store(true, Ordering::Release);
        });
        let mut next = 0;
        loop {
            let ended = done.load(Ordering::Acquire);
            let reading = reader.read(next, 100);
            for (number, record) in &reading.records {
                assert_eq!((record.time_ns, record.arrival, record.run), (*number, *number, *number));
            }
            read += reading.records.len() as u64;
            lost += reading.lost;
            next = reading.next;
            if ended && reading.records.is_empty() && next == reader.state().written {
                break;
            }
        }
    });
    assert_eq!(read + lost, 20 * CAPACITY);
    assert!(read > 0);
}
