//! The outputs of the supervisor: the only way to get work from [`Machine`].

use std::sync::Arc;
use std::time::Duration;

use super::Machine;
use super::change::Progress;
use crate::core::aggregation::Aggregated;
use crate::core::health::Finding;
use crate::core::notices::StateChange;
use crate::core::plan::WorkerId;
use crate::core::reconcile::{Action, reconcile};

/// An output for the shell.
#[derive(Debug)]
pub(crate) enum Output {
    /// Execute these in this order, and report the outcome of each before the next poll.
    Actions(Vec<Action>),
    /// A worker's page shows a fault, or its repair.
    Found { worker: WorkerId, finding: Finding },
    /// The pending change is complete.
    Changed {
        /// An error says why it was undone.
        result: Result<(), String>,
        /// Which worker has not acknowledged a change that is kept nevertheless.
        remark: Option<String>,
    },
    /// The change on trial was not confirmed in time; the previous config is restored.
    TrialExpired,
    /// State changes of rules and outputs. Not while a change is pending, when states are transient.
    States(Vec<StateChange>),
    /// Input interfaces that began or ceased to merge what they receive, or are kept from it.
    Aggregated(Vec<Aggregated>),
}

impl Machine {
    /// Returns the next output; `None` until the next event or [`Self::next_deadline`].
    pub(crate) fn poll(&mut self, now: Duration) -> Option<Output> {
        if let Some(found) = self.found.pop_front() {
            return Some(found);
        }
        loop {
            self.rejoin(now);
            let mut actions = reconcile(&self.plan, &mut self.actual, now);
            if actions.is_empty() {
                actions = self.aggregate(now);
            }
            if !actions.is_empty() {
                return Some(Output::Actions(actions));
            }
            match self.finish_change(now) {
                Progress::None => break,
                Progress::Waiting => return None,
                Progress::Undoing => {}
                Progress::Done { result, remark } => return Some(Output::Changed { result, remark }),
            }
        }
        if self.trial_deadline().is_some_and(|until| until <= now) && self.end_trial(now) {
            return Some(Output::TrialExpired);
        }
        let changes = self.reported.changes(&self.config.rules, &self.plan, &self.actual);
        if !changes.is_empty() {
            return Some(Output::States(changes));
        }
        let aggregated = self.aggregation.take_changes();
        (!aggregated.is_empty()).then_some(Output::Aggregated(aggregated))
    }

    /// The actions that change which interfaces merge what they receive.
    fn aggregate(&mut self, now: Duration) -> Vec<Action> {
        if !self.aggregated.as_ref().is_some_and(|known| Arc::ptr_eq(known, &self.plan)) {
            self.aggregated = Some(Arc::clone(&self.plan));
            self.aggregation.note_plan(&self.plan, &self.network, self.config.settings.aggregate);
        }
        self.aggregation.actions(now)
    }

    /// When to poll again without another event.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let change = self.change.as_ref().map(|change| change.deadline);
        let aggregation = self.aggregation.next_deadline();
        let own =
            [self.actual.next_deadline(), change, self.rejoins.next(), self.trial_deadline(), aggregation];
        own.into_iter().flatten().min()
    }
}
