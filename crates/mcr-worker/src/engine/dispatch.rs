//! The engine: takes frames, keeps the accounts, and hands sends to an outlet.
//!
//! Accounts (DESIGN.md §5) hold whenever no datagram is between these steps:
//!
//! ```text
//!  handle():   received += n            or += 1 and a skip
//!  run closed: matched += n, for each output due += n, then dropped here or given to the outlet
//!  outlet:     sent += n, or dropped += n
//! ```

use mcr_link::reason::{DropReason, SkipReason};
use mcr_link::telemetry::{PageWriter, Total};
use mcr_sys::mmsg::{MAX_SEGMENTS, MAX_SEND_BYTES};
use mcr_wire::{Datagram, LinkLayer, Refusal, parse_frame, parse_vnet_header};

use super::index::{AddressKey, DestinationKey};
use super::runs::{Arrival, Joined, Run, Runs};
use super::table::{Lookup, Table};
use super::transmission::{Outlet, Payload, Piece, Transmission};

/// A frame's datagram and where the frame starts behind the virtio header, or why it is not relayed.
pub(crate) type Parsed = Result<(Datagram, usize), Refusal>;

/// The flow of the last datagram and what the table said of it: most datagrams follow one of their own flow.
struct LastFlow {
    destination: DestinationKey,
    source: AddressKey,
    lookup: Lookup,
}

impl LastFlow {
    /// No flow: no rule has address and port 0, so `NoRule` is right even for a datagram that does.
    fn none() -> Self {
        Self { destination: DestinationKey::default(), source: AddressKey::default(), lookup: Lookup::NoRule }
    }
}

/// See the module. `F` is how the receiver names its frames.
pub(crate) struct Engine<F> {
    link: LinkLayer,
    table: Table,
    runs: Runs<F>,
    last: LastFlow,
    /// The time of the batch, for rate limits; the monotonic clock in nanoseconds.
    now_ns: u64,
}

impl<F: Copy> Engine<F> {
    /// An engine without rules.
    pub(crate) fn new(link: LinkLayer) -> Self {
        Self { link, table: Table::empty(), runs: Runs::new(0), last: LastFlow::none(), now_ns: 0 }
    }

    /// The rules in force.
    pub(crate) const fn table(&self) -> &Table {
        &self.table
    }

    /// Puts other rules into force. Only between batches, when no send under way belongs to the old ones.
    pub(crate) fn replace(&mut self, table: Table) {
        table.keep_limits_of(&self.table);
        self.runs = Runs::new(table.rule_count());
        self.table = table;
        self.last = LastFlow::none();
    }

    /// Changes the rules in force behind everybody's back.
    #[cfg(any(debug_assertions, feature = "fault-injection"))]
    pub(crate) fn spoil(&mut self, change: impl FnOnce(&mut Table)) {
        change(&mut self.table);
        self.last = LastFlow::none();
    }

    /// Begins a batch; the time is asked for only if a rule has a rate limit.
    #[inline]
    pub(crate) fn begin_batch(&mut self, clock_ns: impl FnOnce() -> u64) {
        if self.table.is_limited() {
            self.now_ns = clock_ns();
        }
    }

    /// Reads one frame, as the packet socket gave it: virtio header first.
    #[inline]
    pub(crate) fn parse(&self, bytes: &[u8]) -> Parsed {
        let (meta, offset) = parse_vnet_header(bytes)?;
        let frame = bytes.get(offset..).ok_or(Refusal::Truncated)?;
        Ok((parse_frame(frame, self.link, meta)?, offset))
    }

    /// Takes one frame that was read. It is needed until [`Self::finish_batch`].
    #[inline]
    pub(crate) fn handle<O: Outlet<Frame = F>>(
        &mut self,
        frame: F,
        parsed: Parsed,
        page: &PageWriter,
        outlet: &mut O,
    ) {
        page.count(Total::Frames, 1);
        let (datagram, offset) = match parsed {
            Ok(parsed) => parsed,
            Err(refusal) => {
                page.count(Total::Received, 1);
                page.skip(skip_reason(refusal), 1);
                return;
            }
        };
        let count = datagram.segment_count() as u64;
        page.count(Total::Received, count);
        self.look_up(&datagram);
        match self.last.lookup {
            Lookup::Admitted(_) => self.admit(frame, offset, &datagram, page, outlet),
            Lookup::NoRule => page.skip(SkipReason::NoRule, count),
            Lookup::OwnSource => page.skip(SkipReason::OwnSource, count),
            Lookup::SourceExcluded => page.skip(SkipReason::SourceExcluded, count),
        }
    }

    /// Sends what is still gathered; after it, nothing refers to the frames but the outlet.
    #[inline]
    pub(crate) fn finish_batch<O: Outlet<Frame = F>>(&mut self, page: &PageWriter, outlet: &mut O) {
        close_all(&self.table, &mut self.runs, self.now_ns, page, outlet);
    }

