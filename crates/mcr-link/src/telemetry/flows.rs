//! Flows in the telemetry page: a record for each source address and port of a rule, up to a limit. Datagrams of other flows
//! are counted together, so that a flood of spoofed sources takes no memory.
//!
//! ```text
//!  rule slot: … current ──▶ record: sequence │ rule, source, port │ packets bytes first last │ health
//! ```
//!
//! The flow of a rule's last datagram is the rule's *current* flow. Its `last` is kept in the rule's slot, so the usual
//! case, one source, costs two counters per run of datagrams. Times are monotonic.

use std::net::SocketAddr;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use mcr_rules::RuleId;

use super::health::{HealthCount, HealthSnapshot, JITTER};
use super::{FLOWS_AT, PageReader, PageWriter, header, rule, rule_word};
use crate::rule_set::RuleSlot;
use mcr_wire::AddressBits;

/// Maximum number of flows in a page.
pub const MAX_FLOWS: u16 = 1_024;
/// The record that counts the datagrams of all flows without a record of their own.
pub const UNLISTED: FlowSlot = FlowSlot(MAX_FLOWS);

pub(super) const FLOW_WORDS: usize = 16;
/// Number of attempts to read a record that changes meanwhile.
pub(super) const READ_TRIES: usize = 4;

/// Words of a flow's record.
pub(super) mod flow {
    /// Odd while the record is being reassigned to another flow.
    pub(super) const SEQUENCE: usize = 0;
    pub(super) const RULE: usize = 1;
    /// Rule slot, port, family, and whether the record is in use.
    pub(super) const KEY: usize = 2;
    pub(super) const ADDRESS_LOW: usize = 3;
    pub(super) const ADDRESS_HIGH: usize = 4;
    pub(super) const PACKETS: usize = 5;
    pub(super) const BYTES: usize = 6;
    pub(super) const FIRST: usize = 7;
    pub(super) const LAST: usize = 8;
    pub(in crate::telemetry) const HEALTH: usize = 9;
}

const PORT_SHIFT: u32 = 32;
const IPV6: u64 = 1 << 48;
const IN_USE: u64 = 1 << 49;

/// The index of a flow's record in the page: below [`MAX_FLOWS`], or [`UNLISTED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowSlot(pub u16);

/// The identity of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey {
    /// The rule that it matches.
    pub rule: RuleId,
    /// The slot of that rule.
    pub slot: RuleSlot,
    /// The source address.
    pub source: AddressBits,
    /// The source port.
    pub port: u16,
}

/// A flow and its counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSnapshot {
    /// The rule that it matches.
    pub rule: RuleId,
    /// Source address and port.
    pub source: SocketAddr,
    /// Datagrams.
    pub packets: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Monotonic time of the first datagram.
    pub first: Duration,
    /// Monotonic time of the last datagram.
    pub last: Duration,
    /// Stream health.
    pub health: HealthSnapshot,
}

pub(super) fn flow_word(record: FlowSlot, word: usize) -> usize {
    FLOWS_AT + record.0.min(MAX_FLOWS) as usize * FLOW_WORDS + word
}

#[expect(clippy::cast_possible_truncation, reason = "the value is split into halves")]
fn key_of(words: [u64; 4]) -> Option<FlowKey> {
    let [rule, key, low, high] = words;
    (key & IN_USE != 0).then(|| FlowKey {
        rule: RuleId::from_bits(rule),
        slot: RuleSlot(key as u32),
        source: AddressBits::from_halves(key & IPV6 != 0, [high, low]),
        port: (key >> PORT_SHIFT) as u16,
    })
}

const KEY_WORDS: [usize; 4] = [flow::RULE, flow::KEY, flow::ADDRESS_LOW, flow::ADDRESS_HIGH];

impl PageWriter {
    /// Puts a rule into force in a slot. Returns whether it is the rule that had the slot before; if not, the times, the
    /// current flow and the skips of the slot are reset.
    pub fn begin_rule(&self, slot: RuleSlot, id: RuleId) -> bool {
        // An id of 0, which is improbable, would only cause a reset.
        let same = id.to_bits() != 0 && self.get(rule_word(slot, rule::ID)) == id.to_bits();
        if !same {
            for word in [rule::FIRST, rule::LAST, rule::CURRENT] {
                self.set(rule_word(slot, word), 0);
            }
            self.clear_skips(slot);
            self.clear_merge(slot);
            self.set(rule_word(slot, rule::ID), id.to_bits());
        }
        same
    }

    /// Releases a slot: the next rule in it is another one.
    pub fn end_rule(&self, slot: RuleSlot) {
        self.set(rule_word(slot, rule::ID), 0);
    }

