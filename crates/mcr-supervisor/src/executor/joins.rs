//! Memberships, and absorbers of unicast inputs.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use mcr_rules::log::MEMBERSHIP;
use mcr_sys::absorber::{inode, is_absorber, open_absorber};
use mcr_sys::errno::EADDRINUSE;
use mcr_sys::membership::{Membership, MembershipPool};

use super::ports::{ClosedSockets, PortExaminer};
use crate::core::actual::Absorbed;
use crate::core::machine::Outcome;
use crate::core::plan::Absorber;
use crate::core::ports::{PortHolder, PortHolders};

/// Joined memberships and open absorbers.
#[derive(Debug, Default)]
pub(super) struct Joins {
    pub(super) pool: MembershipPool,
    absorbers: BTreeMap<Absorber, OwnedFd>,
    ports: PortExaminer,
}

impl Joins {
    pub(super) fn join(&mut self, membership: Membership, epoch: u64) -> Outcome<'static> {
        let Membership { ifindex, group, source } = membership;
        match self.pool.join(membership) {
            Ok(()) => {
                tracing::debug!(target: MEMBERSHIP, %ifindex, %group, ?source, "joined");
                Outcome::Joined(membership, Ok(epoch))
            }
            Err(error) => {
                let of = source.map(|source| format!(" of {source}")).unwrap_or_default();
                let reason = format!("can't join {group}{of}: {error}");
                tracing::warn!(target: MEMBERSHIP, %ifindex, "{reason}");
                Outcome::Joined(membership, Err(reason))
            }
        }
    }

    pub(super) fn leave(&mut self, membership: Membership) -> Outcome<'static> {
        let Membership { ifindex, group, source } = membership;
        match self.pool.leave(&membership) {
            Ok(()) => tracing::debug!(target: MEMBERSHIP, %ifindex, %group, ?source, "left"),
            Err(error) => {
                tracing::warn!(target: MEMBERSHIP, %ifindex, %group, ?source, %error, "can't leave")
            }
        }
        Outcome::Left(membership)
    }

    /// Returns the open absorbers.
    pub(super) fn absorbers(&self) -> impl Iterator<Item = &Absorber> {
        self.absorbers.keys()
    }

    /// Returns an absorber's socket.
    pub(super) fn absorber(&self, absorber: &Absorber) -> Option<&OwnedFd> {
        self.absorbers.get(absorber)
    }

    /// Adopts an absorber of an earlier supervisor.
    pub(super) fn adopt_absorber(&mut self, absorber: Absorber, socket: OwnedFd) -> Result<(), String> {
        if !is_absorber(socket.as_fd(), absorber.address, absorber.port) {
            return Err("it is no socket of that address and port".to_owned());
        }
        self.absorbers.insert(absorber, socket);
        Ok(())
    }

    /// Examines which other programs have the ports of these absorbers.
    pub(super) fn examine_ports<'a>(
        &mut self,
        absorbers: impl IntoIterator<Item = &'a Absorber>,
    ) -> PortHolders {
        let own = self.absorbers.values().filter_map(|socket| inode(socket.as_fd()).ok()).collect();
        self.ports.examine(absorbers, &own)
    }

    /// Notifications of closed sockets, if needed.
    pub(super) fn closed_sockets(&mut self, needed: bool) -> Option<ClosedSockets> {
        self.ports.closed(needed)
    }

    pub(super) fn absorb(&mut self, absorber: Absorber) -> Outcome<'static> {
        let Absorber { ifindex, address, port } = absorber;
        let absorbed = match open_absorber(ifindex, address, port) {
            Ok(socket) => {
                self.absorbers.insert(absorber, socket);
                Absorbed::Open
            }
            Err(error) if error.errno() == Some(EADDRINUSE) => {
                let holder = self.examine_ports([&absorber]).remove(&absorber);
                Absorbed::PortTaken(holder.unwrap_or(PortHolder::Unknown))
            }
            Err(error) => {
                let reason = format!("can't hold port {port} of {address}: {error}");
                tracing::warn!(target: MEMBERSHIP, %ifindex, "{reason}");
                Absorbed::Refused(reason)
            }
        };
        Outcome::Absorbed(absorber, absorbed)
    }

    pub(super) fn release(&mut self, absorber: Absorber) -> Outcome<'static> {
        self.absorbers.remove(&absorber);
        Outcome::AbsorberClosed(absorber)
    }
}
