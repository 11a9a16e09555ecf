//! Merges in the telemetry page: a record for each merged rule, and a region with the state of its merge, which only the worker reads.
//!
//! ```text
//!  rule slot ──▶ record: parameters, region │ held lost differing restarts │ legs: packets lost duplicates unique …
//!                              │
//!                              └─▶ region: what left lately, for the worker and its replacements
//! ```
//!
//! Only the pages of workers of linked interfaces have regions; they are sparse. The supervisor does not map them.

use std::sync::atomic::AtomicU64;

use serde::{Deserialize, Serialize};

use super::{MERGES_AT, PAGE_WORDS, PageReader, PageWriter, header, rule_words_limit};
use crate::rule_set::RuleSlot;

pub use mcr_rules::limits::MAX_LEGS;

/// Maximum number of merged rules of a page.
pub const MAX_REGIONS: usize = mcr_rules::limits::MAX_MERGES;
/// The size of a region in 64-bit words.
pub const REGION_WORDS: usize = 68 * 1_024;

pub(super) const MERGE_WORDS: usize = 8 + LEG_WORDS * MAX_LEGS;
const LEG_WORDS: usize = 8;

/// Words of a record.
mod merge {
    /// What identifies how the rule is merged; 0: it is not.
    pub(super) const PARAMETERS: usize = 0;
    /// The index of its region, plus 1.
    pub(super) const REGION: usize = 1;
    pub(super) const HELD: usize = 2;
    pub(super) const LOST: usize = 3;
    pub(super) const DIFFERING: usize = 4;
    pub(super) const RESTARTS: usize = 5;
    pub(super) const LEGS: usize = 8;
}

/// A count of one leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum LegCount {
    /// Datagrams that it brought.
    Packets,
    /// Missing on it after the window.
    Lost,
    /// Copies of what had left before.
    Duplicates,
    /// Datagrams that came on no other leg.
    Unique,
    /// Datagrams that came after the window.
    TooLate,
    /// Datagrams of another stream.
    OtherStream,
}

const SKEW: usize = 6;
const LAST: usize = 7;

/// The counters of one leg.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegSnapshot {
    /// See [`LegCount::Packets`].
    pub packets: u64,
    /// See [`LegCount::Lost`].
    pub lost: u64,
    /// See [`LegCount::Duplicates`].
    pub duplicates: u64,
    /// See [`LegCount::Unique`].
    pub unique: u64,
    /// See [`LegCount::TooLate`].
    pub too_late: u64,
    /// See [`LegCount::OtherStream`].
    pub other_stream: u64,
    /// How long after the first copy its copies come, smoothed, microseconds.
    pub skew_us: u64,
    /// Monotonic time of its last datagram, nanoseconds; 0: none yet.
    pub last_ns: u64,
}

/// The counters of a merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeSnapshot {
    /// Datagrams that wait for those before them.
    pub held: u64,
    /// Missing on all legs after the window.
    pub lost: u64,
    /// Copies whose payload differed from the first, of those that are compared.
    pub differing: u64,
    /// Restarts of the stream.
    pub restarts: u64,
    /// The legs, in the order of the rule.
    pub legs: [LegSnapshot; MAX_LEGS],
}

impl MergeSnapshot {
    /// The counts since an earlier snapshot; gauges and times are those of now.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut moved = *self;
        moved.lost = moved.lost.saturating_sub(before.lost);
        moved.differing = moved.differing.saturating_sub(before.differing);
        moved.restarts = moved.restarts.saturating_sub(before.restarts);
        for (leg, before) in moved.legs.iter_mut().zip(&before.legs) {
            leg.packets = leg.packets.saturating_sub(before.packets);
            leg.lost = leg.lost.saturating_sub(before.lost);
            leg.duplicates = leg.duplicates.saturating_sub(before.duplicates);
            leg.unique = leg.unique.saturating_sub(before.unique);
            leg.too_late = leg.too_late.saturating_sub(before.too_late);
            leg.other_stream = leg.other_stream.saturating_sub(before.other_stream);
        }
        moved
    }

    /// Adds the counts of another worker.
    pub fn add(&mut self, other: &Self) {
        self.held += other.held;
        self.lost += other.lost;
        self.differing += other.differing;
        self.restarts += other.restarts;
        for (sum, leg) in self.legs.iter_mut().zip(&other.legs) {
            sum.packets += leg.packets;
            sum.lost += leg.lost;
            sum.duplicates += leg.duplicates;
            sum.unique += leg.unique;
            sum.too_late += leg.too_late;
            sum.other_stream += leg.other_stream;
            if leg.last_ns >= sum.last_ns {
                (sum.skew_us, sum.last_ns) = (leg.skew_us, leg.last_ns);
            }
        }
    }
}

fn merge_word(slot: RuleSlot, word: usize) -> usize {
    MERGES_AT + rule_words_limit(slot) * MERGE_WORDS + word
}

fn leg_word(slot: RuleSlot, leg: usize, word: usize) -> usize {
    merge_word(slot, merge::LEGS + leg.min(MAX_LEGS - 1) * LEG_WORDS + word)
}

impl PageWriter {
    /// Puts a merge into force in a slot; `parameters` identify how the rule is merged, and are not 0. Returns the region of its state
    /// if that continues; otherwise [`Self::set_region`] is to be called.
    #[must_use]
    pub fn begin_merge(&self, slot: RuleSlot, parameters: u64) -> Option<usize> {
        let region = self.get(merge_word(slot, merge::REGION)).checked_sub(1);
        let same = self.get(merge_word(slot, merge::PARAMETERS)) == parameters;
        if !same {
            self.set(merge_word(slot, merge::PARAMETERS), parameters);
            self.set(merge_word(slot, merge::REGION), 0);
        }
        self.set(merge_word(slot, merge::HELD), 0);
        region.filter(|_| same).and_then(|region| usize::try_from(region).ok())
    }

