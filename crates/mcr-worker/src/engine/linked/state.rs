//! The state of the merged rules of a worker beside what is in their regions, and the decision on a datagram.

use mcr_link::reason::SkipReason;
use mcr_link::telemetry::PageWriter;
use mcr_link::telemetry::merges::{LegCount, MAX_LEGS};
use mcr_wire::{AddressBits, LinkLayer};

use super::super::merge::order::{Order, Turn};
use super::super::merge::tally::Tally;
use super::super::merge::words::Words;
use super::super::merge::{Copied, Merge, Place, Verdict, header};
use super::super::table::{Table, TableMerge, TableRule};

/// The most datagrams that are held, and their bytes together.
const MAX_HELD: usize = 8_192;
const MAX_HELD_BYTES: usize = 16 * 1_024 * 1_024;
/// A batch of at least this number of frames after at least this time: the worker was not running meanwhile.
const STALL_FRAMES: usize = 16;
const MIN_STALL_NS: u64 = 5_000_000;
/// The most that windows are extended for it; as long for a worker that continues merges of a predecessor.
const MAX_STALL_NS: u64 = 500_000_000;
/// The least time after which a leg may have another source.
const MIN_SOURCE_NS: u64 = 200_000_000;

/// A datagram that is held.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) payload: Vec<u8>,
    pub(super) ttl: u8,
    pub(super) dscp: u8,
    pub(super) first_match: bool,
}

/// The source of a leg's datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LegSource {
    address: AddressBits,
    last_ns: u64,
}

/// The state of a rule beside that in its region.
#[derive(Debug, Default)]
pub(super) struct RuleState {
    pub(super) order: Order<Held>,
    pub(super) sources: [LegSource; MAX_LEGS],
    /// Number of held datagrams as published.
    pub(super) published: usize,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Linked {
    /// The link layer of each capture socket.
    pub(super) links: Box<[LinkLayer]>,
    /// The socket that the frames are from.
    pub(super) socket: u8,
    /// The sockets whose interface is down.
    pub(super) down: u8,
    /// By the index of the rule.
    pub(super) rules: Vec<RuleState>,
    pub(super) held: usize,
    pub(super) held_bytes: usize,
    pub(super) last_batch_ns: u64,
    /// A predecessor began a merge that goes on.
    pub(super) continued: bool,
    /// By how much windows are extended, and until when.
    pub(super) stall: (u64, u64),
    /// Buffers of datagrams that have left.
    pub(super) spare: Vec<Vec<u8>>,
}

/// What becomes of a datagram for one rule.
pub(super) enum Outcome {
    Leave,
    Held,
    Skip(SkipReason),
}

impl Linked {
    pub(crate) fn new(links: impl IntoIterator<Item = LinkLayer>) -> Self {
        Self { links: links.into_iter().collect(), ..Self::default() }
    }

