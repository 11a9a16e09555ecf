//! Taking over what an earlier supervisor left with the keeper. Nothing is believed that can be looked up: a process
//! is the one that its handle and its page name, a socket is of the kind it is said to be, a group is joined if the
//! kernel says so.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use mcr_link::message::{LINK_VERSION, ToWorker};
use mcr_link::telemetry::WorkerSnapshot;
use mcr_rules::log::{MEMBERSHIP, WORKERS};
use mcr_sys::channel::Channel;
use mcr_sys::packet::{Capture, FanoutGroup};
use mcr_sys::process::{PidFd, Signal, Status};

use super::Executor;
use super::capture::WorkerSlot;
use super::checkpoint::{name, unnoted};
use super::running_config;
use crate::core::actual::Readied;
use crate::core::adoption::{FoundProcess, FoundState, FoundWorker};
use crate::core::checkpoint::{
    ConfigRecord, MembershipRecord, ProcessRecord, SlotRecord, WorkerRecord, decode_ledger,
    decode_page_slots, membership, no_page_slots,
};
use crate::core::plan::{Absorber, WorkerId};
use crate::keeper::{Found, Kept};

/// What belongs to one worker, by kind.
type Parts = BTreeMap<&'static str, Found>;

/// The config that ran, if there is one among what was kept.
pub(crate) fn kept_config(kept: &Kept) -> Option<ConfigRecord> {
    running_config::read(kept).unwrap_or_else(|error| {
        tracing::error!(target: WORKERS, "the running config that was kept can't be read: {error}");
        None
    })
}

/// Whether this program understands what is kept: another version may not.
pub(crate) fn check_kept(kept: &Kept) -> Result<(), String> {
    for (full, found) in kept {
        let broken = |error: &dyn std::fmt::Display| Err(format!("{full}: {error}"));
        if full.starts_with(name::PLACES) {
            decode_page_slots(found.bytes()).map(drop).or_else(|error| broken(&error))?;
        } else if full == name::LEDGER {
            decode_ledger(found.bytes()).map(drop).or_else(|error| broken(&error))?;
        } else if full == name::CONFIG {
            running_config::read(kept).map(drop).or_else(|error| broken(&error))?;
        } else if full.starts_with(name::SEAT) {
            found.record::<SlotRecord>().map(drop).or_else(|error| broken(&error))?;
        } else if full.starts_with(name::PROCESS) {
            found.record::<ProcessRecord>().map(drop).or_else(|error| broken(&error))?;
        }
    }
    Ok(())
}

impl Executor {
    /// Takes everything over. To be called within the runtime.
    pub(crate) fn take_over(&mut self, mut kept: Kept) -> FoundState {
        let config = kept_config(&kept);
        let mut state = FoundState { config, ..FoundState::default() };
        if let Some(found) = kept.remove(name::LEDGER) {
            match decode_ledger(found.bytes()) {
                Ok(ledger) => state.ledger = ledger,
                Err(error) => tracing::warn!(target: WORKERS, "counters of the past begin anew: {error}"),
            }
        }
        self.take_joins(&mut kept, &mut state);
        let mut workers: BTreeMap<String, Parts> = BTreeMap::new();
        for (full, found) in kept {
            for kind in [name::SEAT, name::PROCESS, name::BOOK, name::PLACES, name::KERNEL_DROPS] {
                if let Some(of) = full.strip_prefix(kind) {
                    workers.entry(of.to_owned()).or_default().insert(kind, found);
                    break;
                }
            }
        }
        for (of, parts) in workers {
            match self.take_worker(parts) {
                Ok(found) => state.workers.push(found),
                Err(reason) => {
                    tracing::warn!(target: WORKERS, worker = of, "can't be taken over, and is made anew: {reason}");
                    let kinds = [name::SEAT, name::PROCESS, name::BOOK, name::PLACES, name::KERNEL_DROPS];
                    self.forget(kinds.map(|kind| format!("{kind}{of}")));
                }
            }
        }
        state
    }

    fn take_joins(&mut self, kept: &mut Kept, state: &mut FoundState) {
        let of_joins = |full: &String| full.starts_with(name::JOINS) || full.starts_with(name::ABSORBER);
        let names: Vec<String> = kept.keys().filter(|full| of_joins(full)).cloned().collect();
        for full in names {
            let Some(found) = kept.remove(&full) else { continue };
            let taken = match full.strip_prefix(name::JOINS) {
                Some(number) => {
                    self.take_socket(number, found).map(|joined| state.memberships.extend(joined))
                }
                None => self.take_absorber(found).map(|absorber| state.absorbers.push(absorber)),
            };
            if let Err(reason) = taken {
                tracing::warn!(target: MEMBERSHIP, "{full} can't be taken over: {reason}");
                self.forget([full]);
            }
        }
        if let Some(Ok(joining)) = kept.remove(name::JOINING).map(|found| found.record()) {
            unnoted(joining).for_each(|membership| self.joins.pool.leave_unnoted(&membership));
        }
    }

    fn take_socket(
        &mut self,
        number: &str,
        found: Found,
    ) -> Result<Vec<mcr_sys::membership::Membership>, String> {
        let number: u64 = number.parse().map_err(|_| "its number is none".to_owned())?;
        let claimed: Vec<MembershipRecord> = found.record().map_err(|error| error.to_string())?;
        let [fd] = descriptors(found.fds)?;
        self.joins
            .pool
            .adopt(number, fd, claimed.into_iter().map(membership))
            .map_err(|error| error.to_string())
    }

    fn take_absorber(&mut self, found: Found) -> Result<Absorber, String> {
        let absorber: Absorber = found.record().map_err(|error| error.to_string())?;
        self.joins.adopt_absorber(absorber, found.fds.into_iter().next())?;
        Ok(absorber)
    }

