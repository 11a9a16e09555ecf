//! The actual state, as reported by the shell: each method records the outcome of one action or one observation.
//! [`reconcile`](crate::core::reconcile::reconcile) compares it with the plan.

pub(crate) mod kernel_engine;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mcr_link::rule_set::{EgressId, OutputSlot, RuleSlot};
use mcr_sys::link::IfIndex;
use mcr_sys::membership::Membership;

use self::kernel_engine::KernelEngine;
pub(crate) use self::worker::{
    ActualWorker, Adopted, Capture, Death, Process, Readied, STOP_DEADLINE, SentRuleSet,
};
pub(in crate::core) use self::worker::{MadeRule, same_plan};
use crate::core::early_drop::{EarlyDrop, Report, Wanted, wanted};
use crate::core::filter_set::FilterSet;
use crate::core::merge_findings::MergeFinding;
use crate::core::plan::{
    Absorber, EgressKey, InterfaceId, OutputKey, Plan, RuleKey, WorkerId, WorkerSettings,
};
use crate::core::ports::{PortHolder, PortHolders};
use crate::core::restart::Restart;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Why, human-readable.
    pub(crate) reason: String,
    pub(crate) restart: Restart,
}

impl Failure {
    /// Records another failure of the same operation.
    fn again(before: Option<Self>, reason: String, now: Duration) -> Self {
        let mut restart = before.map(|failure| failure.restart).unwrap_or_default();
        restart.refused(now);
        Self { reason, restart }
    }
}

/// The last attempt to get a membership or an absorber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// The kernel has it. For memberships: joined in this carrier epoch.
    Succeeded {
        /// See [`PlannedMembership::carrier_epoch`](crate::core::plan::PlannedMembership).
        carrier_epoch: u64,
    },
    /// The kernel refused it.
    Failed(Failure),
}

impl Attempt {
    fn next(before: Option<Self>, outcome: Result<u64, String>, now: Duration) -> Self {
        match (outcome, before) {
            (Ok(carrier_epoch), _) => Self::Succeeded { carrier_epoch },
            (Err(reason), Some(Self::Failed(failure))) => {
                Self::Failed(Failure::again(Some(failure), reason, now))
            }
            (Err(reason), _) => Self::Failed(Failure::again(None, reason, now)),
        }
    }

    /// The epoch it was joined in; `None` if it is not joined.
    pub(super) fn carrier_epoch(&self) -> Option<u64> {
        match self {
            Self::Succeeded { carrier_epoch } => Some(*carrier_epoch),
            Self::Failed(_) => None,
        }
    }
}

/// The outcome of opening an absorber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Absorbed {
    /// It is open.
    Open,
    /// This program has the port.
    PortTaken(PortHolder),
    /// The kernel refused it; human-readable.
    Refused(String),
}

/// Telemetry slots that the worker no longer counts in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Released {
    pub(crate) rules: Vec<(RuleKey, RuleSlot)>,
    pub(crate) outputs: Vec<((RuleKey, OutputKey), OutputSlot)>,
}

/// Everything the supervisor holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Actual {
    /// By interface and core.
    pub(crate) workers: BTreeMap<WorkerId, ActualWorker>,
    /// Joined or refused.
    pub(super) memberships: BTreeMap<Membership, Attempt>,
    /// Open or refused.
    pub(super) absorbers: BTreeMap<Absorber, Attempt>,
    /// What is dropped at ingress.
    pub(crate) early_drop: EarlyDrop,
    /// What the kernel relays.
    pub(crate) kernel: KernelEngine,
    /// Programs that have the port of a unicast input, which therefore needs no absorber.
    pub(crate) port_holders: PortHolders,
    /// Rules that exceed their `max_pps`.
    pub(crate) above_limit: BTreeSet<RuleKey>,
    /// What is wrong with merged rules.
    pub(crate) merge_findings: BTreeMap<RuleKey, BTreeSet<MergeFinding>>,
    pub(super) wake: Option<Duration>,
    /// All memberships and absorbers of this plan are held, and no others.
    pub(super) holds_all_of: Option<Arc<Plan>>,
}

