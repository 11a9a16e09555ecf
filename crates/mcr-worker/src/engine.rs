//! The data plane without system calls: turns received frames into sends, according to the rules in force.
//!
//! ```text
//!  frame ─▶ parse (mcr-wire) ─▶ Table: group, port, source ─▶ Runs: one open run per rule ─▶ Egress::send
//!              │                    │                            │                                 │
//!              └─ skip              └─ skip                      └─ due, or dropped here           └─ sent, dropped
//! ```
//!
//! - [`table`]: the rules, laid out for one lookup per datagram; [`index`]: the hash table of destinations;
//! - [`arrival`], [`runs`]: consecutive datagrams of one rule, batched for one segmented send per output;
//! - [`send`]: a send, whose outcome is counted, and the [`Egress`] that executes it;
//! - [`path`], [`segmentation`]: the socket and address of an output, and which segmented sends it accepts;
//! - [`flows`], [`current_flow`]: the senders of a rule;
//! - [`health`]: loss in a stream, by its sequence numbers;
//! - [`rate_limit`]: the maximum rate of a rule;
//! - [`coalescing`]: whether to wait for more datagrams;
//! - [`accounts`], [`tracing`]: the telemetry page and the trace rings.
//!
//! Counters (ARCHITECTURE.md) are consistent between these steps:
//!
//! ```text
//!  process():  received += n            or += 1 and a skip
//!  run closed: matched += n, for each output due += n, then dropped here or passed to the egress
//!  egress:     sent += n, or dropped += n
//! ```
//!
//! Nothing here allocates after a table is built.

pub(crate) mod accounts;
pub(crate) mod arrival;
pub(crate) mod coalescing;
pub(crate) mod current_flow;
pub(crate) mod flows;
pub(crate) mod health;
pub(crate) mod index;
pub(crate) mod path;
pub(crate) mod rate_limit;
pub(crate) mod runs;
pub(crate) mod segmentation;
pub(crate) mod send;
pub(crate) mod table;
pub(crate) mod tracing;

use std::num::NonZeroU8;
use std::rc::Rc;

use mcr_link::reason::{DropReason, SkipReason};
use mcr_link::rule_set::table_hash::AddressBits;
use mcr_link::telemetry::{PageWriter, Total};
use mcr_wire::{Datagram, LinkLayer, Refusal, VNET_HEADER_BYTES, parse_frame, parse_vnet_header, peek};

use self::accounts::Accounts;
use self::arrival::{Arrival, arrivals};
use self::flows::FlowTable;
use self::health::HealthTable;
use self::index::DestinationKey;
use self::runs::{Joined, Run, Runs};
use self::send::{Egress, Piece, SendMeta};
use self::table::{Lookup, Table, TableOutput, Target};
use self::tracing::{Mark, NO_MARK};

/// The datagram of a frame and the length of the virtio header before it, or why the frame is rejected.
pub(crate) type Parsed = Result<(Datagram, usize), Refusal>;

/// The flow of the last datagram and its lookup result: most datagrams belong to the same flow as the previous one.
struct LastFlow {
    destination: DestinationKey,
    source: AddressBits,
    port: u16,
    lookup: Lookup,
}

impl LastFlow {
    /// No flow. No rule has address and port 0, so `NoRule` is correct for a datagram to these.
    fn none() -> Self {
        Self {
            destination: DestinationKey::default(),
            source: AddressBits::default(),
            port: 0,
            lookup: Lookup::NoRule,
        }
    }
}

/// See the module documentation. `F` is the receiver's frame handle.
pub(crate) struct Engine<F> {
    link: LinkLayer,
    table: Table,
    runs: Runs<F>,
    last: LastFlow,
    flows: FlowTable,
    health: HealthTable,
    /// The monotonic time of the batch in nanoseconds.
    now_ns: u64,
}

impl<F: Copy> Engine<F> {
    /// An engine without rules.
    pub(crate) fn new(link: LinkLayer) -> Self {
        let (table, flows) = (Table::empty(), FlowTable::new());
        Self {
            link,
            table,
            runs: Runs::new(0),
            last: LastFlow::none(),
            flows,
            health: HealthTable::default(),
            now_ns: 0,
        }
    }

    /// The rules in force.
    pub(crate) const fn table(&self) -> &Table {
        &self.table
    }

    /// Replaces the rules in force. Only between batches, when every send is complete.
    pub(crate) fn replace(&mut self, table: Table, page: &PageWriter) {
        table.keep_limits_of(&self.table);
        self.flows.begin_table(&self.table, &table, page);
        self.health.begin_table(&table);
        self.runs = Runs::new(table.rule_count());
        self.table = table;
        self.last = LastFlow::none();
    }

    /// Injects a fault into the table.
    #[cfg(any(debug_assertions, feature = "fault-injection"))]
    pub(crate) fn inject_fault(&mut self, change: impl FnOnce(&mut Table)) {
        change(&mut self.table);
        self.last = LastFlow::none();
    }

