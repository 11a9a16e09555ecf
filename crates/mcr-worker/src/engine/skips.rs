//! The rules that a frame concerns which is not relayed: those of its destination. Beside the worker's skips, which have
//! each frame once, these rules count it, with its sender. Nothing here runs for a datagram that is relayed.

use mcr_link::reason::SkipReason;
use mcr_link::telemetry::PageWriter;
use mcr_link::telemetry::skips::Skip;
use mcr_wire::{AddressBits, Datagram, Peek, Refusal, VNET_HEADER_BYTES, peek};

use super::Engine;

impl<F: Copy> Engine<F> {
    /// Counts a refused frame for the rules that it concerns; its bytes from the virtio header on.
    #[cold]
    #[inline(never)]
    pub(super) fn count_refused(&self, refusal: Refusal, bytes: &[u8], page: &PageWriter) {
        let frame = bytes.get(VNET_HEADER_BYTES..).unwrap_or_default();
        let Some(Peek { source, destination, ports, .. }) = peek(frame, self.link) else { return };
        let port = ports.map(|(_, port)| port);
        self.count_for_rules((destination.into(), port), source.into(), skip_reason(refusal), 1, page);
    }

    /// Counts datagrams that no rule admits for the rules that they concern.
    #[cold]
    #[inline(never)]
    pub(super) fn count_skipped(&self, datagram: &Datagram, reason: SkipReason, n: u64, page: &PageWriter) {
        let (destination, port) = datagram.destination;
        self.count_for_rules((destination, Some(port)), datagram.source.0, reason, n, page);
    }

    fn count_for_rules(
        &self,
        (address, port): (AddressBits, Option<u16>),
        source: AddressBits,
        reason: SkipReason,
        n: u64,
        page: &PageWriter,
    ) {
        let skip = Skip { reason, source, port: port.unwrap_or_default() };
        // Without a rule for the port, it is the rules for other ports of the address.
        let port = port.filter(|_| reason != SkipReason::NoRule);
        for rule in self.table.concerned(address, port) {
            page.skip_of_rule(rule.slot, skip, n, self.now_ns);
        }
    }
}

pub(super) const fn skip_reason(refusal: Refusal) -> SkipReason {
    match refusal {
        Refusal::NotIp => SkipReason::NotIp,
        Refusal::Vlan => SkipReason::Vlan,
        Refusal::NotUdp => SkipReason::NotUdp,
        Refusal::Fragment => SkipReason::Fragment,
        Refusal::Truncated => SkipReason::Truncated,
        Refusal::BadHeader => SkipReason::BadHeader,
        Refusal::BadLength => SkipReason::BadLength,
        Refusal::BadChecksum => SkipReason::BadChecksum,
        Refusal::TtlZero => SkipReason::TtlZero,
        Refusal::BadSuperFrame => SkipReason::BadSuperFrame,
    }
}
