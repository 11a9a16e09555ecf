//! What the executor holds, given to the keeper as it comes and goes, so that the next supervisor can go on with it.
//!
//! What must not be lost is on its way to the keeper before anybody can have used it: what a worker is about to be told
//! before it is told, a group before it is joined.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mcr_link::message::LINK_VERSION;
use mcr_rules::log::WORKERS;
use mcr_sys::channel::Channel;
use mcr_sys::membership::Membership;
use tokio::io::unix::AsyncFd;

use super::Executor;
use super::running_config::RunningConfig;
use crate::async_fd::Watched;
use crate::core::actual::Process;
use crate::core::checkpoint::{
    MembershipRecord, ProcessRecord, SlotRecord, WorkerRecord, encode_ledger, encode_page_slots,
    membership_record,
};
use crate::core::machine::Machine;
use crate::core::plan::{Absorber, WorkerId};
use crate::core::reconcile::Action;
use crate::core::restart::Restart;
use crate::keeper::{self, Bundle, Hold, KeeperGone};

/// Names of what is kept.
pub(super) mod name {
    use super::{Absorber, WorkerId};

    pub(in crate::executor) const CONFIG: &str = "config";
    pub(in crate::executor) const RULES: &str = "rules/";
    pub(in crate::executor) const LEDGER: &str = "ledger";
    pub(in crate::executor) const JOINING: &str = "joining";
    pub(in crate::executor) const SEAT: &str = "seat/";
    pub(in crate::executor) const PROCESS: &str = "process/";
    pub(in crate::executor) const BOOK: &str = "book/";
    pub(in crate::executor) const PLACES: &str = "places/";
    pub(in crate::executor) const KERNEL_DROPS: &str = "kernel-drops/";
    pub(in crate::executor) const JOINS: &str = "joins/";
    pub(in crate::executor) const ABSORBER: &str = "absorber/";

    pub(in crate::executor) fn of(kind: &str, id: &WorkerId) -> String {
        format!("{kind}{}/{}/{}", id.interface.ifindex, id.core, id.interface.name)
    }

    pub(in crate::executor) fn of_absorber(absorber: &Absorber) -> String {
        format!("{ABSORBER}{}/{}/{}", absorber.ifindex, absorber.port, absorber.address)
    }
}

/// The keeper, and what it has.
#[derive(Debug)]
pub(super) struct Checkpoint {
    keeper_socket: PathBuf,
    startup_file: String,
    pub(super) program: String,
    hold: Option<Hold>,
    /// When a keeper that died may be replaced.
    restart: Restart,
    kept_since: Option<Duration>,
    ledger_revision: Option<u64>,
    config_revision: Option<u64>,
    running: RunningConfig,
    orphan_timeout_s: Option<u32>,
}

impl Checkpoint {
    pub(super) fn new(keeper_socket: PathBuf, startup_file: String, program: String) -> Self {
        Self {
            keeper_socket,
            startup_file,
            program,
            hold: None,
            restart: Restart::default(),
            kept_since: None,
            ledger_revision: None,
            config_revision: None,
            running: RunningConfig::default(),
            orphan_timeout_s: None,
        }
    }

    fn lost(&mut self, error: &KeeperGone, now: Duration) {
        tracing::warn!(
            target: WORKERS,
            "the keeper is lost, a new one is started; until then a crash of mcrd would end the workers: {error}"
        );
        if let Some(hold) = self.hold.take() {
            hold.kill();
        }
        self.restart.failed(now, self.kept_since.take());
    }

    fn put_config(&mut self, bundle: &mut Bundle<'_>, machine: &Machine) {
        self.running.put(bundle, machine, self.startup_file.clone());
        self.config_revision = Some(machine.revision());
    }

    /// Counters of rules that are gone are in it no more. So the config comes along: one that still has those rules
    /// must not be what is found beside it.
    fn put_ledger(&mut self, bundle: &mut Bundle<'_>, machine: &Machine) {
        if self.config_revision != Some(machine.revision()) {
            self.put_config(bundle, machine);
        }
        bundle.put_bytes(name::LEDGER.to_owned(), &encode_ledger(&machine.ledger), &[]);
        self.ledger_revision = Some(machine.ledger.revision());
    }

