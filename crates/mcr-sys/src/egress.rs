//! UDP sockets that outputs send through: the kernel does routing, neighbors, checksums and fragmentation.
//!
//! The supervisor opens them, fully configured, and passes them to a worker, which has no right to create sockets. The
//! destination is passed with each send; the sockets are never connected, since a connected socket would keep a stale route
//! and source.
//!
//! A socket that sends from ports which are not its own is a raw one: whatever a UDP socket does with a port (bind it, with or
//! without `SO_REUSEADDR`), a program of the host that binds the same port notices, or loses datagrams to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};

use crate::filter::{EGRESS_MARK, FilterProgram};
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

/// What is sent from: what the sender of each datagram sets, and what the socket does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// The address of the interface that the kernel chooses, and a port of the socket's own.
    Interface,
    /// This address of the host, and a port of the socket's own.
    Address(IpAddr),
    /// Any address, set with each send ([`crate::mmsg::Ancillary::source`]); a port of the socket's own.
    AnyAddress,
    /// Any address and port: with each send, address and UDP header are set ([`crate::mmsg::Ancillary`]). The destination's
    /// port must be 0 there.
    AnyPort,
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
    /// What is sent from.
    pub origin: Origin,
    /// Whether programs of this host get multicast that is sent, if they joined its group on the interface. On loopback
    /// they always do.
    pub multicast_loop: bool,
    /// Size of the send buffer in bytes, as `SO_SNDBUF` counts them.
    pub send_buffer_bytes: usize,
    /// Marks what is sent with [`EGRESS_MARK`], if the process may: [`check_marking`].
    pub marked: bool,
    /// A mark for what is sent (`SO_MARK`), to which [`EGRESS_MARK`] is added; 0: none.
    pub mark: u32,
}

/// Opens a non-blocking UDP socket that sends as described and receives nothing.
///
/// - A full queueing discipline is reported as `ENOBUFS` (`IP_RECVERR`); otherwise the kernel would report success. The
///   cost: ICMP errors fail a later send, too; see [`crate::error_queue`].
/// - Datagrams larger than the interface's MTU are fragmented, never refused: a relay can't make its sender send smaller
///   ones, and tunnels as outputs are ordinary. IPv4 is sent without DF and ignores *fragmentation needed*
///   (`IP_PMTUDISC_OMIT`): routers fragment where necessary, and a forged ICMP can't make the host do it. IPv6 accepts
///   *packet too big* (`IPV6_PMTUDISC_DONT`), since IPv6 routers don't fragment.
/// - Multicast is not received, also where programs of the host joined the group of a datagram for this port
///   (`IP_MULTICAST_ALL`).
///
/// # Errors
/// `EPERM` without `CAP_NET_RAW` for a source that is not the socket's, and without the right to set a mark
/// ([`check_marking`]); `ENODEV` if the interface is gone, `EADDRNOTAVAIL` if the
/// host does not have
/// the source address, `InvalidInput` if source and family differ.
pub fn open_egress(options: &EgressOptions) -> Result<OwnedFd> {
    if matches!(options.origin, Origin::Address(source) if Family::of(source) != options.family) {
        return Err(SysError::invalid(
            "open egress socket",
            "the source is of another family than the socket",
        ));
    }
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (kind, protocol) = match options.origin {
        Origin::AnyPort => (SocketType::RAW, Some(ipproto::UDP)),
        _ => (SocketType::DGRAM, None),
    };
    let socket =
        socket_with(options.family.domain(), kind, flags, protocol).map_err(failed("open egress socket"))?;
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
    set_marks(fd, options)?;
    match options.family {
        Family::V4 => configure_ipv4(fd, options)?,
        Family::V6 => configure_ipv6(fd, options)?,
    }
    set_origin(fd, options)?;
    Ok(socket)
}

