//! UDP sockets that outputs send through: the kernel does routing, neighbors, checksums and fragmentation.
//!
//! The supervisor opens them, fully configured, and passes them to a worker, which has no right to create sockets. The
//! destination is passed with each send; the sockets are never connected, since a connected socket would keep a stale route
//! and source.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use crate::filter::FilterProgram;
use crate::link::IfIndex;
use crate::packet::attach;
use crate::{Result, SysError, failed, socket_option};

/// The family of addresses a socket sends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(crate) fn domain(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::INET,
            Self::V6 => AddressFamily::INET6,
        }
    }
}

/// Properties of an egress socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressOptions {
    /// The interface that all datagrams are sent through.
    pub ifindex: IfIndex,
    /// The family of the destinations.
    pub family: Family,
    /// TTL or hop limit, 1 to 255; `None` leaves the system's default, for a sender that sets it per datagram.
    pub ttl: Option<u8>,
    /// DSCP, 0 to 63; `None` leaves zero, for a sender that sets it per datagram.
    pub dscp: Option<u8>,
    /// The address to send from; `None` lets the kernel choose the interface's.
    pub source: Option<IpAddr>,
    /// Size of the send buffer in bytes, as `SO_SNDBUF` counts them.
    pub send_buffer_bytes: usize,
}

/// Opens a non-blocking UDP socket that sends as described and receives nothing.
///
/// - A full queueing discipline is reported as `ENOBUFS` (`IP_RECVERR`); otherwise the kernel would report success. The
///   cost: ICMP errors fail a later send, too; see [`crate::error_queue`].
/// - Datagrams larger than the interface's MTU are fragmented, never refused: a relay can't make its sender send smaller
///   ones, and tunnels as outputs are ordinary. IPv4 is sent without DF and ignores *fragmentation needed*
///   (`IP_PMTUDISC_OMIT`): routers fragment where necessary, and a forged ICMP can't make the host do it. IPv6 accepts
///   *packet too big* (`IPV6_PMTUDISC_DONT`), since IPv6 routers don't fragment.
/// - Local listeners on the output interface get multicast too, as the kernel's default is (`IP_MULTICAST_LOOP`).
///
/// # Errors
/// `ENODEV` if the interface is gone, `EADDRNOTAVAIL` if the host does not have
/// the source address, `InvalidInput` if source and family differ.
pub fn open_egress(options: &EgressOptions) -> Result<OwnedFd> {
    if options.source.is_some_and(|source| Family::of(source) != options.family) {
        return Err(SysError::invalid(
            "open egress socket",
            "the source is of another family than the socket",
        ));
    }
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(options.family.domain(), SocketType::DGRAM, flags, None)
        .map_err(failed("open egress socket"))?;
    let fd = socket.as_fd();
    attach(fd, &FilterProgram::reject_all())?;
    socket_option::set(
        "set interface of egress socket",
        fd,
        libc::SOL_SOCKET,
        libc::SO_BINDTOIFINDEX,
        &options.ifindex.to_int(),
    )?;
    set_send_buffer(fd, options.send_buffer_bytes)?;
    match options.family {
        Family::V4 => configure_ipv4(fd, options)?,
        Family::V6 => configure_ipv6(fd, options)?,
    }
    bind_source(fd, options)?;
    Ok(socket)
}

fn configure_ipv4(fd: BorrowedFd<'_>, options: &EgressOptions) -> Result<()> {
    // By index, so that an interface without an address will do.
    sockopt::set_ip_multicast_if_with_ifindex(
        fd,
        &Ipv4Addr::UNSPECIFIED,
        &Ipv4Addr::UNSPECIFIED,
        options.ifindex.to_raw(),
    )
    // The kernel returns EADDRNOTAVAIL where the interface is missing.
    .map_err(|errno| if errno == Errno::ADDRNOTAVAIL { Errno::NODEV } else { errno })
    .map_err(failed("set multicast interface of egress socket"))?;
    if let Some(ttl) = options.ttl {
        sockopt::set_ip_multicast_ttl(fd, ttl.into()).map_err(failed("set multicast TTL"))?;
        sockopt::set_ip_ttl(fd, ttl.into()).map_err(failed("set TTL"))?;
    }
    if let Some(dscp) = options.dscp {
        sockopt::set_ip_tos(fd, dscp << 2).map_err(failed("set DSCP"))?;
    }
    let level = libc::IPPROTO_IP;
    socket_option::set("set IP_RECVERR", fd, level, libc::IP_RECVERR, &1)?;
    socket_option::set("set IP_MTU_DISCOVER", fd, level, libc::IP_MTU_DISCOVER, &libc::IP_PMTUDISC_OMIT)
}

fn configure_ipv6(fd: BorrowedFd<'_>, options: &EgressOptions) -> Result<()> {
    sockopt::set_ipv6_v6only(fd, true).map_err(failed("make egress socket IPv6 only"))?;
    sockopt::set_ipv6_multicast_if(fd, options.ifindex.to_raw())
        .map_err(failed("set multicast interface of egress socket"))?;
    if let Some(hops) = options.ttl {
        sockopt::set_ipv6_multicast_hops(fd, hops.into()).map_err(failed("set multicast hop limit"))?;
        sockopt::set_ipv6_unicast_hops(fd, Some(hops)).map_err(failed("set hop limit"))?;
    }
    if let Some(dscp) = options.dscp {
        sockopt::set_ipv6_tclass(fd, u32::from(dscp) << 2).map_err(failed("set DSCP"))?;
    }
    let level = libc::IPPROTO_IPV6;
    socket_option::set("set IPV6_RECVERR", fd, level, libc::IPV6_RECVERR, &1)?;
    socket_option::set("set IPV6_MTU_DISCOVER", fd, level, libc::IPV6_MTU_DISCOVER, &libc::IPV6_PMTUDISC_DONT)
}

/// Without `CAP_NET_ADMIN` the system's limit (`net.core.wmem_max`) applies, silently: a smaller send buffer costs
/// datagrams under bursts, which are counted where they are lost.
fn set_send_buffer(fd: BorrowedFd<'_>, bytes: usize) -> Result<()> {
    match sockopt::set_socket_send_buffer_size_force(fd, bytes) {
        Err(Errno::PERM) => sockopt::set_socket_send_buffer_size(fd, bytes),
        other => other,
    }
    .map_err(failed("set send buffer size"))
}

fn bind_source(fd: BorrowedFd<'_>, options: &EgressOptions) -> Result<()> {
    let place = match options.source {
        None => return Ok(()),
        Some(IpAddr::V4(source)) => SocketAddr::from((source, 0)),
        Some(IpAddr::V6(source)) => SocketAddr::V6(SocketAddrV6::new(source, 0, 0, options.ifindex.to_raw())),
    };
    bind(fd, &place).map_err(failed("bind egress socket to its source"))
}

#[cfg(test)]
mod tests;
