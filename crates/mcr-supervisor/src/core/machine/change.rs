//! A config change as a transaction: it completes when every affected worker has acknowledged it, and those that run
//! with other settings have been replaced. If one refuses or does not answer, the previous config is restored, and
//! the change completes when that is acknowledged.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mcr_rules::Config;

use super::{Machine, trial};
use crate::core::actual::{ActualWorker, Capture};
use crate::core::plan::{Incarnations, InterfaceId, Plan, PlannedInterface, WorkerId};

/// Deadline for workers to acknowledge a config change.
pub(super) const CHANGE_DEADLINE: Duration = Duration::from_secs(5);
/// The same for a change that is kept in any case: by then a worker that does not answer has been replaced, and its
/// replacement has the new rules.
pub(super) const KEPT_CHANGE_DEADLINE: Duration = Duration::from_secs(6);
/// Additional time for a change that replaces workers, for each of them.
const REPLACEMENT_TIME: Duration = Duration::from_secs(1);
/// Upper limit of the additional time: clients wait no longer than this plus [`CHANGE_DEADLINE`].
const LONGEST_REPLACEMENT: Duration = Duration::from_secs(10);

/// What happens to a change that is not acknowledged in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unacknowledged {
    /// It is reverted.
    Undo,
    /// It is kept: reconciliation continues until it is in force.
    Keep,
}

/// A change that workers have not acknowledged yet.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) before: (Config, Incarnations),
    pub(super) concerned: BTreeSet<InterfaceId>,
    pub(super) deadline: Duration,
    pub(super) unacknowledged: Unacknowledged,
    /// Once in force, it is on trial for this long.
    pub(super) confirm_within: Option<Duration>,
    /// Why it is being undone; the restored config is awaited then.
    pub(super) undone: Option<String>,
}

pub(super) enum Progress {
    /// No change is pending.
    None,
    /// Workers have not acknowledged it yet.
    Waiting,
    /// It starts to be undone now.
    Undoing,
    /// It is complete; an error says why it was undone, a remark why a kept change was not acknowledged.
    Done { result: Result<(), String>, remark: Option<String> },
}

impl Machine {
    /// Begins to apply a config. Returns false, without effect, while a change is pending or on trial.
    pub(super) fn begin_change(
        &mut self,
        config: Config,
        unacknowledged: Unacknowledged,
        confirm_within: Option<Duration>,
        now: Duration,
    ) -> bool {
        if self.change.is_some() || self.trial.is_some() {
            return false;
        }
        let planned_before = Arc::clone(&self.plan);
        let before = self.set_config(config);
        let concerned = self.concerned(&planned_before);
        let deadline = now
            + match unacknowledged {
                Unacknowledged::Undo => CHANGE_DEADLINE + self.replacement_time(),
                Unacknowledged::Keep => KEPT_CHANGE_DEADLINE,
            };
        let change = Change { before, concerned, deadline, unacknowledged, confirm_within, undone: None };
        self.change = Some(change);
        true
    }

    /// Restores an earlier config, and awaits it. `undone` says why a change is undone by it.
    pub(super) fn go_back(&mut self, before: (Config, Incarnations), undone: Option<String>, now: Duration) {
        let planned_before = Arc::clone(&self.plan);
        let left = (std::mem::take(&mut self.config), std::mem::take(&mut self.incarnations));
        (self.config, self.incarnations) = before;
        self.revision += 1;
        self.replan();
        self.change = Some(Change {
            before: left,
            concerned: self.concerned(&planned_before),
            deadline: now + KEPT_CHANGE_DEADLINE,
            unacknowledged: Unacknowledged::Keep,
            confirm_within: None,
            undone,
        });
    }

    /// Returns the progress of the pending change; call it when there are no actions.
    pub(super) fn finish_change(&mut self, now: Duration) -> Progress {
        let Some(change) = &self.change else { return Progress::None };
        // Its senders may be refused until then; at most for two seconds.
        if self.actual.is_undecided(&self.plan, now) {
            return Progress::Waiting;
        }
        let obstacle = match self.refusal(&change.concerned) {
            Some(reason) => Some(reason),
            None => match self.unacknowledged(change) {
                Some(_) if now < change.deadline => return Progress::Waiting,
                other => other,
            },
        };
        let Some(change) = self.change.take() else { return Progress::None };
        self.revision += 1;
        let remark = match (obstacle, change.unacknowledged) {
            (Some(reason), Unacknowledged::Undo) => {
                self.go_back(change.before, Some(reason), now);
                return Progress::Undoing;
            }
            (obstacle, _) => obstacle,
        };
        if let Some(within) = change.confirm_within {
            self.trial = Some(trial::Trial { before: change.before, until: now + within });
        } else {
            self.ledger.retain(&self.incarnations);
        }
        Progress::Done { result: change.undone.map_or(Ok(()), Err), remark }
    }

