//! Adopts what an earlier supervisor left in the keeper. Everything that can be verified is: a process by its pidfd
//! and its page, the type of a socket, a group's membership with the kernel. What can't be adopted is not held, so
//! the next derivation removes it from the keeper.

use std::os::fd::OwnedFd;

use mcr_link::message::{IoBackend, LINK_VERSION, ToWorker};
use mcr_link::telemetry::merges::MAX_REGIONS;
use mcr_link::telemetry::{WorkerSnapshot, create_merging_page, create_page};
use mcr_rules::log::{MEMBERSHIP, NETWORK, WORKERS};
use mcr_sys::channel::Channel;
use mcr_sys::membership::Membership;
use mcr_sys::packet::{Capture, FanoutGroup};
use mcr_sys::process::{PidFd, Signal, Status};

use super::Executor;
use super::capture::WorkerSlot;
use crate::core::actual::{Death, Process, Readied};
use crate::core::adoption::{FoundState, FoundWorker};
use crate::core::checkpoint::{self, Key, ProcessRecord, Stored, StoredWorker};
use crate::core::plan::{Absorber, WorkerId};
use crate::keeper::Found;

impl Executor {
    /// Adopts everything but the config. Call it within the runtime.
    pub(crate) fn adopt(&mut self, mut stored: Stored<Found>) -> FoundState {
        let ledger = checkpoint::read_ledger(&stored).unwrap_or_else(|error| {
            tracing::warn!(target: WORKERS, "earlier counters are lost and start at 0: {error}");
            Default::default()
        });
        let offloads = checkpoint::read_offloads(&stored).unwrap_or_else(|error| {
            tracing::warn!(target: NETWORK, "changed settings of interfaces are not restored: {error}");
            Vec::new()
        });
        let mut state = FoundState { ledger, offloads, ..FoundState::default() };
        for id in checkpoint::workers(&stored) {
            match self.adopt_worker(&id, &mut stored) {
                Ok(found) => state.workers.push(found),
                Err(reason) => {
                    tracing::warn!(target: WORKERS, worker = %id, "can't be adopted, and is replaced: {reason}");
                }
            }
        }
        let joining = stored.remove(&Key::Joining);
        for (key, found) in stored {
            let adopted = match key {
                Key::Memberships(number) => {
                    self.adopt_socket(number, found).map(|joined| state.memberships.extend(joined))
                }
                Key::Absorber(absorber) => {
                    let adopted = self.adopt_absorber(absorber, found);
                    adopted.map(|open| state.absorbers.extend(open.then_some(absorber)))
                }
                Key::Attacher => self.adopt_attacher(found.fds),
                Key::KernelEngine => self.adopt_kernel_engine(found).map(|slots| state.kernel = Some(slots)),
                _ => continue,
            };
            if let Err(reason) = adopted {
                tracing::warn!(target: MEMBERSHIP, "{key} can't be adopted: {reason}");
            }
        }
        // Memberships that may have been joined and are in no record.
        let joining = joining.and_then(|found| checkpoint::read_memberships(&found).ok());
        joining.iter().flatten().for_each(|membership| self.joins.pool.leave_unrecorded(membership));
        state
    }

    fn adopt_socket(&mut self, number: u64, found: Found) -> Result<Vec<Membership>, String> {
        let claimed = checkpoint::read_memberships(&found).map_err(|error| error.to_string())?;
        let [fd] = descriptors(found.fds)?;
        self.joins.pool.adopt(number, fd, claimed).map_err(|error| error.to_string())
    }

    /// Returns whether there is a socket: older versions store an item for a port of another program, too.
    fn adopt_absorber(&mut self, absorber: Absorber, found: Found) -> Result<bool, String> {
        match found.fds.into_iter().next() {
            Some(socket) => self.joins.adopt_absorber(absorber, socket).map(|()| true),
            None => Ok(false),
        }
    }

    fn adopt_worker(&mut self, id: &WorkerId, stored: &mut Stored<Found>) -> Result<FoundWorker, String> {
        let worker = checkpoint::read_worker(stored, id).map_err(|error| error.to_string());
        let mut fds = |kind: fn(WorkerId) -> Key| stored.remove(&kind(id.clone())).map(|found| found.fds);
        let (slot, process) = (fds(Key::Slot), fds(Key::Process));
        let pidfd = process.as_ref().and_then(|fds| fds.last()?.try_clone().ok()).map(PidFd::from);
        worker.and_then(|worker| self.adopt_slot(id, worker, slot, process)).inspect_err(|_| {
            // Two workers of one interface would both relay.
            if let Some(pidfd) = pidfd {
                let _ = pidfd.kill(Signal::KILL);
            }
        })
    }

