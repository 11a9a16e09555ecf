//! Traces: sends orders to the workers, owns the rings, and reads them.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use mcr_control::failure::{Failure, FailureKind};
use mcr_control::method::parameter::{Ranged, RuleSelector};
use mcr_control::method::{DisableTrace, EnableTrace, GetTrace, Handle, Right};
use mcr_control::reply::RuleReply;
use mcr_control::trace::{
    Cursor, DEFAULT_TRACE_RECORDS, DEFAULT_TRACE_S, TraceOutput, TraceReply, TraceState, TraceWhat,
};
use mcr_link::message::ToWorker;
use mcr_link::rule_set::OutputSlot;
use mcr_link::trace::{Reading, RingReader, TraceEvent, TraceRecord, create_ring};
use mcr_rules::Rule;
use mcr_rules::log::WORKERS;
use mcr_sys::clock;
use mcr_sys::network::LinkKind;

use super::Daemon;
use crate::config_change::not_found;
use crate::core::machine::Event;
use crate::core::machine::KernelReport;
use crate::core::plan::WorkerId;
use crate::core::trace::{RingId, Trace, TraceAction, TraceOptions, Traces};
use crate::request::Call;
use crate::statistics::utc_offset;

/// Approximate maximum length of a reply, bytes.
const REPLY_BYTES: usize = 240 * 1024;
/// Maximum length of a record as JSON without its frame, bytes.
const RECORD_BYTES: usize = 520;

#[derive(Debug, Default)]
pub(super) struct TraceRings {
    traces: Traces,
    rings: BTreeMap<RingId, Ring>,
}

/// Kept when the worker dies; the replacement continues in it.
#[derive(Debug)]
struct Ring {
    file: OwnedFd,
    reader: RingReader,
}

impl Ring {
    fn make() -> mcr_sys::Result<Self> {
        let file = create_ring()?;
        let reader = RingReader::map(file.as_fd())?;
        Ok(Self { file, reader })
    }
}

impl Handle<EnableTrace> for Daemon {
    fn handle(&mut self, parameters: EnableTrace, call: Call<EnableTrace>) {
        let EnableTrace { rule, sample, drops_only, max_records, max_seconds } = parameters;
        let sample = sample.map_or(1, Ranged::get);
        let options = TraceOptions {
            sample: u32::try_from(sample).unwrap_or(u32::MAX),
            drops_only: drops_only.unwrap_or_default(),
            max_records: max_records.map_or(DEFAULT_TRACE_RECORDS, Ranged::get),
            max_time: Duration::from_secs(max_seconds.map_or(DEFAULT_TRACE_S, Ranged::get)),
        };
        call.answer(self.enable_trace(&rule, options));
    }
}

impl Handle<DisableTrace> for Daemon {
    fn handle(&mut self, DisableTrace { rule }: DisableTrace, call: Call<DisableTrace>) {
        call.answer(self.disable_trace(&rule));
    }
}

impl Handle<GetTrace> for Daemon {
    fn handle(&mut self, parameters: GetTrace, call: Call<GetTrace>) {
        // Payload only for clients that could relay it elsewhere anyway.
        let frames = call.right() >= Right::Change;
        call.answer(self.get_trace(&parameters, frames));
    }
}

impl Daemon {
    /// Sends the orders that the desired traces require, and ends traces that have reached a limit. Returns whether other rules
    /// are traced, so that the machine may have work.
    pub(super) fn settle_traces(&mut self) -> bool {
        let Self { trace: TraceRings { traces, rings }, machine, executor, .. } = self;
        let running = traces.running();
        let others = running != *machine.actual().kernel.traced();
        if others {
            machine.handle(clock::monotonic(), Event::Kernel(KernelReport::Traced(running)));
        }
        if traces.is_empty() {
            return others;
        }
        let written = |ring| rings.get(&ring).map_or(0, |ring: &Ring| ring.reader.state().written);
        let workers = &machine.actual().workers;
        let actions = traces.actions(clock::monotonic(), workers, |id| machine.key_of(id), written);
        for action in actions {
            match action {
                TraceAction::Begin { ring, worker, request } => {
                    let made = match rings.remove(&ring).map_or_else(Ring::make, Ok) {
                        Ok(made) => rings.entry(ring).or_insert(made),
                        Err(error) => {
                            tracing::error!(target: WORKERS, %worker, %error, "no memory for a trace");
                            continue;
                        }
                    };
                    tracing::debug!(target: WORKERS, %worker, rule = %request.rule, "to be traced");
                    executor.tell(&worker, &ToWorker::Trace(request), &[made.file.as_fd()]);
                }
                TraceAction::End { worker, rule } => {
                    tracing::debug!(target: WORKERS, %worker, %rule, "tracing ended");
                    executor.tell(&worker, &ToWorker::EndTrace(Some(rule)), &[]);
                }
                TraceAction::Forget { trace } => rings.retain(|ring, _| ring.trace != trace),
            }
        }
        others
    }

