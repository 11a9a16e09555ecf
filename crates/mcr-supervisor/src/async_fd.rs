//! A descriptor that tokio can wait for: its `AsyncFd` asks for the raw number, which the types of `mcr-sys` don't
//! give away.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use tokio::io::unix::AsyncFd;

/// Something with a descriptor, for `AsyncFd`.
#[derive(Debug)]
pub(crate) struct Watched<T>(pub(crate) T);

impl<T: AsFd> AsRawFd for Watched<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Begins to watch.
///
/// # Errors
/// The runtime can't register the descriptor.
#[expect(
    deprecated,
    reason = "its replacement is unsafe, which is forbidden here; what that asks for holds: the value owns its descriptor \
              and nobody replaces it while it is watched"
)]
pub(crate) fn watched<T: AsFd>(inner: T) -> std::io::Result<AsyncFd<Watched<T>>> {
    AsyncFd::new(Watched(inner))
}
