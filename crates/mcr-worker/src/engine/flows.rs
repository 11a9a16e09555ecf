//! Who sends to a rule. The usual datagram is of the same flow as its rule's last one: that is one comparison, and its
//! run is counted for the flow as a whole. Only where the source changes is a record looked for.
//!
//! ```text
//!  rule ─ current flow ═ same source? ──▶ nothing to do until the run is closed
//!                          │ no
//!                          └─▶ what is gathered is the old flow's ─▶ (rule, source, port) ─hash─▶ record, or a new one
//! ```
//!
//! There is room for so many flows, and one that was silent for long makes room for a new one. The datagrams of flows
//! that find none are counted together. Nothing here allocates after it was made.

use std::collections::BTreeMap;
use std::hash::BuildHasher;

use mcr_link::table_hash::AddressBits;
use mcr_link::telemetry::PageWriter;
use mcr_link::telemetry::flows::{FlowKey, FlowPlace, MAX_FLOWS, UNLISTED};

use super::index::AddressKey;
use super::table::{Table, TableRule};

/// A flow that was silent for this long makes room for another.
const KEPT_NS: u64 = 60_000_000_000;
/// Records that are looked at for one to give away, for each flow that needs one.
const LOOKED_AT: usize = 8;
/// Heads of chains: a power of two.
const HEADS: usize = 2_048;
const NONE: u16 = u16::MAX;

/// A record that is in use.
#[derive(Clone, Copy, Debug)]
struct Listed {
    key: FlowKey,
    /// The rule's place in the table.
    rule: u32,
    next: u16,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct FlowTable {
    heads: Box<[u16]>,
    listed: Box<[Option<Listed>]>,
    free: Vec<u16>,
    /// Places that have ever been in use.
    used: u16,
    /// Where the search for a silent flow goes on.
    hand: u16,
    /// Senders choose the keys, so the hash needs a secret.
    secret: u64,
}

impl FlowTable {
    pub(crate) fn new() -> Self {
        Self {
            heads: vec![NONE; HEADS].into(),
            listed: vec![None; usize::from(MAX_FLOWS)].into(),
            free: (0..MAX_FLOWS).rev().collect(),
            used: 0,
            hand: 0,
            secret: std::hash::RandomState::new().hash_one(0_u8) | 1,
        }
    }

    /// Another table is about to come into force, or the first one, where a predecessor's flows may stand in the page:
    /// flows of rules that go on are kept.
    pub(crate) fn begin_table(&mut self, before: &Table, table: &Table, page: &PageWriter) {
        let new: BTreeMap<u32, u32> =
            (0..).zip(table.rules()).map(|(place, rule)| (rule.slot.0, place)).collect();
        for rule in before.rules().iter().filter(|rule| !new.contains_key(&rule.slot.0)) {
            page.end_rule(rule.slot);
        }
        let goes_on: Vec<bool> =
            table.rules().iter().map(|rule| page.begin_rule(rule.slot, rule.id)).collect();
        self.heads.fill(NONE);
        self.listed.fill(None);
        self.free.clear();
        for place in (0..MAX_FLOWS).rev() {
            let flow = page.flow_key(FlowPlace(place));
            let kept = flow.and_then(|key| {
                let rule = *new.get(&key.slot.0)?;
                let same = table.rule(rule).is_some_and(|rule| rule.id == key.rule);
                (same && goes_on.get(rule as usize) == Some(&true)).then_some((key, rule))
            });
            match kept {
                Some((key, rule)) => self.enter(place, key, rule),
                None => {
                    self.free.push(place);
                    if flow.is_some() {
                        page.set_flow(FlowPlace(place), None, 0);
                    }
                }
            }
        }
        page.set_flows_used(self.used);
    }

