//! Memberships that outlive the process that joined: their sockets are kept elsewhere and come back.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketType, sockopt};

use super::{JoinSocket, Membership, MembershipPool, Request, SocketNumber, check};
use crate::egress::Family;
use crate::{Result, SysError};

/// One of a pool's sockets and what is joined on it.
#[derive(Debug)]
pub struct PoolSocket<'a> {
    /// Its number, never used again in the life of the pool.
    pub number: u64,
    /// The socket.
    pub fd: BorrowedFd<'a>,
    /// What is joined on it, in order.
    pub memberships: Vec<Membership>,
}

impl MembershipPool {
    /// Every socket.
    pub fn sockets(&self) -> impl Iterator<Item = PoolSocket<'_>> {
        let mut joined: BTreeMap<SocketNumber, Vec<Membership>> = BTreeMap::new();
        for (membership, number) in &self.places {
            joined.entry(*number).or_default().push(*membership);
        }
        self.sockets.iter().map(move |(number, socket)| PoolSocket {
            number: number.0,
            fd: socket.fd.as_fd(),
            memberships: joined.remove(number).unwrap_or_default(),
        })
    }

    /// The numbers of sockets on which something was joined or left since this was asked last; some may be gone.
    pub fn take_touched(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.touched).into_iter().map(|number| number.0).collect()
    }

    /// Takes over a socket of an earlier pool under its number, and gives what is really joined on it: each of
    /// `claimed` is joined again, which the kernel refuses if it is there.
    ///
    /// # Errors
    /// The descriptor is no datagram socket of IPv4 or IPv6, or the number is taken.
    pub fn adopt(
        &mut self,
        number: u64,
        fd: OwnedFd,
        claimed: impl IntoIterator<Item = Membership>,
    ) -> Result<Vec<Membership>> {
        const STEP: &str = "take over a membership socket";
        let family = family_of(fd.as_fd())?;
        let place = SocketNumber(number);
        if self.sockets.contains_key(&place) {
            return Err(SysError::invalid(STEP, "its number is taken"));
        }
        let mut socket = JoinSocket { fd, family, groups: BTreeMap::new(), is_full: false };
        let mut joined = Vec::new();
        for membership in claimed {
            let fits = check(&membership).is_ok() && Family::of(membership.group) == family;
            if fits && !self.places.contains_key(&membership) && socket.has(&membership) {
                self.places.insert(membership, place);
                joined.push(membership);
            }
        }
        self.next = self.next.max(number.saturating_add(1));
        if !joined.is_empty() {
            self.sockets.insert(place, socket);
        }
        Ok(joined)
    }

    /// Leaves a membership that an earlier pool may have joined on any socket without having noted it.
    pub fn leave_unnoted(&mut self, membership: &Membership) {
        if self.places.contains_key(membership) {
            return;
        }
        let place = (membership.ifindex, membership.group);
        let same_family =
            self.sockets.values().filter(|socket| socket.family == Family::of(membership.group));
        for socket in same_family {
            let request = match membership.source {
                Some(_) => Request::LeaveSource,
                // It would leave the group's noted sources with it.
                None if socket.groups.contains_key(&place) => continue,
                None => Request::Leave,
            };
            // Refused where it was not joined, which is what is wanted.
            let _ = request.make(socket.fd.as_fd(), membership);
        }
    }
}

impl JoinSocket {
    /// Whether it is joined here; afterwards it is, if the kernel permits.
    fn has(&mut self, membership: &Membership) -> bool {
        match self.join(membership) {
            Ok(joined) => joined,
            // What is there already: EADDRINUSE for a group, EADDRNOTAVAIL for a source.
            Err(error) if error.errno() == Some(already(membership)) => {
                self.note(membership);
                true
            }
            Err(_) => false,
        }
    }
}

fn already(membership: &Membership) -> i32 {
    if membership.source.is_some() { libc::EADDRNOTAVAIL } else { libc::EADDRINUSE }
}

fn family_of(fd: BorrowedFd<'_>) -> Result<Family> {
    const STEP: &str = "take over a membership socket";
    let failed = |errno| SysError::from_errno(STEP, errno);
    let domain = sockopt::socket_domain(fd).map_err(failed)?;
    let kind = sockopt::socket_type(fd).map_err(failed)?;
    match domain {
        AddressFamily::INET if kind == SocketType::DGRAM => Ok(Family::V4),
        AddressFamily::INET6 if kind == SocketType::DGRAM => Ok(Family::V6),
        _ => Err(SysError::invalid(STEP, "it is no datagram socket of IPv4 or IPv6")),
    }
}
