//! A bound on the bytes that connections hold together. Who asks for more than is left gets an error, and never waits:
//! a slow client would make others wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What may be held, and what is.
#[derive(Debug)]
pub(super) struct Budget {
    held: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), limit })
    }

    /// A claim on nothing yet.
    pub(super) fn claim(self: &Arc<Self>) -> Claim {
        Claim { budget: Arc::clone(self), bytes: 0 }
    }
}

/// One holder's part; given back when dropped.
#[derive(Debug)]
pub(super) struct Claim {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Claim {
    /// Holds this many bytes from now on. False if the budget does not have them: then nothing changes.
    #[must_use]
    pub(super) fn resize(&mut self, bytes: usize) -> bool {
        let others = |held: usize| held.saturating_sub(self.bytes);
        let fits = |held: usize| {
            let sum = others(held).checked_add(bytes)?;
            (bytes <= self.bytes || sum <= self.budget.limit).then_some(sum)
        };
        let done = self.budget.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok();
        if done {
            self.bytes = bytes;
        }
        done
    }

    /// Gives everything back.
    pub(super) fn release(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = 0;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_share_the_limit_and_give_back() {
        let budget = Budget::new(100);
        let mut first = budget.claim();
        let mut second = budget.claim();
        assert!(first.resize(60) && first.resize(70));
        assert!(!second.resize(31) && second.resize(30));
        assert!(!first.resize(71) && first.resize(50) && first.resize(70));
        drop(first);
        assert!(second.resize(100) && !second.resize(101) && !second.resize(usize::MAX));
        second.release();
        assert!(budget.claim().resize(100));
    }
}
