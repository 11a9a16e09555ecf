//! The actual state of one worker.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use mcr_link::message::IoBackend;
use mcr_link::rule_set::{EgressId, OutputSlot, RuleSet, RuleSlot, SharedRule};
use mcr_link::telemetry::{MAX_OUTPUTS, MAX_RULES};
use mcr_sys::process::Signal;
use serde::{Deserialize, Serialize};

use super::{Failure, Released};
use crate::core::filter_set::FilterSet;
use crate::core::health::{Expected, Finding, Health, Observation};
use crate::core::plan::{EgressKey, OutputKey, PlannedInterface, PlannedRelay, RuleKey, WorkerSettings};
use crate::core::restart::Restart;
use crate::core::slots::Slots;

/// A worker that does not exit within this time after the request is killed.
pub(crate) const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// A worker's capture socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Capture {
    /// Not open, or not yet.
    Closed(Option<Failure>),
    Open {
        filter: FilterSet,
        /// Why a new filter could not be attached.
        failure: Option<Failure>,
        /// The requested size of its receive buffer; `None` if unknown.
        receive_buffer_bytes: Option<u32>,
    },
}

/// What a worker reported when it became ready.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Readied {
    /// Its I/O backend.
    pub(crate) io: IoBackend,
    pub(crate) uid: u32,
    /// Settings that it could not apply, and why.
    pub(crate) notes: Vec<String>,
    /// The layers of its sandbox.
    #[serde(default)]
    pub(crate) sandbox: Vec<String>,
    /// The layers that it lacks, and why.
    #[serde(default)]
    pub(crate) sandbox_notes: Vec<String>,
}

/// How a worker's process exited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Death {
    /// Human-readable.
    pub(crate) how: String,
    /// Its system call filter killed it.
    pub(crate) by_sandbox: bool,
}

/// The reason of a death by SIGSYS.
const KILLED_BY_SANDBOX: &str = "its sandbox killed it (SIGSYS): it made a system call that a worker never makes. It may have been \
                                 compromised, or this is a fault of MCR; the kernel's audit log has the number of the call";

impl Death {
    /// A death for another reason than the sandbox.
    pub(crate) fn of(how: impl Into<String>) -> Self {
        Self { how: how.into(), by_sandbox: false }
    }

    /// A death with this exit status; `None` if the kernel does not tell.
    pub(crate) fn with(status: Option<ExitStatus>) -> Self {
        match status {
            Some(status) if status.signal() == Some(Signal::SYS.as_raw()) => {
                Self { how: KILLED_BY_SANDBOX.to_owned(), by_sandbox: true }
            }
            Some(status) => Self::of(format!("it ended with {status}")),
            None => Self::of(
                "it ended; how is not known: an earlier mcrd started it, and the kernel does not tell this one",
            ),
        }
    }

    /// The same, at a time when no supervisor was there.
    pub(crate) fn while_away(self) -> Self {
        Self { how: format!("while mcrd was away, {}", self.how), ..self }
    }
}

/// A worker's process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Process {
    /// No process: not started yet, or dead.
    None,
    /// Started, not ready yet.
    Starting { pid: u32, since: Duration },
    Running {
        pid: u32,
        since: Duration,
        ready_at: Duration,
        /// What it reported then.
        readied: Readied,
    },
    /// Asked to exit, or killed.
    Ending {
        pid: u32,
        since: Duration,
        /// When to kill it if it has not exited; `None` if that was done.
        kill_at: Option<Duration>,
        /// When it became ready; `None` if it never did.
        ready_at: Option<Duration>,
    },
}

impl Process {
    /// The process id, if there is a process.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Self::None => None,
            Self::Starting { pid, .. } | Self::Running { pid, .. } | Self::Ending { pid, .. } => Some(*pid),
        }
    }

    /// When it became ready, if it did.
    pub(crate) fn ready_at(&self) -> Option<Duration> {
        match self {
            Self::None | Self::Starting { .. } => None,
            Self::Running { ready_at, .. } => Some(*ready_at),
            Self::Ending { ready_at, .. } => *ready_at,
        }
    }

    /// When it was started, if there is a process.
    pub(crate) fn since(&self) -> Option<Duration> {
        match self {
            Self::None => None,
            Self::Starting { since, .. } | Self::Running { since, .. } | Self::Ending { since, .. } => {
                Some(*since)
            }
        }
    }
}

