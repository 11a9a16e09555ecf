//! Which rules are traced, on which workers, and until when. A trace is desired state; the actions bring the workers
//! to it: a worker that is started or replaced gets its order as soon as it has the rule.
//!
//! ```text
//!  enable ─▶ running ── seconds, records, disable ─▶ ended ── rule removed, enabled again ─▶ forgotten
//!              └─ Begin for each worker that has the rule       └─ End for each that got a Begin
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mcr_link::trace::{MAX_TRACES, TraceRequest};
use mcr_rules::RuleId;

use crate::core::actual::{ActualWorker, Process};
use crate::core::plan::{RuleKey, WorkerId};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceOptions {
    /// One out of this number of datagrams is traced.
    pub(crate) sample: u32,
    /// Only skipped or dropped datagrams.
    pub(crate) drops_only: bool,
    /// It ends after this number of records.
    pub(crate) max_records: u64,
    /// It ends after this time.
    pub(crate) max_time: Duration,
}

/// Why a trace ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// A client ended it.
    Disabled,
    Time,
    Records,
}

impl Ending {
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Time => "limit of seconds reached",
            Self::Records => "limit of records reached",
        }
    }
}

/// A ring: which trace, and which of its workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RingId {
    /// Which trace; never reused.
    pub(crate) trace: u64,
    /// Which of its rings.
    pub(crate) number: usize,
}

/// A worker that has the rule while it is traced, or had it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    worker: WorkerId,
    /// The process that got the order.
    told: Option<u32>,
}

/// A rule that is or was traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    key: RuleKey,
    number: u64,
    pub(crate) options: TraceOptions,
    since: Duration,
    /// Offset from the monotonic clock to the time of day, the same for all its records.
    pub(crate) utc_offset: Duration,
    /// Why it ended, if it has.
    pub(crate) ended: Option<Ending>,
    places: Vec<Place>,
}