impl Actual {
    /// When [`reconcile`](crate::core::reconcile::reconcile) has work without another event, as of its last run.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.wake
    }

    fn worker(&mut self, id: &WorkerId) -> Option<&mut ActualWorker> {
        self.workers.get_mut(id)
    }

    /// These interfaces changed: failed operations on them may be retried at once, and workers of interfaces that
    /// were removed or renamed are orphaned.
    pub(super) fn interfaces_changed(
        &mut self,
        changed: &BTreeSet<IfIndex>,
        exists: impl Fn(&InterfaceId) -> bool,
    ) {
        for (id, worker) in &mut self.workers {
            if id.interface.captured().any(|(_, ifindex)| changed.contains(&ifindex)) {
                worker.orphaned = !exists(&id.interface);
                worker.hurry_capture();
            }
            for (_, failure) in
                worker.egress_failures.iter_mut().filter(|(key, _)| changed.contains(&key.ifindex))
            {
                failure.restart.retry_now();
            }
        }
        let memberships = self.memberships.iter_mut().map(|(membership, held)| (membership.ifindex, held));
        let absorbers = self.absorbers.iter_mut().map(|(absorber, held)| (absorber.ifindex, held));
        for (ifindex, held) in memberships.chain(absorbers) {
            if let Attempt::Failed(failure) = held
                && changed.contains(&ifindex)
            {
                failure.restart.retry_now();
            }
        }
    }

    /// A membership was joined in this carrier epoch, or the join failed.
    pub(super) fn joined(&mut self, membership: Membership, joined: Result<u64, String>, now: Duration) {
        self.holds_all_of = None;
        let before = self.memberships.remove(&membership);
        self.memberships.insert(membership, Attempt::next(before, joined, now));
    }

    pub(super) fn left(&mut self, membership: &Membership) {
        self.holds_all_of = None;
        self.memberships.remove(membership);
    }

    /// An absorber was opened, or not.
    pub(super) fn absorbed(&mut self, absorber: Absorber, absorbed: Absorbed, now: Duration) {
        self.holds_all_of = None;
        let before = self.absorbers.remove(&absorber);
        let held = match absorbed {
            Absorbed::Open => Attempt::next(before, Ok(0), now),
            Absorbed::PortTaken(holder) => {
                self.port_holders.insert(absorber, holder);
                return;
            }
            Absorbed::Refused(reason) => Attempt::next(before, Err(reason), now),
        };
        self.absorbers.insert(absorber, held);
    }

    /// These programs have ports of unicast inputs, and no others. Returns whether that is new.
    pub(super) fn ports_examined(&mut self, holders: PortHolders) -> bool {
        let changed = holders != self.port_holders;
        if changed {
            self.holds_all_of = None;
            self.port_holders = holders;
        }
        changed
    }

    /// Whether an absorber is to be open while it is planned: no other program has the port, and what arrives is not dropped.
    pub(super) fn needs_absorber(&self, absorber: &Absorber) -> bool {
        self.is_port_free(absorber) && !self.early_drop.covers(absorber)
    }

    /// Whether it is not known yet of some absorber whether it is needed.
    pub(super) fn is_undecided(&self, plan: &Plan, now: Duration) -> bool {
        let early_drop = wanted(plan);
        plan.absorbers.keys().filter(|absorber| !self.absorbers.contains_key(absorber)).any(|absorber| {
            let until = self.early_drop.undecided_until(absorber, &early_drop);
            self.needs_absorber(absorber) && until.is_some_and(|until| now < until)
        })
    }

    /// Whether no other program has the port of an absorber.
    pub(super) fn is_port_free(&self, absorber: &Absorber) -> bool {
        !self.port_holders.contains_key(absorber)
    }

    /// The attacher reported. Returns whether that changes what is in force.
    pub(super) fn early_drop_reported(&mut self, report: Report, now: Duration) -> bool {
        let changed = self.early_drop.report(report, now);
        if changed {
            self.holds_all_of = None;
        }
        changed
    }

    /// The attacher was told to drop this, with this generation.
    pub(super) fn early_drop_sent(&mut self, generation: u64, wanted: Wanted, now: Duration) {
        self.holds_all_of = None;
        self.early_drop.sent(generation, wanted, now);
    }

    pub(super) fn absorber_closed(&mut self, absorber: &Absorber) {
        self.holds_all_of = None;
        self.absorbers.remove(absorber);
    }

    /// A capture socket was opened with this filter and receive buffer, or opening it failed.
    pub(super) fn capture_opened(
        &mut self,
        id: &WorkerId,
        opened: Result<(FilterSet, u32), String>,
        now: Duration,
    ) {
        self.kernel.capture_renewed(id);
        let Some(worker) = self.worker(id) else { return };
        worker.capture = match opened {
            Ok((filter, bytes)) => Capture::Open { filter, failure: None, receive_buffer_bytes: Some(bytes) },
            Err(reason) => {
                let before = match &mut worker.capture {
                    Capture::Closed(failure) => failure.take(),
                    Capture::Open { .. } => None,
                };
                Capture::Closed(Some(Failure::again(before, reason, now)))
            }
        };
    }

    /// A new receive buffer size was requested for a capture socket.
    pub(super) fn receive_buffer_resized(&mut self, id: &WorkerId, bytes: u32) {
        if let Some(Capture::Open { receive_buffer_bytes, .. }) = self.worker(id).map(|w| &mut w.capture) {
            *receive_buffer_bytes = Some(bytes);
        }
    }

    /// A filter was attached to a capture socket; on an error the previous one stays.
    pub(super) fn filter_attached(
        &mut self,
        id: &WorkerId,
        attached: Result<FilterSet, String>,
        now: Duration,
    ) {
        if let Some(Capture::Open { filter, failure, .. }) = self.worker(id).map(|worker| &mut worker.capture)
        {
            match attached {
                Ok(attached) => (*filter, *failure) = (attached, None),
                Err(reason) => *failure = Some(Failure::again(failure.take(), reason, now)),
            }
        }
    }

    /// A process was started with these settings and sent its start message, or starting it failed.
    pub(super) fn spawned(
        &mut self,
        id: &WorkerId,
        spawned: Result<(u32, WorkerSettings), String>,
        now: Duration,
    ) {
        let Some(worker) = self.worker(id) else { return };
        match spawned {
            Ok((pid, settings)) => {
                worker.settings = Some(settings);
                worker.process = Process::Starting { pid, since: now };
            }
            Err(reason) => {
                worker.restart.refused(now);
                worker.last_failure = Some(reason);
            }
        }
    }

    /// Egress sockets were passed.
    pub(super) fn egress_sent(&mut self, id: &WorkerId, sockets: &[(EgressId, EgressKey)]) {
        if let Some(worker) = self.worker(id) {
            for (egress, key) in sockets {
                worker.egress.insert(*key, *egress);
                worker.egress_failures.remove(key);
            }
            worker.egress_revision += 1;
        }
    }

    /// Opening an egress socket failed.
    pub(super) fn egress_failed(&mut self, id: &WorkerId, key: EgressKey, reason: String, now: Duration) {
        if let Some(worker) = self.worker(id) {
            let before = worker.egress_failures.remove(&key);
            worker.egress_failures.insert(key, Failure::again(before, reason, now));
        }
    }
}
