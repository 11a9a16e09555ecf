//! What stands in no rule's way, found out once for all of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::core::actual::{Actual, ActualWorker, Capture, Process};
use crate::core::plan::{InterfaceId, Plan, PlannedInterface, WorkerId};
use crate::core::reconcile::all_joined;

/// What is known to stand in no rule's way, so that it need not be looked for at each of thousands.
#[derive(Debug, Default)]
pub(super) struct FastPath<'a> {
    /// Everything that is planned is joined and absorbed.
    pub(super) joined: bool,
    /// These interfaces' workers relay by all of their rules.
    pub(super) served: BTreeSet<&'a InterfaceId>,
    /// No egress socket is refused.
    pub(super) sockets: bool,
}

impl<'a> FastPath<'a> {
    /// Whether that is everything: only the plan itself can stand in a rule's way.
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
