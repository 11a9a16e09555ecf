//! Termination as a readable descriptor: signalfd(2), for programs that wait in one poll for everything.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Result, SysError};

/// SIGINT and SIGTERM, held back from the calling thread (and those that it starts) and readable here instead.
#[derive(Debug)]
pub struct Termination {
    fd: OwnedFd,
}

impl Termination {
    /// Blocks both signals and opens the descriptor; to be called before other threads are started.
    ///
    /// # Errors
    /// The process is out of file descriptors.
    pub fn block() -> Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set that the pointer names.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: sigemptyset has initialised it.
        let mut set = unsafe { set.assume_init() };
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: the set is initialised and exclusively borrowed, the signal is a valid one.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
        // SAFETY: the set is initialised; the old mask is not asked for.
        let answer = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if answer != 0 {
            return Err(SysError::new("block signals", std::io::Error::from_raw_os_error(answer)));
        }
        // SAFETY: -1 asks for a new descriptor; the set is initialised.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(SysError::last("open signalfd"));
        }
        // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Whether a signal has come since the last call.
    pub fn arrived(&self) -> bool {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        rustix::io::read(&self.fd, &mut info).is_ok()
    }
}

impl AsFd for Termination {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_read_once() {
        let termination = Termination::block().expect("signalfd");
        assert!(!termination.arrived());
        // To this thread only: other tests of the process run in threads that don't block it.
        // SAFETY: always succeeds.
        let this_thread = unsafe { libc::pthread_self() };
        // SAFETY: the thread's own id and a valid signal.
        let answer = unsafe { libc::pthread_kill(this_thread, libc::SIGINT) };
        assert_eq!(answer, 0);
        assert!(termination.arrived());
        assert!(!termination.arrived());
    }
}
