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
//! - [`send`]: a send until its outcome is counted, and the [`Egress`] that executes it;
//! - [`origin`]: source addresses and ports that the socket does not have;
//! - [`path`], [`segmentation`]: the socket and address of an output, and which segmented sends it accepts;
//! - [`flows`], [`current_flow`]: the senders of a rule;
//! - [`fragments`]: datagrams that arrive in fragments;
//! - [`skips`]: the rules that a frame concerns which is not relayed;
//! - [`health`]: loss in a stream, by its own sequence numbers;
//! - [`linked`], [`merge`]: rules with several inputs, in workers of linked interfaces only;
//! - [`rate_limit`]: the most datagrams per second of a rule;
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
pub(crate) mod fragments;
pub(crate) mod health;
pub(crate) mod index;
pub(crate) mod linked;
pub(crate) mod merge;
pub(crate) mod origin;
pub(crate) mod path;
pub(crate) mod rate_limit;
pub(crate) mod runs;
pub(crate) mod segmentation;
pub(crate) mod send;
pub(crate) mod skips;
pub(crate) mod table;
pub(crate) mod tracing;

use std::num::NonZeroU8;
use std::rc::Rc;

use mcr_link::reason::{DropReason, SkipReason};
use mcr_link::telemetry::{PageWriter, Total};
use mcr_wire::{
    AddressBits, Datagram, LinkLayer, Reassembly, Refusal, VNET_HEADER_BYTES, parse_frame, parse_vnet_header,
    peek,
};

use self::accounts::Accounts;
use self::arrival::{Arrival, arrivals};
use self::flows::FlowTable;
use self::health::HealthTable;
use self::index::DestinationKey;
use self::linked::Linked;
use self::origin::SenderIndex;
use self::runs::{Joined, Run, Runs};
use self::send::{Egress, Piece, SendMeta};
use self::skips::skip_reason;
use self::table::{Lookup, OutputTtl, Table, TableOutput, Target};
use self::tracing::{Mark, NO_MARK};

/// The most sends that may be queued or in flight.
pub(crate) const MAX_IN_FLIGHT: usize = 1_024;

/// The datagram of a frame, or why it is not relayed.
pub(crate) type Parsed = Result<Datagram, Refusal>;

/// The flow of the last datagram and its lookup result: most datagrams belong to the same flow as the previous one.
struct LastFlow {
    destination: DestinationKey,
    source: (AddressBits, u16),
    lookup: Lookup,
    /// It is not relayed, and concerns rules.
    concerns: bool,
}

