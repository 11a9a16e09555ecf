//! A look at every worker's telemetry page, several times a second.

use mcr_link::log::WORKERS;
use mcr_sys::clock;

use super::Daemon;
use crate::core::health::{Finding, LATE_AFTER, Observation};
use crate::core::plan::WorkerId;

impl Daemon {
    /// Gives whether something was found that needs to be acted on.
    pub(super) fn check_health(&mut self) -> bool {
        let now = clock::monotonic();
        let on_time = now.saturating_sub(self.last_check) <= LATE_AFTER;
        self.last_check = now;
        let mut found = false;
        for (id, seat) in self.hands.seats() {
            let seen = Observation::from(&seat.reader().worker());
            if let Some(finding) = self.machine.actual.observed(id, &seen, on_time, now) {
                tell(id, &finding);
                found = true;
            }
        }
        found
    }
}

fn tell(worker: &WorkerId, finding: &Finding) {
    match finding {
        Finding::Stalled { silent } => {
            let silent_ms = silent.as_millis();
            tracing::warn!(target: WORKERS, %worker, silent_ms, "stands still");
        }
        Finding::Drifted { drift, replaced: false } => {
            tracing::warn!(target: WORKERS, %worker, "drift: {drift}; the rule set is sent again");
        }
        Finding::Drifted { drift, replaced: true } => {
            tracing::error!(target: WORKERS, %worker, "drift again: {drift}; the worker is replaced");
        }
        Finding::Repaired { after } => {
            let after_ms = after.as_millis();
            tracing::info!(target: WORKERS, %worker, after_ms, "its table is right again");
        }
    }
}
