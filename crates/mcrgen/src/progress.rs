//! A progress line on stderr, if it is a terminal.

use std::io::{IsTerminal, Write, stderr};

const INTERVAL_NS: u64 = 500_000_000;

pub(crate) struct Progress {
    terminal: bool,
    next_ns: u64,
    shown: bool,
}

impl Progress {
    pub(crate) fn new(now_ns: u64) -> Self {
        Self { terminal: stderr().is_terminal(), next_ns: now_ns + INTERVAL_NS, shown: false }
    }

    /// Updates the line if it is due.
    pub(crate) fn show(&mut self, now_ns: u64, line: impl FnOnce() -> String) {
        if self.terminal && now_ns >= self.next_ns {
            // Progress that can't be shown is not an error.
            let _ = write!(stderr(), "\r\x1b[K{}", line());
            self.next_ns = now_ns + INTERVAL_NS;
            self.shown = true;
        }
    }

    /// Returns the time of the next update; `None` without a terminal.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.terminal.then_some(self.next_ns)
    }

    /// Clears the line.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}
