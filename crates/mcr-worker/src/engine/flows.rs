//! The flows of a rule: its senders. Most datagrams belong to the same flow as the rule's previous one, which takes one
//! comparison; a run is counted for its flow as a whole. A record is looked up only when the source changes.
//!
//! ```text
//!  rule ─ current flow ═ same source? ──▶ no action until the run is closed
//!                          │ no
//!                          └─▶ count the open run for the old flow ─▶ (rule, source, port) ─hash─▶ record, or a new one
//! ```
//!
//! The number of flows is limited, and an idle flow is evicted for a new one. Datagrams of flows without a record are counted
//! together. Nothing here allocates after `new`.

use std::collections::BTreeMap;
use std::hash::BuildHasher;

use mcr_link::telemetry::PageWriter;
use mcr_link::telemetry::flows::{FlowKey, FlowSlot, MAX_FLOWS, UNLISTED};
use mcr_wire::AddressBits;

use super::table::{Table, TableRule};

/// A flow that was idle for this time may be evicted.
const IDLE_NS: u64 = 60_000_000_000;
/// Maximum number of records examined to find an idle one for a new flow.
const MAX_EXAMINED: usize = 8;
/// Buckets of the hash table: a power of two.
const BUCKETS: usize = 2_048;
const NONE: u16 = u16::MAX;

/// A record in use.
#[derive(Clone, Copy, Debug)]
struct Entry {
    key: FlowKey,
    /// The index of the rule in the table.
    rule: u32,
    next: u16,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct FlowTable {
    /// The first record of each bucket.
    buckets: Box<[u16]>,
    entries: Box<[Option<Entry>]>,
    free: Vec<u16>,
    /// Number of records that have ever been in use.
    used: u16,
    /// Where the search for an idle flow continues.
    next_examined: u16,
    /// A random seed of the hash, since senders choose the keys.
    secret: u64,
}

impl FlowTable {
    pub(crate) fn new() -> Self {
        Self {
            buckets: vec![NONE; BUCKETS].into(),
            entries: vec![None; usize::from(MAX_FLOWS)].into(),
            free: (0..MAX_FLOWS).rev().collect(),
            used: 0,
            next_examined: 0,
            secret: std::hash::RandomState::new().hash_one(0_u8) | 1,
        }
    }

    /// Adapts to a new table, or to the first one, when the page may have flows of an earlier worker. Flows of rules that continue
    /// are kept.
    pub(crate) fn begin_table(&mut self, before: &Table, table: &Table, page: &PageWriter) {
        let new: BTreeMap<u32, u32> =
            (0..).zip(table.rules()).map(|(index, rule)| (rule.slot.0, index)).collect();
        for rule in before.rules().iter().filter(|rule| !new.contains_key(&rule.slot.0)) {
            page.end_rule(rule.slot);
        }
        let continues: Vec<bool> =
            table.rules().iter().map(|rule| page.begin_rule(rule.slot, rule.id)).collect();
        self.buckets.fill(NONE);
        self.entries.fill(None);
        self.free.clear();
        for index in (0..MAX_FLOWS).rev() {
            let flow = page.flow_key(FlowSlot(index));
            let kept = flow.and_then(|key| {
                let rule = *new.get(&key.slot.0)?;
                let same = table.rule(rule).is_some_and(|rule| rule.id == key.rule);
                (same && continues.get(rule as usize) == Some(&true)).then_some((key, rule))
            });
            match kept {
                Some((key, rule)) => self.insert(index, key, rule),
                None => {
                    self.free.push(index);
                    if flow.is_some() {
                        page.set_flow(FlowSlot(index), None, 0);
                    }
                }
            }
        }
        page.set_flows_used(self.used);
    }

