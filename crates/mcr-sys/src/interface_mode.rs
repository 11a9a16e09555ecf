//! What an interface receives beyond its own address and the joined groups: packet(7), `PACKET_ADD_MEMBERSHIP`. It lasts as
//! long as the packet socket that asked for it.

use std::os::fd::BorrowedFd;

use crate::link::IfIndex;
use crate::{Result, socket_option};

/// `struct packet_mreq`.
#[repr(C)]
struct MembershipRequest {
    ifindex: i32,
    kind: u16,
    address_bytes: u16,
    address: [u8; 8],
}

/// What is received too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Mode {
    /// Everything (`PACKET_MR_PROMISC`).
    Promiscuous = 1,
    /// All multicast (`PACKET_MR_ALLMULTI`).
    AllMulticast = 2,
}

/// Adds the mode to an interface, or drops it.
pub(crate) fn set(socket: BorrowedFd<'_>, ifindex: IfIndex, mode: Mode, on: bool) -> Result<()> {
    let request =
        MembershipRequest { ifindex: ifindex.to_int(), kind: mode as u16, address_bytes: 0, address: [0; 8] };
    let (step, name) = if on {
        ("set PACKET_ADD_MEMBERSHIP", libc::PACKET_ADD_MEMBERSHIP)
    } else {
        ("set PACKET_DROP_MEMBERSHIP", libc::PACKET_DROP_MEMBERSHIP)
    };
    socket_option::set(step, socket, libc::SOL_PACKET, name, &request)
}
