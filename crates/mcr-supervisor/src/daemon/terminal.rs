//! SIGHUP means a reload, but also that a terminal has gone (signal(7)): of a daemon in the background of a shell that is closed,
//! a reload would remove the rules that were not saved.

use std::fs::File;

/// The controlling terminal of the process (tty(4)).
const CONTROLLING: &str = "/dev/tty";

/// Whether the daemon was started in a terminal.
#[derive(Debug)]
pub(super) struct Terminal {
    was_there: bool,
}

impl Terminal {
    /// As it is now.
    pub(super) fn now() -> Self {
        Self { was_there: File::open(CONTROLLING).is_ok() }
    }

    /// Whether it was there and is gone; a program that sends SIGHUP leaves it.
    pub(super) fn has_hung_up(&self) -> bool {
        self.was_there && File::open(CONTROLLING).is_err()
    }
}
