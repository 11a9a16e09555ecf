//! Checks for obstacles, once for all rules.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::core::actual::{Actual, ActualWorker, Capture, Process};
use crate::core::plan::{InterfaceId, Plan, PlannedInterface, WorkerId};
use crate::core::reconcile::all_joined;

/// Obstacles that are ruled out for all rules, so that they need not be checked for each of thousands.
#[derive(Debug, Default)]
pub(super) struct FastPath<'a> {
    /// All planned memberships and absorbers are held.
    pub(super) joined: bool,
    /// The workers of these interfaces relay all of their rules.
    pub(super) served: BTreeSet<&'a InterfaceId>,
    /// No egress socket was refused.
    pub(super) sockets: bool,
}

impl<'a> FastPath<'a> {
    /// Whether all are ruled out, so that states depend on the plan only.
    pub(super) fn is_all(&self, plan: &Plan) -> bool {
        self.joined && self.sockets && self.served.len() == plan.interfaces.len()
    }

    pub(super) fn of(plan: &'a Plan, actual: &Actual) -> Self {
        let is_served = |(interface, planned): &(&InterfaceId, &Arc<PlannedInterface>)| {
            planned.cores.iter().all(|core| {
                let id = WorkerId { interface: (*interface).clone(), core: *core };
                actual.workers.get(&id).is_some_and(|worker| relays_all(worker, planned))
            })
        };
        Self {
            joined: all_joined(plan, actual),
            served: plan.interfaces.iter().filter(is_served).map(|(interface, _)| interface).collect(),
            sockets: actual.workers.values().all(|worker| worker.egress_failures.is_empty()),
        }
    }
}

fn relays_all(worker: &ActualWorker, planned: &Arc<PlannedInterface>) -> bool {
    matches!(worker.capture, Capture::Open { failure: None, .. })
        && matches!(worker.process, Process::Running { .. })
        && worker.is_current(Some(planned))
        && !worker.out_of_slots
}
