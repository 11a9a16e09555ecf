//! The path of an output's datagrams: its socket, its address, and which segmented sends it accepts.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use mcr_link::rule_set::{EgressId, OutputSlot};
use mcr_sys::mmsg::SocketAddress;
use mcr_sys::uring::FileSlot;

use super::origin::Origin;
use super::segmentation::Segmentation;

/// An egress socket that the supervisor passed.
#[derive(Debug)]
pub(crate) struct EgressSocket {
    pub(crate) id: EgressId,
    pub(crate) fd: OwnedFd,
    /// Its index in the ring's file table; `None` without io_uring.
    pub(crate) file: Option<FileSlot>,
    /// Datagrams that came back to it, as far as they are counted.
    pub(crate) replies: Cell<u32>,
}

/// See the module documentation. Shared by the table and the sends in flight, so that the completion of a send needs no lookup.
#[derive(Debug)]
pub(crate) struct Path {
    /// The output's counters.
    pub(crate) slot: OutputSlot,
    pub(crate) socket: Rc<EgressSocket>,
    pub(crate) address: SocketAddress,
    /// The socket also sends to other addresses, and an ICMP error from one of these fails the socket's next send. Therefore the
    /// outcome of each send must be known before the next one, so that a send that failed for an earlier one is repeated.
    pub(crate) serialized: bool,
    pub(crate) segmentation: Segmentation,
    /// Source address and port, if the socket does not have them.
    pub(crate) origin: Option<Box<Origin>>,
}
