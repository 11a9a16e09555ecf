//! Memberships that outlive the process that joined: the keeper holds their sockets and returns them.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketType, sockopt};

use super::{GroupPlace, JoinSocket, Membership, MembershipPool, Request, Sources, check};
use crate::egress::Family;
use crate::{Result, SysError, failed};

/// One of a pool's sockets and what is joined on it.
#[derive(Clone, Copy, Debug)]
pub struct PoolSocket<'a> {
    /// Its number, never reused within a pool.
    pub number: u64,
    /// Grows with each change of what is joined on it.
    pub revision: u64,
    /// The socket.
    pub fd: BorrowedFd<'a>,
    groups: &'a BTreeMap<GroupPlace, Sources>,
}

impl PoolSocket<'_> {
    /// The memberships on it, in order.
    pub fn memberships(&self) -> impl Iterator<Item = Membership> {
        self.groups.iter().flat_map(|((ifindex, group), sources)| {
            let (any, these) = match sources {
                Sources::Any => (true, None),
                Sources::These { sources, .. } => (false, Some(sources)),
            };
            let these = these.into_iter().flatten().map(|source| Some(*source));
            let all = any.then_some(None).into_iter().chain(these);
            all.map(|source| Membership { ifindex: *ifindex, group: *group, source })
        })
    }
}

impl MembershipPool {
    /// Every socket, in the order of the numbers.
    pub fn sockets(&self) -> impl Iterator<Item = PoolSocket<'_>> {
        self.sockets.iter().map(|(number, socket)| pool_socket(*number, socket))
    }

    /// The socket with this number.
    #[must_use]
    pub fn socket(&self, number: u64) -> Option<PoolSocket<'_>> {
        self.sockets.get(&number).map(|socket| pool_socket(number, socket))
    }

    /// Adopts a socket of an earlier pool under its number and returns what is actually joined on it: each of
    /// `claimed` is joined again, which fails if it is joined already.
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
        if self.sockets.contains_key(&number) {
            return Err(SysError::invalid(STEP, "its number is taken"));
        }
        let mut socket = JoinSocket { fd, revision: 0, family, groups: BTreeMap::new(), is_full: false };
        let mut joined = Vec::new();
        for membership in claimed {
            let fits = check(&membership).is_ok() && Family::of(membership.group) == family;
            if fits && !self.places.contains_key(&membership) && socket.has(&membership) {
                self.places.insert(membership, number);
                joined.push(membership);
            }
        }
        self.next = self.next.max(number.saturating_add(1));
        if !joined.is_empty() {
            self.sockets.insert(number, socket);
        }
        Ok(joined)
    }

    /// Leaves a membership on every socket on which an earlier pool may have joined it without recording it.
    pub fn leave_unrecorded(&mut self, membership: &Membership) {
        let place = (membership.ifindex, membership.group);
        let noted = self.places.get(membership);
        let others = self.sockets.iter().filter(|(number, socket)| {
            noted != Some(number) && socket.family == Family::of(membership.group)
        });
        for (_, socket) in others {
            let request = match membership.source {
                Some(_) => Request::LeaveSource,
                // It would leave the group's recorded sources, too.
                None if socket.groups.contains_key(&place) => continue,
                None => Request::Leave,
            };
            // Fails where it was not joined, as intended.
            let _ = request.make(socket.fd.as_fd(), membership);
        }
    }
}

fn pool_socket(number: u64, socket: &JoinSocket) -> PoolSocket<'_> {
    let JoinSocket { fd, revision, groups, .. } = socket;
    PoolSocket { number, revision: *revision, fd: fd.as_fd(), groups }
}

impl JoinSocket {
    /// Returns whether it was joined here; it is afterwards, if the kernel permits.
    fn has(&mut self, membership: &Membership) -> bool {
        match self.join(membership) {
            Ok(joined) => joined,
            // Joined already: EADDRINUSE for a group, EADDRNOTAVAIL for a source.
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
    let failed = failed(STEP);
    let domain = sockopt::socket_domain(fd).map_err(failed)?;
    let kind = sockopt::socket_type(fd).map_err(failed)?;
    match domain {
        AddressFamily::INET if kind == SocketType::DGRAM => Ok(Family::V4),
        AddressFamily::INET6 if kind == SocketType::DGRAM => Ok(Family::V6),
        _ => Err(SysError::invalid(STEP, "it is no datagram socket of IPv4 or IPv6")),
    }
}
