//! The way of an output's datagrams: its socket, its address, and what is known of the network behind it.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use mcr_link::rule_set::{EgressId, OutputSlot};
use mcr_sys::mmsg::SocketAddress;
use mcr_sys::uring::FileSlot;

use super::segmentation::Segmentation;

/// An egress socket that the supervisor passed.
#[derive(Debug)]
pub(crate) struct EgressSocket {
    pub(crate) id: EgressId,
    pub(crate) fd: OwnedFd,
    /// Its number in the ring; `None` in the loop that has no ring.
    pub(crate) file: Option<FileSlot>,
}

/// See the module. The table and each send in flight share it, so that nothing has to be found again when the outcome of a
/// send is known.
#[derive(Debug)]
pub(crate) struct Path {
    /// The output's counters.
    pub(crate) slot: OutputSlot,
    pub(crate) socket: Rc<EgressSocket>,
    pub(crate) address: SocketAddress,
    /// The socket also sends to other addresses, and a host among them can answer with an error, which the kernel reports
    /// on the next send of the socket. So the outcome of each send must be known before the next: a send that failed for
    /// an earlier one is repeated.
    pub(crate) serialized: bool,
    pub(crate) segmentation: Segmentation,
}