    fn selected(&self, selector: &RuleSelector) -> Result<Rule, Failure> {
        let mut rules = self.machine.config().rules.iter();
        rules.find(|rule| selector.selects(rule)).cloned().ok_or_else(|| not_found(selector))
    }

    fn enable_trace(&mut self, selector: &RuleSelector, options: TraceOptions) -> Result<RuleReply, Failure> {
        let rule = self.selected(selector)?;
        let key = self.machine.key_of(rule.id()).ok_or_else(|| not_found(selector))?;
        self.trace.traces.enable(key, options, clock::monotonic(), utc_offset()).map_err(|_| {
            Failure::new(FailureKind::Unavailable, "the maximum number of rules is traced")
                .with_hint("end one: `mcrctl trace disable RULE`")
        })?;
        self.settle();
        tracing::info!(target: WORKERS, rule = %key.id, ?options, "trace enabled");
        Ok(RuleReply { id: rule.id() })
    }

    fn disable_trace(&mut self, selector: &RuleSelector) -> Result<RuleReply, Failure> {
        let rule = self.selected(selector)?;
        if self.trace.traces.disable(rule.id()) {
            tracing::info!(target: WORKERS, rule = %rule.id(), "trace disabled");
            self.settle();
        }
        Ok(RuleReply { id: rule.id() })
    }

    /// Returns records from a position on; `frames`: with their first bytes.
    fn get_trace(&mut self, call: &GetTrace, frames: bool) -> Result<TraceReply, Failure> {
        self.settle_traces();
        let rule = self.selected(&call.rule)?;
        let mut reply = self.reply_of(&rule);
        if let Some(trace) = self.trace.traces.of(rule.id()) {
            self.fill(&mut reply, trace, call.after.as_ref(), frames);
        }
        Ok(reply)
    }

    /// Returns the reply without records.
    fn reply_of(&self, rule: &Rule) -> TraceReply {
        let link = self.machine.network().link(rule.input.interface.as_str());
        let mut reply = TraceReply {
            id: Some(rule.id()),
            name: rule.name.clone(),
            interface: Some(rule.input.interface.clone()),
            headerless: link.is_some_and(|link| link.kind == LinkKind::NoHeader),
            ..TraceReply::default()
        };
        let Some(trace) = self.trace.traces.of(rule.id()) else { return reply };
        reply.state = if trace.ended.is_some() { TraceState::Ended } else { TraceState::Running };
        reply.ended = trace.ended.map(|ending| ending.words().to_owned());
        reply.sample = trace.options.sample.into();
        reply.drops_only = trace.options.drops_only;
        reply.max_records = trace.options.max_records;
        reply.max_seconds = trace.options.max_time.as_secs();
        for (ring, _) in trace.rings() {
            let Some(ring) = self.trace.rings.get(&ring) else { continue };
            let state = ring.reader.state();
            reply.arrivals += state.arrivals;
            reply.chosen += state.sampled;
            reply.written += state.written;
            reply.untold += state.unrecorded;
        }
        reply.next = Cursor { trace: trace.number(), next: Vec::new() }.to_string();
        reply
    }