    fn take_worker(&mut self, mut parts: Parts) -> Result<FoundWorker, String> {
        let process = parts.remove(name::PROCESS).map(|found| (found.record::<ProcessRecord>(), found.fds));
        let process = process.and_then(|(record, fds)| Some((record.ok()?, descriptors::<2>(fds).ok()?)));
        let handle = process.as_ref().and_then(|(_, [_, pidfd])| pidfd.try_clone().ok()).map(PidFd::from);
        self.take_seat_and_process(parts, process).inspect_err(|_| {
            // Two of one interface would both relay.
            if let Some(handle) = handle {
                let _ = handle.kill(Signal::KILL);
            }
        })
    }

    fn take_seat_and_process(
        &mut self,
        mut parts: Parts,
        process: Option<(ProcessRecord, [OwnedFd; 2])>,
    ) -> Result<FoundWorker, String> {
        let slot = parts.remove(name::SEAT).ok_or("it has no capture socket")?;
        let record: SlotRecord = slot.record().map_err(|error| error.to_string())?;
        let [capture, page] = descriptors(slot.fds)?;
        let (capture, fanout) = Capture::adopt(capture).map_err(|error| error.to_string())?;
        if fanout != FanoutGroup(record.fanout) {
            return Err(format!(
                "its capture socket is in fan-out group {}, not {}",
                fanout.0, record.fanout
            ));
        }
        let id = record.worker;
        let book: WorkerRecord =
            parts.remove(name::BOOK).and_then(|found| found.record().ok()).unwrap_or_default();
        let drops: u64 =
            parts.remove(name::KERNEL_DROPS).and_then(|found| found.record().ok()).unwrap_or_default();
        let places = match parts.remove(name::PLACES) {
            // No rule set was ever sent.
            None => book.sent.is_none().then(no_page_slots),
            Some(found) => decode_page_slots(found.bytes())
                .inspect_err(|error| tracing::warn!(target: WORKERS, worker = %id, "counts anew: {error}"))
                .ok(),
        };
        let known = record.link_version == LINK_VERSION && places.is_some();
        let slot = if known {
            WorkerSlot::adopted(capture, fanout, page, drops, record.note)
        } else {
            WorkerSlot::with_new_page(capture, fanout, drops, record.note)
        }
        .map_err(|error| error.to_string())?;
        let snapshot = slot.reader().worker();
        let settings = process.as_ref().and_then(|(record, _)| record.settings);
        let process = match process {
            None => FoundProcess::None,
            Some((record, fds)) => self.take_process(&id, record, fds, known.then_some(&snapshot))?,
        };
        self.slots.insert(id.clone(), slot);
        if !known {
            self.remember_slot(&id);
        }
        let applied = (snapshot.generation, snapshot.hash);
        Ok(FoundWorker { id, process, settings, book, places: places.filter(|_| known), applied })
    }

    /// `page` is `None` if the worker's page can't be used.
    fn take_process(
        &mut self,
        id: &WorkerId,
        record: ProcessRecord,
        [channel, pidfd]: [OwnedFd; 2],
        page: Option<&WorkerSnapshot>,
    ) -> Result<FoundProcess, String> {
        let ProcessRecord { pid, since, ready, link_version, program, .. } = record;
        let pidfd = PidFd::from(pidfd);
        if pidfd.pid() != Some(pid) || pidfd.has_ended().unwrap_or(true) {
            self.forget([name::of(name::PROCESS, id)]);
            return Ok(FoundProcess::Dead { reason: "it ended while mcrd was away".to_owned() });
        }
        let old_program = program != self.checkpoint.program;
        let usable =
            page.filter(|page| link_version == LINK_VERSION && [0, LINK_VERSION].contains(&page.version));
        let channel = usable.is_some().then(|| Channel::from(channel));
        let process = self.watch(id, pidfd, channel, program).map_err(|error| error.to_string())?;
        self.processes.insert(id.clone(), process);
        let Some(page) = usable else {
            tracing::warn!(
                target: WORKERS, worker = %id, pid,
                "speaks version {link_version}, this mcrd {LINK_VERSION}: it ends and is replaced"
            );
            // Its channel closes with the keeper's descriptor, and it finishes what it has.
            self.forget([name::of(name::PROCESS, id)]);
            return Ok(FoundProcess::Unusable { pid, since });
        };
        // Traces end with the supervisor that asked for them, and their rings are gone.
        self.tell(id, &ToWorker::EndTrace(None), &[]);
        let (ready_at, readied) = match ready {
            Some((at, record)) => (at, Readied::from(record)),
            // It was about to say so, or nobody has heard it.
            None if page.pid == pid => (since, readied_of(pid, page)),
            None => return Ok(FoundProcess::Starting { pid, since }),
        };
        if page.pid != pid {
            return Err(format!("process {pid} is not the one that counts in its page, {}", page.pid));
        }
        Ok(FoundProcess::Running { pid, since, ready_at, readied, old_program })
    }
}

fn readied_of(pid: u32, page: &WorkerSnapshot) -> Readied {
    let status = Status::read(Some(pid)).ok();
    let uid = status.and_then(|status| status.field("Uid").get(1).and_then(|uid| uid.parse().ok()));
    let io = page.io.unwrap_or(mcr_link::message::IoBackend::Recvmmsg);
    Readied::new(io, uid.unwrap_or(mcr_sys::privileges::NOBODY), Vec::new())
}

fn descriptors<const N: usize>(fds: Vec<OwnedFd>) -> Result<[OwnedFd; N], String> {
    <[OwnedFd; N]>::try_from(fds).map_err(|fds| format!("{} descriptors instead of {N}", fds.len()))
}
