//! One worker, as far as the shell has told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mcr_link::message::IoBackend;
use mcr_link::rule_set::{EgressId, OutputSlot, RuleSet, RuleSlot, SharedRule};
use mcr_link::telemetry::{MAX_OUTPUTS, MAX_RULES};

use super::{Failure, Released};
use crate::core::filter_set::FilterSet;
use crate::core::health::{Expected, Finding, Health, Observation};
use crate::core::plan::{EgressKey, OutputKey, PlannedInterface, PlannedRelay, RuleKey, WorkerSettings};
use crate::core::restart::Restart;
use crate::core::slots::Slots;

/// A worker that does not end after this time is killed.
pub(crate) const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// A worker's capture socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Capture {
    /// Not open (yet).
    Closed(Option<Failure>),
    /// Open.
    Open {
        /// What its filter lets through.
        filter: FilterSet,
        /// Why another filter could not be attached.
        failure: Option<Failure>,
        /// The size of its queue that the kernel was asked for; `None` if it is not known.
        receive_buffer_bytes: Option<u32>,
    },
}

/// What a worker said when it was set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Readied {
    /// How it receives and sends.
    pub(crate) io: IoBackend,
    /// The uid it runs as.
    pub(crate) uid: u32,
    /// What it could not do as wanted, and why.
    pub(crate) notes: Vec<String>,
}

/// A worker's process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Process {
    /// None: not started yet, or dead.
    None,
    /// Started, not ready.
    Starting {
        /// Process id.
        pid: u32,
        /// When it was started.
        since: Duration,
    },
    /// Ready.
    Running {
        /// Process id.
        pid: u32,
        /// When it was started.
        since: Duration,
        /// When it was ready.
        ready_at: Duration,
        /// What it said then.
        readied: Readied,
    },
    /// Told to end, or killed.
    Ending {
        /// Process id.
        pid: u32,
        /// When it was started.
        since: Duration,
        /// When it is killed if it has not ended; `None` if it was killed already.
        kill_at: Option<Duration>,
        /// When it was ready; `None` if it never was.
        ready_at: Option<Duration>,
    },
}

impl Process {
    /// The process id, if there is a process.
    #[must_use]
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Self::None => None,
            Self::Starting { pid, .. } | Self::Running { pid, .. } | Self::Ending { pid, .. } => Some(*pid),
        }
    }

    /// When it was ready, if it was.
    #[must_use]
    pub(crate) fn ready_at(&self) -> Option<Duration> {
        match self {
            Self::None | Self::Starting { .. } => None,
            Self::Running { ready_at, .. } => Some(*ready_at),
            Self::Ending { ready_at, .. } => *ready_at,
        }
    }

    /// When it was started, if there is a process.
    #[must_use]
    pub(crate) fn since(&self) -> Option<Duration> {
        match self {
            Self::None => None,
            Self::Starting { since, .. } | Self::Running { since, .. } | Self::Ending { since, .. } => {
                Some(*since)
            }
        }
    }
}

/// A rule set that a worker was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Handed {
    /// The set.
    pub(crate) set: Arc<RuleSet>,
    /// Its content hash.
    pub(crate) hash: u64,
    /// The hash that the worker's table must have.
    pub(crate) table_hash: u64,
    /// The egress sockets that it names.
    pub(crate) named: BTreeSet<EgressId>,
    /// What the capture filter must let through for it.
    pub(crate) wanted: FilterSet,
    /// When it was sent.
    pub(crate) at: Duration,
    /// Only what differs from the set in force was sent.
    pub(crate) as_change: bool,
}

/// What is known of a worker's rule set that an earlier supervisor gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Adopted {
    /// Generation and content hash of the set in force, if nothing else can be.
    pub(crate) set: Option<(u64, u64)>,
    /// What the capture filter must let through for any set that may be in force.
    pub(crate) wanted: FilterSet,
}

