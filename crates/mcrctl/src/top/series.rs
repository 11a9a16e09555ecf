//! The rates of everything on the screen: those of rules as the daemon tells them, the others from series of counters.

use std::collections::BTreeMap;

use mcr_control::reply::RuleStats;
use mcr_rules::RuleId;

use super::snapshot::Snapshot;
use crate::rates::{Meters, Series, Window};
use crate::render::place;

/// Why datagrams did not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Due on an output and not sent.
    Drop,
    /// Received and not matched.
    Skip,
    /// Lost before a worker saw them.
    Kernel,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Skip => "skip",
            Self::Kernel => "kernel",
        }
    }
}

/// What [`Kind::Kernel`] calls its only reason.
pub(super) const KERNEL_REASON: &str = "kernel_drops";

/// An output of a rule: its place in the list, and where it sends.
pub(super) type OutputKey = (RuleId, usize, String);
/// A worker: interface and core.
pub(super) type WorkerKey = (String, u16);

/// Of a rule or an output.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Flow {
    /// Datagrams per second.
    pub datagrams: f64,
    /// Bits per second.
    pub bits: f64,
    /// Datagrams dropped per second.
    pub drops: f64,
}

impl Flow {
    fn of([datagrams, bytes, drops]: [f64; 3]) -> Self {
        Self { datagrams, bits: bytes * 8.0, drops }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            datagrams: self.datagrams + other.datagrams,
            bits: self.bits + other.bits,
            drops: self.drops + other.drops,
        }
    }
}

/// Of a worker, per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct WorkerFlow {
    pub received: f64,
    pub sent: f64,
    /// Frames that the kernel dropped.
    pub lost: f64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    rules: Meters<RuleId, 3>,
    /// Datagrams and bits per second of each rule, as `GetStats` tells them.
    told: BTreeMap<RuleId, [f64; 2]>,
    outputs: Meters<OutputKey, 3>,
    workers: Meters<WorkerKey, 3>,
    processors: Meters<u32, 1>,
    reasons: Meters<(Kind, String), 1>,
}

impl Measured {
    /// Takes a sample of everything.
    pub(super) fn sample(&mut self, snapshot: &Snapshot) {
        let (at, stats) = (snapshot.at, &snapshot.stats);
        self.told = stats.rules.iter().map(|rule| (rule.id, [rule.pps, rule.bps])).collect();
        self.rules.sample(at, stats.rules.iter().map(|rule| (rule.id, counts(rule))));
        let outputs = stats.rules.iter().flat_map(|rule| {
            rule.outputs.iter().enumerate().map(|(n, output)| {
                let key = (rule.id, n, place(&output.interface, output.group, output.port));
                (key, [output.packets, output.bytes, output.errors])
            })
        });
        self.outputs.sample(at, outputs);
        let workers = stats.workers.iter().map(|worker| {
            let key = (worker.place(), worker.core);
            (key, [worker.received, worker.sent, worker.kernel_drops])
        });
        self.workers.sample(at, workers);
        self.processors.sample(at, snapshot.processor_ns.iter().map(|(pid, ns)| (*pid, [*ns])));
        self.reasons.sample(at, reasons(snapshot).into_iter().map(|(key, count)| (key, [count])));
    }

    pub(super) fn rule(&self, id: RuleId, window: Window) -> Option<Flow> {
        let counted = self.rules.over(&id, window).map(Flow::of)?;
        let [datagrams, bits] = *self.told.get(&id)?;
        Some(match window {
            Window::Second => Flow { datagrams, bits, ..counted },
            // The daemon's rates are of a second.
            Window::TenSeconds => counted,
        })
    }

    /// Datagrams per second at each sample, oldest first.
    pub(super) fn rule_trend(&self, id: RuleId) -> Vec<f64> {
        self.rules.of(&id).map(|series| series.trend(0)).unwrap_or_default()
    }

    pub(super) fn output(&self, key: &OutputKey, window: Window) -> Option<Flow> {
        self.outputs.over(key, window).map(Flow::of)
    }

    /// All outputs of a rule together.
    pub(super) fn outputs_of(&self, rule: &RuleStats, window: Window) -> Option<Flow> {
        let keys = rule.outputs.iter().enumerate();
        let keys = keys.map(|(n, output)| (rule.id, n, place(&output.interface, output.group, output.port)));
        sum(keys.map(|key| self.output(&key, window)))
    }

    pub(super) fn worker(&self, key: &WorkerKey, window: Window) -> Option<WorkerFlow> {
        let [received, sent, lost] = self.workers.over(key, window)?;
        Some(WorkerFlow { received, sent, lost })
    }

    /// The share of a core that a process used, percent.
    pub(super) fn processor(&self, pid: u32, window: Window) -> Option<f64> {
        self.processors.over(&pid, window).map(|[ns]| percent(ns))
    }

    /// The same at each sample, oldest first.
    pub(super) fn processor_trend(&self, pid: u32) -> Vec<f64> {
        let trend = self.processors.of(&pid).map(|series| series.trend(0)).unwrap_or_default();
        trend.into_iter().map(percent).collect()
    }

    pub(super) fn reason(&self, kind: Kind, reason: &str) -> Option<&Series<1>> {
        self.reasons.of(&(kind, reason.to_owned()))
    }

    /// What arrives for all rules, and what all outputs send and drop.
    pub(super) fn totals(&self, snapshot: &Snapshot, window: Window) -> Option<(Flow, Flow)> {
        let rules = &snapshot.stats.rules;
        let arriving = sum(rules.iter().map(|rule| self.rule(rule.id, window)))?;
        Some((arriving, sum(rules.iter().map(|rule| self.outputs_of(rule, window)))?))
    }

    /// Datagrams (or frames, of the kernel) per second of all reasons of a kind.
    pub(super) fn kind(&self, snapshot: &Snapshot, kind: Kind, window: Window) -> Option<f64> {
        let keys = reasons(snapshot).into_iter().map(|(key, _)| key).filter(|(of, _)| *of == kind);
        keys.map(|key| self.reasons.over(&key, window).map(|[rate]| rate)).sum()
    }
}

/// Datagrams, bytes, drops on all outputs.
fn counts(rule: &RuleStats) -> [u64; 3] {
    [rule.packets, rule.bytes, rule.outputs.iter().map(|output| output.errors).sum()]
}

/// The sum of those that are known; `None` if none is, though there are some.
fn sum(flows: impl Iterator<Item = Option<Flow>>) -> Option<Flow> {
    let (mut known, mut unknown, mut total) = (false, false, Flow::default());
    for flow in flows {
        known |= flow.is_some();
        unknown |= flow.is_none();
        total = total.and(flow.unwrap_or_default());
    }
    (known || !unknown).then_some(total)
}

fn percent(nanoseconds_per_second: f64) -> f64 {
    nanoseconds_per_second / 1e7
}

/// Every reason and how often it was one since the daemon started.
pub(super) fn reasons(snapshot: &Snapshot) -> Vec<((Kind, String), u64)> {
    let stats = &snapshot.stats;
    let of = |kind: Kind, reasons: &std::collections::BTreeMap<String, u64>| {
        reasons.iter().map(|(reason, count)| ((kind, reason.clone()), *count)).collect::<Vec<_>>()
    };
    let present: u64 = stats.workers.iter().map(|worker| worker.kernel_drops).sum();
    let lost = present.saturating_add(stats.past_workers.kernel_drops);
    let mut all = of(Kind::Drop, &stats.drops);
    all.push(((Kind::Kernel, KERNEL_REASON.to_owned()), lost));
    all.extend(of(Kind::Skip, &stats.skips));
    all
}
