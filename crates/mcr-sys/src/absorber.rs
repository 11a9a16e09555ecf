//! A socket that keeps the kernel from answering a unicast input with ICMP.
//!
//! A worker captures the datagrams of a unicast input below the IP layer, but the kernel still delivers each one, finds
//! no socket at the port and answers ICMP *port unreachable*, which makes many senders stop. A UDP socket that is bound
//! to the address and port, and whose filter drops everything, prevents it.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use crate::filter::FilterProgram;
use crate::link::IfIndex;
use crate::packet::attach;
use crate::{Result, failed, socket_option};

/// Binds `address` and `port` on the interface for as long as the descriptor is open. Nothing can be read from it.
///
/// A program may bind the same address and port, or the port on all addresses, later if it sets SO_REUSEADDR. It receives
/// nothing until this socket is closed, which is the more specific one.
///
/// # Errors
/// `EADDRINUSE` if a program has the port already; then there is nothing to absorb. `EACCES` for a port below 1024
/// (`net.ipv4.ip_unprivileged_port_start`) without CAP_NET_BIND_SERVICE.
/// `EADDRNOTAVAIL` while the host does not have the address.
pub fn open_absorber(ifindex: IfIndex, address: IpAddr, port: u16) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket =
        socket_with(family, SocketType::DGRAM, flags, None).map_err(failed("open absorbing socket"))?;
    // Before bind, so that no datagram reaches the queue.
    attach(socket.as_fd(), &FilterProgram::reject_all())?;
    socket_option::set(
        "set interface of absorbing socket",
        socket.as_fd(),
        libc::SOL_SOCKET,
        libc::SO_BINDTOIFINDEX,
        &ifindex.to_int(),
    )?;
    let place = match address {
        IpAddr::V4(address) => SocketAddr::from((address, port)),
        IpAddr::V6(address) => {
            sockopt::set_ipv6_v6only(&socket, true).map_err(failed("make absorbing socket IPv6 only"))?;
            // A link-local address needs its scope; others ignore it.
            SocketAddr::V6(SocketAddrV6::new(address, port, 0, ifindex.to_raw()))
        }
    };
    bind(&socket, &place).map_err(failed("bind absorbing socket"))?;
    // Not before: the kernel would let it share a port that a program has bound with SO_REUSEADDR, and prefer it to the program.
    sockopt::set_socket_reuseaddr(&socket, true).map_err(failed("set SO_REUSEADDR of absorbing socket"))?;
    Ok(socket)
}

/// Makes a socket receive nothing, for one that only holds a port.
///
/// # Errors
/// The kernel has no memory for a filter.
pub fn receive_nothing(socket: BorrowedFd<'_>) -> Result<()> {
    attach(socket, &FilterProgram::reject_all()).map(drop)
}

/// Returns the inode of a socket, by which [`UdpSockets`](crate::udp_sockets::UdpSockets) and `/proc/PID/fd` name it.
///
/// # Errors
/// None that are known.
pub fn inode(socket: BorrowedFd<'_>) -> Result<u32> {
    let status = rustix::fs::fstat(socket).map_err(failed("stat socket"))?;
    // The inodes of sockets have 32 bits.
    Ok(u32::try_from(status.st_ino).unwrap_or_default())
}

/// Returns whether this is a socket of [`open_absorber`] for the address and port.
#[must_use]
pub fn is_absorber(socket: BorrowedFd<'_>, address: IpAddr, port: u16) -> bool {
    let bound = rustix::net::getsockname(socket).ok().and_then(|name| SocketAddr::try_from(name).ok());
    bound.is_some_and(|bound| bound.ip() == address && bound.port() == port)
        && sockopt::socket_type(socket) == Ok(SocketType::DGRAM)
}

#[cfg(test)]
mod tests;