    fn update(&mut self, bundle: Bundle<'_>) {
        let Some(hold) = self.hold.as_ref().filter(|_| !bundle.is_empty()) else { return };
        if let Err(error) = hold.update(bundle) {
            self.lost(&error, mcr_sys::clock::monotonic());
        }
    }
}

impl Executor {
    /// Goes on with a keeper that was found; it has what was taken over.
    pub(crate) fn use_keeper(&mut self, hold: Hold, now: Duration) {
        match hold.own(&self.worker_log.levels, self.worker_log.json) {
            Ok(()) => {
                self.checkpoint.hold = Some(hold);
                self.checkpoint.kept_since = Some(now);
            }
            Err(error) => {
                self.checkpoint.hold = Some(hold);
                self.checkpoint.lost(&error, now);
            }
        }
    }

    /// Makes sure that there is a keeper, if it is time for a try, and that it has everything.
    pub(crate) fn need_keeper(&mut self, machine: &Machine, now: Duration) {
        if self.checkpoint.hold.is_some() || !self.checkpoint.restart.is_due(now) {
            return;
        }
        match keeper::start(&self.checkpoint.keeper_socket) {
            Ok(hold) => {
                tracing::debug!(target: WORKERS, "keeper started");
                self.use_keeper(hold, now);
                self.remember_all(machine);
            }
            Err(error) => {
                tracing::error!(
                    target: WORKERS,
                    "no keeper can be started: a crash of mcrd would end the workers too: {error}"
                );
                self.checkpoint.restart.refused(now);
            }
        }
    }

    /// When [`Self::need_keeper`] has something to do.
    pub(crate) fn keeper_deadline(&self) -> Option<Duration> {
        self.checkpoint.hold.is_none().then(|| self.checkpoint.restart.not_before())
    }

    /// Becomes readable when the keeper has something to say, or is gone.
    pub(crate) fn watch_keeper(&self) -> Option<Arc<AsyncFd<Watched<Channel>>>> {
        self.checkpoint.hold.as_ref().map(Hold::watch)
    }

    /// Hears the keeper.
    pub(crate) fn hear_keeper(&mut self, now: Duration) {
        match self.checkpoint.hold.as_ref().map(Hold::complaints) {
            None => {}
            Some(Ok(complaints)) => {
                for complaint in complaints {
                    tracing::error!(
                        target: WORKERS,
                        "the keeper can't keep something, so a crash of mcrd would interrupt traffic: {complaint}"
                    );
                }
            }
            Some(Err(error)) => self.checkpoint.lost(&error, now),
        }
    }

    /// Lets the keeper end, with everything it has.
    pub(crate) fn dismiss_keeper(&mut self) {
        if let Some(hold) = self.checkpoint.hold.take() {
            hold.stop();
        }
        // Nobody else uses the socket file; it may be gone already.
        let _ = std::fs::remove_file(&self.checkpoint.keeper_socket);
    }

    /// To be called before these actions are executed.
    pub(crate) fn announce(&mut self, actions: &[Action], machine: &Machine) {
        // Before places are given away again.
        self.remember_ledger(machine);
        let mut bundle = Bundle::default();
        let mut joining: Vec<MembershipRecord> = Vec::new();
        for action in actions {
            match action {
                Action::SendEgress { worker, .. } | Action::Stop(worker) => {
                    put_worker_record(&mut bundle, worker, machine);
                }
                Action::SendRuleSet { worker, .. } => {
                    put_worker_record(&mut bundle, worker, machine);
                    put_page_slots(&mut bundle, worker, machine);
                }
                Action::Join { membership, .. } => joining.push(membership_record(membership)),
                _ => {}
            }
        }
        if !joining.is_empty() {
            bundle.put(name::JOINING.to_owned(), &joining, &[]);
        }
        self.checkpoint.update(bundle);
    }