    /// Starts a batch.
    #[inline]
    pub(crate) const fn begin_batch(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// Parses a frame as delivered by the packet socket, including the virtio header.
    #[inline(always)]
    pub(crate) fn parse(&self, bytes: &[u8]) -> Parsed {
        let (meta, offset) = parse_vnet_header(bytes)?;
        let frame = bytes.get(offset..).ok_or(Refusal::Truncated)?;
        Ok((parse_frame(frame, self.link, meta)?, offset))
    }

    /// Whether a rule has a stream format, so that [`Self::check_stream`] is to be called.
    #[inline]
    pub(crate) fn checks_streams(&self) -> bool {
        self.health.is_active()
    }

    /// Checks the stream in a frame for the rules with a stream format, before [`Self::process`].
    #[cold]
    pub(crate) fn check_stream(&mut self, bytes: &[u8], parsed: &Parsed, page: &Accounts) {
        let Ok((datagram, offset)) = parsed else { return };
        let Some(payload) = bytes.get(*offset..).and_then(|frame| frame.get(datagram.payload.clone())) else {
            return;
        };
        self.look_up(datagram, page);
        let Self { table, last, health, now_ns, .. } = self;
        let Lookup::Admitted(admitting) = &last.lookup else { return };
        for index in table.admitting(admitting) {
            let Some((rule, format)) = table.rule(index).and_then(|rule| Some((rule, rule.stream?))) else {
                continue;
            };
            let size = datagram.segment_bytes.map_or(payload.len(), usize::from).max(1);
            for one in payload.chunks(size) {
                health.check(rule, format, one, *now_ns, page);
            }
        }
    }

    /// Prepares a trace record of a frame, before [`Self::process`].
    #[cold]
    pub(crate) fn trace_frame(&self, bytes: &[u8], parsed: &Parsed, page: &Accounts) {
        let frame = bytes.get(VNET_HEADER_BYTES..).unwrap_or_default();
        let refused = parsed.as_ref().err().and_then(|_| peek(frame, self.link));
        page.trace(|tracer| tracer.begin_frame(frame, refused));
    }

    /// [`Self::process`] without a trace.
    #[cfg(test)]
    pub(crate) fn process_untraced<E: Egress<Frame = F>>(
        &mut self,
        frame: F,
        parsed: Parsed,
        page: &Accounts,
        egress: &mut E,
    ) {
        self.process::<false, E>(frame, parsed, page, egress);
    }

    /// Counts a frame, and adds its datagrams to the runs of the rules that match it; `TRACED` if a rule is traced. The frame
    /// must be kept until [`Self::finish_batch`].
    #[inline]
    pub(crate) fn process<const TRACED: bool, E: Egress<Frame = F>>(
        &mut self,
        frame: F,
        parsed: Parsed,
        page: &Accounts,
        egress: &mut E,
    ) {
        page.count(Total::Frames, 1);
        let (datagram, offset) = match parsed {
            Ok(parsed) => parsed,
            Err(refusal) => {
                page.count(Total::Received, 1);
                page.skip(skip_reason(refusal), 1);
                if TRACED {
                    page.trace(|tracer| tracer.refused(skip_reason(refusal)));
                }
                return;
            }
        };
        let count = datagram.segment_count() as u64;
        page.count(Total::Received, count);
        self.look_up(&datagram, page);
        let reason = match self.last.lookup {
            Lookup::Admitted(_) => {
                return self.admit::<TRACED, E>(frame, offset, &datagram, page, egress);
            }
            Lookup::NoRule => SkipReason::NoRule,
            Lookup::OwnSource => SkipReason::OwnSource,
            Lookup::SourceExcluded => SkipReason::SourceExcluded,
        };
        page.skip(reason, count);
        if TRACED {
            page.trace(|tracer| tracer.skipped(&datagram, reason));
        }
    }

    /// Sends the open runs. Afterwards only the egress refers to the frames.
    #[inline]
    pub(crate) fn finish_batch<E: Egress<Frame = F>>(&mut self, page: &Accounts, egress: &mut E) {
        if page.is_tracing() {
            close_all::<true, E>(&self.table, &mut self.runs, self.now_ns, page, egress);
        } else {
            close_all::<false, E>(&self.table, &mut self.runs, self.now_ns, page, egress);
        }
    }

    #[inline(always)]
    fn look_up(&mut self, datagram: &Datagram, page: &PageWriter) {
        let destination = DestinationKey::new(datagram.destination.0, datagram.destination.1);
        let (source, port) = (AddressBits::from(datagram.source.0), datagram.source.1);
        if self.last.destination != destination || self.last.source != source || self.last.port != port {
            self.switch_flow(destination, source, port, page);
        }
    }

    /// Finds the rules that match a flow, and makes it their current flow.
    #[inline(never)]
    fn switch_flow(
        &mut self,
        destination: DestinationKey,
        source: AddressBits,
        port: u16,
        page: &PageWriter,
    ) {
        let Self { table, runs, last, flows, now_ns, .. } = self;
        *last = LastFlow { destination, source, port, lookup: table.look_up(destination, source) };
        let Lookup::Admitted(admitting) = &last.lookup else { return };
        for index in table.admitting(admitting) {
            let Some(rule) = table.rule(index) else { continue };
            if !rule.flow.is(source, port) {
                let (packets, bytes) = runs.count_open(index);
                page.count_flow(rule.flow.record(), packets, bytes);
                flows.switch(table, (index, rule), (source, port), *now_ns, page);
            }
        }
    }

    #[inline]
    fn admit<const TRACED: bool, E: Egress<Frame = F>>(
        &mut self,
        frame: F,
        offset: usize,
        datagram: &Datagram,
        page: &Accounts,
        egress: &mut E,
    ) {
        let Self { table, runs, last, now_ns, .. } = self;
        let Lookup::Admitted(admitting) = &last.lookup else { return };
        let mut first_match = true;
        for index in table.admitting(admitting) {
            let Some(rule) = table.rule(index) else { continue };
            if TRACED {
                page.trace(|tracer| tracer.admitted(index, datagram));
            }
            for arrival in arrivals(frame, offset, datagram, first_match) {
                // At most three iterations: the run may have to be closed, then all runs; an empty list has room.
                loop {
                    match runs.join(index, &arrival, rule.by_ttl, rule.by_dscp) {
                        Joined::Yes => break,
                        Joined::CloseRule => {
                            if let Some((run, pieces)) = runs.close(index) {
                                send_run::<TRACED, E>(table, *now_ns, page, egress, &run, pieces);
                            }
                        }
                        Joined::CloseAll => close_all::<TRACED, E>(table, runs, *now_ns, page, egress),
                    }
                }
                if TRACED {
                    let Arrival { piece, segment_bytes, datagrams, .. } = arrival;
                    page.trace(|tracer| tracer.joined(index, datagrams, piece.bytes, segment_bytes));
                }
            }
            first_match = false;
        }
    }
}

fn close_all<const TRACED: bool, E: Egress>(
    table: &Table,
    runs: &mut Runs<E::Frame>,
    now_ns: u64,
    page: &Accounts,
    egress: &mut E,
) {
    for index in 0..runs.opened() {
        if let Some((run, pieces)) = runs.close_at(index) {
            send_run::<TRACED, E>(table, now_ns, page, egress, &run, pieces);
        }
    }
    runs.clear();
}

/// Sends the datagrams of a run on each output of its rule.
#[inline]
fn send_run<const TRACED: bool, E: Egress>(
    table: &Table,
    now_ns: u64,
    page: &Accounts,
    egress: &mut E,
    run: &Run,
    pieces: &[Piece<E::Frame>],
) {
    let Some(rule) = table.rule(run.rule) else { return };
    let datagrams = u64::from(run.datagrams);
    let outputs = rule.outputs.len();
    page.count(Total::Matched, u64::from(run.first_matches));
    page.matched(rule.slot, datagrams, u64::from(run.bytes), datagrams * outputs as u64);
    page.set_last(rule.slot, now_ns);
    let (packets, bytes) = run.uncounted();
    page.count_flow(rule.flow.record(), packets, bytes);
    // `due` is counted for all outputs before the first send: if the worker dies in between, its replacement can compute the
    // loss on each output.
    for output in &rule.outputs {
        page.due(output.slot(), datagrams);
    }
    let mark = if TRACED {
        let outcomes = u32::from(run.datagrams) * u32::try_from(outputs).unwrap_or(u32::MAX);
        page.trace(|tracer| tracer.closed(run.rule, outcomes))
    } else {
        NO_MARK
    };
    let passes = rule.limit.admits(run.datagrams, now_ns);
    for output in &rule.outputs {
        match prepare(output, run, passes, mark) {
            Ok(meta) => egress.send(page, meta, pieces),
            Err(reason) => {
                page.dropped(output.slot(), reason, datagrams, 0);
                if TRACED && mark != NO_MARK {
                    let sizes = (run.datagrams, run.bytes, run.segment_bytes);
                    page.trace(|tracer| tracer.settled(mark, output.slot(), sizes, Err((reason, 0))));
                }
            }
        }
    }
}

/// The send of a run on an output, or why its datagrams are dropped.
#[inline(always)]
fn prepare(output: &TableOutput, run: &Run, passes: bool, mark: Mark) -> Result<SendMeta, DropReason> {
    if !passes {
        return Err(DropReason::RateLimited);
    }
    let Target::Up(path) = &output.target else { return Err(DropReason::OutputDown) };
    let ttl = if output.decrement_ttl {
        Some(NonZeroU8::new(run.ttl.saturating_sub(1)).ok_or(DropReason::TtlExpired)?)
    } else {
        None
    };
    Ok(SendMeta {
        path: Rc::clone(path),
        bytes: run.bytes,
        datagrams: run.datagrams,
        segment_bytes: run.segment_bytes,
        ttl,
        mark,
        traffic_class: output.keep_dscp.then_some(run.dscp << 2),
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
