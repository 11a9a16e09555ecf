//! Writes down what becomes of single datagrams of the rules that are traced. Called by the engine and by the loops, and
//! only while a rule is traced; nothing here allocates after a trace has begun.
//!
//! ```text
//!  look_at ─▶ skipped                                              an arrival: one frame
//!          └▶ admitted ─▶ joined ─▶ closed ─ mark ─▶ settled …     a run: datagrams sent together
//! ```
//!
//! A run that holds a chosen arrival gets a mark, which travels with its sends: outcomes come later, and not in order.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use mcr_link::reason::{DropReason, SkipReason};
use mcr_link::rule_set::{OutputSlot, RuleSet};
use mcr_link::trace::{Flow, MAX_TRACES, RingWriter, TraceEvent, TraceOrder, Words};
use mcr_rules::RuleId;
use mcr_sys::clock::monotonic_ns;
use mcr_wire::{Datagram, Peek};

use super::index::DestinationKey;

/// What a send carries to tell its run; see [`Tracer`].
pub(crate) type Mark = u8;
/// The mark of a run that nobody wants to know of.
pub(crate) const NO_MARK: Mark = 0;

/// Runs under way that can be told apart.
const MARKS: usize = 1 << Mark::BITS;

/// A rule that is traced.
struct Trace {
    order: TraceOrder,
    ring: RingWriter,
    /// The rule's place in the table; `None` while the table does not have it.
    place: Option<u32>,
    destination: DestinationKey,
    /// The number of the arrival at hand; 0 if it was not chosen.
    arrival: u64,
    /// The rule's open run, if it has a chosen arrival: its mark and number.
    open: Option<(Mark, u64)>,
}

impl Trace {
    fn is_of(&self, place: u32) -> bool {
        self.place == Some(place) && !self.ring.is_full()
    }

    /// Counts an arrival and decides whether it is written down.
    fn choose(&mut self) -> bool {
        let number = self.ring.seen();
        let chosen = (number - 1).is_multiple_of(u64::from(self.order.sample.max(1)));
        if chosen {
            self.ring.chosen();
        }
        self.arrival = if chosen { number } else { 0 };
        chosen
    }
}

/// A marked run: what is to be told with its outcomes.
#[derive(Clone, Copy, Default)]
struct Note {
    trace: u8,
    /// Outcomes that are to come, one for each datagram and output.
    due: u32,
    /// Of its first chosen arrival.
    words: Words,
}

/// Why a datagram did not leave, and what the system call said of it.
pub(crate) type Failure = (DropReason, i32);

/// See the module.
pub(crate) struct Tracer {
    traces: [Option<Trace>; MAX_TRACES],
    notes: Vec<Note>,
    last_mark: Mark,
    /// The frame at hand.
    words: Words,
    peek: Option<Peek>,
    clock_ns: fn() -> u64,
}

impl Default for Tracer {
    fn default() -> Self {
        Self {
            traces: [const { None }; MAX_TRACES],
            notes: Vec::new(),
            last_mark: NO_MARK,
            words: Words::default(),
            peek: None,
            clock_ns: monotonic_ns,
        }
    }
}

impl Tracer {
    /// Takes the time from elsewhere: valgrind has no vDSO.
    #[cfg(feature = "instruction-count")]
    pub(crate) fn set_clock(&mut self, clock_ns: fn() -> u64) {
        self.clock_ns = clock_ns;
    }

    /// Begins to trace a rule, or begins anew. Gives false if there are too many already, or the ring is none.
    pub(crate) fn begin(&mut self, order: TraceOrder, ring: &OwnedFd, rules: &RuleSet) -> bool {
        self.end(Some(order.rule));
        let Ok(ring) = RingWriter::map(ring, order.max_records) else { return false };
        let Some(free) = self.traces.iter_mut().find(|trace| trace.is_none()) else { return false };
        let destination = DestinationKey::default();
        *free = Some(Trace { order, ring, place: None, destination, arrival: 0, open: None });
        self.notes.resize(MARKS, Note::default());
        self.find_rules(rules);
        true
    }

    /// Ends the trace of a rule, or all.
    pub(crate) fn end(&mut self, rule: Option<RuleId>) {
        let is_meant = |trace: &Trace| rule.is_none_or(|rule| trace.order.rule == rule);
        for (number, trace) in (0_u8..).zip(&mut self.traces) {
            if trace.take_if(|trace| is_meant(trace)).is_some() {
                self.notes.iter_mut().filter(|note| note.trace == number).for_each(|note| note.due = 0);
            }
        }
    }

    /// Finds the places of the traced rules; when another rule set came into force, and nothing is under way.
    pub(crate) fn find_rules(&mut self, rules: &RuleSet) {
        for trace in self.traces.iter_mut().flatten() {
            let found = (0_u32..).zip(&rules.rules).find(|(_, rule)| rule.id == trace.order.rule);
            trace.place = found.map(|(place, _)| place);
            trace.destination =
                found.map(|(_, rule)| DestinationKey::new(rule.group, rule.port)).unwrap_or_default();
            trace.open = None;
        }
    }

    /// Nothing that was sent before has an outcome to come.
    pub(crate) fn forget_runs(&mut self) {
        self.notes.iter_mut().for_each(|note| note.due = 0);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.traces.iter().all(Option::is_none)
    }

