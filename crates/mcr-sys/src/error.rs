//! The error of this crate: which step failed, and what the kernel said.

use std::io;

/// A system call that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct SysError {
    /// What was being done, such as `bind` or `setsockopt SO_RCVBUFFORCE`.
    pub step: &'static str,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// What this crate's functions return.
pub type Result<T> = std::result::Result<T, SysError>;

impl SysError {
    /// An error of this step.
    #[must_use]
    pub const fn new(step: &'static str, source: io::Error) -> Self {
        Self { step, source }
    }

    /// The error of the system call that this thread made last.
    #[must_use]
    pub fn last(step: &'static str) -> Self {
        Self::new(step, io::Error::last_os_error())
    }

    /// The error that rustix returned.
    #[must_use]
    pub fn from_errno(step: &'static str, errno: rustix::io::Errno) -> Self {
        Self::new(step, errno.into())
    }

    /// The kernel's error number, if the error came from the kernel (errno(3)).
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}