/// A rule set sent to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SentRuleSet {
    pub(crate) set: Arc<RuleSet>,
    pub(crate) hash: u64,
    /// The hash that the worker's table must have.
    pub(crate) table_hash: u64,
    /// The egress sockets that it references.
    pub(crate) named: BTreeSet<EgressId>,
    /// What the capture filter must accept for it.
    pub(crate) wanted: FilterSet,
    /// When it was sent.
    pub(crate) at: Duration,
    /// Only the difference from the set in force was sent.
    pub(crate) as_change: bool,
}

/// What is known of a rule set that an earlier supervisor sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Adopted {
    /// Generation and content hash of the set in force, if no other set can be in force.
    pub(crate) set: Option<(u64, u64)>,
    /// What the capture filter must accept for any set that may be in force.
    pub(crate) wanted: FilterSet,
}

/// A rule of the most recently built set, and what it was built from.
#[derive(Clone, Debug)]
pub(in crate::core) struct MadeRule {
    pub(in crate::core) relay: Arc<PlannedRelay>,
    /// `None` if the page had no free slot for it.
    pub(in crate::core) rule: Option<SharedRule>,
    /// It has everything it needs: rebuilding it would give the same rule.
    pub(in crate::core) complete: bool,
}

/// What a rule set was built from: the interface's plan (`None` for no rules) and the state of the egress sockets.
pub(in crate::core) type MadeFrom = (Option<Arc<PlannedInterface>>, u64);

/// One worker: its sockets, its process, and what was sent to it.
#[derive(Clone, Debug)]
pub(crate) struct ActualWorker {
    pub(crate) capture: Capture,
    pub(crate) process: Process,
    /// When a dead process may be replaced.
    pub(crate) restart: Restart,
    /// Number of processes that died.
    pub(crate) restarts: u64,
    /// Of these, by their sandbox.
    pub(crate) sandbox_kills: u64,
    /// How the last one died, or why starting one failed.
    pub(crate) last_failure: Option<String>,
    /// Whether its loop runs, with the right rules.
    pub(crate) health: Health,
    /// When the last process died; cleared once its replacement has its rules.
    pub(crate) died_at: Option<Duration>,
    /// Time from the last death until the replacement had its rules.
    pub(crate) recovery: Option<Duration>,
    /// Egress sockets that the process has.
    pub(crate) egress: BTreeMap<EgressKey, EgressId>,
    /// Egress sockets that could not be opened.
    pub(crate) egress_failures: BTreeMap<EgressKey, Failure>,
    /// The rule set that was sent and not answered yet.
    pub(crate) in_flight: Option<SentRuleSet>,
    /// The rule set in force.
    pub(crate) applied: Option<SentRuleSet>,
    /// What an earlier supervisor sent; empty once the worker is known to have the set that this one wants.
    pub(crate) adopted: Adopted,
    /// Content hash of the last refused set, and why it was refused.
    pub(crate) refusal: Option<(u64, Failure)>,
    /// Since when it has been without rules.
    pub(crate) idle_since: Option<Duration>,
    /// It is being removed for good.
    pub(crate) leaving: bool,
    /// Its interface was removed or renamed.
    pub(crate) orphaned: bool,
    /// What its process was started with; `None` without a process, or if an older program started it.
    pub(crate) settings: Option<WorkerSettings>,
    /// Its process runs a different program than a replacement would.
    pub(crate) old_program: bool,
    /// Its process was asked to exit in order to be replaced; not a failure.
    pub(crate) retiring: bool,
    pub(in crate::core) generation: u64,
    pub(in crate::core) next_egress: u32,
    pub(in crate::core) egress_revision: u64,
    pub(in crate::core) made_from: Option<MadeFrom>,
    /// The rules of the most recently built set; `None` if the next one can't share any.
    pub(in crate::core) made: Option<Vec<MadeRule>>,
    pub(in crate::core) out_of_slots: bool,
    pub(in crate::core) rule_slots: Slots<RuleKey>,
    pub(in crate::core) output_slots: Slots<(RuleKey, OutputKey)>,
}

