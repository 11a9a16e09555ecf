//! The egress sockets that the supervisor passed. The loops know a socket by its place here.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mcr_link::rule_set::EgressId;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    places: BTreeMap<EgressId, u32>,
    sockets: Vec<Option<(EgressId, OwnedFd)>>,
}

impl Sockets {
    /// Keeps a socket and gives its place. One that was there under this number is closed.
    pub(super) fn insert(&mut self, id: EgressId, socket: OwnedFd) -> u32 {
        let place = self.places.get(&id).copied().unwrap_or_else(|| {
            let free = self.sockets.iter().position(Option::is_none).unwrap_or(self.sockets.len());
            u32::try_from(free).unwrap_or(u32::MAX)
        });
        if place as usize == self.sockets.len() {
            self.sockets.push(None);
        }
        if let Some(entry) = self.sockets.get_mut(place as usize) {
            *entry = Some((id, socket));
            self.places.insert(id, place);
        }
        place
    }

    /// Where a socket is.
    pub(super) fn place(&self, id: EgressId) -> Option<u32> {
        self.places.get(&id).copied()
    }

    /// The socket at a place.
    #[inline]
    pub(super) fn get(&self, place: u32) -> Option<BorrowedFd<'_>> {
        self.sockets.get(place as usize)?.as_ref().map(|(_, socket)| socket.as_fd())
    }

    /// The number of the socket at a place.
    pub(super) fn id(&self, place: u32) -> Option<EgressId> {
        self.sockets.get(place as usize)?.as_ref().map(|(id, _)| *id)
    }

    /// Closes the sockets that are not wanted any more and gives their places.
    pub(super) fn keep_only(&mut self, wanted: &BTreeSet<EgressId>) -> Vec<u32> {
        let sockets = &mut self.sockets;
        let mut closed = Vec::new();
        self.places.retain(|id, place| {
            let keep = wanted.contains(id);
            if !keep {
                sockets.get_mut(*place as usize).map(Option::take);
                closed.push(*place);
            }
            keep
        });
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> OwnedFd {
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into()
    }

    #[test]
    fn places_are_stable_and_reused() {
        let mut sockets = Sockets::default();
        let places: Vec<u32> = (0..3).map(|id| sockets.insert(EgressId(id), socket())).collect();
        assert_eq!(places, [0, 1, 2]);
        assert_eq!(sockets.keep_only(&BTreeSet::from([EgressId(0), EgressId(2)])), [1]);
        assert!(sockets.get(1).is_none() && sockets.place(EgressId(1)).is_none());
        assert_eq!(sockets.insert(EgressId(7), socket()), 1);
        assert_eq!(sockets.place(EgressId(2)), Some(2));
        assert!(sockets.get(1).is_some());
    }

    #[test]
    fn a_socket_passed_again_takes_the_place_of_the_first() {
        let mut sockets = Sockets::default();
        assert_eq!(sockets.insert(EgressId(4), socket()), sockets.insert(EgressId(4), socket()));
    }
}
