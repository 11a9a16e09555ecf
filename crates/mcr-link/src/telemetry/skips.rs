//! Skips by rule in the telemetry page: datagrams and frames for a rule's destination that the rule did not relay, by reason,
//! and the last of them. Each is also among the worker's skips, once; those that concern several rules count for each.
//!
//! ```text
//!  rule slot: … skipped      skip record: counts by reason │ sequence │ of the last: time, key, address
//! ```
//!
//! A rule's record is touched by its first skip: other rules cost neither memory nor time.

use std::net::IpAddr;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::flows::READ_TRIES;
use super::{PageReader, PageWriter, RULE_SKIPS_AT, rule, rule_word};
use crate::reason::SkipReason;
use crate::rule_set::RuleSlot;
use mcr_wire::AddressBits;

pub(super) const SKIP_WORDS: usize = 32;

/// Words of a skip record; the counts come first.
mod skip {
    /// Odd while the words of the last skip are written.
    pub(super) const SEQUENCE: usize = 26;
    pub(super) const AT: usize = 27;
    /// Reason, port and family.
    pub(super) const KEY: usize = 28;
    pub(super) const ADDRESS_LOW: usize = 29;
    pub(super) const ADDRESS_HIGH: usize = 30;
}

const _: () = assert!(SkipReason::COUNT <= skip::SEQUENCE, "a skip record is too small");

const PORT_SHIFT: u32 = 16;
const IPV6: u64 = 1 << 32;

/// A skip that was attributed to a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skip {
    /// Why.
    pub reason: SkipReason,
    /// The source address.
    pub source: AddressBits,
    /// The destination port; 0 if it could not be read.
    pub port: u16,
}

/// A rule's skips.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSkips {
    /// By [`SkipReason::index`].
    pub counts: [u64; SkipReason::COUNT],
    /// The last one.
    pub last: Option<LastSkip>,
}

/// The last skip of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastSkip {
    /// Monotonic time.
    pub at: Duration,
    /// Why.
    pub reason: SkipReason,
    /// The source address.
    pub source: IpAddr,
    /// The destination port; `None` if it could not be read.
    pub port: Option<u16>,
}

impl RuleSkips {
    /// Returns the number of skips for a reason.
    #[must_use]
    pub fn of(&self, reason: SkipReason) -> u64 {
        self.counts[reason.index()]
    }

    /// Returns the number of skips.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Adds the counts of another worker.
    pub fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(sum, n)| *sum += n);
        self.last = [self.last, other.last].into_iter().flatten().max_by_key(|last| last.at);
    }
}

fn skip_word(slot: RuleSlot, word: usize) -> usize {
    RULE_SKIPS_AT + slot.0.min(super::MAX_RULES - 1) as usize * SKIP_WORDS + word
}

impl PageWriter {
    /// Resets the record of a slot, for another rule.
    pub(super) fn clear_skips(&self, slot: RuleSlot) {
        if self.get(rule_word(slot, rule::SKIPPED)) != 0 {
            (0..SKIP_WORDS).for_each(|word| self.set(skip_word(slot, word), 0));
            self.set(rule_word(slot, rule::SKIPPED), 0);
        }
    }

    /// Counts skips that concern a rule, beside [`Self::skip`].
    pub fn skip_of_rule(&self, slot: RuleSlot, skip: Skip, n: u64, now_ns: u64) {
        self.add(rule_word(slot, rule::SKIPPED), n);
        self.add(skip_word(slot, skip.reason.index()), n);
        let sequence = self.get(skip_word(slot, skip::SEQUENCE)) | 1;
        self.set(skip_word(slot, skip::SEQUENCE), sequence);
        fence(Ordering::Release);
        let family = if skip.source.ipv6 { IPV6 } else { 0 };
        let key = skip.reason.index() as u64 | u64::from(skip.port) << PORT_SHIFT | family;
        #[expect(clippy::cast_possible_truncation, reason = "the halves are taken apart on purpose")]
        let halves = (skip.source.bits as u64, (skip.source.bits >> 64) as u64);
        self.set(skip_word(slot, skip::AT), now_ns);
        self.set(skip_word(slot, skip::KEY), key);
        self.set(skip_word(slot, skip::ADDRESS_LOW), halves.0);
        self.set(skip_word(slot, skip::ADDRESS_HIGH), halves.1);
        if let Some(word) = self.word(skip_word(slot, skip::SEQUENCE)) {
            word.store(sequence.wrapping_add(1), Ordering::Release);
        }
    }
}

