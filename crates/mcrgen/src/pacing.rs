//! The send time of each datagram of a paced run: an absolute schedule, so that delays do not accumulate.

use std::num::NonZeroU64;

const NS_PER_SECOND: u128 = 1_000_000_000;

/// A constant rate in bursts: datagrams `k × burst .. (k + 1) × burst` are due together, at `k × burst / rate`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    rate_pps: u128,
    burst: u128,
}

impl Schedule {
    pub(crate) fn new(rate_pps: NonZeroU64, burst: NonZeroU64) -> Self {
        Self { rate_pps: rate_pps.get().into(), burst: burst.get().into() }
    }

    /// Returns the number of datagrams due `elapsed_ns` after the start.
    pub(crate) fn due(&self, elapsed_ns: u64) -> u64 {
        let bursts = u128::from(elapsed_ns) * self.rate_pps / (NS_PER_SECOND * self.burst) + 1;
        saturate(bursts.saturating_mul(self.burst))
    }

    /// Returns the time at which the datagram of this index (from 0) is due, in ns after the start.
    pub(crate) fn due_at(&self, index: u64) -> u64 {
        let before = u128::from(index) / self.burst * self.burst;
        saturate((before * NS_PER_SECOND).div_ceil(self.rate_pps))
    }
}

fn saturate(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schedule(rate_pps: u64, burst: u64) -> Schedule {
        Schedule::new(rate_pps.try_into().unwrap(), burst.try_into().unwrap())
    }

    #[test]
    fn the_datagrams_of_a_burst_are_due_together() {
        let paced = schedule(1000, 10);
        assert_eq!(paced.due(0), 10);
        assert_eq!(paced.due(9_999_999), 10);
        assert_eq!(paced.due(10_000_000), 20);
        assert_eq!(
            [0, 9, 10, 19, 20].map(|index| paced.due_at(index)),
            [0, 0, 10_000_000, 10_000_000, 20_000_000]
        );
    }

    #[test]
    fn does_not_drift_over_a_day() {
        let day_ns = 86_400_000_000_000;
        assert_eq!(schedule(3, 1).due(day_ns - 1), 3 * 86_400);
        assert_eq!(schedule(999_983, 1).due(day_ns), 999_983 * 86_400 + 1);
    }

    proptest! {
        #[test]
        fn due_at_is_the_earliest_time_at_which_it_is_due(rate in 1u64..20_000_000, burst in 1u64..1000, index in 0u64..1 << 40) {
            let paced = schedule(rate, burst);
            let at = paced.due_at(index);
            prop_assert!(paced.due(at) > index);
            prop_assert!(at == 0 || paced.due(at - 1) <= index);
        }
    }
}
