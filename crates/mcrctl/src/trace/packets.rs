//! Trace records as packets: each arrival once, with its results as the comment. Results follow arrivals, so a packet is
//! held for a while.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use mcr_control::trace::{TraceRecord, TraceWhat};

use super::lines::detail;
use crate::pcapng::Packet;

/// How long a packet is held for its results, in nanoseconds.
const WAIT_NS: u64 = 500_000_000;
/// Maximum number of packets held.
const MAX_KEPT: usize = 20_000;

/// The worker's core, and the number of an arrival or run on it.
type Key = (u16, u64);

/// Arrivals whose results may be incomplete.
#[derive(Default)]
pub(crate) struct Packets {
    kept: BTreeMap<Key, Packet>,
    /// Arrivals of a run.
    runs: BTreeMap<Key, Vec<u64>>,
}

impl Packets {
    /// Adds the next records, and returns the packets that are complete.
    pub(crate) fn next(&mut self, records: &[TraceRecord]) -> Vec<Packet> {
        records.iter().for_each(|record| self.add(record));
        let Some(latest) = records.last() else { return Vec::new() };
        self.leave(latest.at_ns.saturating_sub(WAIT_NS))
    }

    /// Returns all remaining packets.
    pub(crate) fn finish(&mut self) -> Vec<Packet> {
        self.leave(u64::MAX)
    }

    fn leave(&mut self, before_ns: u64) -> Vec<Packet> {
        let all = std::mem::take(&mut self.kept);
        let surplus = all.len().saturating_sub(MAX_KEPT);
        let (mut left, mut kept) = (Vec::new(), BTreeMap::new());
        for (place, (key, packet)) in all.into_iter().enumerate() {
            if packet.at_ns < before_ns || place < surplus {
                left.push(packet);
            } else {
                kept.insert(key, packet);
            }
        }
        self.runs
            .retain(|(core, _), arrivals| arrivals.iter().any(|number| kept.contains_key(&(*core, *number))));
        self.kept = kept;
        left.sort_by_key(|packet| packet.at_ns);
        left
    }

    fn add(&mut self, record: &TraceRecord) {
        let comment = comment(record);
        match record.what {
            TraceWhat::Received | TraceWhat::Skipped => self.comment(record, record.arrival, &comment),
            TraceWhat::Matched => {
                let run = (record.core, record.run);
                self.runs.entry(run).or_default().push(record.arrival);
                self.comment(record, record.arrival, &comment);
            }
            TraceWhat::Sent | TraceWhat::Dropped => {
                let arrivals = self.runs.get(&(record.core, record.run)).cloned();
                // Without a record of the arrivals, the first one gets the result.
                for arrival in arrivals.unwrap_or_else(|| vec![record.arrival]) {
                    self.comment(record, arrival, &comment);
                }
            }
        }
    }

    fn comment(&mut self, record: &TraceRecord, arrival: u64, comment: &str) {
        let packet = match self.kept.entry((record.core, arrival)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let Some(bytes) = record.frame.as_deref().map(from_hexadecimal) else { return };
                place.insert(Packet {
                    at_ns: record.at_ns,
                    bytes,
                    length: record.frame_bytes,
                    comment: String::new(),
                })
            }
        };
        if comment.is_empty() {
            return;
        }
        if !packet.comment.is_empty() {
            packet.comment.push_str("; ");
        }
        packet.comment.push_str(comment);
    }
}

fn comment(record: &TraceRecord) -> String {
    let together = if record.datagrams > 1 {
        format!(" ({} datagrams in one send)", record.datagrams)
    } else {
        String::new()
    };
    match record.what {
        TraceWhat::Received => String::new(),
        TraceWhat::Matched => "matched".to_owned(),
        TraceWhat::Skipped => format!("skipped: {}", detail(record)),
        TraceWhat::Sent => format!("sent on {}{together}", detail(record)),
        TraceWhat::Dropped => format!("dropped on {}{together}", detail(record)),
    }
}

/// Decodes up to the first pair that is not hexadecimal.
fn from_hexadecimal(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks_exact(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.map_while(byte).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::lines::tests::{output, record};
    use super::*;

    fn received(at_ns: u64, arrival: u64) -> TraceRecord {
        TraceRecord { frame: Some("0a0bff".into()), ..record(at_ns, arrival, 0, TraceWhat::Received) }
    }

    fn outcome(at_ns: u64, run: u64, interface: &str, reason: Option<&str>) -> TraceRecord {
        let what = if reason.is_some() { TraceWhat::Dropped } else { TraceWhat::Sent };
        let reason = reason.map(str::to_owned);
        TraceRecord { output: output(interface), reason, datagrams: 2, ..record(at_ns, 1, run, what) }
    }

    #[test]
    fn each_arrival_is_one_packet_with_all_its_results() {
        let mut packets = Packets::default();
        let matched = |arrival| record(1, arrival, 5, TraceWhat::Matched);
        let skipped = TraceRecord {
            reason: Some("bad_checksum".into()),
            frame: Some("01".into()),
            ..record(3, 3, 0, TraceWhat::Skipped)
        };
        let records =
            [received(0, 1), matched(1), received(1, 2), matched(2), outcome(2, 5, "eth1", None), skipped];
        assert_eq!(packets.next(&records), [], "a result may follow");
        packets.next(&[outcome(4, 5, "eth2", Some("socket_full"))]);
        let all = packets.finish();
        let comments: Vec<_> = all.iter().map(|packet| packet.comment.as_str()).collect();
        let both = "matched; sent on eth1 239.2.2.2:6001 (2 datagrams in one send); \
                    dropped on eth2 239.2.2.2:6001: socket_full (2 datagrams in one send)";
        assert_eq!(comments, [both, both, "skipped: bad_checksum"]);
        assert_eq!((&all[0].bytes, all[0].length), (&vec![0x0a, 0x0b, 0xff], 1442));
        assert!(packets.finish().is_empty() && packets.runs.is_empty());
    }

    #[test]
    fn old_packets_are_not_held() {
        let mut packets = Packets::default();
        let records = [received(0, 1), received(WAIT_NS + 1, 2)];
        assert_eq!(packets.next(&records).len(), 1);
        let many: Vec<_> =
            (0..MAX_KEPT as u64 + 10).map(|number| received(WAIT_NS + 2, number + 3)).collect();
        assert_eq!(packets.next(&many).len(), 11);
    }

    #[test]
    fn a_drop_without_its_arrival_is_a_packet_too() {
        let mut packets = Packets::default();
        let dropped = TraceRecord { frame: Some("00".into()), ..outcome(4, 5, "eth2", Some("socket_full")) };
        packets.next(&[dropped]);
        assert!(packets.finish()[0].comment.starts_with("dropped on eth2"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text: String) {
            prop_assert!(from_hexadecimal(&text).len() <= text.len());
        }
    }
}