    /// Keeps the first bytes of a frame, and what was seen of it if it was refused.
    pub(crate) fn look_at(&mut self, frame: &[u8], refused: Option<Peek>) {
        self.words = Words::default();
        self.words.set_frame(frame);
        self.peek = refused;
    }

    /// The frame at hand was refused: told to the traces of its group and port, as far as these could be read.
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

    /// The datagrams at hand are for a rule's group and port, and not relayed.
    pub(crate) fn skipped(&mut self, datagram: &Datagram, reason: SkipReason) {
        self.describe(datagram);
        let (address, port): (IpAddr, u16) = datagram.destination;
        self.skip(reason, |wanted| wanted == DestinationKey::new(address, port));
    }

    fn skip(&mut self, reason: SkipReason, concerns: impl Fn(DestinationKey) -> bool) {
        let now = (self.clock_ns)();
        for trace in self.traces.iter_mut().flatten() {
            if trace.place.is_some() && !trace.ring.is_full() && concerns(trace.destination) && trace.choose()
            {
                self.words.set_numbers(trace.arrival, 0);
                self.words.set_event(now, TraceEvent::Skipped(reason));
                trace.ring.write(&self.words, true);
            }
        }
    }

    /// A rule admits the datagrams at hand.
    pub(crate) fn admitted(&mut self, place: u32, datagram: &Datagram) {
        if !self.traces.iter().flatten().any(|trace| trace.is_of(place)) {
            return;
        }
        self.describe(datagram);
        let now = (self.clock_ns)();
        for trace in self.traces.iter_mut().flatten().filter(|trace| trace.is_of(place)) {
            if trace.choose() && !trace.order.drops_only {
                self.words.set_numbers(trace.arrival, 0);
                self.words.set_event(now, TraceEvent::Received);
                trace.ring.write(&self.words, true);
            }
        }
    }

    fn describe(&mut self, datagram: &Datagram) {
        let flow = Flow { source: datagram.source, destination: datagram.destination };
        self.words.set_flow(&flow, datagram.ttl, datagram.dscp);
        let bytes = datagram.payload.len();
        let each = datagram.segment_bytes.map_or(bytes, usize::from).min(bytes);
        self.words.set_sizes(narrow(datagram.segment_count()), wide(bytes), narrow(each));
    }

    /// Datagrams of the frame at hand are in the rule's run.
    pub(crate) fn joined(&mut self, place: u32, datagrams: u16, bytes: u32, segment_bytes: u16) {
        for (number, trace) in (0_u8..).zip(&mut self.traces) {
            let Some(trace) = trace.as_mut().filter(|trace| trace.is_of(place) && trace.arrival != 0) else {
                continue;
            };
            if trace.open.is_none() {
                let mark = self.last_mark.checked_add(1).unwrap_or(NO_MARK + 1);
                if let Some(note) = self.notes.get_mut(usize::from(mark)).filter(|note| note.due == 0) {
                    let run = trace.ring.next_run();
                    self.last_mark = mark;
                    *note = Note { trace: number, due: 1, words: self.words };
                    note.words.set_numbers(trace.arrival, run);
                    trace.open = Some((mark, run));
                } else {
                    trace.ring.untold();
                }
            }
            if !trace.order.drops_only {
                self.words.set_numbers(trace.arrival, trace.open.map_or(0, |(_, run)| run));
                self.words.set_sizes(datagrams, bytes, segment_bytes);
                self.words.set_event((self.clock_ns)(), TraceEvent::Matched);
                trace.ring.write(&self.words, false);
            }
        }
    }

    /// The rule's run is closed, and so many outcomes are to come. Gives its mark.
    pub(crate) fn closed(&mut self, place: u32, outcomes: u32) -> Mark {
        let of_rule = self.traces.iter_mut().flatten().find(|trace| trace.place == Some(place));
        let Some((mark, _)) = of_rule.and_then(|trace| trace.open.take()) else { return NO_MARK };
        if let Some(note) = self.notes.get_mut(usize::from(mark)) {
            note.due = outcomes;
        }
        mark
    }

    /// Datagrams of a run have left on an output, or have not.
    pub(crate) fn settled(
        &mut self,
        mark: Mark,
        output: OutputSlot,
        sizes: (u16, u32, u16),
        outcome: Result<(), Failure>,
    ) {
        let Some(note) = self.notes.get_mut(usize::from(mark)).filter(|note| note.due > 0) else { return };
        note.due = note.due.saturating_sub(sizes.0.into());
        let Some(Some(trace)) = self.traces.get(usize::from(note.trace)) else { return };
        let event = match outcome {
            Ok(()) if trace.order.drops_only => return,
            Ok(()) => TraceEvent::Sent(output),
            Err((reason, errno)) => {
                let errno = u16::try_from(errno).unwrap_or_default();
                TraceEvent::Dropped { output, reason, errno }
            }
        };
        note.words.set_sizes(sizes.0, sizes.1, sizes.2);
        note.words.set_event((self.clock_ns)(), event);
        trace.ring.write(&note.words, outcome.is_err());
    }
}

fn narrow(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn wide(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