    /// Returns the flow of a record; `None` if the record is free.
    #[must_use]
    pub fn flow_key(&self, record: FlowSlot) -> Option<FlowKey> {
        if !self.get(flow_word(record, flow::SEQUENCE)).is_multiple_of(2) {
            // The predecessor died while it wrote the record.
            return None;
        }
        key_of(KEY_WORDS.map(|word| self.get(flow_word(record, word))))
    }

    /// Assigns a record to a new flow, or frees it.
    pub fn set_flow(&self, record: FlowSlot, key: Option<&FlowKey>, now_ns: u64) {
        let sequence = self.get(flow_word(record, flow::SEQUENCE)) | 1;
        self.set(flow_word(record, flow::SEQUENCE), sequence);
        fence(Ordering::Release);
        for word in 1..FLOW_WORDS {
            self.set(flow_word(record, word), 0);
        }
        if let Some(key) = key {
            let flags = if key.source.ipv6 { IN_USE | IPV6 } else { IN_USE };
            let packed = u64::from(key.slot.0) | u64::from(key.port) << PORT_SHIFT | flags;
            let [high, low] = key.source.halves();
            self.set(flow_word(record, flow::RULE), key.rule.to_bits());
            self.set(flow_word(record, flow::KEY), packed);
            self.set(flow_word(record, flow::ADDRESS_LOW), low);
            self.set(flow_word(record, flow::ADDRESS_HIGH), high);
            self.set(flow_word(record, flow::FIRST), now_ns);
            self.set(flow_word(record, flow::LAST), now_ns);
        }
        if let Some(word) = self.word(flow_word(record, flow::SEQUENCE)) {
            word.store(sequence.wrapping_add(1), Ordering::Release);
        }
    }

    /// Makes a flow the rule's current one. The time of the previous one's last datagram is stored in its record.
    pub fn switch_flow(&self, slot: RuleSlot, record: FlowSlot, now_ns: u64) {
        let before = self.get(rule_word(slot, rule::CURRENT));
        if let Some(before) = before.checked_sub(1).and_then(|record| u16::try_from(record).ok()) {
            self.set(flow_word(FlowSlot(before), flow::LAST), self.get(rule_word(slot, rule::LAST)));
        }
        if self.get(rule_word(slot, rule::FIRST)) == 0 {
            self.set(rule_word(slot, rule::FIRST), now_ns);
        }
        self.set(rule_word(slot, rule::LAST), now_ns);
        self.set(rule_word(slot, rule::CURRENT), u64::from(record.0) + 1);
    }

    /// Unsets a rule's current flow, before its record is reassigned.
    pub fn clear_current_flow(&self, slot: RuleSlot) {
        self.set(rule_word(slot, rule::CURRENT), 0);
    }

    /// Returns the monotonic time of a flow's last datagram, in nanoseconds.
    #[must_use]
    pub fn flow_last_ns(&self, record: FlowSlot, slot: RuleSlot) -> u64 {
        let own = self.get(flow_word(record, flow::LAST));
        if self.get(rule_word(slot, rule::CURRENT)) == u64::from(record.0) + 1 {
            own.max(self.get(rule_word(slot, rule::LAST)))
        } else {
            own
        }
    }

    /// Counts datagrams of a flow, and their payload bytes.
    #[inline]
    pub fn count_flow(&self, record: FlowSlot, packets: u64, bytes: u64) {
        self.add(flow_word(record, flow::PACKETS), packets);
        self.add(flow_word(record, flow::BYTES), bytes);
    }

    /// Records the time of a rule's last datagram.
    #[inline]
    pub fn set_last(&self, slot: RuleSlot, now_ns: u64) {
        self.set(rule_word(slot, rule::LAST), now_ns);
    }

    /// Publishes the number of records that have ever been in use; records after these need not be read.
    pub fn set_flows_used(&self, records: u16) {
        self.set(header::FLOWS_USED, u64::from(records));
    }

    /// Counts for a flow and for its rule.
    #[inline]
    pub fn count_health(&self, slot: RuleSlot, record: FlowSlot, what: HealthCount, n: u64) {
        self.add(rule_word(slot, rule::HEALTH + what as usize), n);
        self.add(flow_word(record, flow::HEALTH + what as usize), n);
    }

    /// Decrements the number of lost packets: one has arrived late.
    pub fn uncount_loss(&self, slot: RuleSlot, record: FlowSlot) {
        for index in [rule_word(slot, rule::HEALTH), flow_word(record, flow::HEALTH)] {
            let lost = index + HealthCount::Lost as usize;
            self.set(lost, self.get(lost).saturating_sub(1));
        }
    }

    /// Publishes a flow's jitter.
    #[inline]
    pub fn set_jitter(&self, slot: RuleSlot, record: FlowSlot, jitter_ns: u64) {
        self.set(rule_word(slot, rule::HEALTH + JITTER), jitter_ns);
        self.set(flow_word(record, flow::HEALTH + JITTER), jitter_ns);
    }
}

