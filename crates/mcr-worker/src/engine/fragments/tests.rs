use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use mcr_link::message::IoBackend;
use mcr_link::rule_set::{EgressId, OutputSlot, Own, RelayOutput, RelayRule, RuleSet, RuleSlot};
use mcr_link::telemetry::{PageReader, create_page};
use mcr_rules::{OutputOptions, RuleId, RuleOptions};
use mcr_wire::LinkLayer;
use mcr_wire::reassembly::HOLD_NS;

use super::*;
use crate::captured::{Captured, PORT, group, source};
use crate::engine::send::{Piece, SendMeta, datagrams};
use crate::engine::table::tests::{shared, socket};

/// Received frames in buffers of their own, and the payloads sent.
#[derive(Default)]
struct Buffers {
    frames: Vec<(Vec<u8>, usize)>,
    sent: Vec<(u32, Vec<u8>)>,
}

impl Egress for Buffers {
    type Frame = usize;

    fn buffer(&mut self, frame: usize) -> &mut [u8] {
        &mut self.frames[frame].0
    }

    fn send(&mut self, page: &Accounts, meta: SendMeta, pieces: &[Piece<usize>]) {
        for Piece { frame, start, bytes } in datagrams(pieces, meta.segment_bytes) {
            let payload = self.frames[frame].0[start as usize..(start + bytes) as usize].to_vec();
            self.sent.push((meta.path.slot.0, payload));
        }
        meta.settle(page, Ok(()));
    }
}

struct Bench {
    engine: Engine<usize>,
    page: Accounts,
    reader: PageReader,
    egress: Buffers,
}

/// Group 1: port 5,000 with reassembly, port 5,001 without. Group 2: without. Group 3: source 1 only. Own address: source 9.
fn rules() -> RuleSet {
    let rule = |slot: u32, to: u8, port: u16, sources: &[u8], reassemble| RelayRule {
        id: RuleId::from_bits(slot.into()),
        group: group(to).into(),
        more_groups: Vec::new(),
        port,
        sources: sources.iter().map(|number| source(*number).into()).collect(),
        reassemble,
        slot: RuleSlot(slot),
        options: RuleOptions::default(),
        merge: None,
        outputs: vec![RelayOutput {
            address: (Ipv4Addr::new(239, 9, 9, 9), 9_000).into(),
            options: OutputOptions::default(),
            source: None,
            egress: Some(EgressId(0)),
            slot: OutputSlot(slot),
        }],
    };
    RuleSet {
        generation: 1,
        own: Own { addresses: vec![source(9).into()], ..Own::default() },
        rules: shared(vec![
            rule(0, 1, PORT, &[], true),
            rule(1, 1, PORT + 1, &[], false),
            rule(2, 2, PORT, &[], false),
            rule(3, 3, PORT, &[1], true),
        ]),
    }
}

/// The frames of a datagram in fragments with this much data each.
fn fragments(from: u8, to: u8, port: u16, payload: &[u8], data_bytes: usize) -> Vec<Vec<u8>> {
    let mut frame = Captured::plain(from, to, payload).frame();
    frame[46..48].copy_from_slice(&port.to_be_bytes());
    let (headers, data) = frame.split_at(44);
    let last = data.len().div_ceil(data_bytes) - 1;
    let fragment = |(number, part): (usize, &[u8])| {
        let mut fragment = [headers, part].concat();
        let length = u16::try_from(20 + part.len()).unwrap();
        let place = u16::try_from(number * data_bytes / 8).unwrap() | if number < last { 0x2000 } else { 0 };
        fragment[26..28].copy_from_slice(&length.to_be_bytes());
        fragment[30..32].copy_from_slice(&place.to_be_bytes());
        fragment[34..36].fill(0);
        let checksum = mcr_wire::checksum::Sum::default().add_bytes(&fragment[24..44]).checksum();
        fragment[34..36].copy_from_slice(&checksum.to_be_bytes());
        fragment
    };
    data.chunks(data_bytes).enumerate().map(fragment).collect()
}

