//! The rate limit of a rule (`max_pps`): a token bucket with a depth of one second, stored as one timestamp (GCRA).
//!
//! ```text
//!  time ──────┬──────────────┬───────▶
//!             conforms_at    now           before now: the bucket has tokens; each run that conforms moves it forward
//!             └── ≤ 1 s ─────┘              after now: the bucket is empty; runs are dropped until that time
//! ```
//!
//! A run is relayed or dropped as a whole: at most twice `max_pps` plus one run in any second, and `max_pps` on average.

use std::cell::Cell;
use std::num::NonZeroU32;

const NANOSECONDS: u64 = 1_000_000_000;

/// See the module documentation; in a cell, because it changes while the table is borrowed.
#[derive(Debug, Default)]
pub(crate) struct RateLimit {
    /// Datagrams per second; 0 for no limit.
    max_pps: u32,
    /// The earliest time at which the next run conforms; monotonic, in nanoseconds.
    conforms_at: Cell<u64>,
}

impl RateLimit {
    /// A full bucket.
    pub(crate) fn new(max_pps: Option<NonZeroU32>) -> Self {
        Self { max_pps: max_pps.map_or(0, NonZeroU32::get), conforms_at: Cell::new(0) }
    }

    /// Datagrams per second; 0 for no limit.
    pub(crate) const fn max_pps(&self) -> u32 {
        self.max_pps
    }

    /// Copies the state from an earlier table, so that a change of other rules does not refill the bucket.
    pub(crate) fn continue_from(&self, before: &Self) {
        self.conforms_at.set(before.conforms_at.get());
    }

    /// Whether these datagrams conform to the limit; if so, their tokens are taken.
    #[inline]
    pub(crate) fn admits(&self, datagrams: u16, now_ns: u64) -> bool {
        self.max_pps == 0 || self.charge(datagrams, now_ns)
    }

    fn charge(&self, datagrams: u16, now_ns: u64) -> bool {
        let conforms_at = self.conforms_at.get().max(now_ns.saturating_sub(NANOSECONDS));
        let passes = conforms_at <= now_ns;
        if passes {
            // Rounded up, so that the average rate does not exceed the limit.
            let cost = (u64::from(datagrams) * NANOSECONDS).div_ceil(self.max_pps.into());
            self.conforms_at.set(conforms_at + cost);
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limit(max_pps: u32) -> RateLimit {
        RateLimit::new(NonZeroU32::new(max_pps))
    }

    #[test]
    fn without_a_limit_all_datagrams_conform() {
        let limit = limit(0);
        assert!((0..10_000).all(|_| limit.admits(64, 5)));
    }

    #[test]
    fn a_burst_of_one_second_then_the_rate() {
        let limit = limit(100);
        let start = 50 * NANOSECONDS;
        let passed = (0..1_000).filter(|_| limit.admits(1, start)).count();
        assert_eq!(passed, 101, "the bucket, and the run that empties it");
        let passed = (1..=1_000).filter(|ms| limit.admits(1, start + ms * 1_000_000)).count();
        assert_eq!(passed, 100);
    }

    #[test]
    fn a_conforming_run_takes_all_its_tokens() {
        let limit = limit(10);
        let start = 50 * NANOSECONDS;
        assert!(limit.admits(64, start));
        assert!(!limit.admits(1, start + 5 * NANOSECONDS));
        assert!(limit.admits(1, start + 5 * NANOSECONDS + 400_000_000));
    }

    #[test]
    fn a_limit_continues_in_another_table() {
        let (old, new) = (limit(10), limit(10));
        assert!(old.admits(64, NANOSECONDS));
        new.continue_from(&old);
        assert!(!new.admits(1, NANOSECONDS));
    }

    proptest! {
        #[test]
        fn the_rate_is_neither_exceeded_nor_wasted(
            max_pps in 1..200_000_u32, runs in proptest::collection::vec((1..=64_u16, 0..3_000_000_u64), 1..500),
        ) {
            let limit = limit(max_pps);
            let start = 10 * NANOSECONDS;
            let (mut now, mut passed, mut dropped) = (start, 0_u64, 0_u64);
            for (datagrams, pause) in runs {
                now += pause;
                *(if limit.admits(datagrams, now) { &mut passed } else { &mut dropped }) += u64::from(datagrams);
            }
            let allowed = u64::from(max_pps) * (now - start + NANOSECONDS) / NANOSECONDS;
            prop_assert!(passed <= allowed + 64, "{} passed of {}", passed, allowed);
            prop_assert!(dropped == 0 || passed + 64 >= u64::from(max_pps).min(allowed), "{} of {}", passed, allowed);
        }
    }
}
