//! Programs that have the ports of unicast inputs: examined every second, and when one closes its socket.

use mcr_sys::clock;

use super::Daemon;
use crate::core::machine::{Event, Machine};
use crate::executor::ClosedSockets;

impl Daemon {
    /// Returns whether there may be actions to execute.
    pub(super) fn examine_ports(&mut self) -> bool {
        if self.machine.plan().absorbers.is_empty() {
            return false;
        }
        let holders = self.executor.examine_ports(&self.machine);
        self.machine.handle(clock::monotonic(), Event::PortsExamined(holders))
    }
}

/// Waits until a program closes a socket at the port of a unicast input; forever for `None`.
pub(super) async fn closed(sockets: Option<&ClosedSockets>, machine: &Machine) {
    let Some(sockets) = sockets else { return std::future::pending().await };
    let ports: Vec<u16> = machine.actual().port_holders.keys().map(|absorber| absorber.port).collect();
    loop {
        // Can't fail while the runtime exists.
        let Ok(mut ready) = sockets.readable().await else { return std::future::pending().await };
        let found = ready.get_inner().0.read(&ports);
        ready.clear_ready();
        if found {
            return;
        }
    }
}