    /// Assigns a region to a merge.
    pub fn set_region(&self, slot: RuleSlot, region: usize) {
        self.set(merge_word(slot, merge::REGION), region as u64 + 1);
    }

    /// Resets the record of a slot, for another rule.
    pub(super) fn clear_merge(&self, slot: RuleSlot) {
        if self.get(merge_word(slot, merge::PARAMETERS)) != 0 {
            (0..MERGE_WORDS).for_each(|word| self.set(merge_word(slot, word), 0));
        }
    }

    /// The number of regions in the page.
    #[must_use]
    pub fn regions(&self) -> usize {
        self.words.words().len().saturating_sub(PAGE_WORDS) / REGION_WORDS
    }

    /// The words of a region; empty if the page does not have it.
    #[must_use]
    pub fn region(&self, region: usize) -> &[AtomicU64] {
        let start = PAGE_WORDS.saturating_add(region.saturating_mul(REGION_WORDS));
        self.words.words().get(start..start.saturating_add(REGION_WORDS)).unwrap_or_default()
    }

    /// Counts for a leg.
    pub fn count_leg(&self, slot: RuleSlot, leg: usize, what: LegCount, n: u64) {
        self.add(leg_word(slot, leg, what as usize), n);
    }

    /// A datagram came on a leg; `skew_us` after the first copy.
    pub fn came_on_leg(&self, slot: RuleSlot, leg: usize, now_ns: u64, skew_us: Option<u64>) {
        self.add(leg_word(slot, leg, LegCount::Packets as usize), 1);
        self.set(leg_word(slot, leg, LAST), now_ns);
        if let Some(skew) = skew_us {
            // In sixteenths, so that it converges.
            let word = leg_word(slot, leg, SKEW);
            let before = self.get(word);
            self.set(word, before + skew - before / 16);
        }
    }

    /// Counts what a merge has lost, copies that differ, and restarts.
    pub fn count_merge(&self, slot: RuleSlot, lost: u64, differing: u64, restarts: u64) {
        for (word, n) in [(merge::LOST, lost), (merge::DIFFERING, differing), (merge::RESTARTS, restarts)] {
            if n > 0 {
                self.add(merge_word(slot, word), n);
            }
        }
    }

    /// Publishes how many datagrams of a merge are held, and of all of them.
    pub fn set_held(&self, slot: RuleSlot, held: u64, all: u64) {
        self.set(merge_word(slot, merge::HELD), held);
        self.set(header::HELD, all);
    }
}

impl PageReader {
    /// Reads the merge of the rule in a slot; `None` if the rule is not merged.
    #[must_use]
    pub fn merge(&self, slot: RuleSlot) -> Option<MergeSnapshot> {
        if self.get(merge_word(slot, merge::PARAMETERS)) == 0 {
            return None;
        }
        let word = |word| self.get(merge_word(slot, word));
        let legs = std::array::from_fn(|leg| {
            let count = |word: usize| self.get(leg_word(slot, leg, word));
            LegSnapshot {
                packets: count(LegCount::Packets as usize),
                lost: count(LegCount::Lost as usize),
                duplicates: count(LegCount::Duplicates as usize),
                unique: count(LegCount::Unique as usize),
                too_late: count(LegCount::TooLate as usize),
                other_stream: count(LegCount::OtherStream as usize),
                skew_us: count(SKEW) / 16,
                last_ns: count(LAST),
            }
        });
        let (held, lost) = (word(merge::HELD), word(merge::LOST));
        Some(MergeSnapshot {
            held,
            lost,
            differing: word(merge::DIFFERING),
            restarts: word(merge::RESTARTS),
            legs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::create_merging_page;
    use super::*;
    use crate::message::IoBackend;
    use mcr_rules::RuleId;
    use std::os::fd::AsFd;

    #[test]
    fn a_merge_continues_and_a_region_is_found_again() {
        let page = create_merging_page(2).unwrap();
        let writer = PageWriter::map(&page, 1, IoBackend::IoUring).unwrap();
        let reader = PageReader::map(page.as_fd()).unwrap();
        let slot = RuleSlot(3);
        assert_eq!((writer.regions(), reader.merge(slot)), (2, None));
        assert_eq!(writer.begin_merge(slot, 7), None);
        writer.set_region(slot, 1);
        writer.came_on_leg(slot, 2, 900, Some(50));
        writer.count_leg(slot, 2, LegCount::Duplicates, 4);
        writer.count_merge(slot, 3, 2, 1);
        writer.set_held(slot, 5, 6);
        assert_eq!((writer.region(1).len(), writer.region(2).len()), (REGION_WORDS, 0));
        let seen = reader.merge(slot).unwrap();
        assert_eq!((seen.held, seen.lost, seen.differing, seen.restarts), (5, 3, 2, 1));
        let leg = seen.legs[2];
        assert_eq!((leg.packets, leg.duplicates, leg.skew_us, leg.last_ns), (1, 4, 3, 900));
        assert_eq!(reader.worker().totals.held, 6);

        let again = PageWriter::map(&page, 2, IoBackend::IoUring).unwrap();
        assert_eq!(reader.worker().totals.held, 0, "what the dead worker held is lost");
        assert_eq!(again.begin_merge(slot, 7), Some(1));
        assert_eq!(again.begin_merge(slot, 8), None, "merged in another way");
        again.begin_rule(slot, RuleId::from_bits(9));
        assert_eq!(reader.merge(slot), None, "another rule");
    }
}