impl PageReader {
    /// Returns all flows that have a record.
    pub fn flows(&self) -> impl Iterator<Item = FlowSnapshot> + '_ {
        let used = u16::try_from(self.get(header::FLOWS_USED)).unwrap_or(MAX_FLOWS).min(MAX_FLOWS);
        (0..used).filter_map(|record| self.flow(FlowSlot(record)))
    }

    /// Returns the number of datagrams of flows without a record.
    #[must_use]
    pub fn unlisted_packets(&self) -> u64 {
        self.get(flow_word(UNLISTED, flow::PACKETS))
    }

    fn flow(&self, record: FlowSlot) -> Option<FlowSnapshot> {
        for _ in 0..READ_TRIES {
            let sequence = self.get(flow_word(record, flow::SEQUENCE));
            let key = key_of(KEY_WORDS.map(|word| self.get(flow_word(record, word))));
            let [packets, bytes, first, own_last] = [flow::PACKETS, flow::BYTES, flow::FIRST, flow::LAST]
                .map(|word| self.get(flow_word(record, word)));
            let health = self.health_at(flow_word(record, flow::HEALTH));
            let current =
                key.filter(|key| self.get(rule_word(key.slot, rule::CURRENT)) == u64::from(record.0) + 1);
            let last = current.map_or(0, |key| self.get(rule_word(key.slot, rule::LAST))).max(own_last);
            fence(Ordering::Acquire);
            if sequence.is_multiple_of(2) && self.get(flow_word(record, flow::SEQUENCE)) == sequence {
                let key = key?;
                return Some(FlowSnapshot {
                    rule: key.rule,
                    source: SocketAddr::new(key.source.into(), key.port),
                    packets,
                    bytes,
                    first: Duration::from_nanos(first),
                    last: Duration::from_nanos(last),
                    health,
                });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::create_page;
    use super::*;
    use crate::message::IoBackend;
    use std::os::fd::AsFd;

    fn key(rule: u64, slot: u32, source: &str) -> FlowKey {
        let source: SocketAddr = source.parse().unwrap();
        FlowKey {
            rule: RuleId::from_bits(rule),
            slot: RuleSlot(slot),
            source: source.ip().into(),
            port: source.port(),
        }
    }

    #[test]
    fn flows_are_read_as_written() {
        let page = create_page().unwrap();
        let writer = PageWriter::map(&page, 1, IoBackend::IoUring).unwrap();
        let reader = PageReader::map(page.as_fd()).unwrap();
        let last = FlowSlot(MAX_FLOWS - 1);
        let (v4, v6) = (key(7, 3, "10.0.0.9:4000"), key(7, 3, "[fd00::1]:65535"));
        assert!(!writer.begin_rule(RuleSlot(3), v4.rule));
        writer.set_flow(FlowSlot(0), Some(&v4), 100);
        writer.switch_flow(RuleSlot(3), FlowSlot(0), 100);
        writer.count_flow(FlowSlot(0), 2, 200);
        writer.set_last(RuleSlot(3), 150);
        writer.set_flow(last, Some(&v6), 160);
        writer.switch_flow(RuleSlot(3), last, 160);
        writer.count_flow(last, 1, 7);
        writer.set_last(RuleSlot(3), 170);
        writer.count_flow(UNLISTED, 5, 500);
        writer.set_flows_used(MAX_FLOWS);
        let read: Vec<_> = reader
            .flows()
            .map(|flow| {
                (
                    flow.source.to_string(),
                    flow.packets,
                    flow.bytes,
                    flow.first.as_nanos(),
                    flow.last.as_nanos(),
                )
            })
            .collect();
        assert_eq!(
            read,
            [("10.0.0.9:4000".to_owned(), 2, 200, 100, 150), ("[fd00::1]:65535".to_owned(), 1, 7, 160, 170),]
        );
        assert_eq!(reader.unlisted_packets(), 5);
        let rule = reader.rule(RuleSlot(3));
        assert_eq!((rule.first, rule.last), (Duration::from_nanos(100), Duration::from_nanos(170)));
        assert_eq!(writer.flow_key(last), Some(v6));

        assert!(writer.begin_rule(RuleSlot(3), v4.rule), "the same rule continues");
        writer.end_rule(RuleSlot(3));
        assert!(!writer.begin_rule(RuleSlot(3), v4.rule));
        assert_eq!(reader.rule(RuleSlot(3)).last, Duration::ZERO, "another rule");
        writer.set_flow(last, None, 0);
        assert_eq!((writer.flow_key(last), reader.flows().count()), (None, 1));
    }
}