    fn adopt_slot(
        &mut self,
        id: &WorkerId,
        worker: StoredWorker,
        slot: Option<Vec<OwnedFd>>,
        process: Option<Vec<OwnedFd>>,
    ) -> Result<FoundWorker, String> {
        let StoredWorker { slot: record, process: process_record, kernel_drops, .. } = worker;
        let mut slot = slot.unwrap_or_default();
        let wanted = id.interface.captured().count() + 1;
        if slot.len() != wanted {
            return Err(format!("{} descriptors instead of {wanted}", slot.len()));
        }
        let others = slot.split_off(2);
        let [capture, page] = descriptors(slot)?;
        let (capture, fanout) = Capture::adopt(capture).map_err(|error| error.to_string())?;
        let others = others.into_iter().map(|other| Capture::adopt(other).map(|(capture, _)| capture));
        let others = others.collect::<mcr_sys::Result<Vec<_>>>().map_err(|error| error.to_string())?;
        if fanout != FanoutGroup(record.fanout) {
            let (actual, stored) = (fanout.0, record.fanout);
            return Err(format!("its capture socket is in fan-out group {actual}, not {stored}"));
        }
        let page_slots = worker
            .page_slots
            .inspect_err(|error| tracing::warn!(target: WORKERS, worker = %id, "counts from zero: {error}"));
        let page_slots = page_slots.ok().filter(|_| record.link_version == LINK_VERSION);
        let page = match page_slots {
            Some(_) => Ok(page),
            None if id.interface.linked.is_empty() => create_page(),
            None => create_merging_page(MAX_REGIONS),
        };
        let slot = page
            .and_then(|page| WorkerSlot::adopted((capture, others), fanout, page, kernel_drops, record))
            .map_err(|error| error.to_string())?;
        let snapshot = slot.reader.worker();
        let page = page_slots.is_some().then_some(&snapshot);
        let settings = process_record.as_ref().and_then(|record| record.settings);
        let old_program = process_record.as_ref().is_some_and(|record| record.program != self.program);
        let (process, died) = match process_record {
            None => (Process::None, None),
            Some(record) => {
                self.adopt_process(id, record, descriptors(process.unwrap_or_default())?, page)?
            }
        };
        self.slots.insert(id.clone(), slot);
        let applied = (snapshot.generation, snapshot.hash);
        let (id, record) = (id.clone(), worker.record);
        Ok(FoundWorker { id, process, died, old_program, settings, record, page_slots, applied })
    }

    /// Returns the process, or how it exited. `page` is `None` if the worker's page can't be used.
    fn adopt_process(
        &mut self,
        id: &WorkerId,
        record: ProcessRecord,
        [channel, pidfd]: [OwnedFd; 2],
        page: Option<&WorkerSnapshot>,
    ) -> Result<(Process, Option<Death>), String> {
        let ProcessRecord { pid, since, ready, link_version, program, settings: _ } = record;
        let pidfd = PidFd::from(pidfd);
        if pidfd.pid() != Some(pid) || pidfd.has_ended().unwrap_or(true) {
            let death = Death::with(pidfd.exit_status()).while_away();
            match death.by_sandbox {
                true => tracing::error!(target: WORKERS, worker = %id, pid, "{}", death.how),
                false => tracing::warn!(target: WORKERS, worker = %id, pid, "{}", death.how),
            }
            return Ok((Process::None, Some(death)));
        }
        let usable =
            page.filter(|page| link_version == LINK_VERSION && [0, LINK_VERSION].contains(&page.version));
        let channel = usable.is_some().then(|| Channel::from(channel));
        let process = self.watch(id, pidfd, channel, program).map_err(|error| error.to_string())?;
        self.processes.insert(id.clone(), process);
        let Some(page) = usable else {
            tracing::warn!(
                target: WORKERS, worker = %id, pid,
                "uses message version {link_version}, this mcrd {LINK_VERSION}: it is replaced"
            );
            // Its channel closes with the keeper's descriptor, and it exits after its last work.
            return Ok((Process::Ending { pid, since, kill_at: None, ready_at: None }, None));
        };
        // Traces end with their supervisor, and their rings are gone.
        self.tell(id, &ToWorker::EndTrace(None), &[]);
        let (ready_at, readied) = match ready {
            Some(ready) => ready,
            // Its ready message was not read, or not stored.
            None if page.pid == pid => (since, readied_of(pid, page)),
            None => return Ok((Process::Starting { pid, since }, None)),
        };
        if page.pid != pid {
            return Err(format!("process {pid} is not the one that counts in its page, {}", page.pid));
        }
        Ok((Process::Running { pid, since, ready_at, readied }, None))
    }
}

fn readied_of(pid: u32, page: &WorkerSnapshot) -> Readied {
    let status = Status::read(Some(pid)).ok();
    let uid = status.and_then(|status| status.field("Uid").get(1).and_then(|uid| uid.parse().ok()));
    let io = page.io.unwrap_or(IoBackend::Recvmmsg);
    Readied {
        io,
        uid: uid.unwrap_or(mcr_sys::privileges::NOBODY),
        notes: Vec::new(),
        sandbox: Vec::new(),
        sandbox_notes: Vec::new(),
    }
}

fn descriptors<const N: usize>(fds: Vec<OwnedFd>) -> Result<[OwnedFd; N], String> {
    <[OwnedFd; N]>::try_from(fds).map_err(|fds| format!("{} descriptors instead of {N}", fds.len()))
}