    /// To be called after actions were executed.
    pub(crate) fn note_joins(&mut self) {
        let touched = self.joins.pool.take_touched();
        if touched.is_empty() {
            return;
        }
        let Self { joins, checkpoint, .. } = self;
        let mut bundle = Bundle::default();
        let mut gone = touched.clone();
        for socket in joins.pool.sockets().filter(|socket| touched.contains(&socket.number)) {
            gone.remove(&socket.number);
            let joined: Vec<MembershipRecord> = socket.memberships.iter().map(membership_record).collect();
            bundle.put(format!("{}{}", name::JOINS, socket.number), &joined, &[socket.fd]);
        }
        gone.into_iter().for_each(|number| bundle.remove(format!("{}{number}", name::JOINS)));
        bundle.remove(name::JOINING.to_owned());
        checkpoint.update(bundle);
    }

    /// What is not part of an action: counters of the past, the config once no change is under way.
    pub(crate) fn note_rest(&mut self, machine: &Machine) {
        self.remember_ledger(machine);
        let orphan_timeout_s = machine.config().settings.orphan_timeout_s;
        if let Some(hold) = &self.checkpoint.hold
            && self.checkpoint.orphan_timeout_s != Some(orphan_timeout_s)
        {
            match hold.set_orphan_timeout(orphan_timeout_s) {
                Ok(()) => self.checkpoint.orphan_timeout_s = Some(orphan_timeout_s),
                Err(error) => self.checkpoint.lost(&error, mcr_sys::clock::monotonic()),
            }
        }
        let revision = Some(machine.revision());
        if machine.is_changing() || self.checkpoint.config_revision == revision {
            return;
        }
        let mut bundle = Bundle::default();
        self.checkpoint.put_config(&mut bundle, machine);
        self.checkpoint.update(bundle);
    }

    fn remember_ledger(&mut self, machine: &Machine) {
        let revision = Some(machine.ledger.revision());
        if self.checkpoint.ledger_revision != revision {
            let mut bundle = Bundle::default();
            self.checkpoint.put_ledger(&mut bundle, machine);
            self.checkpoint.update(bundle);
        }
    }

    pub(super) fn remember_slot(&mut self, id: &WorkerId) {
        let mut bundle = Bundle::default();
        put_slot(&mut bundle, id, self.slots.get(id));
        self.checkpoint.update(bundle);
    }

    pub(super) fn remember_kernel_drops(&mut self, changed: &[(WorkerId, u64)]) {
        let mut bundle = Bundle::default();
        for (id, drops) in changed {
            bundle.put(name::of(name::KERNEL_DROPS, id), drops, &[]);
        }
        self.checkpoint.update(bundle);
    }

    /// A worker's process is there, or is ready.
    pub(crate) fn remember_process(&mut self, id: &WorkerId, machine: &Machine) {
        let mut bundle = Bundle::default();
        put_process(&mut bundle, id, self.processes.get(id), machine);
        self.checkpoint.update(bundle);
    }

    /// A worker's process is gone, and how it fared is noted.
    pub(crate) fn forget_process(&mut self, id: &WorkerId, machine: &Machine) {
        let mut bundle = Bundle::default();
        bundle.remove(name::of(name::PROCESS, id));
        put_worker_record(&mut bundle, id, machine);
        self.checkpoint.update(bundle);
    }

    /// A worker has left: its counters are in the ledger. Both in one, so that nothing is counted twice.
    pub(super) fn forget_worker(&mut self, id: &WorkerId, machine: &Machine) {
        let mut bundle = Bundle::default();
        self.checkpoint.put_ledger(&mut bundle, machine);
        for kind in [name::SEAT, name::PROCESS, name::BOOK, name::PLACES, name::KERNEL_DROPS] {
            bundle.remove(name::of(kind, id));
        }
        self.checkpoint.update(bundle);
    }

    pub(super) fn remember_absorber(&mut self, absorber: &Absorber, socket: Option<&OwnedFd>) {
        let mut bundle = Bundle::default();
        let fds: Vec<BorrowedFd<'_>> = socket.into_iter().map(AsFd::as_fd).collect();
        bundle.put(name::of_absorber(absorber), absorber, &fds);
        self.checkpoint.update(bundle);
    }