    /// Makes the flow of a datagram its rule's current one.
    #[cold]
    #[inline(never)]
    pub(crate) fn switch(
        &mut self,
        table: &Table,
        (place, rule): (u32, &TableRule),
        (source, port): (AddressKey, u16),
        now_ns: u64,
        page: &PageWriter,
    ) {
        let key = FlowKey { rule: rule.id, slot: rule.slot, source: AddressBits::from(source), port };
        let flow = self.find(&key).or_else(|| self.list(table, key, place, now_ns, page)).unwrap_or(UNLISTED);
        rule.flow.set(source, port, flow);
        page.switch_flow(rule.slot, flow, now_ns);
    }

    fn head(&self, key: &FlowKey) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "the halves are taken apart on purpose")]
        let (low, high) = (key.source.bits as u64, (key.source.bits >> 64) as u64);
        let mut hash = self.secret;
        for word in [low, high, u64::from(key.slot.0) << 16 | u64::from(key.port)] {
            let product = u128::from(hash ^ word) * u128::from(self.secret ^ 0x9e37_79b9_7f4a_7c15);
            #[expect(clippy::cast_possible_truncation, reason = "the halves are folded on purpose")]
            let folded = product as u64 ^ (product >> 64) as u64;
            hash = folded.rotate_left(17);
        }
        usize::try_from(hash % HEADS as u64).unwrap_or(0)
    }

    fn find(&self, key: &FlowKey) -> Option<FlowPlace> {
        let mut at = *self.heads.get(self.head(key))?;
        while let Some(Some(listed)) = self.listed.get(usize::from(at)) {
            if listed.key == *key {
                return Some(FlowPlace(at));
            }
            at = listed.next;
        }
        None
    }

    /// A record for a new flow, if there is one.
    fn list(
        &mut self,
        table: &Table,
        key: FlowKey,
        rule: u32,
        now_ns: u64,
        page: &PageWriter,
    ) -> Option<FlowPlace> {
        if self.free.is_empty() {
            self.make_room(table, now_ns, page);
        }
        let place = self.free.pop()?;
        let used = self.used;
        self.enter(place, key, rule);
        page.set_flow(FlowPlace(place), Some(&key), now_ns);
        if self.used != used {
            page.set_flows_used(self.used);
        }
        Some(FlowPlace(place))
    }

    fn enter(&mut self, place: u16, key: FlowKey, rule: u32) {
        let head = self.head(&key);
        if let (Some(head), Some(entry)) = (self.heads.get_mut(head), self.listed.get_mut(usize::from(place)))
        {
            *entry = Some(Listed { key, rule, next: std::mem::replace(head, place) });
        }
        self.used = self.used.max(place + 1);
    }

    fn make_room(&mut self, table: &Table, now_ns: u64, page: &PageWriter) {
        for _ in 0..LOOKED_AT {
            let place = self.hand;
            self.hand = (self.hand + 1) % MAX_FLOWS;
            let Some(Some(listed)) = self.listed.get(usize::from(place)).copied() else { continue };
            let silent_ns = now_ns.saturating_sub(page.flow_last_ns(FlowPlace(place), listed.key.slot));
            if silent_ns < KEPT_NS {
                continue;
            }
            if let Some(rule) = table.rule(listed.rule).filter(|rule| rule.flow.place() == FlowPlace(place)) {
                rule.flow.set(AddressKey::default(), 0, UNLISTED);
                page.switch_flow_away(rule.slot);
            }
            self.strike(place, &listed);
            return;
        }
    }

    /// Takes a record out of its chain.
    fn strike(&mut self, place: u16, listed: &Listed) {
        let head = self.head(&listed.key);
        let mut at = self.heads.get(head).copied().unwrap_or(NONE);
        if at == place {
            self.heads[head] = listed.next;
        }
        while let Some(Some(entry)) = self.listed.get_mut(usize::from(at)) {
            at = entry.next;
            if at == place {
                entry.next = listed.next;
            }
        }
        self.listed[usize::from(place)] = None;
        self.free.push(place);
    }
}

#[cfg(test)]
mod tests;