impl LastFlow {
    /// No flow. No rule has address and port 0, so `NoRule` is correct for a datagram to these.
    fn none() -> Self {
        Self {
            destination: DestinationKey::default(),
            source: Default::default(),
            lookup: Lookup::NoRule,
            concerns: false,
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
    reassembly: Reassembly,
    /// `None` unless it is of linked interfaces.
    linked: Option<Box<Linked>>,
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
            reassembly: Reassembly::new(),
            linked: None,
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
        self.begin_merges(&table, page);
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

    /// Parses a frame as delivered by the packet socket, including the virtio header. One that is refused is counted for the
    /// rules that it concerns.
    #[inline(always)]
    pub(crate) fn parse(&self, bytes: &[u8], page: &PageWriter) -> Parsed {
        let parsed = self.parse_headers(bytes);
        if let Err(refusal) = parsed {
            self.count_refused(refusal, bytes, page);
        }
        parsed
    }

    /// As [`Self::parse`] for a frame that was accepted before; apart from it, so that the loop has that code once.
    #[cold]
    #[inline(never)]
    pub(crate) fn parse_again(&self, bytes: &[u8]) -> Parsed {
        self.parse_headers(bytes)
    }

    #[inline(always)]
    fn parse_headers(&self, bytes: &[u8]) -> Parsed {
        let (meta, frame) = parse_vnet_header(bytes)?;
        parse_frame(frame, self.link, meta)
    }

    /// Whether a rule has a stream format, so that [`Self::check_stream`] is to be called.
    #[inline]
    pub(crate) fn checks_streams(&self) -> bool {
        self.health.is_active()
    }

    /// Makes the flow of a frame the current one, before [`Self::check_stream`]; `own` is what [`Self::is_from_this_host`]
    /// returned.
    #[cold]
    pub(crate) fn find_flow<const TRACED: bool, E: Egress<Frame = F>>(
        &mut self,
        own: bool,
        parsed: &Parsed,
        page: &Accounts,
        egress: &mut E,
    ) {
        let Ok(datagram) = parsed else { return };
        self.look_up::<TRACED, E>(datagram, page, egress);
        if !own && matches!(self.last.lookup, Lookup::HostAddress(_)) {
            self.enter_flow::<TRACED, E>(page, egress);
        }
    }

    /// Checks the stream in a frame of the current flow for the rules with a stream format, before [`Self::process`].
    #[cold]
    pub(crate) fn check_stream(&mut self, bytes: &[u8], parsed: &Parsed, page: &Accounts) {
        let Ok(datagram) = parsed else { return };
        let own = self.is_from_this_host(bytes);
        let frame = bytes.get(VNET_HEADER_BYTES..).unwrap_or_default();
        let Some(payload) = frame.get(datagram.payload.clone()) else { return };
        let Self { table, last, health, now_ns, .. } = self;
        let admitting = match &last.lookup {
            Lookup::Admitted(admitting) => admitting,
            Lookup::HostAddress(admitting) if !own => admitting,
            _ => return,
        };
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
        bytes: &[u8],
        page: &Accounts,
        egress: &mut E,
    ) {
        let (parsed, again) = (self.parse(bytes, page), self.parse_again(bytes));
        let own = self.is_from_this_host(bytes);
        if self.process::<false, E>(frame, &parsed, page, egress) {
            self.process_host_address::<false, E>(frame, own, again, page, egress);
        }
    }

    /// Counts a frame, and adds its datagrams to the runs of the rules that admit it; `TRACED` if a rule is traced. The frame is
    /// needed until [`Self::finish_batch`].
    ///
    /// Returns whether it is a fragment, or the source is an address that this host has on another interface. Then the caller
    /// calls [`Self::process_further`].
    #[inline]
    #[must_use]
    pub(crate) fn process<const TRACED: bool, E: Egress<Frame = F>>(
        &mut self,
        frame: F,
        parsed: &Parsed,
        page: &Accounts,
        egress: &mut E,
    ) -> bool {
        page.count(Total::Frames, 1);
        let datagram = match parsed {
            Ok(datagram) => datagram,
            Err(Refusal::Fragment) => return true,
            Err(refusal) => {
                page.count(Total::Received, 1);
                page.skip(skip_reason(*refusal), 1);
                if TRACED {
                    page.trace(|tracer| tracer.refused(skip_reason(*refusal)));
                }
                return false;
            }
        };
        let count = datagram.segment_count() as u64;
        page.count(Total::Received, count);
        self.look_up::<TRACED, E>(datagram, page, egress);
        let reason = match self.last.lookup {
            Lookup::Admitted(_) => {
                self.admit::<TRACED, E>(frame, datagram, page, egress);
                return false;
            }
            Lookup::HostAddress(_) => return true,
            Lookup::NoRule => SkipReason::NoRule,
            Lookup::OwnSource => SkipReason::OwnSource,
            Lookup::SourceExcluded => SkipReason::SourceExcluded,
        };
        page.skip(reason, count);
        if self.last.concerns {
            self.count_skipped(datagram, reason, count, page);
        }
        if TRACED {
            page.trace(|tracer| tracer.skipped(datagram, reason));
        }
        false
    }

    /// Whether a frame is from a MAC address of this host.
    #[cold]
    pub(crate) fn is_from_this_host(&self, bytes: &[u8]) -> bool {
        let source = bytes.get(VNET_HEADER_BYTES + 6..).and_then(|rest| rest.first_chunk());
        self.link == LinkLayer::Ethernet && source.is_some_and(|mac| self.table.is_host_mac(mac))
    }

    /// Goes on with a frame from an address of this host; `own` is what [`Self::is_from_this_host`] returned.
    #[cold]
    pub(super) fn process_host_address<const TRACED: bool, E: Egress<Frame = F>>(
        &mut self,
        frame: F,
        own: bool,
        parsed: Parsed,
        page: &Accounts,
        egress: &mut E,
    ) {
        let Ok(datagram) = parsed else { return };
        if own {
            let count = datagram.segment_count() as u64;
            page.skip(SkipReason::OwnSource, count);
            self.count_skipped(&datagram, SkipReason::OwnSource, count, page);
            if TRACED {
                page.trace(|tracer| tracer.skipped(&datagram, SkipReason::OwnSource));
            }
            return;
        }
        self.enter_flow::<TRACED, E>(page, egress);
        self.admit::<TRACED, E>(frame, &datagram, page, egress);
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
    fn look_up<const TRACED: bool, E: Egress<Frame = F>>(
        &mut self,
        datagram: &Datagram,
        page: &Accounts,
        egress: &mut E,
    ) {
        let (address, port) = datagram.destination;
        let destination = DestinationKey { address, port };
        if self.last.destination != destination || self.last.source != datagram.source {
            self.switch_flow::<TRACED, E>(destination, datagram.source, page, egress);
        }
    }

    /// Finds the rules that admit a flow, and makes it their current flow unless the MAC address decides whether it is.
    #[inline(never)]
    fn switch_flow<const TRACED: bool, E: Egress<Frame = F>>(
        &mut self,
        destination: DestinationKey,
        source: (AddressBits, u16),
        page: &Accounts,
        egress: &mut E,
    ) {
        let lookup = self.table.look_up(destination, source.0);
        self.last = LastFlow { destination, source, lookup, concerns: false };
        if matches!(self.last.lookup, Lookup::Admitted(_)) {
            self.enter_flow::<TRACED, E>(page, egress);
        } else {
            self.last.concerns = self.concerns_rules();
        }
    }

    /// Whether the last flow, which is not admitted, concerns rules.
    #[cold]
    #[inline(never)]
    fn concerns_rules(&self) -> bool {
        match self.last.lookup {
            Lookup::Admitted(_) | Lookup::HostAddress(_) => false,
            Lookup::NoRule => self.table.concerned(self.last.destination.address, None).next().is_some(),
            Lookup::OwnSource | Lookup::SourceExcluded => true,
        }
    }

    /// Makes the last flow the current flow of the rules that admit it.
    #[inline(always)]
    fn enter_flow<const TRACED: bool, E: Egress<Frame = F>>(&mut self, page: &Accounts, egress: &mut E) {
        let Self { table, runs, last, flows, now_ns, .. } = self;
        let (Lookup::Admitted(admitting) | Lookup::HostAddress(admitting)) = &last.lookup else { return };
        let (source, port) = last.source;
        for index in table.admitting(admitting) {
            let Some(rule) = table.rule(index) else { continue };
            if !rule.flow.is(source, port) {
                if rule.senders.is_some() {
                    close_before::<TRACED, E>(table, (runs, index), *now_ns, page, egress);
                }
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
        datagram: &Datagram,
        page: &Accounts,
        egress: &mut E,
    ) {
        let Self { table, runs, last, now_ns, .. } = self;
        let (Lookup::Admitted(admitting) | Lookup::HostAddress(admitting)) = &last.lookup else { return };
        let mut first_match = true;
        for index in table.admitting(admitting) {
            let Some(rule) = table.rule(index) else { continue };
            if TRACED {
                page.trace(|tracer| tracer.admitted(index, datagram));
            }
            for arrival in arrivals(frame, datagram, first_match) {
                // At most three iterations: the run may have to be closed, then all runs; an empty list has room.
                loop {
                    match runs.join(index, &arrival, rule.by_ttl, rule.by_dscp) {
                        Joined::Yes => break,
                        Joined::CloseRule => {
                            if let Some((run, pieces)) = runs.close(index) {
                                send_run::<TRACED, E>(table, *now_ns, page, egress, run, pieces);
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

/// Sends the open run of a rule that keeps the sender, before a datagram of another sender.
#[cold]
#[inline(never)]
fn close_before<const TRACED: bool, E: Egress>(
    table: &Table,
    (runs, rule): (&mut Runs<E::Frame>, u32),
    now_ns: u64,
    page: &Accounts,
    egress: &mut E,
) {
    if let Some((run, pieces)) = runs.close(rule) {
        send_run::<TRACED, E>(table, now_ns, page, egress, run, pieces);
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
            send_run::<TRACED, E>(table, now_ns, page, egress, run, pieces);
        }
    }
    runs.clear();
}

/// Sends the datagrams of a run on each output of its rule.
#[inline(always)]
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
    if run.merged() > 0 {
        page.merged(rule.slot, run.merged().into());
    }
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
    // What is in a run that is sent with its sender is of the rule's current flow.
    let sender = rule.senders.as_ref().map_or(Some(0), |senders| senders.push(rule.flow.sender()));
    for output in &rule.outputs {
        match prepare(output, run, passes, sender, mark) {
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
fn prepare(
    output: &TableOutput,
    run: &Run,
    passes: bool,
    sender: Option<SenderIndex>,
    mark: Mark,
) -> Result<SendMeta, DropReason> {
    if !passes {
        return Err(DropReason::RateLimited);
    }
    let Target::Up(path) = &output.target else { return Err(DropReason::OutputDown) };
    let decremented = NonZeroU8::new(run.ttl.saturating_sub(1));
    let ttl = match output.ttl {
        OutputTtl::Socket => None,
        OutputTtl::Decrement => Some(decremented.ok_or(DropReason::TtlExpired)?),
        OutputTtl::AtMost(most) => Some(most.min(decremented.unwrap_or(NonZeroU8::MIN))),
    };
    if output.keep_source && sender.is_none() {
        return Err(DropReason::Unreachable);
    }
    Ok(SendMeta {
        path: Rc::clone(path),
        bytes: run.bytes,
        datagrams: run.datagrams,
        segment_bytes: run.segment_bytes,
        ttl,
        mark,
        traffic_class: output.keep_dscp.then_some(run.dscp << 2),
        sender: sender.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests;
