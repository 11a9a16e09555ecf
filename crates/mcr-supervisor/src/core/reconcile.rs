//! The actions that lead from the actual to the desired state. [`reconcile`] runs after every event until it
//! returns no more actions; nothing else starts, stops, joins or sends.
//!
//! Actions are returned in an order in which they are safe:
//!
//! ```text
//!  absorb, join, open capture ─▶ spawn ─▶ egress sockets ─▶ wider filter ─▶ rule set
//!                                          … acknowledged ─▶ narrower filter
//!  leave, close absorber, stop, discard: last
//! ```

mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mcr_link::rule_set::{EgressId, RuleSet};
use mcr_sys::ethtool::ReceiveOffload;
use mcr_sys::link::IfIndex;
use mcr_sys::membership::Membership;

use crate::core::actual::kernel_engine::{KernelRuleSet, Step};
use crate::core::actual::{Actual, Attempt, Failure};
use crate::core::early_drop::{Due, Wanted, wanted};
use crate::core::filter_set::FilterSet;
use crate::core::plan::{Absorber, EgressKey, Plan, PlannedInterface, WorkerId};

/// A worker that is not ready within this time is replaced.
pub(crate) const READY_DEADLINE: Duration = Duration::from_secs(10);
/// A worker that does not answer a rule set within this time is replaced.
pub(crate) const APPLY_DEADLINE: Duration = Duration::from_secs(5);

/// One action for the shell, which reports its outcome to [`Actual`] before the next reconciliation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Open the absorber of a unicast input.
    OpenAbsorber(Absorber),
    /// Join a group.
    Join {
        membership: Membership,
        /// To be recorded with it.
        carrier_epoch: u64,
        /// Leave first: the network may have forgotten the membership.
        again: bool,
    },
    /// Open a worker's capture socket with this filter and receive buffer, and create its telemetry page if it has
    /// none.
    OpenCapture { worker: WorkerId, wanted: FilterSet, receive_buffer_bytes: u32 },
    /// Resize the receive buffer of a capture socket.
    ResizeReceiveBuffer { worker: WorkerId, bytes: u32 },
    /// Start a process with the worker's capture socket and page.
    Spawn { worker: WorkerId, interface: Arc<PlannedInterface> },
    /// Open these egress sockets and pass them.
    SendEgress {
        worker: WorkerId,
        /// Number and kind.
        sockets: Vec<(EgressId, EgressKey)>,
    },
    /// Replace a capture socket's filter.
    AttachFilter { worker: WorkerId, wanted: FilterSet },
    /// Send a rule set.
    SendRuleSet {
        worker: WorkerId,
        set: Arc<RuleSet>,
        hash: u64,
        /// The set in force, if sending the difference from it is enough.
        since: Option<Arc<RuleSet>>,
    },
    /// Tell the attacher to drop this, and nothing else.
    SetEarlyDrop(Wanted),
    /// Make the program that decides the filter of a capture socket, or the classic filter.
    SetCaptureProgram { worker: WorkerId, on: bool },
    /// Let the kernel relay these rules, and no others.
    SetKernelRules(Arc<KernelRuleSet>),
    /// Read the counters of rules that the kernel relayed before this generation.
    SettleKernelRules(u64),
    /// Leave a group.
    Leave(Membership),
    /// Close the absorber of a unicast input.
    CloseAbsorber(Absorber),
    /// Ask a process to exit.
    Stop(WorkerId),
    /// Kill a process.
    Kill {
        worker: WorkerId,
        /// Why, for the log.
        reason: String,
    },
    /// Add a worker's counters to the ledger, close its capture socket and its page.
    Discard(WorkerId),
    /// Read which received frames an interface merges.
    ReadOffload { ifindex: IfIndex, interface: String },
    /// Set it.
    SetOffload { ifindex: IfIndex, interface: String, wanted: ReceiveOffload },
}

impl From<Step> for Action {
    fn from(step: Step) -> Self {
        match step {
            Step::SetCaptureProgram { worker, on } => Self::SetCaptureProgram { worker, on },
            Step::SetRules(set) => Self::SetKernelRules(set),
            Step::Settle(generation) => Self::SettleKernelRules(generation),
        }
    }
}

