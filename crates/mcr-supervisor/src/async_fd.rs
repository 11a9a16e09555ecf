//! Descriptors registered with tokio. Its `AsyncFd` takes types with a raw descriptor; those of `mcr-sys` only lend
//! theirs.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use mcr_sys::channel::Channel;
use mcr_sys::network::NetworkMonitor;
use mcr_sys::process::PidFd;
use mcr_sys::querier_listener::QueryListener;
use mcr_sys::udp_sockets::ClosedUdpSockets;
use tokio::io::unix::AsyncFd;

/// A type that owns one descriptor, never replaces it and closes it when dropped: the precondition for [`watched`] to
/// be sound (decision 020).
pub(crate) trait OwnsDescriptor: AsFd {}
impl OwnsDescriptor for Channel {}
impl OwnsDescriptor for ClosedUdpSockets {}
impl OwnsDescriptor for NetworkMonitor {}
impl OwnsDescriptor for PidFd {}
impl OwnsDescriptor for QueryListener {}

/// A descriptor's owner, wrapped for `AsyncFd`.
#[derive(Debug)]
pub(crate) struct Watched<T>(pub(crate) T);

impl<T: OwnsDescriptor> AsRawFd for Watched<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Registers the descriptor with the runtime.
///
/// # Errors
/// The registration fails.
#[expect(
    deprecated,
    reason = "unsound for types whose descriptor may be closed or replaced; the trait excludes them (decision 020)"
)]
pub(crate) fn watched<T: OwnsDescriptor>(inner: T) -> std::io::Result<AsyncFd<Watched<T>>> {
    AsyncFd::new(Watched(inner))
}
