//! Retry after failures: at once, then after 50 ms, doubling to 5 s; reset after 60 s without failure.
//!
//! Only failures at start lengthen the pause. What failed after having worked is retried at once, however often:
//! waiting would lose datagrams and gain nothing, since so few restarts per second cost little. A pause from failures
//! at start is kept until the reset.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The pause after the second failure in a row; after the first, the retry is immediate.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(50);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A failure after this uptime is not a failure at start: it lengthens no pause.
pub(crate) const WORKED_AFTER: Duration = Duration::from_millis(250);
/// After this uptime, the next failure counts as the first.
pub(crate) const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// The failures of one resource (a worker, a socket) and when to retry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Restart {
    /// Failures at start in a row.
    in_a_row: u32,
    /// All failures since the last reset.
    #[serde(rename = "unforgiven")]
    recent_failures: u32,
    not_before: Duration,
}

impl Restart {
    /// Records a failure. `worked_since` is when it had begun to work; `None` if it never did.
    pub(crate) fn failed(&mut self, now: Duration, worked_since: Option<Duration>) {
        let worked = worked_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        if worked >= HEALTHY_AFTER {
            (self.in_a_row, self.recent_failures) = (0, 0);
        }
        self.recent_failures = self.recent_failures.saturating_add(1);
        if worked >= WORKED_AFTER {
            self.not_before = now + Self::pause(self.in_a_row.saturating_sub(1));
            return;
        }
        self.not_before = now + Self::pause(self.in_a_row);
        self.in_a_row = self.in_a_row.saturating_add(1);
    }

    /// Records a failure that is useless to retry at once, such as of a system call: the first retry comes after
    /// [`FIRST_PAUSE`].
    pub(crate) fn refused(&mut self, now: Duration) {
        self.in_a_row = self.in_a_row.max(1);
        self.failed(now, None);
    }

    fn pause(failures_before: u32) -> Duration {
        match failures_before {
            0 => Duration::ZERO,
            n => FIRST_PAUSE.saturating_mul(1 << (n - 1).min(16)).min(LONGEST_PAUSE),
        }
    }

    /// Whether the next attempt is due.
    pub(crate) fn is_due(&self, now: Duration) -> bool {
        now >= self.not_before
    }

    /// Whether failures at start have led to a pause.
    pub(crate) fn is_pausing(&self) -> bool {
        self.in_a_row >= 2
    }

    /// When the next attempt is due.
    pub(crate) fn not_before(&self) -> Duration {
        self.not_before
    }

    /// Allows the next attempt at once: a precondition has changed.
    pub(crate) fn retry_now(&mut self) {
        self.not_before = Duration::ZERO;
    }

    /// Failures since the last [`HEALTHY_AFTER`] without failure; `works_since` is when the present attempt began to
    /// work.
    pub(crate) fn failures(&self, now: Duration, works_since: Option<Duration>) -> u32 {
        match works_since {
            Some(since) if now.saturating_sub(since) >= HEALTHY_AFTER => 0,
            _ => self.recent_failures,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_first_restart_is_at_once_then_pauses_double_to_five_seconds() {
        let mut restart = Restart::default();
        let mut now = Duration::from_secs(100);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            restart.failed(now, Some(now));
            pauses.push((restart.not_before() - now).as_millis());
            now = restart.not_before();
            assert!(restart.is_due(now));
        }
        assert_eq!(pauses, [0, 50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn what_had_worked_is_tried_again_at_once_however_often() {
        let mut restart = Restart::default();
        let mut now = Duration::from_secs(100);
        for death in 1..=100 {
            restart.failed(now + WORKED_AFTER, Some(now));
            now += WORKED_AFTER;
            assert!(restart.is_due(now));
            assert_eq!(restart.failures(now, None), death);
        }
        restart.failed(now + WORKED_AFTER - MS, Some(now));
        assert!(restart.is_due(now + WORKED_AFTER - MS), "the first failure at start");
        restart.failed(now, None);
        assert!(!restart.is_due(now), "the second");
    }

    #[test]
    fn pauses_that_were_earned_at_start_last_until_a_minute_of_health() {
        let begun = Duration::from_secs(100);
        for (worked, pause, next_pause) in
            [(WORKED_AFTER, 200, 400), (HEALTHY_AFTER - MS, 200, 400), (HEALTHY_AFTER, 0, 0)]
        {
            let mut restart = Restart::default();
            for _ in 0..4 {
                restart.failed(begun, None);
            }
            let now = begun + worked;
            assert_eq!(restart.failures(now, Some(begun)), if worked == HEALTHY_AFTER { 0 } else { 4 });
            restart.failed(now, Some(begun));
            assert_eq!((restart.not_before() - now).as_millis(), pause, "{worked:?}");
            restart.failed(now, None);
            assert_eq!((restart.not_before() - now).as_millis(), next_pause, "{worked:?}");
        }
    }

    #[test]
    fn a_refused_call_is_not_repeated_at_once_unless_something_changed() {
        let mut restart = Restart::default();
        restart.refused(Duration::ZERO);
        assert!(!restart.is_due(FIRST_PAUSE - MS));
        assert!(restart.is_due(FIRST_PAUSE));
        restart.refused(FIRST_PAUSE);
        assert!(!restart.is_due(FIRST_PAUSE * 2));
        restart.retry_now();
        assert!(restart.is_due(Duration::ZERO));
    }

    #[test]
    fn ever_more_failures_do_not_overflow() {
        let mut restart = Restart { in_a_row: u32::MAX, ..Restart::default() };
        restart.failed(Duration::ZERO, None);
        assert_eq!(restart.not_before(), LONGEST_PAUSE);
    }
}
