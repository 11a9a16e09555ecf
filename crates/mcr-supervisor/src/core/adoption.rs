//! A new supervisor takes over what an earlier one left with the keeper: what was found becomes
//! [`Actual`](super::actual::Actual), so that the same reconciliation as ever goes on from there. Workers notice nothing:
//! what a worker has applied is known by the generation and the hash in its page.
//!
//! ```text
//!  page: generation, hash  = sent last     it has exactly that; nothing is sent if the plan is the same
//!                          ≠ sent last     unknown: sockets and rule set are sent anew, with numbers never used before
//! ```

use std::sync::Arc;
use std::time::Duration;

use mcr_sys::membership::Membership;

use super::actual::{ActualWorker, Capture, Held, Process, Readied, Released, STOP_DEADLINE};
use super::checkpoint::{ConfigRecord, PageSlots, WorkerRecord};
use super::ledger::Ledger;
use super::machine::Adopted;
use super::network::NetworkState;
use super::plan::{Absorber, WorkerId, WorkerSettings};

/// A worker's process as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FoundProcess {
    /// There is none.
    None,
    /// It ended while nobody looked.
    Dead {
        /// How, for people.
        reason: String,
    },
    /// It has not reported that it is ready.
    Starting {
        /// Process id.
        pid: u32,
        /// When it was started.
        since: Duration,
    },
    /// It works.
    Running {
        /// Process id.
        pid: u32,
        /// When it was started.
        since: Duration,
        /// When it was ready.
        ready_at: Duration,
        /// What it reported then.
        readied: Readied,
        /// It runs another program than its replacement would.
        old_program: bool,
    },
    /// It uses other messages; its channel is closed, so it ends.
    Unusable {
        /// Process id.
        pid: u32,
        /// When it was started.
        since: Duration,
    },
}

/// A worker as it was found: its capture socket and its page are open.
#[derive(Clone, Debug)]
pub(crate) struct FoundWorker {
    /// Which.
    pub(crate) id: WorkerId,
    /// Its process.
    pub(crate) process: FoundProcess,
    /// What that was started with, if it is known.
    pub(crate) settings: Option<WorkerSettings>,
    /// What it had been sent.
    pub(crate) record: WorkerRecord,
    /// Who counts where in its page; `None` if the page is a new one.
    pub(crate) page_slots: Option<PageSlots>,
    /// Generation and content hash in its page.
    pub(crate) applied: (u64, u64),
}

/// All that was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct FoundState {
    /// The running config and what belongs to it.
    pub(crate) config: Option<ConfigRecord>,
    /// Counters of the past.
    pub(crate) ledger: Ledger,
    /// The workers.
    pub(crate) workers: Vec<FoundWorker>,
    /// What is joined.
    pub(crate) memberships: Vec<Membership>,
    /// What is absorbed.
    pub(crate) absorbers: Vec<Absorber>,
}

impl FoundState {
    /// Makes it the state of this supervisor.
    pub(crate) fn adopt(self, network: &NetworkState, now: Duration) -> Adopted {
        let Self { config, ledger, workers, memberships, absorbers } = self;
        let newest_of = |worker: &FoundWorker| {
            let slots = worker.page_slots.iter().flat_map(|slots| slots.rules.counting());
            slots.map(|(key, _)| key.incarnation).max().unwrap_or_default()
        };
        // A change that was never finished has given incarnations that no config tells of.
        let newest =
            workers.iter().map(newest_of).chain([ledger.last_incarnation()]).max().unwrap_or_default();
        let (incarnations, last_incarnation, cores) = match config {
            Some(record) => (record.incarnations(), record.last_incarnation, record.cores),
            None => Default::default(),
        };
        let on_cores = workers.iter().map(|worker| (worker.id.interface.name.clone(), worker.id.core));
        let cores = on_cores.chain(cores).collect();
        let last_incarnation = last_incarnation.max(newest);
        let mut adopted = Adopted { ledger, incarnations, last_incarnation, cores, ..Adopted::default() };
        for membership in memberships {
            let carrier_epoch = network.carrier_epoch(membership.ifindex);
            adopted.actual.memberships.insert(membership, Held::Yes { carrier_epoch });
        }
        for absorber in absorbers {
            adopted.actual.absorbers.insert(absorber, Held::Yes { carrier_epoch: 0 });
        }
        for found in workers {
            let id = found.id.clone();
            let link = network.link_by_index(id.interface.ifindex);
            let exists = link.is_some_and(|link| link.name == id.interface.name.as_str());
            let (worker, released) = found.into_actual(exists, now);
            adopted.actual.workers.insert(id.clone(), worker);
            adopted.released.push((id, released));
        }
        adopted
    }
}

impl FoundWorker {
    fn into_actual(self, interface_exists: bool, now: Duration) -> (ActualWorker, Released) {
        let Self { process, settings, record, page_slots, applied, .. } = self;
        let mut worker = ActualWorker {
            // What the filter lets through is not known: it is attached anew, which loses nothing.
            capture: Capture::Open { filter: Arc::default(), failure: None, receive_buffer_bytes: None },
            restart: record.restart,
            restarts: record.restarts,
            last_failure: record.last_failure,
            leaving: record.leaving,
            orphaned: !interface_exists,
            generation: record.generation.max(applied.0),
            next_egress: record.next_egress,
            ..ActualWorker::default()
        };
        (worker.health.drifts, worker.health.stalls) = (record.drifts, record.stalls);
        if let Some(slots) = page_slots {
            worker.rule_slots = slots.rules;
            worker.output_slots = slots.outputs;
            worker.adopted.wanted = slots.filter;
        }
        let mut died = None;
        match process {
            FoundProcess::None => {}
            FoundProcess::Dead { reason } => died = Some(reason),
            FoundProcess::Starting { pid, since } => {
                worker.settings = settings;
                worker.process = Process::Starting { pid, since: now.max(since) }
            }
            FoundProcess::Running { pid, since, ready_at, readied, old_program } => {
                (worker.settings, worker.old_program) = (settings, old_program);
                worker.process = Process::Running { pid, since, ready_at, readied };
            }
            FoundProcess::Unusable { pid, since } => {
                worker.retiring = true;
                let kill_at = Some(now + STOP_DEADLINE);
                worker.process = Process::Ending { pid, since, kill_at, ready_at: None };
            }
        }
        let mut released = Released::default();
        if matches!(worker.process, Process::Running { .. }) {
            // It counts by this set and by no older one.
            released = worker.acknowledged(applied.0);
            if record.sent == Some(applied) && applied.0 != 0 {
                worker.egress = record.named.into_iter().collect();
                worker.egress_revision = 1;
                worker.adopted.set = Some(applied);
            }
        }
        if worker.leaving {
            worker.leave(now);
        }
        if let Some(reason) = died {
            worker.process = Process::None;
            worker.died(reason, now);
        }
        (worker, released)
    }
}

#[cfg(test)]
mod tests;