/// A rule of the set that was made last, and what it was made from.
#[derive(Clone, Debug)]
pub(in crate::core) struct MadeRule {
    pub(in crate::core) relay: Arc<PlannedRelay>,
    /// `None` if the page had no place for it.
    pub(in crate::core) rule: Option<SharedRule>,
    /// It has all that it needs: made again, it would be the same.
    pub(in crate::core) complete: bool,
}

/// What a rule set was made from: the interface's plan (`None` for no rules) and the state of the egress sockets.
pub(in crate::core) type MadeFrom = (Option<Arc<PlannedInterface>>, u64);

/// One worker: its sockets, its process, and what that has been told.
#[derive(Clone, Debug)]
pub(crate) struct ActualWorker {
    /// Its capture socket.
    pub(crate) capture: Capture,
    /// Its process.
    pub(crate) process: Process,
    /// When a dead process may be replaced.
    pub(crate) restart: Restart,
    /// How many processes died.
    pub(crate) restarts: u64,
    /// How the last one died, or why none could be started.
    pub(crate) last_failure: Option<String>,
    /// Whether its loop turns, and by the right rules.
    pub(crate) health: Health,
    /// When the last process died, until its replacement has its rules.
    pub(crate) died_at: Option<Duration>,
    /// How long it took from the last death until the replacement had its rules.
    pub(crate) recovery: Option<Duration>,
    /// Egress sockets that the process has.
    pub(crate) egress: BTreeMap<EgressKey, EgressId>,
    /// Egress sockets that can't be opened.
    pub(crate) egress_failures: BTreeMap<EgressKey, Failure>,
    /// The rule set that is sent and not answered.
    pub(crate) in_flight: Option<Handed>,
    /// The rule set in force.
    pub(crate) applied: Option<Handed>,
    /// What an earlier supervisor gave; nothing once the worker is known to have what this one wants.
    pub(crate) adopted: Adopted,
    /// The content hash that the worker refused last, and why.
    pub(crate) refusal: Option<(u64, Failure)>,
    /// Since when it has been without rules.
    pub(crate) idle_since: Option<Duration>,
    /// It is on its way out, and does not come back.
    pub(crate) leaving: bool,
    /// Its interface is gone, or has another name.
    pub(crate) orphaned: bool,
    /// What its process was started with; `None` if there is none, or an older program started it.
    pub(crate) settings: Option<WorkerSettings>,
    /// Its process runs another program than its replacement would.
    pub(crate) old_program: bool,
    /// Its process was told to end, to be replaced; that is no failure.
    pub(crate) retiring: bool,
    pub(in crate::core) generation: u64,
    pub(in crate::core) next_egress: u32,
    pub(in crate::core) egress_revision: u64,
    pub(in crate::core) made_from: Option<MadeFrom>,
    /// The rules of the set made last; `None` if the next one has nothing to share with it.
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
    /// Whether the worker has applied the newest rule set that was made for it, from this plan.
    #[must_use]
    pub(crate) fn is_current(&self, interface: Option<&Arc<PlannedInterface>>) -> bool {
        let made_for_this = self.made_from.as_ref().is_some_and(|(made, revision)| {
            *revision == self.egress_revision && same_plan(made.as_ref(), interface)
        });
        made_for_this && self.in_flight.is_none() && self.applied.is_some() && self.refusal.is_none()
    }

    /// Why the worker does not take the newest rule set that was made for it, from this plan; `None` if it has not
    /// refused that one.
    #[must_use]
    pub(crate) fn refuses(&self, interface: Option<&Arc<PlannedInterface>>) -> Option<&Failure> {
        let made_for_this =
            self.made_from.as_ref().is_some_and(|(made, _)| same_plan(made.as_ref(), interface));
        let (_, failure) = self.refusal.as_ref().filter(|_| made_for_this && self.in_flight.is_none())?;
        Some(failure)
    }

