//! The supervisor dies at any moment, and another one goes on with what the keeper has. What is kept, and when, is as
//! in `executor/checkpoint.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use mcr_link::message::IoBackend;

use super::World;
use crate::core::actual::{Process as ActualProcess, Readied};
use crate::core::adoption::{FoundProcess, FoundState, FoundWorker};
use crate::core::checkpoint::{
    ConfigRecord, WorkerRecord, decode_ledger, decode_page_slots, encode_ledger, encode_page_slots,
    no_page_slots,
};
use crate::core::machine::{Machine, Unacknowledged};
use crate::core::plan::WorkerId;
use crate::core::reconcile::Action;

/// What the keeper has, beside what is in the world: sockets, pages, processes.
#[derive(Default)]
pub(super) struct Kept {
    books: BTreeMap<WorkerId, String>,
    places: BTreeMap<WorkerId, Vec<u8>>,
    /// Pid and start of a process, and when it was ready.
    processes: BTreeMap<WorkerId, (u32, Duration, Option<Duration>)>,
    ledger: Vec<u8>,
    ledger_revision: Option<u64>,
    config: Option<ConfigRecord>,
}

impl World {
    pub(super) fn announce(&mut self, actions: &[Action]) {
        self.note_ledger();
        for action in actions {
            let (Action::SendEgress { worker, .. }
            | Action::SendRuleSet { worker, .. }
            | Action::Stop(worker)) = action
            else {
                continue;
            };
            self.note_worker_record(worker);
            if let Action::SendRuleSet { .. } = action {
                let places = encode_page_slots(&self.machine.actual.workers[worker]);
                self.kept.places.insert(worker.clone(), places);
            }
        }
    }

    pub(super) fn note_worker_record(&mut self, id: &WorkerId) {
        let book = serde_json::to_string(&WorkerRecord::of(&self.machine.actual.workers[id])).unwrap();
        self.kept.books.insert(id.clone(), book);
    }

    pub(super) fn note_rest(&mut self) {
        self.note_ledger();
        if !self.machine.is_changing() {
            self.kept.config = Some(self.machine.config_record("startup".to_owned()));
        }
    }

    fn note_ledger(&mut self) {
        let revision = Some(self.machine.ledger.revision());
        if self.kept.ledger_revision == revision {
            return;
        }
        self.kept.ledger_revision = revision;
        self.kept.config = Some(self.machine.config_record("startup".to_owned()));
        self.kept.ledger = encode_ledger(&self.machine.ledger);
    }

    pub(super) fn note_process(&mut self, id: &WorkerId) {
        let process = &self.machine.actual.workers[id].process;
        let ready_at = match process {
            ActualProcess::Running { ready_at, .. } => Some(*ready_at),
            _ => None,
        };
        if let (Some(pid), Some(since)) = (process.pid(), process.since()) {
            self.kept.processes.insert(id.clone(), (pid, since, ready_at));
        }
    }

    pub(super) fn forget_process(&mut self, id: &WorkerId) {
        self.kept.processes.remove(id);
        if self.machine.actual.workers.contains_key(id) {
            self.note_worker_record(id);
        }
    }

    pub(super) fn forget_worker(&mut self, id: &WorkerId) {
        self.note_ledger();
        self.kept.processes.remove(id);
        self.kept.books.remove(id);
        self.kept.places.remove(id);
    }

    /// The supervisor is killed and another one takes over; with `old_program`, it runs another program than the workers.
    pub(crate) fn crash(&mut self, old_program: bool) {
        // What was killed has ended by the time that somebody looks.
        self.processes.retain(|_, process| !process.killed);
        let mut machine = Machine::new([0, 1], None);
        let network = self.machine.network();
        let links = network.links().cloned().collect();
        let addresses = network.links().flat_map(|link| network.addresses(link.ifindex).to_vec()).collect();
        machine.network_dump(links, addresses);
        let found = FoundState {
            config: self.kept.config.clone(),
            ledger: decode_ledger(&self.kept.ledger).unwrap_or_default(),
            workers: self.captures.keys().map(|id| self.found(id, old_program)).collect(),
            memberships: self.joined.iter().copied().collect(),
            absorbers: self.absorbed.iter().copied().collect(),
        };
        let config = self.kept.config.as_ref().map(|record| record.config.clone()).unwrap_or_default();
        for (id, released) in machine.adopt(found, self.now) {
            machine.ledger.release(&id, &released, &self.pages[&id]);
        }
        machine.begin_change(config, Unacknowledged::Keep, self.now);
        self.machine = machine;
        self.kept.ledger_revision = None;
    }

    fn found(&self, id: &WorkerId, old_program: bool) -> FoundWorker {
        let alive = self.processes.get(id);
        let applied = alive.and_then(|process| process.applied.as_ref());
        let process = match (self.kept.processes.get(id), alive) {
            (None, _) => FoundProcess::None,
            (Some(_), None) => FoundProcess::Dead { reason: "it ended".to_owned() },
            (Some((pid, since, ready_at)), Some(process)) => {
                let readied = Readied::new(IoBackend::IoUring, 65534, Vec::new());
                let (pid, since) = (*pid, *since);
                match ready_at {
                    Some(ready_at) => {
                        FoundProcess::Running { pid, since, ready_at: *ready_at, readied, old_program }
                    }
                    None if process.applied.is_some() => {
                        FoundProcess::Running { pid, since, ready_at: since, readied, old_program }
                    }
                    None => FoundProcess::Starting { pid, since },
                }
            }
        };
        FoundWorker {
            id: id.clone(),
            process,
            settings: alive.map(|process| process.settings),
            book: self.kept.books.get(id).map(|text| serde_json::from_str(text).unwrap()).unwrap_or_default(),
            places: Some(
                self.kept
                    .places
                    .get(id)
                    .map_or_else(no_page_slots, |bytes| decode_page_slots(bytes).unwrap()),
            ),
            applied: applied.map(|(set, _)| (set.generation, set.content_hash())).unwrap_or_default(),
        }
    }
}