/// Returns the next actions; empty if nothing can be done now. Commitments of an action (a generation, a telemetry
/// slot, that a worker is being removed) are recorded in `actual` at once.
pub(crate) fn reconcile(plan: &Arc<Plan>, actual: &mut Actual, now: Duration) -> Vec<Action> {
    let mut steps = Steps { now, ..Steps::default() };
    actual.port_holders.retain(|absorber, _| plan.absorbers.contains_key(absorber));
    let joined = all_joined(plan, actual);
    if joined {
        actual.holds_all_of = Some(Arc::clone(plan));
    } else {
        gain(plan, actual, &mut steps);
    }
    worker::reconcile_workers(plan, actual, &mut steps);
    let Actual { kernel, workers, early_drop, .. } = actual;
    let (of_kernel, wake) = kernel.steps(plan, workers, early_drop, now);
    steps.then.extend(of_kernel.into_iter().map(Action::from));
    wake.into_iter().for_each(|at| steps.wake_at(at));
    match actual.early_drop.due(plan, now) {
        Due::Nothing => {}
        Due::Now(wanted) => steps.last.push(Action::SetEarlyDrop(wanted)),
        Due::At(at) => steps.wake_at(at),
    }
    if !joined {
        lose(plan, actual, &mut steps);
    }
    actual.wake = steps.wake;
    let Steps { first, then, last, .. } = steps;
    [first, then, last].into_iter().flatten().collect()
}

/// Actions of one run, in three groups, and when to run next.
#[derive(Debug, Default)]
struct Steps {
    now: Duration,
    first: Vec<Action>,
    then: Vec<Action>,
    last: Vec<Action>,
    wake: Option<Duration>,
}

impl Steps {
    fn wake_at(&mut self, at: Duration) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Whether a deadline has passed; if not, the next run is due then.
    fn is_time(&mut self, at: Duration) -> bool {
        let due = self.now >= at;
        if !due {
            self.wake_at(at);
        }
        due
    }

    fn may_retry(&mut self, failure: Option<&Failure>) -> bool {
        failure.is_none_or(|failure| self.is_time(failure.restart.not_before()))
    }
}

/// Whether exactly the planned memberships are held, and the absorbers of free ports: the usual case, decided in one pass over
/// thousands.
pub(in crate::core) fn all_joined(plan: &Plan, actual: &Actual) -> bool {
    if actual.holds_all_of.as_deref().is_some_and(|known| std::ptr::eq(known, plan)) {
        return true;
    }
    let memberships = plan.memberships.iter().map(|(key, planned)| (key, planned.carrier_epoch));
    let joined = actual.memberships.iter().map(|(key, held)| (key, held.carrier_epoch()));
    let absorbed = actual.absorbers.iter().map(|(key, held)| (key, held.carrier_epoch().is_some()));
    memberships.map(|(key, epoch)| (key, Some(epoch))).eq(joined)
        && plan.absorbers.keys().filter(|key| actual.needs_absorber(key)).map(|key| (key, true)).eq(absorbed)
}

fn gain(plan: &Plan, actual: &Actual, steps: &mut Steps) {
    let early_drop = wanted(plan);
    for (absorber, _, held) in beside(&plan.absorbers, &actual.absorbers) {
        let wanting = match held {
            _ if !actual.needs_absorber(absorber) => false,
            None => {
                let undecided = actual.early_drop.undecided_until(absorber, &early_drop);
                undecided.is_none_or(|until| steps.is_time(until))
            }
            Some(Attempt::Succeeded { .. }) => false,
            Some(Attempt::Failed(failure)) => steps.may_retry(Some(failure)),
        };
        if wanting {
            steps.first.push(Action::OpenAbsorber(*absorber));
        }
    }
    for (membership, planned, held) in beside(&plan.memberships, &actual.memberships) {
        let (wanting, again) = match held {
            None => (true, false),
            Some(Attempt::Succeeded { carrier_epoch }) => (*carrier_epoch != planned.carrier_epoch, true),
            Some(Attempt::Failed(failure)) => (steps.may_retry(Some(failure)), false),
        };
        if wanting {
            let carrier_epoch = planned.carrier_epoch;
            steps.first.push(Action::Join { membership: *membership, carrier_epoch, again });
        }
    }
}

fn lose(plan: &Plan, actual: &Actual, steps: &mut Steps) {
    let memberships =
        beside(&actual.memberships, &plan.memberships).filter(|(.., planned)| planned.is_none());
    steps.last.extend(memberships.map(|(membership, ..)| Action::Leave(*membership)));
    // A program that has the port gets nothing while the absorber is open.
    let absorbers = beside(&actual.absorbers, &plan.absorbers)
        .filter(|(absorber, _, planned)| planned.is_none() || !actual.needs_absorber(absorber));
    steps.last.extend(absorbers.map(|(absorber, ..)| Action::CloseAbsorber(*absorber)));
}

/// The entries of a map, each with its counterpart in another. Iterates over both once, which for thousands is faster
/// than individual lookups.
fn beside<'a, K: Ord, A, B>(
    map: &'a BTreeMap<K, A>,
    other: &'a BTreeMap<K, B>,
) -> impl Iterator<Item = (&'a K, &'a A, Option<&'a B>)> {
    let mut others = other.iter().peekable();
    map.iter().map(move |(key, value)| {
        while others.next_if(|(other, _)| *other < key).is_some() {}
        (key, value, others.next_if(|(other, _)| *other == key).map(|(_, value)| value))
    })
}

#[cfg(test)]
mod tests;
