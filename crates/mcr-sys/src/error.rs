//! The error type of this crate: the failed step and the kernel's error.

use std::io;

/// Result of everything in this crate that talks to the kernel.
pub type Result<T> = std::result::Result<T, SysError>;

/// A system call that failed: `step` says what was being done, `source` why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct SysError {
    /// The failed step, for the operator ("bind packet socket").
    pub step: &'static str,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

/// Makes the error of a step, for `map_err`.
pub(crate) fn failed<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> SysError + Copy {
    move |error| SysError::new(step, error.into())
}

impl SysError {
    /// `step` failed with `source`.
    pub fn new(step: &'static str, source: io::Error) -> Self {
        Self { step, source }
    }

    /// `step` failed just now: takes the calling thread's `errno`.
    pub fn last(step: &'static str) -> Self {
        Self::new(step, io::Error::last_os_error())
    }

    /// `step` failed with an errno that rustix returned.
    pub fn from_errno(step: &'static str, errno: rustix::io::Errno) -> Self {
        Self::new(step, errno.into())
    }

    /// `step` broke a rule that this crate checks itself; no errno belongs to it.
    pub fn invalid(step: &'static str, message: impl Into<String>) -> Self {
        Self::new(step, io::Error::new(io::ErrorKind::InvalidInput, message.into()))
    }

    /// The errno, if the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_step_and_the_cause() {
        let error = SysError::from_errno("bind packet socket", rustix::io::Errno::NODEV);
        assert_eq!(error.errno(), Some(libc::ENODEV));
        assert_eq!(error.to_string(), "bind packet socket: No such device (os error 19)");
    }

    #[test]
    fn own_checks_have_no_errno() {
        let error = SysError::invalid("open egress socket", "IPv6 source on an IPv4 socket");
        assert_eq!(error.errno(), None);
        assert_eq!(error.to_string(), "open egress socket: IPv6 source on an IPv4 socket");
    }
}