/// Without the right to, a socket has no [`EGRESS_MARK`]; but what an operator asked for is there, or the socket is not.
fn set_marks(fd: BorrowedFd<'_>, options: &EgressOptions) -> Result<()> {
    let own = if options.marked { EGRESS_MARK } else { 0 };
    if options.mark != 0 {
        return set_mark(fd, options.mark | own);
    }
    match (options.marked).then(|| set_mark(fd, own)) {
        Some(Err(error)) if error.errno() == Some(libc::EPERM) => Ok(()),
        other => other.unwrap_or(Ok(())),
    }
}

/// Whether this process may mark what it sends.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`; from Linux 5.17 on, `CAP_NET_RAW` will do.
pub fn check_marking() -> Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| SysError::from_errno("open UDP socket", errno))?;
    set_mark(socket.as_fd(), EGRESS_MARK)
}

fn set_mark(fd: BorrowedFd<'_>, mark: u32) -> Result<()> {
    socket_option::set("set SO_MARK", fd, libc::SOL_SOCKET, libc::SO_MARK, &mark)
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
    // Otherwise sends to broadcast addresses fail with EACCES.
    sockopt::set_socket_broadcast(fd, true).map_err(failed("set SO_BROADCAST"))?;
    let level = libc::IPPROTO_IP;
    socket_option::set("set IP_RECVERR", fd, level, libc::IP_RECVERR, &1)?;
    socket_option::set("set IP_MULTICAST_ALL", fd, level, libc::IP_MULTICAST_ALL, &0)?;
    let multicast_loop = i32::from(options.multicast_loop);
    socket_option::set("set IP_MULTICAST_LOOP", fd, level, libc::IP_MULTICAST_LOOP, &multicast_loop)?;
    socket_option::set("set IP_MTU_DISCOVER", fd, level, libc::IP_MTU_DISCOVER, &libc::IP_PMTUDISC_OMIT)
}

fn configure_ipv6(fd: BorrowedFd<'_>, options: &EgressOptions) -> Result<()> {
    // A raw socket always is, and can't be asked.
    if options.origin != Origin::AnyPort {
        sockopt::set_ipv6_v6only(fd, true).map_err(failed("make egress socket IPv6 only"))?;
    }
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
    socket_option::set("set IPV6_MULTICAST_ALL", fd, level, libc::IPV6_MULTICAST_ALL, &0)?;
    let multicast_loop = i32::from(options.multicast_loop);
    socket_option::set("set IPV6_MULTICAST_LOOP", fd, level, libc::IPV6_MULTICAST_LOOP, &multicast_loop)?;
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

fn set_origin(fd: BorrowedFd<'_>, options: &EgressOptions) -> Result<()> {
    let source = match options.origin {
        Origin::Interface => return Ok(()),
        Origin::Address(source) => source,
        Origin::AnyAddress => return set_transparent(fd, options.family),
        Origin::AnyPort => {
            set_transparent(fd, options.family)?;
            NO_GROUP[usize::from(options.family == Family::V6)]
        }
    };
    let place = match source {
        IpAddr::V4(source) => SocketAddr::from((source, 0)),
        IpAddr::V6(source) => SocketAddr::V6(SocketAddrV6::new(source, 0, 0, options.ifindex.to_raw())),
    };
    bind(fd, &place).map_err(failed("bind egress socket to its source"))
}

/// Multicast addresses that no group has (RFC 5771 section 4, RFC 4291 section 2.7.1). A raw socket bound to one is offered no
/// datagram of the host; a multicast address binds what is received, not what is sent from.
const NO_GROUP: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0))];

/// Lets the socket send from addresses that the host does not have.
fn set_transparent(fd: BorrowedFd<'_>, family: Family) -> Result<()> {
    let step = "make egress socket transparent";
    match family {
        Family::V4 => socket_option::set(step, fd, libc::IPPROTO_IP, libc::IP_TRANSPARENT, &1),
        Family::V6 => socket_option::set(step, fd, libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT, &1),
    }
}

#[cfg(test)]
mod tests;
