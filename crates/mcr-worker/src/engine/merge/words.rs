//! A region of the shared memory: 64-bit words that one process writes.

use std::sync::atomic::{AtomicU64, Ordering};

/// Words of a region or of a part of it. Beyond the end, reads return 0 and writes do nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words<'a>(pub(crate) &'a [AtomicU64]);

impl<'a> Words<'a> {
    /// The part that begins at a word.
    #[inline]
    pub(crate) fn from(self, start: usize) -> Self {
        Self(self.0.get(start..).unwrap_or_default())
    }

    #[inline]
    pub(crate) fn get(self, index: usize) -> u64 {
        self.0.get(index).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    #[inline]
    pub(crate) fn set(self, index: usize, value: u64) {
        if let Some(word) = self.0.get(index) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Zeroes a part; words that are 0 already are not written, so that a sparse region stays sparse.
    pub(crate) fn clear(self, count: usize) {
        for word in self.0.iter().take(count) {
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Relaxed);
            }
        }
    }
}