    fn fill(&self, reply: &mut TraceReply, trace: &Trace, after: Option<&Cursor>, frames: bool) {
        let after = after.filter(|cursor| cursor.trace == trace.number());
        let from =
            |number: usize| after.and_then(|cursor| cursor.next.get(number)).copied().unwrap_or_default();
        let at_most = REPLY_BYTES / RECORD_BYTES;
        let sources: Vec<Source<'_>> = trace
            .rings()
            .map(|(ring, worker)| {
                let from = from(ring.number);
                let reading = self.trace.rings.get(&ring).map(|ring| ring.reader.read(from, at_most));
                Source { worker, from, reading: reading.unwrap_or_default(), taken: 0 }
            })
            .collect();
        let merged = merge(sources, frames);
        for (worker, record) in &merged.records {
            let output = |slot| self.output(worker, slot);
            reply.records.push(told(record, worker.core, trace.utc_offset, frames, output));
        }
        (reply.lost, reply.more) = (merged.lost, merged.more);
        reply.next = Cursor { trace: trace.number(), next: merged.next }.to_string();
    }

    fn output(&self, worker: &WorkerId, slot: OutputSlot) -> Option<TraceOutput> {
        let worker = self.machine.worker(worker)?;
        let ((_, key), _) = worker.counted_outputs().find(|(_, counted)| *counted == slot)?;
        let (group, port) = key.to;
        Some(TraceOutput { interface: key.interface.clone(), group, port })
    }
}

/// A ring's records for a reply.
struct Source<'a> {
    worker: &'a WorkerId,
    from: u64,
    reading: Reading,
    taken: usize,
}

struct Merged<'a> {
    records: Vec<(&'a WorkerId, TraceRecord)>,
    lost: u64,
    more: bool,
    next: Vec<u64>,
}

/// Merges records of all rings by time, as many as fit into a reply.
fn merge(mut sources: Vec<Source<'_>>, frames: bool) -> Merged<'_> {
    let mut records = Vec::new();
    let mut room = REPLY_BYTES;
    loop {
        let heads = sources.iter_mut().filter_map(|source| {
            let time = source.reading.records.get(source.taken)?.1.time_ns;
            Some((time, source))
        });
        let Some((_, source)) = heads.min_by_key(|(time, _)| *time) else { break };
        let Some((_, record)) = source.reading.records.get(source.taken) else { break };
        let size = RECORD_BYTES + if frames { 2 * record.frame.len() } else { 0 };
        let Some(left) = room.checked_sub(size) else { break };
        room = left;
        records.push((source.worker, record.clone()));
        source.taken += 1;
    }
    let mut merged = Merged { records, lost: 0, more: false, next: Vec::new() };
    for Source { from, reading, taken, .. } in sources {
        let next = reading.records.get(taken).map_or(reading.next, |(number, _)| *number);
        merged.lost += next.saturating_sub(from).saturating_sub(taken as u64);
        merged.more |= reading.more || taken < reading.records.len();
        merged.next.push(next);
    }
    merged
}

fn told(
    record: &TraceRecord,
    core: u16,
    utc: Duration,
    frames: bool,
    output: impl Fn(OutputSlot) -> Option<TraceOutput>,
) -> mcr_control::trace::TraceRecord {
    let (what, reason, slot, errno) = match record.event {
        TraceEvent::Received => (TraceWhat::Received, None, None, 0),
        TraceEvent::Matched => (TraceWhat::Matched, None, None, 0),
        TraceEvent::Skipped(reason) => (TraceWhat::Skipped, Some(reason.name()), None, 0),
        TraceEvent::Sent(output) => (TraceWhat::Sent, None, Some(output), 0),
        TraceEvent::Dropped { output, reason, errno } => {
            (TraceWhat::Dropped, Some(reason.name()), Some(output), errno)
        }
    };
    let known = !record.flow.destination.0.is_unspecified();
    let error = |errno: u16| std::io::Error::from_raw_os_error(errno.into()).to_string();
    mcr_control::trace::TraceRecord {
        at_ns: u64::try_from((utc + Duration::from_nanos(record.time_ns)).as_nanos()).unwrap_or_default(),
        core,
        arrival: record.arrival,
        run: record.run,
        what,
        reason: reason.map(str::to_owned),
        errno: (errno != 0).then_some(errno),
        error: (errno != 0).then(|| error(errno)),
        output: slot.and_then(output),
        datagrams: record.segments,
        bytes: record.bytes,
        segment_bytes: record.segment_bytes,
        source: known.then(|| record.flow.source.into()),
        destination: known.then(|| record.flow.destination.into()),
        ttl: record.ttl,
        dscp: record.dscp,
        frame_bytes: record.frame_bytes,
        frame: (frames && !record.frame.is_empty()).then(|| hexadecimal(&record.frame)),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
