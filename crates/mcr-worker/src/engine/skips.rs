//! The rules that a frame concerns which is not relayed: those of its destination. Beside the worker's skips, which have
//! each frame once, these rules count it, with its sender. Nothing here runs for a datagram that is relayed.

use mcr_link::reason::SkipReason;
use mcr_link::telemetry::PageWriter;
use mcr_link::telemetry::skips::Skip;
use mcr_wire::{AddressBits, Datagram, Peek, Refusal, VNET_HEADER_BYTES, peek};

use super::{Engine, Table};

impl<F: Copy> Engine<F> {
    /// Counts a refused frame for the rules that it concerns; its bytes from the virtio header on.
    #[cold]
    #[inline(never)]
    pub(super) fn count_refused(&self, refusal: Refusal, bytes: &[u8], page: &PageWriter) {
        // A fragment may be put together: see `take_fragment`.
        if refusal != Refusal::Fragment {
            let frame = bytes.get(VNET_HEADER_BYTES..).unwrap_or_default();
            self.count_for_rules_of(frame, skip_reason(refusal), page);
        }
    }

    /// Counts a frame for the rules that it concerns; its bytes from the link header on.
    pub(super) fn count_for_rules_of(&self, frame: &[u8], reason: SkipReason, page: &PageWriter) {
        let Some(Peek { source, destination, ports, .. }) = peek(frame, self.link) else { return };
        let port = ports.map(|(_, port)| port);
        let (to, from) = ((destination.into(), port), source.into());
        count_for_rules(&self.table, to, from, (reason, 1), self.now_ns, page);
    }

    /// Counts datagrams that no rule admits for the rules that they concern.
    #[cold]
    #[inline(never)]
    pub(super) fn count_skipped(&self, datagram: &Datagram, reason: SkipReason, n: u64, page: &PageWriter) {
        let (destination, port) = datagram.destination;
        let source = datagram.source.0;
        count_for_rules(&self.table, (destination, Some(port)), source, (reason, n), self.now_ns, page);
    }
}

/// Counts skips for the rules of a destination; without a port, for those of its address.
pub(super) fn count_for_rules(
    table: &Table,
    (address, port): (AddressBits, Option<u16>),
    source: AddressBits,
    (reason, n): (SkipReason, u64),
    now_ns: u64,
    page: &PageWriter,
) {
    let skip = Skip { reason, source, port: port.unwrap_or_default() };
    // Without a rule for the port, it is the rules for other ports of the address.
    let port = port.filter(|_| reason != SkipReason::NoRule);
    for rule in table.concerned(address, port) {
        page.skip_of_rule(rule.slot, skip, n, now_ns);
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
