//! A simple reassembly as an oracle: for the tests of this crate, and for the fuzz target, which includes this file by its path. It
//! remembers each fragment, compares each with each, and counts bytes one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::reassembly::HOLD_NS;
use crate::{Fragment, FragmentHead, LinkLayer, Loss, Reassembly, Taken};
use crate::{FrameMeta, Refusal, parse_frame};

/// One fragment that arrives: four bytes of a script.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// Which datagram.
    identification: u32,
    v6: bool,
    more: bool,
    /// The content differs from that of others at this place.
    other_content: bool,
    /// The time goes on before it arrives.
    pause_ns: u64,
    start: usize,
    bytes: usize,
}

impl Step {
    fn read([which, place, length, time]: [u8; 4]) -> Self {
        let units = usize::from(place & 31);
        Self {
            identification: u32::from(which & 3),
            v6: which & 4 != 0,
            more: which & 8 != 0,
            other_content: which & 0xf0 == 0xf0,
            pause_ns: if time & 0xc0 == 0xc0 { u64::from(time & 63) * HOLD_NS / 40 } else { 0 },
            // Small places, or the last ones of all.
            start: 8 * if place & 0xe0 == 0xe0 { 8_191 - units } else { units },
            bytes: usize::from(length & 63) + if length & 0x80 == 0 { 0 } else { 8 },
        }
    }

    fn fragment(&self) -> Fragment {
        let (source, destination) = if self.v6 {
            (IpAddr::from([1; 16]), IpAddr::from([0xff; 16]))
        } else {
            (IpAddr::from([10, 0, 0, 1]), IpAddr::from([239, 1, 1, 1]))
        };
        let Self { identification, more, .. } = *self;
        let head = FragmentHead {
            source,
            destination,
            identification,
            next_header: 17,
            ttl: 9,
            traffic_class: 0xb8,
        };
        let offset = u16::try_from(self.start).unwrap_or(u16::MAX);
        Fragment { head, offset, more, ip_offset: 0, data: 0..self.bytes }
    }

    fn data(&self) -> Vec<u8> {
        let content = |at: usize| u8::try_from(at % 251).unwrap_or(0) ^ u8::from(self.other_content);
        (self.start..self.start + self.bytes).map(content).collect()
    }

    fn is_possible(&self) -> bool {
        let most = if self.v6 { 65_535 } else { 65_515 };
        self.bytes > 0 && (!self.more || self.bytes.is_multiple_of(8)) && self.start + self.bytes <= most
    }
}

#[derive(Default)]
struct Datagram {
    begun_ns: u64,
    given_up: bool,
    fragments: Vec<Step>,
}

impl Datagram {
    fn contradicts(&self, step: &Step) -> bool {
        let end = step.start + step.bytes;
        self.fragments.iter().any(|other| {
            let other_end = other.start + other.bytes;
            let overlaps = step.start < other_end && other.start < end;
            // What is behind the last fragment, or a second end.
            let beyond =
                |last: usize, other: usize, more: bool| if more { other >= last } else { other != last };
            overlaps
                || (!other.more && beyond(other_end, end, step.more))
                || (!step.more && beyond(end, other_end, other.more))
        })
    }

    fn whole(&self) -> Option<Vec<u8>> {
        let end = self.fragments.iter().find(|step| !step.more).map(|step| step.start + step.bytes)?;
        let bytes = self.fragments.iter().flat_map(|step| (step.start..).zip(step.data()));
        let bytes: BTreeMap<usize, u8> = bytes.collect();
        (bytes.len() == end && bytes.keys().copied().eq(0..end)).then(|| bytes.into_values().collect())
    }
}

/// Asserts that the reassembly does with the fragments of a script what the oracle does.
///
/// # Panics
/// It does not.
pub(crate) fn assert_agreement(script: &[u8]) {
    let mut reassembly = Reassembly::new();
    let mut datagrams: BTreeMap<(u32, bool), Datagram> = BTreeMap::new();
    let (mut now_ns, mut lost, mut expected_lost) = (0, Vec::new(), Vec::new());
    for step in script.as_chunks::<4>().0.iter().map(|bytes| Step::read(*bytes)) {
        now_ns += step.pause_ns;
        let data = step.data();
        let taken = reassembly.take(&step.fragment(), &data, now_ns, |one| lost.push(one.loss));
        let over: BTreeSet<_> = datagrams
            .iter()
            .filter(|(_, datagram)| now_ns - datagram.begun_ns >= HOLD_NS)
            .map(|(key, _)| *key)
            .collect();
        for key in over {
            if !datagrams.remove(&key).unwrap().given_up {
                expected_lost.push(Loss::Incomplete);
            }
        }
        let mut expected = Taken::Ignored;
        if step.is_possible() {
            let datagram = datagrams
                .entry((step.identification, step.v6))
                .or_insert_with(|| Datagram { begun_ns: now_ns, ..Datagram::default() });
            let again = |other: &Step| {
                (other.start, other.more, other.data()) == (step.start, step.more, step.data())
            };
            if datagram.given_up || datagram.fragments.iter().any(again) {
            } else if datagram.contradicts(&step) {
                datagram.given_up = true;
                expected_lost.push(Loss::Overlap);
            } else {
                datagram.fragments.push(step);
                expected = Taken::Held;
            }
        } else {
            expected = Taken::Invalid;
        }
        let whole = datagrams.get(&(step.identification, step.v6)).and_then(Datagram::whole);
        if expected == Taken::Held && whole.is_some() {
            expected = Taken::Complete;
        }
        assert_eq!((taken, &lost), (expected, &expected_lost), "{step:?}");
        if let (Taken::Complete, Some(whole)) = (taken, whole) {
            datagrams.remove(&(step.identification, step.v6));
            assert_packet(&mut reassembly, step.v6, &whole);
        }
        let waited_for = datagrams.values().filter(|datagram| !datagram.given_up).count();
        assert_eq!((reassembly.under_way(), reassembly.is_idle()), (waited_for, datagrams.is_empty()));
    }
}

/// The packet is no fragment for the parser of frames, and has the data.
fn assert_packet(reassembly: &mut Reassembly, v6: bool, data: &[u8]) {
    let mut packet = vec![0; 40 + 65_535];
    let bytes = reassembly.write_packet(&mut packet).unwrap();
    assert_eq!(&packet[if v6 { 40 } else { 20 }..bytes], data);
    let meta = FrameMeta { checksum_verified: true, ..FrameMeta::default() };
    match parse_frame(&packet[..bytes], LinkLayer::None, meta) {
        Ok(datagram) => assert_eq!((datagram.ttl, datagram.dscp), (9, 46)),
        Err(refusal) => assert_eq!(refusal, Refusal::BadLength),
    }
    assert_eq!(reassembly.write_packet(&mut packet), None);
}
