//! The supervisor dies at any moment, and another one resumes from the keeper's items.

use mcr_link::message::IoBackend;

use super::World;
use super::keeper::PROGRAM;
use crate::core::actual::{Death, Process, Readied};
use crate::core::adoption::{FoundState, FoundWorker};
use crate::core::checkpoint::{self, Key, ProcessRecord};
use crate::core::early_drop::Report;
use crate::core::ledger::Counters;
use crate::core::machine::{Event, Machine, Unacknowledged};
use crate::core::plan::WorkerId;

impl World {
    /// Kills the supervisor and starts another one; with `old_program`, the workers' program is older than its own.
    pub(crate) fn crash(&mut self, old_program: bool) {
        self.close_what_is_not_kept();
        self.forget_captures();
        let mut machine = Machine::new([0, 1], None);
        let network = self.machine.network();
        let links = network.links().cloned().collect();
        let addresses = network.links().flat_map(|link| network.addresses(link.ifindex).to_vec()).collect();
        machine.handle(self.now, Event::NetworkDump { links, addresses });
        let stored = &self.keeper.stored;
        let record = checkpoint::read_config(stored).unwrap();
        let config = record.as_ref().map(|record| record.config.clone()).unwrap_or_default();
        let found = FoundState {
            config: record,
            ledger: checkpoint::read_ledger(stored).unwrap(),
            workers: self.captures.keys().map(|id| self.found(id, old_program)).collect(),
            memberships: self.joined.all().into_iter().collect(),
            absorbers: self.absorbed.iter().copied().collect(),
            offloads: checkpoint::read_offloads(stored).unwrap(),
            kernel: self.found_kernel_engine(),
        };
        let adopted = found.adopt(machine.network(), self.now);
        let page = |id: &WorkerId| self.pages.get(id).map(|page| page as &dyn Counters);
        machine.handle(self.now, Event::Adopted { adopted: Box::new(adopted), page: &page });
        if let Some(attacher) = &mut self.attacher {
            // What it answers to the earlier one is of no use.
            attacher.answered = true;
            machine.handle(self.now, Event::EarlyDrop(Report::Present));
        }
        let unacknowledged = Unacknowledged::Keep;
        machine.handle(self.now, Event::Change { config, unacknowledged, confirm_within: None });
        self.machine = machine;
        if self.attacher.is_none() {
            self.end_kernel_engine();
        }
        self.keeper.adopted();
    }

    /// Closes everything that the keeper does not hold. A worker whose channel is closed exits.
    fn close_what_is_not_kept(&mut self) {
        let Self { keeper, captures, pages, processes, .. } = self;
        for (id, (capture, page)) in std::mem::take(&mut keeper.closed) {
            captures.insert(id.clone(), capture);
            pages.insert(id, page);
        }
        let stored = &keeper.stored;
        captures.retain(|id, _| stored.contains_key(&Key::Slot(id.clone())));
        pages.retain(|id, _| captures.contains_key(id));
        // A killed process has exited by the time of the adoption.
        processes.retain(|id, process| {
            let record = checkpoint::workers(stored)
                .contains(id)
                .then(|| checkpoint::read_worker(stored, id).unwrap().process)
                .flatten();
            !process.killed && record.is_some_and(|record| record.pid == process.pid)
        });
        self.joined = self.joined.adopted(stored);
        self.absorbed = stored
            .keys()
            .filter_map(|key| match key {
                Key::Absorber(absorber) => Some(*absorber),
                _ => None,
            })
            .collect();
    }

    fn found(&self, id: &WorkerId, old_program: bool) -> FoundWorker {
        let stored = checkpoint::read_worker(&self.keeper.stored, id).unwrap();
        let applied = self.processes.get(id).and_then(|process| process.applied.as_ref());
        let settings = stored.process.as_ref().and_then(|record| record.settings);
        let (process, died) = self.found_process(id, stored.process);
        FoundWorker {
            id: id.clone(),
            process,
            died,
            old_program,
            settings,
            record: stored.record,
            page_slots: Some(stored.page_slots.unwrap()),
            applied: applied.map(|(set, _)| (set.generation, set.content_hash())).unwrap_or_default(),
        }
    }

    fn found_process(&self, id: &WorkerId, record: Option<ProcessRecord>) -> (Process, Option<Death>) {
        let Some(ProcessRecord { pid, since, ready, program, .. }) = record else {
            return (Process::None, None);
        };
        assert_eq!(program, PROGRAM);
        let Some(process) = self.processes.get(id) else {
            return (Process::None, Some(Death::of("it ended")));
        };
        let ready_at = ready.map(|(at, _)| at);
        let process = match ready_at.or(process.applied.is_some().then_some(since)) {
            None => Process::Starting { pid, since },
            Some(ready_at) => {
                let readied = Readied {
                    io: IoBackend::IoUring,
                    uid: 65534,
                    notes: Vec::new(),
                    sandbox: Vec::new(),
                    sandbox_notes: Vec::new(),
                };
                Process::Running { pid, since, ready_at, readied }
            }
        };
        (process, None)
    }
}
