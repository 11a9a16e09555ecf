//! Drift made on purpose, for tests of how it is found and repaired. Not in release builds.

use mcr_sys::mmsg::SocketAddress;

use super::Table;

impl Table {
    /// Forgets the first destination: its datagrams find no rule.
    pub(crate) fn forget_rule(&mut self) {
        let keys: Vec<_> = self.destinations.iter().skip(1).map(|destination| destination.key).collect();
        let mut destinations = std::mem::take(&mut self.destinations).into_vec();
        if !destinations.is_empty() {
            destinations.remove(0);
        }
        self.destinations = destinations.into();
        self.index = super::DestinationIndex::build(&keys);
    }

    /// Sends the first output's datagrams to the port after the right one.
    pub(crate) fn alter_output(&mut self) {
        if let Some(output) = self.outputs.first_mut()
            && let Some(mut address) = output.address.get()
        {
            address.set_port(address.port().wrapping_add(1));
            output.address = SocketAddress::new(address);
        }
    }
}
