//! How [`Ring::enter`](super::Ring::enter) waits.

use std::time::Duration;

use io_uring::{IoUring, types};

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

/// Number of consecutive times that the kernel may refuse submissions, for 30 ms or longer. A loop that retries forever
/// would not even notice a request to stop.
const MOST_REFUSED: u32 = 100_000;

/// `refused` counts consecutive submissions of which the kernel took nothing.
pub(super) fn enter(ring: &mut IoUring, wait: Wait, min_wait: bool, refused: &mut u32) -> Result<()> {
    let result = match wait {
        Wait::No => ring.submit(),
        Wait::Event => ring.submit_and_wait(1),
        Wait::Coalesce(budget) => wait_coalescing(ring, budget, min_wait),
    };
    let Err(error) = result else {
        *refused = 0;
        return Ok(());
    };
    match error.raw_os_error() {
        // A signal, without an event.
        Some(libc::EINTR | libc::ETIME) => Ok(()),
        // Completions must be taken first; the kernel lacks memory for now.
        Some(libc::EBUSY | libc::EAGAIN) if *refused < MOST_REFUSED => {
            *refused += 1;
            Ok(())
        }
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
