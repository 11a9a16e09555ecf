//! How [`Ring::enter`](super::Ring::enter) waits.

use std::time::Duration;

use io_uring::{IoUring, types};

use crate::clock::monotonic;
use crate::{Result, SysError};

/// Number of events that ends a coalescing wait early: more than an iteration has beside the expected one.
const COMPANY: usize = 16;
/// A wait without an event ends after this time; the caller starts another.
const LONG: types::Timespec = types::Timespec::new().sec(1);

/// What [`Ring::enter`](super::Ring::enter) waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Nothing.
    No,
    /// At least one event.
    Event,
    /// At least one event, but within this time from now on for more of them. What happens later ends the wait at once: so
    /// an event waits for others only if it comes soon after this call began, and no longer than until this time is over.
    /// The wait may also end without an event.
    Coalesce(Duration),
}

/// How long the kernel may refuse submissions. A loop that retries forever would not even notice a request to stop; the
/// supervisor replaces one that is silent for half a second, and then the reason would be unknown.
const LONGEST_REFUSAL: Duration = Duration::from_millis(100);
/// Number of consecutive refusals before the time counts: the process may not have had a core in between.
const LEAST_REFUSED: u32 = 1_000;

/// Consecutive submissions of which the kernel took nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Refusals {
    count: u32,
    /// When the first one happened.
    since: Duration,
}

impl Refusals {
    /// Records one more. Returns whether trying again still makes sense.
    #[cold]
    fn record(&mut self, now: Duration) -> bool {
        if self.count == 0 {
            self.since = now;
        }
        self.count = self.count.saturating_add(1);
        self.count <= LEAST_REFUSED || now.saturating_sub(self.since) < LONGEST_REFUSAL
    }
}

/// Submits, and waits as asked to.
pub(super) fn enter(ring: &mut IoUring, wait: Wait, min_wait: bool, refusals: &mut Refusals) -> Result<()> {
    let result = match wait {
        Wait::No => ring.submit(),
        Wait::Event => ring.submit_and_wait(1),
        Wait::Coalesce(budget) => wait_coalescing(ring, budget, min_wait),
    };
    let Err(error) = result else {
        refusals.count = 0;
        return Ok(());
    };
    match error.raw_os_error() {
        // A signal, without an event.
        Some(libc::EINTR | libc::ETIME) => Ok(()),
        // Completions must be taken first; the kernel lacks memory for now.
        Some(libc::EBUSY | libc::EAGAIN) if refusals.record(monotonic()) => Ok(()),
        _ => Err(SysError::new("io_uring_enter", error)),
    }
}

/// One call where the kernel has the minimum wait (`IORING_FEAT_MIN_TIMEOUT`, Linux 6.12), else one with the timeout, and
/// another if it ends without an event.
fn wait_coalescing(ring: &mut IoUring, budget: Duration, min_wait: bool) -> std::io::Result<usize> {
    let budget_us = u32::try_from(budget.as_micros()).unwrap_or(u32::MAX);
    if min_wait {
        let arguments = types::SubmitArgs::new().min_wait_usec(budget_us).timespec(&LONG);
        return ring.submitter().submit_with_args(COMPANY, &arguments);
    }
    let budget = types::Timespec::from(budget);
    let arguments = types::SubmitArgs::new().timespec(&budget);
    match ring.submitter().submit_with_args(COMPANY, &arguments) {
        Err(error) if error.raw_os_error() != Some(libc::ETIME) => Err(error),
        // A call that submitted something says so, whether its time was over or not.
        _ if ring.completion().is_empty() => ring.submit_and_wait(1),
        _ => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records `count` refusals of this duration each; returns the first that was one too many.
    fn too_many(count: u32, each: Duration) -> Option<u32> {
        let mut refusals = Refusals::default();
        let start = Duration::from_secs(7);
        (0..count).find(|number| !refusals.record(start + each * *number))
    }

    #[test]
    fn refusals_are_limited_in_time_on_fast_and_slow_machines() {
        for (each_ns, limit) in [(300, 333_334), (9_000, 11_112), (10_000_000, LEAST_REFUSED)] {
            assert_eq!(too_many(1 << 20, Duration::from_nanos(each_ns)), Some(limit), "{each_ns} ns each");
        }
        assert_eq!(too_many(LEAST_REFUSED, Duration::from_secs(1)), None, "too few to judge by");
    }
}
