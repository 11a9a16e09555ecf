//! Waiting on a condition with a deadline.

use std::fmt::Debug;
use std::sync::OnceLock;
use std::time::Duration;

use mcr_sys::clock;

const POLL: Duration = Duration::from_millis(5);

/// How many times longer deadlines are than they say (`MCR_PATIENCE`), for slow machines. It never applies to what is asserted.
#[must_use]
pub fn patience() -> u32 {
    static PATIENCE: OnceLock<u32> = OnceLock::new();
    *PATIENCE.get_or_init(|| {
        let setting = std::env::var_os("MCR_PATIENCE").unwrap_or_default();
        setting.to_str().and_then(|factor| factor.parse().ok()).unwrap_or(1).max(1)
    })
}

/// Polls until `condition` returns a value.
///
/// # Panics
/// After `deadline`, or later on slow machines (`MCR_PATIENCE` times), naming `what` and the last state seen.
pub fn wait_for<T, S: Debug>(what: &str, deadline: Duration, condition: impl FnMut() -> Result<T, S>) -> T {
    wait_within(what, deadline * patience(), condition)
}

/// Polls until `condition` returns a value; for what is promised to take no longer, on any machine.
///
/// # Panics
/// After `deadline`, naming `what` and the last state seen.
pub fn wait_within<T, S: Debug>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<T, S>,
) -> T {
    let end = clock::monotonic() + deadline;
    loop {
        match condition() {
            Ok(value) => return value,
            Err(seen) => {
                assert!(clock::monotonic() < end, "waited {deadline:?} for {what}; last seen: {seen:?}");
            }
        }
        pause_for(POLL);
    }
}

/// Polls until `condition` holds.
///
/// # Panics
/// As [`wait_for`].
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, deadline, || if condition() { Ok(()) } else { Err("not yet") });
}

/// Sleeps, for polling with a deadline and for senders that keep a rate.
#[expect(clippy::disallowed_methods, reason = "the only sleep; every caller has a deadline or a schedule")]
pub(crate) fn pause_for(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_is_returned_as_soon_as_there_is_one() {
        let mut calls = 0;
        let value = wait_for("three", Duration::from_secs(10), || {
            calls += 1;
            if calls == 3 { Ok(calls) } else { Err(calls) }
        });
        assert_eq!(value, 3);
    }

    #[test]
    #[should_panic(expected = "for the impossible; last seen: \"this\"")]
    fn a_deadline_names_what_was_waited_for() {
        wait_for("the impossible", Duration::ZERO, || Err::<(), _>("this"));
    }
}
