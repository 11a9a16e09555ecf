//! Whether a loop that has nothing to do lets the next datagrams gather, or wakes for the first.
//!
//! Gathering pays where several come within the latency budget; where they come further apart it costs a timer for
//! each and brings nothing. Which of the two it is shows in the last waits. Whatever is chosen, a datagram waits no longer
//! than the budget.

use std::time::Duration;

/// After a wait for company that brought none, so many waits are for the first datagram.
const LONELY_WAITS: u8 = 32;

/// See the module.
#[derive(Debug)]
pub(crate) struct Pace {
    budget: Duration,
    gathering: bool,
    lonely: u8,
}

impl Pace {
    /// With a budget of zero nothing ever waits.
    pub(crate) const fn new(budget: Duration) -> Self {
        Self { budget, gathering: false, lonely: 0 }
    }

    /// Whether nothing may ever wait.
    pub(crate) const fn is_immediate(&self) -> bool {
        self.budget.is_zero()
    }

    /// How long from now on datagrams should gather; `None`: the first is to be taken at once.
    pub(crate) fn gather(&self) -> Option<Duration> {
        self.gathering.then_some(self.budget)
    }

    /// A wait is over: how long it took, and how many datagrams it brought. Waits that something else ended don't count.
    pub(crate) fn waited(&mut self, time: Duration, datagrams: usize) {
        // What ends a wait a little after the budget came within it, or would have found company.
        let soon = time < self.budget * 5 / 4;
        if self.gathering && datagrams < 2 {
            self.lonely = LONELY_WAITS;
        } else {
            self.lonely = self.lonely.saturating_sub(1);
        }
        self.gathering = soon && self.lonely == 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Duration = Duration::from_micros(50);

    /// What the pace is after datagrams came alone, each so long after the last turn.
    fn after_datagrams_apart(micros: u64) -> Pace {
        let mut pace = Pace::new(BUDGET);
        for _ in 0..10 {
            pace.waited(Duration::from_micros(micros), 1);
        }
        pace
    }

    #[test]
    fn datagrams_that_come_close_together_gather() {
        let mut pace = Pace::new(BUDGET);
        assert_eq!(pace.gather(), None);
        pace.waited(Duration::from_micros(10), 1);
        assert_eq!(pace.gather(), Some(BUDGET));
        pace.waited(Duration::from_micros(58), 5);
        assert_eq!(pace.gather(), Some(BUDGET));
    }

    #[test]
    fn datagrams_far_apart_are_taken_one_by_one() {
        assert_eq!(after_datagrams_apart(130).gather(), None);
    }

    #[test]
    fn a_wait_without_company_is_not_repeated_at_once() {
        let mut pace = Pace::new(BUDGET);
        pace.waited(Duration::from_micros(40), 1);
        assert_eq!(pace.gather(), Some(BUDGET));
        for _ in 0..LONELY_WAITS {
            pace.waited(Duration::from_micros(50), 1);
            assert_eq!(pace.gather(), None);
        }
        pace.waited(Duration::from_micros(40), 1);
        assert_eq!(pace.gather(), Some(BUDGET), "it is tried again");
    }

    #[test]
    fn without_a_budget_nothing_gathers() {
        let mut pace = Pace::new(Duration::ZERO);
        pace.waited(Duration::ZERO, 9);
        assert!(pace.is_immediate());
        assert_eq!(pace.gather(), None);
    }
}
