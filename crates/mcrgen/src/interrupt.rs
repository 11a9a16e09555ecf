//! SIGINT and SIGTERM as a request to stop.

use mcr_sys::poll::wait_readable;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

pub(crate) struct Interrupt {
    signals: UnixStream,
    arrived: bool,
}

impl Interrupt {
    /// Handles both signals from now on.
    pub(crate) fn new() -> io::Result<Self> {
        let (signals, sender) = UnixStream::pair()?;
        signals.set_nonblocking(true)?;
        for signal in [SIGINT, SIGTERM] {
            pipe::register(signal, sender.try_clone()?)?;
        }
        Ok(Self { signals, arrived: false })
    }

    pub(crate) fn arrived(&mut self) -> bool {
        self.arrived = self.arrived || self.signals.read(&mut [0]).is_ok_and(|bytes| bytes > 0);
        self.arrived
    }

    /// Waits for `duration`, or until a signal arrives.
    pub(crate) fn wait(&mut self, duration: Option<Duration>) {
        // A failed poll is a shorter wait: callers check the clock again.
        let _ = wait_readable([self.signals.as_fd()], duration);
        let _ = self.arrived();
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_ends_the_wait_and_persists() {
        let mut interrupt = Interrupt::new().unwrap();
        assert!(!interrupt.arrived());
        signal_hook::low_level::raise(SIGINT).unwrap();
        interrupt.wait(None);
        assert!(interrupt.arrived() && interrupt.arrived());
    }
}
