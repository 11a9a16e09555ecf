//! Records the outcome of single datagrams of traced rules. Called by the engine and by the loops, only while a rule is traced;
//! does not allocate after a trace has started.
//!
//! ```text
//!  begin_frame ─▶ skipped                                              an arrival: one frame
//!              └▶ admitted ─▶ joined ─▶ closed ─ mark ─▶ settled …     a run: datagrams sent together
//! ```
//!
//! A run with a sampled arrival has a mark, which is stored in its sends, since these complete later and in any order.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use mcr_link::reason::{DropReason, SkipReason};
use mcr_link::rule_set::{OutputSlot, RuleSet};
use mcr_link::trace::{Flow, MAX_TRACES, RingWriter, TraceEvent, TraceRequest, Words};
use mcr_rules::RuleId;
use mcr_sys::clock::monotonic_ns;
use mcr_wire::{Datagram, Peek};

use super::index::DestinationKey;

/// Identifies a traced run in its sends; see [`Tracer`].
pub(crate) type Mark = u8;
/// The mark of a run that is not traced.
pub(crate) const NO_MARK: Mark = 0;

/// Maximum number of traced runs in flight.
const MARKS: usize = 1 << Mark::BITS;

/// A traced rule.
struct Trace {
    request: TraceRequest,
    ring: RingWriter,
    /// The index of the rule in the table; `None` if the table does not have it.
    index: Option<u32>,
    destination: DestinationKey,
    /// The number of the current arrival; 0 if it is not sampled.
    arrival: u64,
    /// Mark and number of the rule's open run, if it has a sampled arrival.
    open: Option<(Mark, u64)>,
}

impl Trace {
    fn is_of(&self, index: u32) -> bool {
        self.index == Some(index) && !self.ring.is_full()
    }

    /// Counts an arrival, and decides whether it is sampled.
    fn sample(&mut self) -> bool {
        let number = self.ring.count_arrival();
        let sampled = (number - 1).is_multiple_of(u64::from(self.request.sample.max(1)));
        if sampled {
            self.ring.count_sampled();
        }
        self.arrival = if sampled { number } else { 0 };
        sampled
    }
}

/// A traced run: what is recorded with its outcomes.
#[derive(Clone, Copy, Default)]
struct TracedRun {
    trace: u8,
    /// Number of pending outcomes, one for each datagram and output.
    due: u32,
    /// The record of its first sampled arrival.
    words: Words,
}

/// Why a datagram was dropped, and the errno of the system call.
pub(crate) type Failure = (DropReason, i32);

/// See the module documentation.
pub(crate) struct Tracer {
    traces: [Option<Trace>; MAX_TRACES],
    /// The traced runs, by mark.
    runs: Vec<TracedRun>,
    last_mark: Mark,
    /// The record of the current frame.
    words: Words,
    peek: Option<Peek>,
    clock_ns: fn() -> u64,
}

impl Default for Tracer {
    fn default() -> Self {
        Self {
            traces: [const { None }; MAX_TRACES],
            runs: Vec::new(),
            last_mark: NO_MARK,
            words: Words::default(),
            peek: None,
            clock_ns: monotonic_ns,
        }
    }
}

impl Tracer {
    /// Sets another clock, since valgrind has no vDSO.
    #[cfg(feature = "instruction-count")]
    pub(crate) fn set_clock(&mut self, clock_ns: fn() -> u64) {
        self.clock_ns = clock_ns;
    }

    /// Starts or restarts the trace of a rule. Returns false if there are too many traces, or the ring is invalid.
    pub(crate) fn begin(&mut self, request: TraceRequest, ring: &OwnedFd, rules: &RuleSet) -> bool {
        self.end(Some(request.rule));
        let Ok(ring) = RingWriter::map(ring, request.max_records) else { return false };
        let Some(free) = self.traces.iter_mut().find(|trace| trace.is_none()) else { return false };
        let destination = DestinationKey::default();
        *free = Some(Trace { request, ring, index: None, destination, arrival: 0, open: None });
        self.runs.resize(MARKS, TracedRun::default());
        self.find_rules(rules);
        true
    }

    /// Ends the trace of a rule, or all.
    pub(crate) fn end(&mut self, rule: Option<RuleId>) {
        let matches = |trace: &Trace| rule.is_none_or(|rule| trace.request.rule == rule);
        for (number, trace) in (0_u8..).zip(&mut self.traces) {
            if trace.take_if(|trace| matches(trace)).is_some() {
                self.runs.iter_mut().filter(|run| run.trace == number).for_each(|run| run.due = 0);
            }
        }
    }

    /// Finds the indices of the traced rules in another rule set. Every send must be complete.
    pub(crate) fn find_rules(&mut self, rules: &RuleSet) {
        for trace in self.traces.iter_mut().flatten() {
            let found = (0_u32..).zip(&rules.rules).find(|(_, rule)| rule.id == trace.request.rule);
            trace.index = found.map(|(index, _)| index);
            trace.destination =
                found.map(|(_, rule)| DestinationKey::new(rule.group, rule.port)).unwrap_or_default();
            trace.open = None;
        }
    }

    /// Forgets the runs sent before: no outcome will follow.
    pub(crate) fn forget_runs(&mut self) {
        self.runs.iter_mut().for_each(|run| run.due = 0);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.traces.iter().all(Option::is_none)
    }

    /// Stores the first bytes of a frame, and its addresses if it is rejected.
    pub(crate) fn begin_frame(&mut self, frame: &[u8], refused: Option<Peek>) {
        self.words = Words::default();
        self.words.set_frame(frame);
        self.peek = refused;
    }