    /// Adapts to a new table: merges that did not change keep their state.
    pub(super) fn begin_table(&mut self, before: &Table, table: &Table, page: &PageWriter) {
        let mut old = std::mem::take(&mut self.rules);
        let mut taken: Vec<bool> = vec![false; page.regions()];
        let mut new = Vec::new();
        for rule in table.rules() {
            let same = before.rules().iter().position(|old| old.id == rule.id);
            let state = same.and_then(|index| old.get_mut(index)).map(std::mem::take);
            self.rules.push(state.unwrap_or_default());
            let Some(merge) = &rule.merge else { continue };
            let region = page
                .begin_merge(rule.slot, merge.parameters())
                .filter(|region| taken.get_mut(*region).is_some_and(|taken| !std::mem::replace(taken, true)));
            self.continued |= region.is_some();
            merge.region.set(region);
            if region.is_none() {
                new.push((rule, merge));
            }
        }
        let mut free = (0..taken.len()).filter(|region| taken.get(*region) == Some(&false));
        for (rule, merge) in new {
            let Some(region) = free.next() else { continue };
            let words = Words(page.region(region));
            words.clear(words.0.len());
            let key = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), region);
            words.set(header::KEY, key | 1);
            page.set_region(rule.slot, region);
            merge.region.set(Some(region));
        }
    }

    /// Decides on a datagram of a leg.
    pub(super) fn decide(
        &mut self,
        (index, rule, merge): (u32, &TableRule, &TableMerge),
        (leg, source): (usize, AddressBits),
        copied: &Copied<'_>,
        page: &PageWriter,
    ) -> (Outcome, Option<Place>) {
        let Some(region) = merge.region.get() else { return (Outcome::Skip(SkipReason::OtherStream), None) };
        let any_source = merge.legs.get(leg).is_some_and(|leg| leg.sources.is_empty());
        let window_ns = window_ns(merge);
        let mut tally = Tally { down: self.down_legs(merge), ..Tally::default() };
        let Some(state_source) =
            self.rules.get_mut(index as usize).and_then(|state| state.sources.get_mut(leg))
        else {
            return (Outcome::Skip(SkipReason::OtherStream), None);
        };
        if any_source && !state_source.admits(source, copied.now_ns, window_ns) {
            page.came_on_leg(rule.slot, leg, copied.now_ns, None);
            page.count_leg(rule.slot, leg, LegCount::OtherStream, 1);
            return (Outcome::Skip(SkipReason::OtherStream), None);
        }
        let slack_ns = self.slack_ns(copied.now_ns);
        let verdict = merge_of(merge, page, region, slack_ns).judge(copied, &mut tally);
        let skew_us = tally.legs.get(leg).and_then(|leg| leg.skew_us);
        page.came_on_leg(rule.slot, leg, copied.now_ns, skew_us.map(u64::from));
        publish(page, rule, &tally);
        let skipped = |what, reason| {
            page.count_leg(rule.slot, leg, what, 1);
            (Outcome::Skip(reason), None)
        };
        match verdict {
            Verdict::Leave(place) => (Outcome::Leave, place),
            Verdict::Duplicate => skipped(LegCount::Duplicates, SkipReason::Duplicate),
            Verdict::TooLate => skipped(LegCount::TooLate, SkipReason::TooLate),
            Verdict::OtherStream => skipped(LegCount::OtherStream, SkipReason::OtherStream),
        }
    }

    /// A batch begins: what waited while the worker was not running is not late for that.
    pub(super) fn begin_batch(&mut self, now_ns: u64, frames: usize) {
        let before = std::mem::replace(&mut self.last_batch_ns, now_ns);
        let (_, until) = self.stall;
        if before == 0 && self.continued {
            self.stall = (MAX_STALL_NS, now_ns + 2 * MAX_STALL_NS);
        } else if before > 0 && frames >= STALL_FRAMES && now_ns.saturating_sub(before) >= MIN_STALL_NS {
            let stalled = now_ns.saturating_sub(before).min(MAX_STALL_NS);
            self.stall = (stalled.max(self.slack_ns(now_ns)), now_ns + 2 * MAX_STALL_NS);
        } else if now_ns > until {
            self.stall = (0, 0);
        }
    }

    /// By how much windows are extended.
    pub(super) const fn slack_ns(&self, now_ns: u64) -> u64 {
        let (stalled, until) = self.stall;
        if now_ns <= until { stalled } else { 0 }
    }

    /// The legs whose interface is down, as bits.
    pub(super) fn down_legs(&self, merge: &TableMerge) -> u8 {
        if self.down == 0 {
            return 0;
        }
        let legs = merge.legs.iter().enumerate();
        let down = legs.filter(|(_, leg)| leg.socket.is_none_or(|socket| self.down & 1 << socket != 0));
        down.fold(0, |bits, (index, _)| bits | 1 << index)
    }

    /// Holds a copy of a datagram.
    pub(super) fn hold(&mut self, rule: usize, place: Place, now_ns: u64, (payload, held): (&[u8], Held)) {
        let mut held = held;
        held.payload = self.spare.pop().unwrap_or_default();
        held.payload.clear();
        held.payload.extend_from_slice(payload);
        self.held += 1;
        self.held_bytes += payload.len();
        if let Some(state) = self.rules.get_mut(rule) {
            state.order.hold(place, now_ns, held);
        }
    }

    /// No room for one more datagram.
    pub(super) const fn is_full(&self) -> bool {
        self.held >= MAX_HELD || self.held_bytes >= MAX_HELD_BYTES
    }

    /// The next held datagram of a rule that may leave.
    pub(super) fn take_due(&mut self, rule: usize) -> Option<Held> {
        let held = self.rules.get_mut(rule)?.order.take_due()?;
        self.held -= 1;
        self.held_bytes -= held.payload.len();
        Some(held)
    }

    pub(super) fn publish_held(&mut self, rule: usize, of: &TableRule, page: &PageWriter) {
        let Some(state) = self.rules.get_mut(rule) else { return };
        let now = state.order.len();
        if std::mem::replace(&mut state.published, now) != now {
            page.set_held(of.slot, now as u64, self.held as u64);
        }
    }
}

impl LegSource {
    /// Whether a datagram is from the source of the leg, which it becomes if that has been silent.
    pub(super) fn admits(&mut self, source: AddressBits, now_ns: u64, window_ns: u64) -> bool {
        let silent_ns = now_ns.saturating_sub(self.last_ns);
        let admitted =
            self.address == source || self.last_ns == 0 || silent_ns > (2 * window_ns).max(MIN_SOURCE_NS);
        if admitted {
            *self = Self { address: source, last_ns: now_ns };
        }
        admitted
    }
}

pub(super) fn window_ns(merge: &TableMerge) -> u64 {
    u64::from(merge.options.window_ms) * 1_000_000
}

pub(super) fn merge_of<'p>(
    merge: &TableMerge,
    page: &'p PageWriter,
    region: usize,
    slack_ns: u64,
) -> Merge<'p> {
    let region = Words(page.region(region));
    Merge { by: merge.options.by, legs: merge.legs.len(), window_ns: window_ns(merge) + slack_ns, region }
}

/// Adds what a merge counted to the page.
pub(super) fn publish(page: &PageWriter, rule: &TableRule, tally: &Tally) {
    for (index, leg) in tally.legs.iter().enumerate() {
        if leg.lost > 0 {
            page.count_leg(rule.slot, index, LegCount::Lost, leg.lost);
        }
        if leg.unique > 0 {
            page.count_leg(rule.slot, index, LegCount::Unique, leg.unique);
        }
    }
    page.count_merge(rule.slot, tally.lost, tally.differing, tally.restarts);
}

impl Linked {
    /// Whether it is the turn of a datagram that leaves in order; if not, it is held, unless it is over.
    pub(super) fn in_turn(
        &mut self,
        rule: usize,
        place: Place,
        now_ns: u64,
        (payload, held): (&[u8], Held),
    ) -> Outcome {
        let Some(state) = self.rules.get_mut(rule) else { return Outcome::Leave };
        match state.order.turn(place) {
            Turn::Now => Outcome::Leave,
            Turn::Over => Outcome::Skip(SkipReason::TooLate),
            Turn::Later => {
                self.hold(rule, place, now_ns, (payload, held));
                if self.is_full()
                    && let Some(state) = self.rules.get_mut(rule)
                {
                    // Nothing is dropped: the oldest gap of the rule is given up.
                    state.order.give_up_first();
                }
                Outcome::Held
            }
        }
    }
}
