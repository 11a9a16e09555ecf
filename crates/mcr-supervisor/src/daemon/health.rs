//! Health checks of every worker's telemetry page, several times a second.

use std::collections::BTreeMap;

use mcr_rules::log::WORKERS;
use mcr_sys::clock;
use mcr_sys::scheduling::{Scheduling, scheduling};

use super::Daemon;
use crate::core::health::{Finding, LATE_AFTER, Observation, is_starved};
use crate::core::machine::{Event, Report};
use crate::core::plan::WorkerId;

impl Daemon {
    /// Returns whether a finding requires action.
    pub(super) fn check_health(&mut self) -> bool {
        let now = clock::monotonic();
        let on_time = now.saturating_sub(self.last_check) <= LATE_AFTER;
        self.last_check = now;
        let mut found = false;
        for (id, slot) in self.executor.slots() {
            let seen = Observation::from(&slot.reader.worker());
            let process = self.machine.worker(id).and_then(|worker| worker.process.pid());
            let starved = seen.is_silent(now) && process.is_some_and(|pid| self.silent.is_starved(id, pid));
            if !seen.is_silent(now) {
                self.silent.0.remove(id);
            }
            let report = Report::Observed { seen, on_time: on_time && !starved };
            found |= self.machine.handle(now, Event::Worker(id, report));
        }
        found
    }
}

/// Workers without a recent heartbeat at the last check, with their scheduling statistics then.
#[derive(Debug, Default)]
pub(super) struct Silent(BTreeMap<WorkerId, (u32, Scheduling)>);

impl Silent {
    fn is_starved(&mut self, id: &WorkerId, pid: u32) -> bool {
        // A process without scheduling statistics has exited; its pidfd reports that.
        let Ok(now) = scheduling(pid) else { return false };
        let before = self.0.insert(id.clone(), (pid, now)).filter(|(before, _)| *before == pid);
        is_starved(before.map(|(_, scheduling)| scheduling).as_ref(), &now)
    }
}

pub(super) fn log_finding(worker: &WorkerId, finding: &Finding) {
    match finding {
        Finding::Stalled { silent } => {
            let silent_ms = silent.as_millis();
            tracing::warn!(target: WORKERS, %worker, silent_ms, "stalled");
        }
        Finding::Drifted { drift, replaced: false } => {
            tracing::warn!(target: WORKERS, %worker, "drift: {drift}; the rule set is sent again");
        }
        Finding::Drifted { drift, replaced: true } => {
            tracing::error!(target: WORKERS, %worker, "drift again: {drift}; the worker is replaced");
        }
        Finding::Repaired { after } => {
            let after_ms = after.as_millis();
            tracing::info!(target: WORKERS, %worker, after_ms, "table drift repaired");
        }
    }
}
