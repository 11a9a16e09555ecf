//! What the daemon said at one time.

use std::collections::BTreeMap;
use std::time::Duration;

use mcr_control::event::Event;
use mcr_control::explanation::Explanation;
use mcr_control::reply::{
    FlowsReply, InterfacesReply, MembershipsReply, RuleStatus, RulesReply, StatsReply, StatusReply,
    WorkersReply,
};
use mcr_control::trace::TraceRecord;
use mcr_rules::RuleId;

/// All replies of one round.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    /// When the counters were read, by the monotonic clock.
    pub at: Duration,
    /// The same by the host's clock, seconds since 1970.
    pub wall: u64,
    /// The daemon's version.
    pub version: String,
    pub status: StatusReply,
    pub rules: RulesReply,
    pub workers: WorkersReply,
    pub stats: StatsReply,
    pub interfaces: InterfacesReply,
    pub memberships: MembershipsReply,
    pub flows: FlowsReply,
    /// Processor time of the workers' processes, nanoseconds, by process id; those that /proc tells.
    pub processor_ns: BTreeMap<u32, u64>,
}

impl Snapshot {
    /// One rule.
    pub(super) fn rule(&self, id: RuleId) -> Option<&RuleStatus> {
        self.rules.rules.iter().find(|rule| rule.id == id)
    }
}

/// Asks why a rule relays or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub rule: RuleId,
    /// Whether to look at what arrives for a while, not only at what was counted.
    pub listen: bool,
}

/// What is known of a rule's explanation.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    /// It was asked for.
    Asked { listen: bool },
    /// The daemon explained; when, seconds since 1970, and how long it had listened, milliseconds.
    Received { wall: u64, listened_ms: u64, explanation: Box<Explanation> },
    /// It did not; why.
    Failed(String),
}

/// What is known of a rule's trace.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Traced {
    /// It was asked for.
    Asked,
    /// Its newest records, what is to be said under them, and whether more may come.
    Received { records: Vec<TraceRecord>, summary: String, running: bool },
    /// There is none; why.
    Failed(String),
}

/// What the feed tells.
#[derive(Clone, Debug)]
pub(super) enum Report {
    /// The daemon answered.
    Snapshot(Box<Snapshot>),
    /// It did not; seconds since 1970, and why.
    Lost { wall: u64, why: String },
    /// Something happened.
    Event(Box<Event>),
    /// What it answered to a question.
    Explained { rule: RuleId, answer: Answer },
    /// What a rule's trace has so far.
    Traced { rule: RuleId, traced: Traced },
}
