//! Joining groups (ip(7), ipv6(7), RFC 3678). A capture socket receives frames without a join, but switches, MAC filters and
//! routers don't forward them without one.
//!
//! A socket takes few memberships (IPv4: 20 groups, `net.ipv4.igmp_max_memberships`, and 10 sources each,
//! `net.ipv4.igmp_max_msf`), so the pool spreads them over as many sockets as it needs. Nothing is ever received on them:
//! they are not bound to a port. Joins are by interface index, so that an interface needs no address.

mod adoption;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{SocketFlags, SocketType, socket_with};
use socket2::{SockAddr, SockAddrStorage};

use crate::egress::Family;
use crate::link::IfIndex;
use crate::{Result, SysError, failed, socket_option};

pub use self::adoption::PoolSocket;

/// One membership: a group on an interface, from any source or from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Membership {
    /// The interface that joins.
    pub ifindex: IfIndex,
    /// The multicast group.
    pub group: IpAddr,
    /// The one source wanted (IGMPv3, MLDv2); `None` for any.
    pub source: Option<IpAddr>,
}

/// All memberships of a process. Dropping it leaves them all.
#[derive(Debug, Default)]
pub struct MembershipPool {
    places: BTreeMap<Membership, u64>,
    sockets: BTreeMap<u64, JoinSocket>,
    next: u64,
    /// Counts joins and leaves.
    changes: u64,
}

/// A group on an interface, as a socket counts them.
type GroupPlace = (IfIndex, IpAddr);

#[derive(Debug)]
struct JoinSocket {
    fd: OwnedFd,
    /// The pool's count of changes at the last change of this socket.
    revision: u64,
    family: Family,
    groups: BTreeMap<GroupPlace, Sources>,
    /// The kernel took no further group; true until one is left.
    is_full: bool,
}

#[derive(Debug)]
enum Sources {
    Any,
    These {
        sources: BTreeSet<IpAddr>,
        /// The kernel took no further source; true until one is left.
        is_full: bool,
    },
}

impl MembershipPool {
    /// An empty pool.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Joins; no effect if it is joined already.
    ///
    /// # Errors
    /// `ENODEV` if the interface does not exist, `EINVAL` if the group is no multicast address, `EADDRNOTAVAIL` for an
    /// IPv6 group on an interface without IPv6, `EMFILE` and `ENOBUFS` if the process or system is at its limit.
    pub fn join(&mut self, membership: Membership) -> Result<()> {
        if self.places.contains_key(&membership) {
            return Ok(());
        }
        check(&membership)?;
        let candidates: Vec<u64> = self
            .sockets
            .iter()
            .filter(|(_, socket)| socket.may_take(&membership))
            .map(|(number, _)| *number)
            .collect();
        for number in candidates {
            let Some(socket) = self.sockets.get_mut(&number) else { continue };
            if socket.join(&membership)? {
                self.joined_on(number, membership);
                return Ok(());
            }
        }
        let mut socket = JoinSocket::open(Family::of(membership.group))?;
        if !socket.join(&membership)? {
            return Err(SysError::from_errno("join group on an empty socket", rustix::io::Errno::NOBUFS));
        }
        self.sockets.insert(self.next, socket);
        self.next += 1;
        self.joined_on(self.next - 1, membership);
        Ok(())
    }

    fn joined_on(&mut self, number: u64, membership: Membership) {
        self.changes += 1;
        if let Some(socket) = self.sockets.get_mut(&number) {
            socket.revision = self.changes;
        }
        self.places.insert(membership, number);
    }

    /// Leaves; no effect if it is not joined. The interface may be gone, and the membership with it.
    ///
    /// # Errors
    /// None that are known; the pool has forgotten the membership in any case.
    pub fn leave(&mut self, membership: &Membership) -> Result<()> {
        let Some(number) = self.places.remove(membership) else { return Ok(()) };
        let Some(socket) = self.sockets.get_mut(&number) else { return Ok(()) };
        self.changes += 1;
        socket.revision = self.changes;
        let result = socket.leave(membership);
        if socket.groups.is_empty() {
            self.sockets.remove(&number);
        }
        result
    }

    /// All memberships, in order.
    pub fn joined(&self) -> impl Iterator<Item = &Membership> {
        self.places.keys()
    }

    /// Number of sockets in use.
    #[must_use]
    pub fn socket_count(&self) -> usize {
        self.sockets.len()
    }
}

fn check(membership: &Membership) -> Result<()> {
    const STEP: &str = "join group";
    if !membership.group.is_multicast() {
        return Err(SysError::from_errno(STEP, rustix::io::Errno::INVAL));
    }
    match membership.source {
        Some(source) if Family::of(source) != Family::of(membership.group) => {
            Err(SysError::invalid(STEP, "group and source are of different families"))
        }
        _ => Ok(()),
    }
}

