//! The user's wish to end: SIGINT or SIGTERM, remembered once it has come.

use mcr_sys::poll::wait_readable;
use mcr_sys::signals::Termination;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

pub(crate) struct Interrupt {
    termination: Termination,
    arrived: bool,
}

impl Interrupt {
    /// Takes over both signals. To be called once, at the start.
    pub(crate) fn new() -> mcr_sys::Result<Self> {
        Ok(Self { termination: Termination::block()?, arrived: false })
    }

    pub(crate) fn arrived(&mut self) -> bool {
        self.arrived = self.arrived || self.termination.arrived();
        self.arrived
    }

    /// Waits so long, or until a signal comes.
    pub(crate) fn wait(&mut self, duration: Option<Duration>) {
        // A poll that fails is only a shorter wait: callers look at the clock again.
        let _ = wait_readable([self.termination.as_fd()], duration);
        let _ = self.arrived();
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.termination.as_fd()
    }
}