impl Bench {
    fn new() -> Self {
        let page = create_page().unwrap();
        let reader = PageReader::map(page.as_fd()).unwrap();
        let page = Accounts::from(PageWriter::map(&page, 1, IoBackend::IoUring).unwrap());
        let mut engine = Engine::new(LinkLayer::Ethernet);
        engine.replace(Table::build(&rules(), |id| Some(socket(id))).unwrap(), &page);
        Self { engine, page, reader, egress: Buffers::default() }
    }

    /// One batch at this time, as the loops process it.
    fn receive(&mut self, now_ns: u64, frames: &[Vec<u8>]) {
        let buffer = |frame: &Vec<u8>| {
            let mut buffer = frame.clone();
            buffer.resize(70_000, 0xee);
            (buffer, frame.len())
        };
        self.egress.frames = frames.iter().map(buffer).collect();
        self.engine.begin_batch(now_ns);
        let mut at = 0;
        while let Some((buffer, bytes)) = self.egress.frames.get(at) {
            let bytes = *bytes;
            let parsed = self.engine.parse(&buffer[..bytes], &self.page);
            if self.engine.process::<false, _>(at, &parsed, &self.page, &mut self.egress)
                && let Some(whole) =
                    self.engine.process_further::<false, _>(at, bytes, &self.page, &mut self.egress)
            {
                self.egress.frames[at].1 = whole;
                continue;
            }
            at += 1;
        }
        self.engine.finish_batch(&self.page, &mut self.egress);
        let totals = self.reader.worker().totals;
        assert_eq!(totals.received, totals.matched + totals.skips.iter().sum::<u64>(), "{totals:?}");
        assert_eq!(totals.due, totals.sent + totals.drops.iter().sum::<u64>(), "{totals:?}");
    }

    fn skips(&self) -> Vec<(SkipReason, u64)> {
        let totals = self.reader.worker().totals;
        let all = SkipReason::ALL.map(|reason| (reason, totals.skips[reason.index()]));
        all.into_iter().filter(|(_, n)| *n > 0).collect()
    }
}

#[test]
fn datagrams_in_fragments_are_relayed_among_others() {
    let mut bench = Bench::new();
    let (large, larger) = (vec![7; 8_000], vec![8; 65_507]);
    let mut frames = fragments(1, 1, PORT, &large, 1_480);
    frames.reverse();
    frames.insert(2, Captured::plain(1, 1, b"between").frame());
    let other = fragments(2, 1, PORT, &larger, 1_480);
    for (place, fragment) in other.iter().enumerate() {
        frames.insert((2 * place + 1).min(frames.len()), fragment.clone());
    }
    frames.push(Captured::plain(1, 1, b"behind").frame());
    bench.receive(1, &frames);
    let sent: Vec<&[u8]> = bench.egress.sent.iter().map(|(_, payload)| payload.as_slice()).collect();
    assert_eq!(sent, [b"between".as_slice(), &large, &larger, b"behind"]);
    let totals = bench.reader.worker().totals;
    assert_eq!((totals.frames, totals.received, totals.fragments), (frames.len() as u64, 4, 6 + 45));
    assert_eq!((totals.reassembled, bench.skips()), (2, vec![]));
    assert_eq!(bench.reader.rule(RuleSlot(0)).packets, 4);
}

#[test]
fn fragments_that_no_rule_wants_are_counted_each() {
    for (from, to, port, reason, count, slots) in [
        (1, 2, PORT, SkipReason::Fragment, 2, vec![2]),
        // That the port is one without reassembly is known when the datagram is complete.
        (1, 1, PORT + 1, SkipReason::Fragment, 1, vec![1]),
        (2, 3, PORT, SkipReason::SourceExcluded, 2, vec![3]),
        (9, 1, PORT, SkipReason::OwnSource, 2, vec![0]),
        (1, 7, PORT, SkipReason::NoRule, 2, vec![]),
    ] {
        let mut bench = Bench::new();
        bench.receive(1, &fragments(from, to, port, &[7; 2_000], 1_480));
        assert_eq!((bench.skips(), &bench.egress.sent), (vec![(reason, count)], &vec![]), "{reason}");
        for slot in 0..4 {
            let seen = bench.reader.rule_skips(RuleSlot(slot)).map_or(0, |skips| skips.of(reason));
            assert_eq!(
                seen > 0,
                slots.contains(&slot) || (slot == 1 && reason == SkipReason::OwnSource),
                "{reason} {slot}"
            );
        }
    }
    let mut bench = Bench::new();
    bench.receive(1, &fragments(1, 1, PORT + 2, &[7; 2_000], 1_480));
    assert_eq!(bench.skips(), [(SkipReason::NoRule, 1)], "another port of the group");
}