    /// Makes the flow of a datagram the current flow of its rule.
    #[cold]
    #[inline(never)]
    pub(crate) fn switch(
        &mut self,
        table: &Table,
        (index, rule): (u32, &TableRule),
        (source, port): (AddressBits, u16),
        now_ns: u64,
        page: &PageWriter,
    ) {
        let key = FlowKey { rule: rule.id, slot: rule.slot, source, port };
        let flow = self.find(&key).or_else(|| self.add(table, key, index, now_ns, page)).unwrap_or(UNLISTED);
        rule.flow.set(source, port, flow);
        page.switch_flow(rule.slot, flow, now_ns);
    }

    fn bucket(&self, key: &FlowKey) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "the halves are hashed separately")]
        let (low, high) = (key.source.bits as u64, (key.source.bits >> 64) as u64);
        let mut hash = self.secret;
        for word in [low, high, u64::from(key.slot.0) << 16 | u64::from(key.port)] {
            let product = u128::from(hash ^ word) * u128::from(self.secret ^ 0x9e37_79b9_7f4a_7c15);
            #[expect(clippy::cast_possible_truncation, reason = "the halves are combined")]
            let folded = product as u64 ^ (product >> 64) as u64;
            hash = folded.rotate_left(17);
        }
        usize::try_from(hash % BUCKETS as u64).unwrap_or(0)
    }

    fn find(&self, key: &FlowKey) -> Option<FlowSlot> {
        let mut at = *self.buckets.get(self.bucket(key))?;
        while let Some(Some(entry)) = self.entries.get(usize::from(at)) {
            if entry.key == *key {
                return Some(FlowSlot(at));
            }
            at = entry.next;
        }
        None
    }

    /// Returns a record for a new flow, if one is free.
    fn add(
        &mut self,
        table: &Table,
        key: FlowKey,
        rule: u32,
        now_ns: u64,
        page: &PageWriter,
    ) -> Option<FlowSlot> {
        if self.free.is_empty() {
            self.evict_idle(table, now_ns, page);
        }
        let index = self.free.pop()?;
        let used = self.used;
        self.insert(index, key, rule);
        page.set_flow(FlowSlot(index), Some(&key), now_ns);
        if self.used != used {
            page.set_flows_used(self.used);
        }
        Some(FlowSlot(index))
    }

    fn insert(&mut self, index: u16, key: FlowKey, rule: u32) {
        let bucket = self.bucket(&key);
        if let (Some(first), Some(entry)) =
            (self.buckets.get_mut(bucket), self.entries.get_mut(usize::from(index)))
        {
            *entry = Some(Entry { key, rule, next: std::mem::replace(first, index) });
        }
        self.used = self.used.max(index + 1);
    }

    fn evict_idle(&mut self, table: &Table, now_ns: u64, page: &PageWriter) {
        for _ in 0..MAX_EXAMINED {
            let index = self.next_examined;
            self.next_examined = (self.next_examined + 1) % MAX_FLOWS;
            let Some(Some(entry)) = self.entries.get(usize::from(index)).copied() else { continue };
            let silent_ns = now_ns.saturating_sub(page.flow_last_ns(FlowSlot(index), entry.key.slot));
            if silent_ns < IDLE_NS {
                continue;
            }
            if let Some(rule) = table.rule(entry.rule).filter(|rule| rule.flow.record() == FlowSlot(index)) {
                rule.flow.set(AddressBits::default(), 0, UNLISTED);
                page.clear_current_flow(rule.slot);
            }
            self.remove(index, &entry);
            return;
        }
    }

    /// Removes a record from its bucket.
    fn remove(&mut self, index: u16, removed: &Entry) {
        let bucket = self.bucket(&removed.key);
        let mut at = self.buckets.get(bucket).copied().unwrap_or(NONE);
        if at == index {
            self.buckets[bucket] = removed.next;
        }
        while let Some(Some(entry)) = self.entries.get_mut(usize::from(at)) {
            at = entry.next;
            if at == index {
                entry.next = removed.next;
            }
        }
        self.entries[usize::from(index)] = None;
        self.free.push(index);
    }
}

#[cfg(test)]
mod tests;