    /// The current frame is rejected: recorded in the traces of its group and port, as far as these could be read.
    pub(crate) fn refused(&mut self, reason: SkipReason) {
        let peek = self.peek;
        if let Some(peek) = peek {
            let (source, destination) = peek.ports.unwrap_or_default();
            let flow = Flow { source: (peek.source, source), destination: (peek.destination, destination) };
            self.words.set_flow(&flow, peek.ttl, 0);
        }
        self.words.set_sizes(1, 0, 0);
        let concerns = |wanted: DestinationKey| match peek {
            None => true,
            Some(Peek { destination, ports, .. }) => {
                wanted == DestinationKey::new(destination, ports.map_or(wanted.port, |(_, port)| port))
            }
        };
        self.skip(reason, concerns);
    }

    /// The current datagrams are for the group and port of a rule, and are skipped.
    pub(crate) fn skipped(&mut self, datagram: &Datagram, reason: SkipReason) {
        self.describe(datagram);
        let (address, port) = datagram.destination;
        self.skip(reason, |wanted| wanted == DestinationKey { address, port });
    }

    fn skip(&mut self, reason: SkipReason, concerns: impl Fn(DestinationKey) -> bool) {
        let now = (self.clock_ns)();
        for trace in self.traces.iter_mut().flatten() {
            if trace.index.is_some() && !trace.ring.is_full() && concerns(trace.destination) && trace.sample()
            {
                self.words.set_numbers(trace.arrival, 0);
                self.words.set_event(now, TraceEvent::Skipped(reason));
                trace.ring.write(&self.words, true);
            }
        }
    }

    /// A rule matches the current datagrams.
    pub(crate) fn admitted(&mut self, index: u32, datagram: &Datagram) {
        if !self.traces.iter().flatten().any(|trace| trace.is_of(index)) {
            return;
        }
        self.describe(datagram);
        let now = (self.clock_ns)();
        for trace in self.traces.iter_mut().flatten().filter(|trace| trace.is_of(index)) {
            if trace.sample() && !trace.request.drops_only {
                self.words.set_numbers(trace.arrival, 0);
                self.words.set_event(now, TraceEvent::Received);
                trace.ring.write(&self.words, true);
            }
        }
    }

    fn describe(&mut self, datagram: &Datagram) {
        let [source, destination] =
            [datagram.source, datagram.destination].map(|(address, port)| (IpAddr::from(address), port));
        let flow = Flow { source, destination };
        self.words.set_flow(&flow, datagram.ttl, datagram.dscp);
        let bytes = datagram.payload.len();
        let each = datagram.segment_bytes.map_or(bytes, usize::from).min(bytes);
        self.words.set_sizes(narrow(datagram.segment_count()), wide(bytes), narrow(each));
    }

    /// Datagrams of the current frame are in the run of the rule.
    pub(crate) fn joined(&mut self, index: u32, datagrams: u16, bytes: u32, segment_bytes: u16) {
        for (number, trace) in (0_u8..).zip(&mut self.traces) {
            let Some(trace) = trace.as_mut().filter(|trace| trace.is_of(index) && trace.arrival != 0) else {
                continue;
            };
            if trace.open.is_none() {
                let mark = self.last_mark.checked_add(1).unwrap_or(NO_MARK + 1);
                if let Some(traced) = self.runs.get_mut(usize::from(mark)).filter(|run| run.due == 0) {
                    let run = trace.ring.next_run();
                    self.last_mark = mark;
                    *traced = TracedRun { trace: number, due: 1, words: self.words };
                    traced.words.set_numbers(trace.arrival, run);
                    trace.open = Some((mark, run));
                } else {
                    trace.ring.count_unrecorded();
                }
            }
            if !trace.request.drops_only {
                self.words.set_numbers(trace.arrival, trace.open.map_or(0, |(_, run)| run));
                self.words.set_sizes(datagrams, bytes, segment_bytes);
                self.words.set_event((self.clock_ns)(), TraceEvent::Matched);
                trace.ring.write(&self.words, false);
            }
        }
    }

    /// The run of the rule is closed, and `outcomes` outcomes will follow. Returns its mark.
    pub(crate) fn closed(&mut self, index: u32, outcomes: u32) -> Mark {
        let of_rule = self.traces.iter_mut().flatten().find(|trace| trace.index == Some(index));
        let Some((mark, _)) = of_rule.and_then(|trace| trace.open.take()) else { return NO_MARK };
        if let Some(run) = self.runs.get_mut(usize::from(mark)) {
            run.due = outcomes;
        }
        mark
    }

    /// The outcome of datagrams of a run on an output is known.
    pub(crate) fn settled(
        &mut self,
        mark: Mark,
        output: OutputSlot,
        sizes: (u16, u32, u16),
        outcome: Result<(), Failure>,
    ) {
        let Some(run) = self.runs.get_mut(usize::from(mark)).filter(|run| run.due > 0) else { return };
        run.due = run.due.saturating_sub(sizes.0.into());
        let Some(Some(trace)) = self.traces.get(usize::from(run.trace)) else { return };
        let event = match outcome {
            Ok(()) if trace.request.drops_only => return,
            Ok(()) => TraceEvent::Sent(output),
            Err((reason, errno)) => {
                let errno = u16::try_from(errno).unwrap_or_default();
                TraceEvent::Dropped { output, reason, errno }
            }
        };
        run.words.set_sizes(sizes.0, sizes.1, sizes.2);
        run.words.set_event((self.clock_ns)(), event);
        trace.ring.write(&run.words, outcome.is_err());
    }
}

fn narrow(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn wide(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
