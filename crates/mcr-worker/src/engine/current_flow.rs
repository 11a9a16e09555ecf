//! The flow of a rule's last datagram.

use std::cell::Cell;
use std::net::IpAddr;

use mcr_link::telemetry::flows::{FlowSlot, UNLISTED};
use mcr_wire::AddressBits;

/// See the module; in cells, because it changes while the table is in use.
#[derive(Debug)]
pub(crate) struct CurrentFlow {
    source: Cell<AddressBits>,
    port: Cell<u16>,
    record: Cell<FlowSlot>,
}

impl Default for CurrentFlow {
    /// No flow. Datagrams from port 0 of 0.0.0.0 match it, and are counted as unlisted.
    fn default() -> Self {
        Self { source: Cell::default(), port: Cell::new(0), record: Cell::new(UNLISTED) }
    }
}

impl CurrentFlow {
    /// Whether a datagram belongs to this flow.
    #[inline]
    pub(crate) fn is(&self, source: AddressBits, port: u16) -> bool {
        self.source.get() == source && self.port.get() == port
    }

    /// The record in which it is counted.
    #[inline]
    pub(crate) fn record(&self) -> FlowSlot {
        self.record.get()
    }

    /// Its sender.
    pub(crate) fn sender(&self) -> (IpAddr, u16) {
        (self.source.get().into(), self.port.get())
    }

    pub(crate) fn set(&self, source: AddressBits, port: u16, record: FlowSlot) {
        self.source.set(source);
        self.port.set(port);
        self.record.set(record);
    }
}
