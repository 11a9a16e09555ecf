//! A new supervisor adopts the state that an earlier one left in the keeper: what was found becomes
//! [`Actual`](super::actual::Actual), and normal reconciliation continues from there. Workers are not affected: the
//! set in force is known from the generation and the hash in the page.
//!
//! ```text
//!  page: generation, hash  = last sent     exactly this set is in force; nothing is sent if the plan is the same
//!                          ≠ last sent     unknown: sockets and rule set are sent again, with numbers never used
//! before
//! ```

use std::sync::Arc;
use std::time::Duration;

use mcr_sys::membership::Membership;

use super::actual::kernel_engine::KernelEngine;
use super::actual::{ActualWorker, Attempt, Capture, Death, Process, Released, STOP_DEADLINE};
use super::aggregation::OffloadRecord;
use super::checkpoint::{ConfigRecord, KernelSlots, PageSlots, WorkerRecord};
use super::ledger::Ledger;
use super::machine::Adopted;
use super::network::NetworkState;

use super::plan::{Absorber, WorkerId, WorkerSettings};

/// A found worker: its capture socket and its page are open.
#[derive(Clone, Debug)]
pub(crate) struct FoundWorker {
    pub(crate) id: WorkerId,
    /// `Ending` if it speaks another protocol version: its channel is closed, so it exits.
    pub(crate) process: Process,
    /// How it exited while no supervisor was running.
    pub(crate) died: Option<Death>,
    /// It runs a different program than a replacement would.
    pub(crate) old_program: bool,
    /// What that was started with, if known.
    pub(crate) settings: Option<WorkerSettings>,
    /// What was sent to it.
    pub(crate) record: WorkerRecord,
    /// The slot assignment of its page; `None` if the page is new.
    pub(crate) page_slots: Option<PageSlots>,
    /// Generation and content hash in its page.
    pub(crate) applied: (u64, u64),
}

/// Everything that was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct FoundState {
    /// The running config and its metadata.
    pub(crate) config: Option<ConfigRecord>,
    pub(crate) ledger: Ledger,
    pub(crate) workers: Vec<FoundWorker>,
    pub(crate) memberships: Vec<Membership>,
    pub(crate) absorbers: Vec<Absorber>,
    pub(crate) offloads: Vec<OffloadRecord>,
    /// The slots of the kernel engine's counters, if its maps were adopted.
    pub(crate) kernel: Option<KernelSlots>,
}

impl FoundState {
    /// Makes it the state of this supervisor.
    pub(crate) fn adopt(self, network: &NetworkState, now: Duration) -> Adopted {
        let Self { config, ledger, workers, memberships, absorbers, offloads, kernel } = self;
        let newest_of = |worker: &FoundWorker| {
            let slots = worker.page_slots.iter().flat_map(|slots| slots.rules.counting());
            slots.map(|(key, _)| key.incarnation).max().unwrap_or_default()
        };
        // A change that never completed has assigned incarnations that are in no config.
        let newest =
            workers.iter().map(newest_of).chain([ledger.last_incarnation()]).max().unwrap_or_default();
        let (incarnations, last_incarnation, cores) = match config {
            Some(record) => (record.incarnations(), record.last_incarnation, record.cores),
            None => Default::default(),
        };
        let alone = workers.iter().filter(|worker| worker.id.interface.linked.is_empty());
        let on_cores = alone.map(|worker| (worker.id.interface.name.clone(), worker.id.core));
        let cores = on_cores.chain(cores).collect();
        let last_incarnation = last_incarnation.max(newest);
        let mut adopted =
            Adopted { ledger, incarnations, last_incarnation, cores, offloads, ..Adopted::default() };
        if let Some((rules, outputs)) = kernel {
            adopted.actual.kernel = KernelEngine::adopted(rules, outputs);
        }
        for membership in memberships {
            let carrier_epoch = network.carrier_epoch(membership.ifindex);
            adopted.actual.memberships.insert(membership, Attempt::Succeeded { carrier_epoch });
        }
        for absorber in absorbers {
            adopted.actual.absorbers.insert(absorber, Attempt::Succeeded { carrier_epoch: 0 });
        }
        for found in workers {
            let id = found.id.clone();
            let exists = id.interface.captured().all(|(name, ifindex)| {
                network.link_by_index(ifindex).is_some_and(|link| link.name == name.as_str())
            });
            let (worker, released) = found.into_actual(exists, now);
            adopted.actual.workers.insert(id.clone(), worker);
            adopted.released.push((id, released));
        }
        adopted
    }
}

impl FoundWorker {
    fn into_actual(self, interface_exists: bool, now: Duration) -> (ActualWorker, Released) {
        let Self { id: _, process, died, old_program, settings, record, page_slots, applied } = self;
        let mut worker = ActualWorker {
            // The filter in force is unknown: it is attached again, which loses nothing.
            capture: Capture::Open { filter: Arc::default(), failure: None, receive_buffer_bytes: None },
            restart: record.restart,
            restarts: record.restarts,
            sandbox_kills: record.sandbox_kills,
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
        match process {
            Process::None => {}
            Process::Starting { pid, since } => {
                worker.settings = settings;
                worker.process = Process::Starting { pid, since: now.max(since) };
            }
            Process::Running { .. } => {
                (worker.settings, worker.old_program) = (settings, old_program);
                worker.process = process;
            }
            Process::Ending { pid, since, .. } => {
                worker.retiring = true;
                let kill_at = Some(now + STOP_DEADLINE);
                worker.process = Process::Ending { pid, since, kill_at, ready_at: None };
            }
        }
        let mut released = Released::default();
        if matches!(worker.process, Process::Running { .. }) {
            // It counts by this set and no older one.
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
        if let Some(death) = died {
            worker.died(death, now);
        }
        (worker, released)
    }
}

#[cfg(test)]
mod tests;