impl Default for ActualWorker {
    fn default() -> Self {
        Self {
            capture: Capture::Closed(None),
            process: Process::None,
            restart: Restart::default(),
            restarts: 0,
            sandbox_kills: 0,
            last_failure: None,
            health: Health::default(),
            died_at: None,
            recovery: None,
            egress: BTreeMap::new(),
            egress_failures: BTreeMap::new(),
            in_flight: None,
            applied: None,
            adopted: Adopted::default(),
            refusal: None,
            idle_since: None,
            leaving: false,
            orphaned: false,
            settings: None,
            old_program: false,
            retiring: false,
            generation: 0,
            next_egress: 0,
            egress_revision: 0,
            made_from: None,
            made: None,
            out_of_slots: false,
            rule_slots: Slots::new(MAX_RULES),
            output_slots: Slots::new(MAX_OUTPUTS),
        }
    }
}

impl ActualWorker {
    /// Whether the worker has applied the newest rule set, built from this plan.
    pub(crate) fn is_current(&self, interface: Option<&Arc<PlannedInterface>>) -> bool {
        let made_for_this = self.made_from.as_ref().is_some_and(|(made, revision)| {
            *revision == self.egress_revision && same_plan(made.as_ref(), interface)
        });
        made_for_this && self.in_flight.is_none() && self.applied.is_some() && self.refusal.is_none()
    }

    /// Why the worker refuses the newest rule set, built from this plan; `None` if it has not refused it.
    pub(crate) fn refuses(&self, interface: Option<&Arc<PlannedInterface>>) -> Option<&Failure> {
        let made_for_this =
            self.made_from.as_ref().is_some_and(|(made, _)| same_plan(made.as_ref(), interface));
        let (_, failure) = self.refusal.as_ref().filter(|_| made_for_this && self.in_flight.is_none())?;
        Some(failure)
    }

    /// Whether its process runs a different program or other settings than a replacement would; it is replaced in
    /// turn.
    pub(in crate::core) fn is_outdated(&self, interface: Option<&PlannedInterface>) -> bool {
        let planned = interface.map(|interface| interface.settings);
        self.old_program
            || self.settings.zip(planned).is_some_and(|(settings, planned)| !settings.are_like(planned))
    }

    /// Every rule slot that the worker may count in.
    pub(crate) fn counted_rules(&self) -> impl Iterator<Item = (RuleKey, RuleSlot)> {
        self.rule_slots.counting().map(|(key, slot)| (*key, RuleSlot(slot)))
    }

    /// Number of its page's rule and output slots that were ever used.
    pub(crate) fn used_slots(&self) -> [u32; 2] {
        [self.rule_slots.used(), self.output_slots.used()]
    }

    /// Every output slot that the worker may count in.
    pub(crate) fn counted_outputs(&self) -> impl Iterator<Item = (&(RuleKey, OutputKey), OutputSlot)> {
        self.output_slots.counting().map(|(key, slot)| (key, OutputSlot(slot)))
    }

    /// Records that the process is about to be asked to exit. Returns whether there is a process to ask.
    pub(in crate::core) fn leave(&mut self, now: Duration) -> bool {
        let ready_at = self.process.ready_at();
        let (Process::Starting { pid, since } | Process::Running { pid, since, .. }) = self.process else {
            return false;
        };
        self.process = Process::Ending { pid, since, kill_at: Some(now + STOP_DEADLINE), ready_at };
        true
    }

    pub(super) fn hurry_capture(&mut self) {
        let (Capture::Closed(failure) | Capture::Open { failure, .. }) = &mut self.capture;
        if let Some(failure) = failure {
            failure.restart.retry_now();
        }
    }

    /// Its process is ready.
    pub(in crate::core) fn ready(&mut self, readied: Readied, now: Duration) {
        if let Process::Starting { pid, since } = self.process {
            self.process = Process::Running { pid, since, ready_at: now, readied };
        }
    }