impl JoinSocket {
    fn open(family: Family) -> Result<Self> {
        let fd = socket_with(
            family.domain(),
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(failed("open socket for memberships"))?;
        Ok(Self { fd, revision: 0, family, groups: BTreeMap::new(), is_full: false })
    }

    /// A socket takes a group from any source or from some, not both.
    fn may_take(&self, membership: &Membership) -> bool {
        self.family == Family::of(membership.group)
            && match self.groups.get(&(membership.ifindex, membership.group)) {
                None => !self.is_full,
                Some(Sources::Any) => false,
                Some(Sources::These { is_full, .. }) => membership.source.is_some() && !is_full,
            }
    }

    /// Joins; returns false if the socket is full.
    fn join(&mut self, membership: &Membership) -> Result<bool> {
        let place = (membership.ifindex, membership.group);
        let request = match membership.source {
            None => Request::Join,
            Some(_) => Request::JoinSource,
        };
        match (request.make(self.fd.as_fd(), membership), self.groups.get_mut(&place)) {
            (Ok(()), _) => {
                self.note(membership);
                Ok(true)
            }
            (Err(error), known) if matches!(error.errno(), Some(libc::ENOBUFS | libc::ENOMEM)) => {
                match known {
                    Some(Sources::These { is_full, .. }) => *is_full = true,
                    Some(Sources::Any) | None => self.is_full = true,
                }
                Ok(false)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Records the membership.
    fn note(&mut self, membership: &Membership) {
        let place = (membership.ifindex, membership.group);
        match (self.groups.get_mut(&place), membership.source) {
            (Some(Sources::These { sources, .. }), Some(source)) => {
                sources.insert(source);
            }
            (Some(_), _) => {}
            (None, None) => {
                self.groups.insert(place, Sources::Any);
            }
            (None, Some(source)) => {
                let sources = Sources::These { sources: BTreeSet::from([source]), is_full: false };
                self.groups.insert(place, sources);
            }
        }
    }

    fn leave(&mut self, membership: &Membership) -> Result<()> {
        let place = (membership.ifindex, membership.group);
        let (request, is_last) = match (self.groups.get_mut(&place), membership.source) {
            (Some(Sources::These { sources, is_full }), Some(source)) => {
                sources.remove(&source);
                *is_full = false;
                (Request::LeaveSource, sources.is_empty())
            }
            _ => (Request::Leave, true),
        };
        let mut result = request.make(self.fd.as_fd(), membership);
        if is_last {
            self.groups.remove(&place);
            self.is_full = false;
            // A source of an interface that is gone can't be left, though the group can; and must, since it still
            // counts against the socket's limit.
            if matches!(request, Request::LeaveSource) && result.is_err() {
                result = Request::Leave.make(self.fd.as_fd(), membership);
            }
        }
        match result {
            Err(error) if matches!(error.errno(), Some(libc::ENODEV | libc::EADDRNOTAVAIL | libc::ENXIO)) => {
                Ok(())
            }
            other => other,
        }
    }
}

#[derive(Clone, Copy)]
enum Request {
    Join,
    Leave,
    JoinSource,
    LeaveSource,
}

/// `struct group_req` (RFC 3678, section 5.1).
#[repr(C)]
struct GroupRequest {
    interface: u32,
    group: SockAddrStorage,
}

/// `struct group_source_req` (RFC 3678, section 5.1).
#[repr(C)]
struct GroupSourceRequest {
    interface: u32,
    group: SockAddrStorage,
    source: SockAddrStorage,
}

impl Request {
    fn make(self, fd: BorrowedFd<'_>, membership: &Membership) -> Result<()> {
        let (step, name) = match self {
            Self::Join => ("join group", libc::MCAST_JOIN_GROUP),
            Self::Leave => ("leave group", libc::MCAST_LEAVE_GROUP),
            Self::JoinSource => ("join group with source", libc::MCAST_JOIN_SOURCE_GROUP),
            Self::LeaveSource => ("leave group with source", libc::MCAST_LEAVE_SOURCE_GROUP),
        };
        let level = match membership.group {
            IpAddr::V4(_) => libc::IPPROTO_IP,
            IpAddr::V6(_) => libc::IPPROTO_IPV6,
        };
        let interface = membership.ifindex.to_raw();
        let group = storage(membership.group);
        match (self, membership.source) {
            (Self::JoinSource | Self::LeaveSource, Some(source)) => {
                let request = GroupSourceRequest { interface, group, source: storage(source) };
                socket_option::set(step, fd, level, name, &request)
            }
            _ => socket_option::set(step, fd, level, name, &GroupRequest { interface, group }),
        }
    }
}

fn storage(address: IpAddr) -> SockAddrStorage {
    SockAddr::from(SocketAddr::from((address, 0))).as_storage()
}

#[cfg(test)]
mod tests;