impl PageReader {
    /// Reads the skips of the rule in a slot; `None` if there are none.
    #[must_use]
    pub fn rule_skips(&self, slot: RuleSlot) -> Option<RuleSkips> {
        // Reading a record would take memory for it.
        if self.get(rule_word(slot, rule::SKIPPED)) == 0 {
            return None;
        }
        let counts = std::array::from_fn(|n| self.get(skip_word(slot, n)));
        Some(RuleSkips { counts, last: self.last_skip(slot) })
    }

    #[expect(clippy::cast_possible_truncation, reason = "the parts of a key are taken apart on purpose")]
    fn last_skip(&self, slot: RuleSlot) -> Option<LastSkip> {
        for _ in 0..READ_TRIES {
            let sequence = self.get(skip_word(slot, skip::SEQUENCE));
            let [at, key, low, high] = [skip::AT, skip::KEY, skip::ADDRESS_LOW, skip::ADDRESS_HIGH]
                .map(|word| self.get(skip_word(slot, word)));
            fence(Ordering::Acquire);
            if sequence.is_multiple_of(2) && self.get(skip_word(slot, skip::SEQUENCE)) == sequence {
                let bits =
                    AddressBits { ipv6: key & IPV6 != 0, bits: u128::from(high) << 64 | u128::from(low) };
                let port = (key >> PORT_SHIFT) as u16;
                // None after a worker of another version, whose reasons are unknown.
                let reason = SkipReason::ALL.get(usize::from(key as u8)).copied().filter(|_| sequence != 0);
                return reason.map(|reason| LastSkip {
                    at: Duration::from_nanos(at),
                    reason,
                    source: bits.into(),
                    port: (port != 0).then_some(port),
                });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use mcr_rules::RuleId;

    use super::super::{MAX_RULES, create_page};
    use super::*;
    use crate::message::IoBackend;

    #[test]
    fn skips_are_read_as_they_were_written() {
        let page = create_page().unwrap();
        let writer = PageWriter::map(&page, 1, IoBackend::IoUring).unwrap();
        let reader = PageReader::map(page.as_fd()).unwrap();
        let slot = RuleSlot(MAX_RULES - 1);
        let source = |text: &str| AddressBits::from(text.parse::<IpAddr>().unwrap());
        let skip = |reason, text, port| Skip { reason, source: source(text), port };
        assert_eq!(reader.rule_skips(slot), None);
        writer.skip_of_rule(slot, skip(SkipReason::SourceExcluded, "10.0.0.9", 5000), 30, 100);
        let excluded = reader.rule_skips(slot).unwrap();
        let last = excluded.last.unwrap();
        assert_eq!((last.at, last.reason), (Duration::from_nanos(100), SkipReason::SourceExcluded));
        assert_eq!((last.source, last.port), ([10, 0, 0, 9].into(), Some(5000)));
        writer.skip_of_rule(slot, skip(SkipReason::Fragment, "fd00::9", 0), 2, 200);
        let both = reader.rule_skips(slot).unwrap();
        assert_eq!((both.of(SkipReason::SourceExcluded), both.of(SkipReason::Fragment)), (30, 2));
        let last = both.last.unwrap();
        assert_eq!((last.source, last.port), ("fd00::9".parse().unwrap(), None));
        assert_eq!(reader.rule_skips(RuleSlot(0)), None);
        let mut sum = excluded;
        sum.add(&both);
        assert_eq!((sum.total(), sum.last), (62, both.last));
        writer.begin_rule(slot, RuleId::from_bits(7));
        assert_eq!(reader.rule_skips(slot), None, "another rule");
    }
}
