//! Whether a worker's loop runs, and whether it relays by the rule set it acknowledged. Judged from its telemetry
//! page, every [`CHECK_EVERY`].
//!
//! ```text
//!  heartbeat ≤ 100 ms apart   ── two checks in a row find no new one ──▶ killed, replaced
//!  audit     ≤ 300 ms apart   ── differs from the set in force ──▶ the set is sent again
//!                                └─ again within a minute ──▶ killed, replaced
//! ```
//!
//! A table hash is meaningful only together with the generation it was built from. While a set is in flight nothing
//! is concluded. After an acknowledgement, the first later audit must be of that set: if not, the worker has
//! acknowledged it without applying it.

use std::time::Duration;

use mcr_link::telemetry::{AuditSnapshot, WorkerSnapshot};
use mcr_sys::scheduling::Scheduling;

/// The check interval.
pub(crate) const CHECK_EVERY: Duration = Duration::from_millis(250);
/// A check later than this after the previous one proves nothing: the supervisor did not get its core either.
pub(crate) const LATE_AFTER: Duration = Duration::from_millis(350);
/// This number of checks in a row find the last heartbeat more than [`CHECK_EVERY`] ago, and the worker is replaced:
/// on the third check without a new heartbeat, 500 to 750 ms after the last one.
const SILENT_CHECKS: u32 = 2;
/// A runnable worker that got less CPU time than this since the previous check is not stalled but starved by the
/// machine. Replacing it would not help.
const STARVED_BELOW: Duration = Duration::from_millis(20);
/// Additional silence allowed per rule of a set in flight: a table is built without interruption.
const EXTRA_SILENCE_PER_RULE: Duration = Duration::from_micros(100);
/// A second drift within this time is not repaired: the worker is replaced.
const DRIFT_WINDOW: Duration = Duration::from_secs(60);
/// A healthy worker has audited its first table within this time.
const FIRST_AUDIT_WITHIN: Duration = Duration::from_millis(1000);
/// A rule set is sent again after this time, whatever the worker's state.
pub(crate) const RESEND_EVERY: Duration = Duration::from_secs(300);

/// The health data in a worker's page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observation {
    /// Time of the last heartbeat.
    pub(crate) beat_at: Duration,
    /// The last audit of its own table.
    pub(crate) audit: Option<AuditSnapshot>,
}

impl From<&WorkerSnapshot> for Observation {
    fn from(snapshot: &WorkerSnapshot) -> Self {
        Self { beat_at: snapshot.beat_at, audit: snapshot.audit }
    }
}

impl Observation {
    /// Whether its last heartbeat is so old that the scheduling of its process must be checked.
    pub(crate) fn is_silent(&self, now: Duration) -> bool {
        now.saturating_sub(self.beat_at) >= CHECK_EVERY
    }
}

/// Whether a silent worker is only starved of CPU. Unknown at its first silent check: a spinning one gets one more
/// check for that.
pub(crate) fn is_starved(before: Option<&Scheduling>, now: &Scheduling) -> bool {
    let had = before.map(|before| now.run_time.saturating_sub(before.run_time));
    now.runnable && had.is_none_or(|had| had < STARVED_BELOW)
}

/// The expected state of the worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Expected {
    /// When it became ready: it was alive then.
    pub(super) ready_at: Duration,
    /// Number of rules it is about to apply; `None` if no set is in flight.
    pub(super) applying: Option<usize>,
    /// Generation and table hash of the set in force.
    pub(super) table: Option<(u64, u64)>,
}

/// The result of a check, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Its loop has stalled; it is killed and replaced.
    Stalled {
        /// Time without a heartbeat.
        silent: Duration,
    },
    /// Its table differs from the set in force; the set is sent again, or the worker is replaced.
    Drifted { drift: Drift, replaced: bool },
    /// Its table matches the set in force again.
    Repaired {
        /// Time since the drift was found.
        after: Duration,
    },
}

/// How a table differs from the set in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drift {
    Contents,
    /// It was built from an earlier set.
    Generation,
}