    /// Its process ended. Its state is dropped, except telemetry slots and capture socket, which the replacement
    /// inherits.
    pub(in crate::core) fn died(&mut self, death: Death, now: Duration) {
        let Death { how, by_sandbox } = death;
        self.sandbox_kills += u64::from(by_sandbox);
        let worked_since = self.process.ready_at();
        let killed = matches!(self.process, Process::Ending { kill_at: None, .. });
        (self.settings, self.old_program) = (None, false);
        if !self.leaving && !std::mem::take(&mut self.retiring) {
            self.restart.failed(now, worked_since);
            self.restarts += 1;
            self.died_at.get_or_insert(now);
            // What the worker reported before it exited, or why it was killed, is more specific than its exit status.
            let told = self.last_failure.take().filter(|_| !by_sandbox && (killed || worked_since.is_none()));
            self.last_failure = Some(told.unwrap_or(how));
        }
        self.health.renew();
        self.process = Process::None;
        self.egress.clear();
        self.egress_failures.clear();
        self.next_egress = 0;
        self.in_flight = None;
        self.applied = None;
        self.adopted = Adopted::default();
        self.refusal = None;
        self.made_from = None;
        self.made = None;
    }

    /// Its telemetry page was read, when it was due if `on_time`.
    pub(in crate::core) fn check(
        &mut self,
        seen: &Observation,
        on_time: bool,
        now: Duration,
    ) -> Option<Finding> {
        let Process::Running { ready_at, .. } = self.process else { return None };
        let expected = Expected {
            ready_at,
            applying: self.in_flight.as_ref().map(|sent| sent.set.rules.len()),
            table: self.applied.as_ref().map(|sent| (sent.set.generation, sent.table_hash)),
        };
        self.health.check(seen, &expected, on_time, now)
    }

    /// It applied a rule set. Returns the slots that are no longer counted in. An unrequested generation is ignored.
    pub(in crate::core) fn applied(&mut self, generation: u64, hash: u64, now: Duration) -> Released {
        let Some(sent) = self.in_flight.take_if(|h| h.set.generation == generation && h.hash == hash) else {
            return Released::default();
        };
        self.egress.retain(|_, egress| sent.named.contains(egress));
        self.applied = Some(sent);
        self.adopted = Adopted::default();
        if let Some(died_at) = self.died_at.take() {
            self.recovery = Some(now.saturating_sub(died_at));
        }
        self.refusal = None;
        let released = self.acknowledged(generation);
        if self.out_of_slots && !(released.rules.is_empty() && released.outputs.is_empty()) {
            self.made_from = None;
        }
        released
    }

    /// It counts by this generation, and no longer in slots that only older ones used.
    pub(in crate::core) fn acknowledged(&mut self, generation: u64) -> Released {
        let rules = self.rule_slots.acknowledged(generation);
        let outputs = self.output_slots.acknowledged(generation);
        Released {
            rules: rules.into_iter().map(|(key, slot)| (key, RuleSlot(slot))).collect(),
            outputs: outputs.into_iter().map(|(key, slot)| (key, OutputSlot(slot))).collect(),
        }
    }

    /// It refused a rule set; the one before stays in force.
    pub(in crate::core) fn refused(&mut self, generation: u64, reason: String, now: Duration) {
        if let Some(sent) = self.in_flight.take_if(|h| h.set.generation == generation) {
            if sent.as_change {
                // It may have lost the base set of the change; send the whole set.
                self.made_from = None;
                self.health.resend = true;
                return;
            }
            let before = self.refusal.take().map(|(_, failure)| failure);
            self.refusal = Some((sent.hash, Failure::again(before, reason, now)));
            // It may lack the sockets sent for this set, if it reached its descriptor limit.
            let in_force = self.applied.as_ref().map(|applied| &applied.named);
            self.egress.retain(|_, egress| in_force.is_some_and(|named| named.contains(egress)));
            self.made = None;
        }
    }
}

/// Unchanged plans keep their allocation, so most comparisons are a pointer comparison.
pub(in crate::core) fn same_plan(
    one: Option<&Arc<PlannedInterface>>,
    other: Option<&Arc<PlannedInterface>>,
) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(one, other) || one == other,
        _ => false,
    }
}
