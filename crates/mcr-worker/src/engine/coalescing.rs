//! Decides whether an idle loop wakes for the first datagram, or waits for more to arrive (coalescing).
//!
//! Coalescing saves CPU time if several datagrams arrive within the latency budget; otherwise it costs a timer for each. The
//! decision is based on the previous waits. A datagram is never delayed by more than the budget.

use std::time::Duration;

/// After a coalescing wait that ended with a single datagram, the number of waits without coalescing.
const BACKOFF_WAITS: u8 = 32;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Coalescing {
    budget: Duration,
    active: bool,
    backoff: u8,
}

impl Coalescing {
    /// A budget of zero disables coalescing.
    pub(crate) const fn new(budget: Duration) -> Self {
        Self { budget, active: false, backoff: 0 }
    }

    /// Whether coalescing is disabled.
    pub(crate) const fn is_disabled(&self) -> bool {
        self.budget.is_zero()
    }

    /// How long to wait for more datagrams; `None` to wake for the first.
    pub(crate) fn window(&self) -> Option<Duration> {
        self.active.then_some(self.budget)
    }

    /// Records a wait that ended with datagrams.
    pub(crate) fn record_wait(&mut self, time: Duration, datagrams: usize) {
        // With a margin, since coalesced waits end shortly after the budget.
        let soon = time < self.budget * 5 / 4;
        if self.active && datagrams < 2 {
            self.backoff = BACKOFF_WAITS;
        } else {
            self.backoff = self.backoff.saturating_sub(1);
        }
        self.active = soon && self.backoff == 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Duration = Duration::from_micros(50);

    /// After single datagrams at this interval.
    fn after_datagrams_apart(micros: u64) -> Coalescing {
        let mut coalescing = Coalescing::new(BUDGET);
        for _ in 0..10 {
            coalescing.record_wait(Duration::from_micros(micros), 1);
        }
        coalescing
    }

    #[test]
    fn datagrams_close_together_are_coalesced() {
        let mut coalescing = Coalescing::new(BUDGET);
        assert_eq!(coalescing.window(), None);
        coalescing.record_wait(Duration::from_micros(10), 1);
        assert_eq!(coalescing.window(), Some(BUDGET));
        coalescing.record_wait(Duration::from_micros(58), 5);
        assert_eq!(coalescing.window(), Some(BUDGET));
    }

    #[test]
    fn datagrams_far_apart_are_not_coalesced() {
        assert_eq!(after_datagrams_apart(130).window(), None);
    }

    #[test]
    fn a_wait_with_a_single_datagram_backs_off() {
        let mut coalescing = Coalescing::new(BUDGET);
        coalescing.record_wait(Duration::from_micros(40), 1);
        assert_eq!(coalescing.window(), Some(BUDGET));
        for _ in 0..BACKOFF_WAITS {
            coalescing.record_wait(Duration::from_micros(50), 1);
            assert_eq!(coalescing.window(), None);
        }
        coalescing.record_wait(Duration::from_micros(40), 1);
        assert_eq!(coalescing.window(), Some(BUDGET), "coalescing is retried");
    }

    #[test]
    fn a_budget_of_zero_disables_coalescing() {
        let mut coalescing = Coalescing::new(Duration::ZERO);
        coalescing.record_wait(Duration::ZERO, 9);
        assert!(coalescing.is_disabled());
        assert_eq!(coalescing.window(), None);
    }
}