impl std::fmt::Display for Drift {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Contents => "its table is not what its rule set gives",
            Self::Generation => "it acknowledged a rule set that it does not use",
        })
    }
}

/// The set whose acknowledgement was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Acknowledged {
    generation: u64,
    /// Number of audits by then.
    audits: u64,
    seen_at: Duration,
}

/// One worker's health.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    silent_checks: u32,
    acknowledged: Option<Acknowledged>,
    /// When the drift under repair was found.
    repairing_since: Option<Duration>,
    last_drift: Option<Duration>,
    /// Number of drifts found, over all processes of this worker.
    pub(crate) drifts: u64,
    /// Number of its processes that stalled.
    pub(crate) stalls: u64,
    pub(super) resend: bool,
    pub(super) kill_reason: Option<String>,
}

impl Health {
    /// A new process starts, or the old one has exited; counts and times of drifts stay.
    pub(super) fn renew(&mut self) {
        let Self { drifts, stalls, repairing_since, last_drift, .. } = *self;
        *self = Self { drifts, stalls, repairing_since, last_drift, ..Self::default() };
    }

    /// One check. `on_time`: it ran when it was due, and the worker had a core since the previous one.
    pub(super) fn check(
        &mut self,
        seen: &Observation,
        expected: &Expected,
        on_time: bool,
        now: Duration,
    ) -> Option<Finding> {
        if self.kill_reason.is_some() {
            return None;
        }
        let rules = u32::try_from(expected.applying.unwrap_or_default()).unwrap_or(u32::MAX);
        let extra = EXTRA_SILENCE_PER_RULE.saturating_mul(rules);
        let silent = now.saturating_sub(seen.beat_at.max(expected.ready_at));
        let is_late = silent >= CHECK_EVERY + extra;
        self.silent_checks = if is_late { self.silent_checks + u32::from(on_time) } else { 0 };
        if self.silent_checks < SILENT_CHECKS {
            return self.check_table(seen, expected, now);
        }
        self.stalls += 1;
        self.kill_reason = Some(format!("its loop has stalled for {} ms", silent.as_millis()));
        Some(Finding::Stalled { silent })
    }

    fn check_table(&mut self, seen: &Observation, expected: &Expected, now: Duration) -> Option<Finding> {
        let (Some((generation, hash)), None, false) = (expected.table, expected.applying, self.resend) else {
            return None;
        };
        let audits = seen.audit.map_or(0, |audit| audit.audits);
        let acknowledged = match self.acknowledged {
            Some(acknowledged) if acknowledged.generation == generation => acknowledged,
            _ => *self.acknowledged.insert(Acknowledged { generation, audits, seen_at: now }),
        };
        let Some(audit) = seen.audit else {
            // A worker that lost its first set has no table to audit.
            let late = seen.beat_at >= acknowledged.seen_at + FIRST_AUDIT_WITHIN;
            return late.then(|| self.drifted(Drift::Generation, now));
        };
        if audit.generation == 0 {
            // The worker was writing at this moment: left to the next check.
            return None;
        }
        if audit.generation == generation {
            return if audit.hash == hash {
                let since = self.repairing_since.take();
                since.map(|since| Finding::Repaired { after: now.saturating_sub(since) })
            } else {
                Some(self.drifted(Drift::Contents, now))
            };
        }
        (audits > acknowledged.audits).then(|| self.drifted(Drift::Generation, now))
    }

    fn drifted(&mut self, drift: Drift, now: Duration) -> Finding {
        let again = self.last_drift.is_some_and(|last| now.saturating_sub(last) < DRIFT_WINDOW);
        self.drifts += 1;
        self.last_drift = Some(now);
        self.repairing_since.get_or_insert(now);
        if again {
            self.kill_reason = Some(format!("{drift}, again"));
        } else {
            self.resend = true;
        }
        Finding::Drifted { drift, replaced: again }
    }
}

#[cfg(test)]
mod tests;