    fn target(&self, id: &WorkerId) -> Option<&Arc<PlannedInterface>> {
        self.plan.interfaces.get(&id.interface).filter(|planned| !planned.relays.is_empty())
    }

    fn concerned_workers<'a>(
        &'a self,
        concerned: &'a BTreeSet<InterfaceId>,
    ) -> impl Iterator<Item = (&'a WorkerId, &'a ActualWorker)> {
        self.actual.workers.iter().filter(|(id, worker)| concerned.contains(&id.interface) && !worker.leaving)
    }

    fn refusal(&self, concerned: &BTreeSet<InterfaceId>) -> Option<String> {
        self.concerned_workers(concerned).find_map(|(id, worker)| {
            worker.refuses(self.target(id)).map(|failure| format!("{id} refuses: {}", failure.reason))
        })
    }

    /// Describes the first affected worker that has not applied the plan.
    fn unacknowledged(&self, change: &Change) -> Option<String> {
        let concerned = &change.concerned;
        let wanted = self
            .plan
            .interfaces
            .iter()
            .filter(|(id, p)| concerned.contains(id) && p.up && !p.relays.is_empty());
        let absent = wanted
            .flat_map(|(id, p)| p.cores.iter().map(|core| WorkerId { interface: id.clone(), core: *core }))
            .find(|id| !self.actual.workers.contains_key(id))
            .map(|id| format!("{id} did not start"));
        absent.or_else(|| {
            let behind = |(id, worker): &(&WorkerId, &ActualWorker)| {
                let needed = self.target(id).is_some_and(|p| p.up) || worker.process.pid().is_some();
                // A change that is kept in any case need not wait for replacements.
                let awaited = change.unacknowledged == Unacknowledged::Undo && self.is_outdated(id, worker);
                needed && (!worker.is_current(self.target(id)) || awaited)
            };
            self.concerned_workers(concerned).find(behind).map(|(id, worker)| match &worker.capture {
                Capture::Closed(Some(failure)) => format!("{id}: {}", failure.reason),
                _ => match &worker.last_failure {
                    Some(reason) => format!("{id}: {reason}"),
                    None => format!("{id} did not answer in time"),
                },
            })
        })
    }

    fn is_outdated(&self, id: &WorkerId, worker: &ActualWorker) -> bool {
        worker.is_outdated(self.plan.interfaces.get(&id.interface).map(Arc::as_ref))
    }

    fn is_served(&self, id: &InterfaceId, planned: &Arc<PlannedInterface>) -> bool {
        planned.cores.iter().all(|core| {
            let id = WorkerId { interface: id.clone(), core: *core };
            let target = Some(planned).filter(|planned| !planned.relays.is_empty());
            self.actual.workers.get(&id).is_some_and(|worker| worker.is_current(target))
        })
    }

    fn replacement_time(&self) -> Duration {
        let outdated = self.actual.workers.iter().filter(|(id, worker)| self.is_outdated(id, worker)).count();
        (REPLACEMENT_TIME * outdated.try_into().unwrap_or(u32::MAX)).min(LONGEST_REPLACEMENT)
    }

    /// Interfaces whose workers are affected by a change. On those that already have failures, changes of settings
    /// alone are not awaited.
    fn concerned(&self, before: &Plan) -> BTreeSet<InterfaceId> {
        let interfaces = |plan: &Plan| plan.interfaces.keys().cloned().collect::<BTreeSet<_>>();
        let mut all = interfaces(before);
        all.extend(interfaces(&self.plan));
        all.retain(|id| match (before.interfaces.get(id), self.plan.interfaces.get(id)) {
            (Some(one), Some(other)) if Arc::ptr_eq(one, other) => false,
            (Some(one), Some(other)) => one.differs_beyond_settings(other) || self.is_served(id, one),
            _ => true,
        });
        all
    }
}
