//! Memberships, and absorbers of unicast inputs.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use mcr_rules::log::MEMBERSHIP;
use mcr_sys::absorber::{is_absorber, open_absorber};
use mcr_sys::errno::EADDRINUSE;
use mcr_sys::membership::{Membership, MembershipPool};

use crate::core::machine::Outcome;
use crate::core::plan::Absorber;

/// Joined memberships and open absorbers.
#[derive(Debug, Default)]
pub(super) struct Joins {
    pub(super) pool: MembershipPool,
    /// `None`: another program has the port, with the same effect.
    absorbers: BTreeMap<Absorber, Option<OwnedFd>>,
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

    /// Returns the absorbers with their sockets.
    pub(super) fn absorbers(&self) -> impl Iterator<Item = (&Absorber, Option<&OwnedFd>)> {
        self.absorbers.iter().map(|(absorber, socket)| (absorber, socket.as_ref()))
    }

    /// Returns an absorber's socket; `None` if there is none, or another program has the port.
    pub(super) fn absorber(&self, absorber: &Absorber) -> Option<&OwnedFd> {
        self.absorbers.get(absorber)?.as_ref()
    }

    /// Adopts an absorber of an earlier supervisor.
    pub(super) fn adopt_absorber(
        &mut self,
        absorber: Absorber,
        socket: Option<OwnedFd>,
    ) -> Result<(), String> {
        if let Some(socket) = &socket
            && !is_absorber(socket.as_fd(), absorber.address, absorber.port)
        {
            return Err("it is no socket of that address and port".to_owned());
        }
        self.absorbers.insert(absorber, socket);
        Ok(())
    }

    pub(super) fn absorb(&mut self, absorber: Absorber) -> Outcome<'static> {
        let Absorber { ifindex, address, port } = absorber;
        let socket = match open_absorber(ifindex, address, port) {
            Ok(socket) => Some(socket),
            Err(error) if error.errno() == Some(EADDRINUSE) => {
                tracing::info!(
                    target: MEMBERSHIP, %ifindex, %address, port,
                    "another program has this port; it gets the datagrams too"
                );
                None
            }
            Err(error) => {
                let reason = format!("can't absorb {address} port {port}: {error}");
                tracing::warn!(target: MEMBERSHIP, %ifindex, "{reason}");
                return Outcome::Absorbed(absorber, Err(reason));
            }
        };
        self.absorbers.insert(absorber, socket);
        Outcome::Absorbed(absorber, Ok(()))
    }

    pub(super) fn release(&mut self, absorber: Absorber) -> Outcome<'static> {
        self.absorbers.remove(&absorber);
        Outcome::AbsorberClosed(absorber)
    }
}
