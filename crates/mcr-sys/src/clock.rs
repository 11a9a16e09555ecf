//! The clock that every program of MCR measures time with. Shells read it; cores get the time as an argument.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since an arbitrary point before boot, the same for all processes of this host (`CLOCK_MONOTONIC`,
/// clock_gettime(2)).
#[must_use]
pub fn monotonic() -> Duration {
    read(ClockId::Monotonic)
}

fn read(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    // Both clocks are past zero, and their nanoseconds are below 1e9.
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// [`monotonic`] in nanoseconds; wraps after 584 years.
#[must_use]
pub fn monotonic_ns() -> u64 {
    u64::try_from(monotonic().as_nanos()).unwrap_or(u64::MAX)
}

/// Time since 1970 by the host's clock (`CLOCK_REALTIME`), which may jump: for comparison with the kernel's
/// timestamps, and for people; nothing is decided by it.
#[must_use]
pub fn since_epoch() -> Duration {
    read(ClockId::Realtime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advances_and_agrees_in_both_units() {
        let before = monotonic_ns();
        let between = monotonic();
        let after = monotonic_ns();
        assert!(before > 0);
        assert!(u128::from(before) <= between.as_nanos() && between.as_nanos() <= u128::from(after));
    }
}