    #[inline]
    fn look_up(&mut self, datagram: &Datagram) {
        let destination = DestinationKey::new(datagram.destination.0, datagram.destination.1);
        let source = AddressKey::from(datagram.source.0);
        if self.last.destination != destination || self.last.source != source {
            self.last = LastFlow { destination, source, lookup: self.table.look_up(destination, source) };
        }
    }

    #[inline]
    fn admit<O: Outlet<Frame = F>>(
        &mut self,
        frame: F,
        offset: usize,
        datagram: &Datagram,
        page: &PageWriter,
        outlet: &mut O,
    ) {
        let Self { table, runs, last, now_ns, .. } = self;
        let Lookup::Admitted(admitting) = &last.lookup else { return };
        let mut first_match = true;
        for place in table.admitting(admitting) {
            let Some(rule) = table.rule(place) else { continue };
            for mut arrival in arrivals(frame, offset, datagram) {
                arrival.first_match = first_match;
                // At most three turns: the rule's run may have to be closed, then all, and an empty list takes any.
                loop {
                    match runs.join(place, &arrival, rule.by_ttl, rule.by_dscp) {
                        Joined::Yes => break,
                        Joined::CloseRule => {
                            if let Some((run, payload)) = runs.close(place) {
                                dispatch(table, *now_ns, page, outlet, &run, payload);
                            }
                        }
                        Joined::CloseAll => close_all(table, runs, *now_ns, page, outlet),
                    }
                }
            }
            first_match = false;
        }
    }
}

fn close_all<O: Outlet>(
    table: &Table,
    runs: &mut Runs<O::Frame>,
    now_ns: u64,
    page: &PageWriter,
    outlet: &mut O,
) {
    for place in 0..runs.opened() {
        if let Some((run, payload)) = runs.close_at(place) {
            dispatch(table, now_ns, page, outlet, &run, payload);
        }
    }
    runs.clear();
}

/// Gives the datagrams of a run to each output of its rule.
#[inline]
fn dispatch<O: Outlet>(
    table: &Table,
    now_ns: u64,
    page: &PageWriter,
    outlet: &mut O,
    run: &Run,
    payload: Payload<'_, O::Frame>,
) {
    let Some(rule) = table.rule(run.rule) else { return };
    let datagrams = u64::from(run.datagrams);
    let outputs = u64::from(rule.outputs.end - rule.outputs.start);
    page.count(Total::Matched, u64::from(run.first_matches));
    page.matched(rule.slot, datagrams, u64::from(run.bytes), datagrams * outputs);
    // All that is due is entered before the first send: should the worker die on the way, its successor finds on each
    // output what is missing there.
    for place in rule.outputs.clone() {
        if let Some(output) = table.output(place) {
            page.due(output.slot, datagrams);
        }
    }
    let passes = rule.limit.admits(run.datagrams, now_ns);
    for place in rule.outputs.clone() {
        let Some(output) = table.output(place) else { continue };
        if !passes {
            page.dropped(output.slot, DropReason::RateLimited, datagrams, 0);
            continue;
        }
        if output.socket.is_none() {
            page.dropped(output.slot, DropReason::OutputDown, datagrams, 0);
            continue;
        }
        if output.decrement_ttl && run.ttl <= 1 {
            page.dropped(output.slot, DropReason::TtlExpired, datagrams, 0);
            continue;
        }
        let transmission = Transmission {
            output: place,
            payload,
            ttl: output.decrement_ttl.then(|| run.ttl.saturating_sub(1)),
            traffic_class: output.keep_dscp.then_some(run.dscp << 2),
        };
        outlet.transmit(table, page, &transmission);
    }
}

/// A frame's datagrams, cut where one send could not hold them.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a frame's payload is below 64 KiB, and 64 datagrams at most"
)]
fn arrivals<F: Copy>(
    frame: F,
    offset: usize,
    datagram: &Datagram,
) -> impl Iterator<Item = Arrival<F>> + use<F> {
    let payload = datagram.payload.clone();
    let (ttl, dscp) = (datagram.ttl, datagram.dscp);
    let size = match datagram.segment_bytes {
        // A super-frame of one datagram is just that.
        Some(size) if usize::from(size) < payload.len() => usize::from(size),
        _ => payload.len(),
    };
    let together = (MAX_SEND_BYTES / size.max(1)).clamp(1, MAX_SEGMENTS);
    let step = (size * together).max(1);
    (0..payload.len().div_ceil(step).max(1)).map(move |number| {
        let start = payload.start + number * step;
        let bytes = step.min(payload.end - start);
        let datagrams = bytes.div_ceil(size.max(1)).max(1);
        Arrival {
            piece: Piece { frame, start: (offset + start) as u32, bytes: bytes as u32 },
            segment_bytes: if datagrams == 1 { bytes } else { size } as u16,
            datagrams: datagrams as u16,
            first_match: false,
            ttl,
            dscp,
        }
    })
}

const fn skip_reason(refusal: Refusal) -> SkipReason {
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

#[cfg(test)]
mod tests;
