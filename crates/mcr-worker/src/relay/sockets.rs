//! The egress sockets that the supervisor passed.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::rc::Rc;

use mcr_link::rule_set::EgressId;
use mcr_link::telemetry::PageWriter;
use mcr_sys::socket_memory;

use crate::engine::path::EgressSocket;
use crate::engine::table::Table;

/// In how many parts replies are counted.
pub(super) const REPLY_PARTS: usize = 10;

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    open: BTreeMap<EgressId, Rc<EgressSocket>>,
    /// Removed or replaced, but still used by the table in force.
    retired: Vec<Rc<EgressSocket>>,
}

impl Sockets {
    /// Adds a socket, replacing one with the same id.
    pub(super) fn insert(&mut self, socket: EgressSocket) {
        self.retired.extend(self.open.insert(socket.id, Rc::new(socket)));
    }

    /// The socket with this id.
    pub(super) fn get(&self, id: EgressId) -> Option<Rc<EgressSocket>> {
        self.open.get(&id).map(Rc::clone)
    }

    /// Counts the datagrams that came back since the last time, at each output of their socket. The filter of a socket rejects
    /// them, which is its only reason for dropping. `part` of [`REPLY_PARTS`] of the sockets: a system call for each.
    pub(super) fn count_replies(&self, part: usize, table: &Table, page: &PageWriter) {
        for (id, socket) in self.open.iter().skip(part % REPLY_PARTS).step_by(REPLY_PARTS) {
            let Ok(dropped) = socket_memory::drops(socket.fd.as_fd()) else { continue };
            let new = dropped.wrapping_sub(socket.replies.replace(dropped));
            if new > 0 {
                table.slots_of(*id).for_each(|slot| page.replied(slot, new.into()));
            }
        }
    }

    /// Retires the sockets that are not wanted. Returns those that nothing uses, to be closed.
    pub(super) fn keep_only(&mut self, wanted: &BTreeSet<EgressId>) -> Vec<EgressSocket> {
        let unwanted = self.open.extract_if(.., |id, _| !wanted.contains(id));
        self.retired.extend(unwanted.map(|(_, socket)| socket));
        let mut closed = Vec::new();
        for socket in std::mem::take(&mut self.retired) {
            match Rc::try_unwrap(socket) {
                Ok(socket) => closed.push(socket),
                Err(in_use) => self.retired.push(in_use),
            }
        }
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(id: u32) -> EgressSocket {
        let fd = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into();
        EgressSocket { id: EgressId(id), fd, file: None, replies: std::cell::Cell::new(0) }
    }

    fn ids(sockets: &[EgressSocket]) -> Vec<u32> {
        sockets.iter().map(|socket| socket.id.0).collect()
    }

    #[test]
    fn unwanted_sockets_are_closed() {
        let mut sockets = Sockets::default();
        (0..3).for_each(|id| sockets.insert(socket(id)));
        let closed = sockets.keep_only(&BTreeSet::from([EgressId(0), EgressId(2)]));
        assert_eq!(ids(&closed), [1]);
        assert!(sockets.get(EgressId(1)).is_none() && sockets.get(EgressId(2)).is_some());
    }

    #[test]
    fn a_socket_in_use_is_closed_when_it_is_unused() {
        let (mut sockets, wanted) = (Sockets::default(), BTreeSet::from([EgressId(4)]));
        sockets.insert(socket(4));
        let in_use = sockets.get(EgressId(4)).unwrap();
        sockets.insert(socket(4));
        assert!(!Rc::ptr_eq(&in_use, &sockets.get(EgressId(4)).unwrap()), "replaced");
        assert_eq!(ids(&sockets.keep_only(&wanted)), [0; 0]);
        drop(in_use);
        assert_eq!(ids(&sockets.keep_only(&wanted)), [4]);
    }
}