    pub(super) fn forget(&mut self, names: impl IntoIterator<Item = String>) {
        let mut bundle = Bundle::default();
        names.into_iter().for_each(|name| bundle.remove(name));
        self.checkpoint.update(bundle);
    }

    /// A new keeper gets everything.
    fn remember_all(&mut self, machine: &Machine) {
        let Self { slots, processes, joins, checkpoint, .. } = self;
        let mut bundle = Bundle::default();
        (checkpoint.config_revision, checkpoint.orphan_timeout_s) = (None, None);
        checkpoint.running = RunningConfig::default();
        checkpoint.put_ledger(&mut bundle, machine);
        for (id, slot) in slots.iter() {
            put_slot(&mut bundle, id, Some(slot));
            bundle.put(name::of(name::KERNEL_DROPS, id), &slot.kernel_drops(), &[]);
            put_worker_record(&mut bundle, id, machine);
            put_page_slots(&mut bundle, id, machine);
        }
        for (id, process) in processes.iter() {
            put_process(&mut bundle, id, Some(process), machine);
        }
        joins.pool.take_touched();
        for socket in joins.pool.sockets() {
            let joined: Vec<MembershipRecord> = socket.memberships.iter().map(membership_record).collect();
            bundle.put(format!("{}{}", name::JOINS, socket.number), &joined, &[socket.fd]);
        }
        for (absorber, socket) in joins.absorbers() {
            let fds: Vec<BorrowedFd<'_>> = socket.into_iter().map(AsFd::as_fd).collect();
            bundle.put(name::of_absorber(absorber), absorber, &fds);
        }
        checkpoint.update(bundle);
        self.note_rest(machine);
    }
}

fn put_slot<'a>(bundle: &mut Bundle<'a>, id: &WorkerId, slot: Option<&'a super::WorkerSlot>) {
    if let Some(slot) = slot {
        let note = slot.facts().note.clone();
        let record =
            SlotRecord { worker: id.clone(), fanout: slot.fanout().0, link_version: LINK_VERSION, note };
        bundle.put(name::of(name::SEAT, id), &record, &[slot.capture().as_fd(), slot.page().as_fd()]);
    }
}

fn put_process<'a>(
    bundle: &mut Bundle<'a>,
    id: &WorkerId,
    process: Option<&'a super::process::WorkerProcess>,
    machine: &Machine,
) {
    let Some((process, worker)) = process.zip(machine.actual.workers.get(id)) else { return };
    let actual = &worker.process;
    let (Some(pid), Some(since), Some(channel)) = (actual.pid(), actual.since(), process.channel()) else {
        return;
    };
    let ready = match actual {
        Process::Running { ready_at, readied, .. } => Some((*ready_at, readied.into())),
        _ => None,
    };
    let program = process.program.clone();
    let (link_version, settings) = (LINK_VERSION, worker.settings);
    let record = ProcessRecord { worker: id.clone(), pid, since, ready, link_version, program, settings };
    bundle.put(name::of(name::PROCESS, id), &record, &[channel, process.pidfd()]);
}

fn put_worker_record(bundle: &mut Bundle<'_>, id: &WorkerId, machine: &Machine) {
    if let Some(worker) = machine.actual.workers.get(id) {
        bundle.put(name::of(name::BOOK, id), &WorkerRecord::of(worker), &[]);
    }
}

fn put_page_slots(bundle: &mut Bundle<'_>, id: &WorkerId, machine: &Machine) {
    if let Some(worker) = machine.actual.workers.get(id) {
        bundle.put_bytes(name::of(name::PLACES, id), &encode_page_slots(worker), &[]);
    }
}

/// Memberships that were about to be joined when a supervisor died and are in no list.
pub(super) fn unnoted(joining: Vec<MembershipRecord>) -> impl Iterator<Item = Membership> {
    joining.into_iter().map(crate::core::checkpoint::membership)
}