#[test]
fn what_is_given_up_is_counted_once_with_its_reason() {
    let mut bench = Bench::new();
    let mut frames = fragments(1, 3, PORT, &[7; 3_000], 1_480);
    frames.pop();
    bench.receive(1, &frames);
    assert_eq!((bench.skips(), bench.reader.worker().totals.received), (vec![], 0));
    // The page of a worker that dies now.
    bench.receive(1 + HOLD_NS, &[Captured::plain(1, 1, b"later").frame()]);
    let overlapping =
        [&fragments(1, 1, PORT, &[7; 3_000], 1_480)[..1], &fragments(1, 1, PORT, &[7; 3_000], 1_472)[1..]];
    bench.receive(1 + HOLD_NS, &overlapping.concat());
    let expected = [(SkipReason::FragmentIncomplete, 1), (SkipReason::FragmentOverlap, 1)];
    assert_eq!(bench.skips(), expected);
    let skips = bench.reader.rule_skips(RuleSlot(3)).unwrap();
    assert_eq!((skips.total(), skips.last.unwrap().port), (1, Some(PORT)));
    let invalid = fragments(1, 1, PORT, &[7; 3_000], 1_480).remove(0);
    let mut odd = invalid.clone();
    odd[26..28].copy_from_slice(&1_499_u16.to_be_bytes());
    odd[34..36].fill(0);
    let checksum = mcr_wire::checksum::Sum::default().add_bytes(&odd[24..44]).checksum();
    odd[34..36].copy_from_slice(&checksum.to_be_bytes());
    bench.receive(2 + HOLD_NS, &[odd]);
    assert!(bench.skips().contains(&(SkipReason::FragmentInvalid, 1)), "{:?}", bench.skips());
}

/// With the UDP checksum of another datagram, what was put together is no datagram.
#[test]
fn a_wrong_checksum_of_the_whole_is_found() {
    let mut bench = Bench::new();
    let mut frames = fragments(1, 1, PORT, &[7; 3_000], 1_480);
    // The checksum field of UDP; that of the IP header does not cover it.
    frames[0][50] = 1;
    bench.receive(1, &frames);
    assert_eq!((bench.skips(), bench.egress.sent.len()), (vec![(SkipReason::BadChecksum, 1)], 0));
}

/// A worker that dies with datagrams under way: its successor counts them.
#[test]
fn what_was_under_way_is_counted_by_the_successor() {
    let page = create_page().unwrap();
    let first = Accounts::from(PageWriter::map(&page, 1, IoBackend::IoUring).unwrap());
    let mut engine = Engine::new(LinkLayer::Ethernet);
    engine.replace(Table::build(&rules(), |id| Some(socket(id))).unwrap(), &first);
    let mut egress = Buffers::default();
    let frames = fragments(1, 1, PORT, &[7; 3_000], 1_480);
    egress.frames = vec![(frames[0].clone(), frames[0].len())];
    let parsed = engine.parse(&frames[0], &first);
    assert!(engine.process::<false, _>(0, &parsed, &first, &mut egress));
    assert_eq!(engine.process_further::<false, _>(0, frames[0].len(), &first, &mut egress), None);
    let _second = PageWriter::map(&page, 2, IoBackend::IoUring).unwrap();
    let totals = PageReader::map(page.as_fd()).unwrap().worker().totals;
    assert_eq!((totals.received, totals.skips[SkipReason::WorkerDied.index()]), (1, 1));
}