impl Trace {
    pub(crate) fn rings(&self) -> impl Iterator<Item = (RingId, &WorkerId)> {
        let ring = |number| RingId { trace: self.number, number };
        self.places.iter().enumerate().map(move |(number, place)| (ring(number), &place.worker))
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TraceAction {
    /// Order a worker to write into a ring, which is created if it does not exist.
    Begin {
        ring: RingId,
        worker: WorkerId,
        /// What to write.
        request: TraceRequest,
    },
    /// Order a worker to stop.
    End { worker: WorkerId, rule: RuleId },
    /// Drop all rings of a trace.
    Forget { trace: u64 },
}

/// The maximum number of rules is traced already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

#[derive(Debug, Default)]
pub(crate) struct Traces {
    last: u64,
    of: BTreeMap<RuleId, Trace>,
    forgotten: Vec<TraceAction>,
}

impl Traces {
    /// Starts the trace of a rule, or restarts it. The oldest ended trace is dropped if there is no room.
    pub(crate) fn enable(
        &mut self,
        key: RuleKey,
        options: TraceOptions,
        now: Duration,
        utc_offset: Duration,
    ) -> Result<(), TooMany> {
        self.forget(key.id);
        if self.of.len() >= MAX_TRACES {
            let ended = self.of.iter().filter(|(_, trace)| trace.ended.is_some());
            let oldest = ended.min_by_key(|(_, trace)| trace.number).map(|(id, _)| *id).ok_or(TooMany)?;
            self.forget(oldest);
        }
        self.last += 1;
        let trace = Trace {
            key,
            number: self.last,
            options,
            since: now,
            utc_offset,
            ended: None,
            places: Vec::new(),
        };
        self.of.insert(key.id, trace);
        Ok(())
    }

    /// Ends the trace of a rule. Returns whether it was running.
    pub(crate) fn disable(&mut self, rule: RuleId) -> bool {
        let running = self.of.get_mut(&rule).filter(|trace| trace.ended.is_none());
        running.map(|trace| trace.ended = Some(Ending::Disabled)).is_some()
    }

    /// The trace of a rule, if it has or had one.
    pub(crate) fn of(&self, rule: RuleId) -> Option<&Trace> {
        self.of.get(&rule)
    }

    /// Rules whose trace has not ended: workers relay them, since the kernel does not trace.
    pub(crate) fn running(&self) -> BTreeSet<RuleId> {
        let running = self.of.iter().filter(|(_, trace)| trace.ended.is_none());
        running.map(|(rule, _)| *rule).collect()
    }

    /// Whether there are neither traces nor pending actions.
    pub(crate) fn is_empty(&self) -> bool {
        self.of.is_empty() && self.forgotten.is_empty()
    }

    fn forget(&mut self, rule: RuleId) {
        let Some(mut trace) = self.of.remove(&rule) else { return };
        trace.end_everywhere(&mut self.forgotten);
        self.forgotten.push(TraceAction::Forget { trace: trace.number });
    }

    /// Returns the next actions. `incarnation` returns the present rule with an id, `written` the number of records
    /// in a ring.
    pub(crate) fn actions(
        &mut self,
        now: Duration,
        workers: &BTreeMap<WorkerId, ActualWorker>,
        incarnation: impl Fn(RuleId) -> Option<RuleKey>,
        written: impl Fn(RingId) -> u64,
    ) -> Vec<TraceAction> {
        let gone: Vec<RuleId> = self
            .of
            .values()
            .filter(|trace| incarnation(trace.key.id) != Some(trace.key))
            .map(|t| t.key.id)
            .collect();
        gone.into_iter().for_each(|rule| self.forget(rule));
        let mut actions = std::mem::take(&mut self.forgotten);
        for trace in self.of.values_mut() {
            if trace.ended.is_none() {
                let records: u64 = trace.rings().map(|(ring, _)| written(ring)).sum();
                if records >= trace.options.max_records {
                    trace.ended = Some(Ending::Records);
                } else if now.saturating_sub(trace.since) >= trace.options.max_time {
                    trace.ended = Some(Ending::Time);
                }
            }
            if trace.ended.is_some() {
                trace.end_everywhere(&mut actions);
            } else {
                trace.begin_where_needed(workers, &mut actions);
            }
        }
        actions
    }
}

impl Trace {
    fn end_everywhere(&mut self, actions: &mut Vec<TraceAction>) {
        for place in &mut self.places {
            if place.told.take().is_some() {
                actions.push(TraceAction::End { worker: place.worker.clone(), rule: self.key.id });
            }
        }
    }

    fn begin_where_needed(
        &mut self,
        workers: &BTreeMap<WorkerId, ActualWorker>,
        actions: &mut Vec<TraceAction>,
    ) {
        let TraceOptions { sample, drops_only, max_records, .. } = self.options;
        let request = TraceRequest { rule: self.key.id, sample, drops_only, max_records };
        for (worker, actual) in workers {
            let Some(pid) = who_has(actual, self.key.id) else { continue };
            let known = self.places.iter().position(|place| place.worker == *worker);
            let number = known.unwrap_or_else(|| {
                self.places.push(Place { worker: worker.clone(), told: None });
                self.places.len() - 1
            });
            let Some(place) = self.places.get_mut(number) else { continue };
            if place.told.replace(pid) != Some(pid) {
                let ring = RingId { trace: self.number, number };
                actions.push(TraceAction::Begin { ring, worker: worker.clone(), request });
            }
        }
    }
}

/// The process of a worker that has the rule in force.
fn who_has(worker: &ActualWorker, rule: RuleId) -> Option<u32> {
    let Process::Running { pid, .. } = worker.process else { return None };
    let rules = &worker.applied.as_ref()?.set.rules;
    rules.binary_search_by_key(&rule, |rule| rule.id).ok().map(|_| pid)
}

#[cfg(test)]
mod tests;
