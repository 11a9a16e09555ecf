//! Injects drift, for tests of its detection and repair. Not in release builds.

use std::rc::Rc;

use mcr_sys::mmsg::SocketAddress;

use super::{Path, Segmentation, Table, Target};

impl Table {
    /// Removes the first destination: its datagrams match no rule.
    pub(crate) fn forget_rule(&mut self) {
        let keys: Vec<_> = self.destinations.iter().skip(1).map(|destination| destination.key).collect();
        let mut destinations = std::mem::take(&mut self.destinations).into_vec();
        if !destinations.is_empty() {
            destinations.remove(0);
        }
        self.destinations = destinations.into();
        self.index = super::DestinationIndex::build(&keys);
    }

    /// Increments the destination port of the first output.
    pub(crate) fn alter_output(&mut self) {
        let first = self.rules.iter_mut().flat_map(|rule| &mut rule.outputs).next();
        if let Some(Target::Up(path)) = first.map(|output| &mut output.target)
            && let Some(mut address) = path.address.get()
        {
            address.set_port(address.port().wrapping_add(1));
            *path = Rc::new(Path {
                slot: path.slot,
                socket: Rc::clone(&path.socket),
                address: SocketAddress::new(address),
                serialized: path.serialized,
                segmentation: Segmentation::default(),
                origin: None,
            });
        }
    }
}
