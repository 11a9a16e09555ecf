//! A bound on the bytes held by all connections. A request beyond it gets an error and never waits: a slow client
//! would delay others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The limit, and the bytes held.
#[derive(Debug)]
pub(super) struct Budget {
    held: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), limit })
    }

    pub(super) fn claim(self: &Arc<Self>) -> Claim {
        Claim { budget: Arc::clone(self), bytes: 0 }
    }
}

/// One holder's share; released when dropped.
#[derive(Debug)]
pub(super) struct Claim {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Claim {
    /// Sets the bytes held. Returns false, without effect, if the budget does not have them.
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

    /// Releases everything.
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