    /// Whether its process runs another program or other settings than its replacement would; it is replaced when its
    /// turn comes.
    pub(in crate::core) fn is_outdated(&self, interface: Option<&PlannedInterface>) -> bool {
        let planned = interface.map(|interface| interface.settings);
        self.old_program
            || self.settings.zip(planned).is_some_and(|(settings, planned)| !settings.are_like(planned))
    }

    /// Every place of the page that may be counted in, by rule.
    pub(crate) fn counted_rules(&self) -> impl Iterator<Item = (RuleKey, RuleSlot)> {
        self.rule_slots.counting().map(|(key, slot)| (*key, RuleSlot(slot)))
    }

    /// Every place of the page that may be counted in, by output.
    pub(crate) fn counted_outputs(&self) -> impl Iterator<Item = (&(RuleKey, OutputKey), OutputSlot)> {
        self.output_slots.counting().map(|(key, slot)| (key, OutputSlot(slot)))
    }

    /// Notes that the process is about to be told to end. Returns whether there is one to tell.
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
            failure.restart.hurry();
        }
    }

    pub(in crate::core) fn died(&mut self, reason: String, now: Duration) {
        let worked_since = self.process.ready_at();
        let killed = matches!(self.process, Process::Ending { kill_at: None, .. });
        (self.settings, self.old_program) = (None, false);
        if !self.leaving && !std::mem::take(&mut self.retiring) {
            self.restart.failed(now, worked_since);
            self.restarts += 1;
            self.died_at.get_or_insert(now);
            // What the worker itself said before it ended, or why it was killed, tells more than its exit status.
            let told = self.last_failure.take().filter(|_| killed || worked_since.is_none());
            self.last_failure = Some(told.unwrap_or(reason));
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

    /// Looks after the worker's health.
    pub(super) fn check(&mut self, seen: &Observation, on_time: bool, now: Duration) -> Option<Finding> {
        let Process::Running { ready_at, .. } = self.process else { return None };
        let expected = Expected {
            ready_at,
            applying: self.in_flight.as_ref().map(|handed| handed.set.rules.len()),
            table: self.applied.as_ref().map(|handed| (handed.set.generation, handed.table_hash)),
        };
        self.health.check(seen, &expected, on_time, now)
    }

    pub(super) fn applied(&mut self, generation: u64, hash: u64, now: Duration) -> Released {
        let Some(handed) = self.in_flight.take_if(|h| h.set.generation == generation && h.hash == hash)
        else {
            return Released::default();
        };
        self.egress.retain(|_, egress| handed.named.contains(egress));
        self.applied = Some(handed);
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

    /// It counts by this generation, and in no place that only older ones used.
    pub(in crate::core) fn acknowledged(&mut self, generation: u64) -> Released {
        let rules = self.rule_slots.acknowledged(generation);
        let outputs = self.output_slots.acknowledged(generation);
        Released {
            rules: rules.into_iter().map(|(key, slot)| (key, RuleSlot(slot))).collect(),
            outputs: outputs.into_iter().map(|(key, slot)| (key, OutputSlot(slot))).collect(),
        }
    }

    pub(super) fn refused(&mut self, generation: u64, reason: String, now: Duration) {
        if let Some(handed) = self.in_flight.take_if(|h| h.set.generation == generation) {
            if handed.as_change {
                // It may have lost the set that the change starts from; the whole set tells.
                self.made_from = None;
                self.health.resend = true;
                return;
            }
            let before = self.refusal.take().map(|(_, failure)| failure);
            self.refusal = Some((handed.hash, Failure::again(before, reason, now)));
            // It may lack the sockets it was sent for this set, if it reached its limit of descriptors.
            let in_force = self.applied.as_ref().map(|applied| &applied.named);
            self.egress.retain(|_, egress| in_force.is_some_and(|named| named.contains(egress)));
            self.made = None;
        }
    }
}

/// Plans that did not change keep their place in memory, so most comparisons end at once.
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
