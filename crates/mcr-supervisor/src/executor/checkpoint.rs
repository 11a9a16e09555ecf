//! The supervisor's connection to the keeper: starts it, and sends it the items derived by the core, with
//! descriptors.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mcr_rules::SandboxChoice;
use mcr_rules::log::WORKERS;
use mcr_sys::channel::Channel;
use mcr_sys::clock;
use mcr_sys::membership::Membership;
use tokio::io::unix::AsyncFd;

use super::early_drop::AttacherLink;
use super::joins::Joins;
use super::kernel_engine::KernelMaps;
use super::process::WorkerProcess;
use super::{Executor, WorkerSlot};
use crate::async_fd::Watched;
use crate::core::checkpoint::{Change, Checkpoint, HeldItems, Key, SlotRecord};
use crate::core::machine::Machine;
use crate::core::plan::{Absorber, WorkerId};
use crate::core::reconcile::Action;
use crate::core::restart::Restart;
use crate::keeper::{self, Bundle, KeeperClient, KeeperGone};

/// The keeper, and its tracked contents.
#[derive(Debug)]
pub(super) struct KeeperLink {
    keeper_socket: PathBuf,
    startup_file: String,
    client: Option<KeeperClient>,
    /// When a keeper that died may be replaced.
    restart: Restart,
    kept_since: Option<Duration>,
    checkpoint: Checkpoint,
    orphan_timeout_s: Option<u32>,
}

impl KeeperLink {
    pub(super) fn new(keeper_socket: PathBuf, startup_file: String) -> Self {
        Self {
            keeper_socket,
            startup_file,
            client: None,
            restart: Restart::default(),
            kept_since: None,
            checkpoint: Checkpoint::default(),
            orphan_timeout_s: None,
        }
    }

    fn lost(&mut self, error: &KeeperGone, now: Duration) {
        tracing::warn!(
            target: WORKERS,
            "the keeper is lost and is restarted; until then a crash of mcrd would stop the workers: {error}"
        );
        if let Some(client) = self.client.take() {
            client.kill();
        }
        self.restart.failed(now, self.kept_since.take());
    }
}

impl Executor {
    /// Continues with a keeper that holds these items.
    pub(crate) fn use_keeper(&mut self, client: KeeperClient, holds: Checkpoint, now: Duration) {
        let owned = client.own(&self.worker_log.levels, self.worker_log.json);
        let link = &mut self.keeper;
        (link.client, link.checkpoint, link.orphan_timeout_s) = (Some(client), holds, None);
        match owned {
            Ok(()) => link.kept_since = Some(now),
            Err(error) => link.lost(&error, now),
        }
    }

    /// Starts a keeper if there is none and an attempt is due.
    pub(crate) fn ensure_keeper(&mut self, sandbox: SandboxChoice, now: Duration) {
        if self.keeper.client.is_some() || !self.keeper.restart.is_due(now) {
            return;
        }
        match keeper::start(&self.keeper.keeper_socket, sandbox) {
            Ok(client) => {
                tracing::debug!(target: WORKERS, "keeper started");
                self.use_keeper(client, Checkpoint::default(), now);
            }
            Err(error) => {
                tracing::error!(
                    target: WORKERS,
                    "can't start a keeper: a crash of mcrd would stop the workers, too: {error}"
                );
                self.keeper.restart.refused(now);
            }
        }
    }

    /// When [`Self::ensure_keeper`] has work.
    pub(crate) fn keeper_deadline(&self) -> Option<Duration> {
        self.keeper.client.is_none().then(|| self.keeper.restart.not_before())
    }

    /// Becomes readable when the keeper has sent a message, or exited.
    pub(crate) fn watch_keeper(&self) -> Option<Arc<AsyncFd<Watched<Channel>>>> {
        self.keeper.client.as_ref().map(KeeperClient::watch)
    }

    /// Handles the keeper's messages.
    pub(crate) fn read_keeper(&mut self, now: Duration) {
        match self.keeper.client.as_ref().map(KeeperClient::complaints) {
            None => {}
            Some(Ok(complaints)) => {
                for complaint in complaints {
                    tracing::error!(
                        target: WORKERS,
                        "the keeper is incomplete, a crash of mcrd would interrupt traffic: {complaint}"
                    );
                }
            }
            Some(Err(error)) => self.keeper.lost(&error, now),
        }
    }

    /// Ends the keeper, with everything it holds.
    pub(crate) fn dismiss_keeper(&mut self) {
        if let Some(client) = self.keeper.client.take() {
            client.stop();
        }
        // No other process uses the socket file; it may be gone already.
        let _ = std::fs::remove_file(&self.keeper.keeper_socket);
    }

    /// Brings the keeper up to date before these actions are executed: when this returns, the changes have been sent
    /// and arrive even if the supervisor is killed.
    pub(crate) fn store(&mut self, machine: &Machine, pending: &[Action]) {
        let Self { slots, processes, joins, keeper, attacher, kernel, .. } = self;
        let KeeperLink { client: Some(client), checkpoint, startup_file, orphan_timeout_s, .. } = keeper
        else {
            return;
        };
        let view = View { startup_file, slots, processes, joins, attacher, kernel: kernel.as_ref() };
        let mut bundle = Bundle::default();
        for group in checkpoint.difference(machine, &view, pending) {
            for change in group {
                match change {
                    Change::Put(key, record) => {
                        bundle.put(key.to_string(), &record, &view.descriptors(&key));
                    }
                    Change::Remove(key) => bundle.remove(key.to_string()),
                }
            }
            bundle.end_group();
        }
        let timeout = Some(machine.config().settings.orphan_timeout_s);
        let new_timeout = timeout.filter(|_| *orphan_timeout_s != timeout);
        *orphan_timeout_s = timeout;
        let sent = client.update(bundle);
        let sent =
            sent.and_then(|()| new_timeout.map_or(Ok(()), |seconds| client.set_orphan_timeout(seconds)));
        if let Err(error) = sent {
            keeper.lost(&error, clock::monotonic());
        }
    }
}

/// The executor's state, for the derivation of items.
struct View<'a> {
    startup_file: &'a str,
    slots: &'a BTreeMap<WorkerId, WorkerSlot>,
    processes: &'a BTreeMap<WorkerId, WorkerProcess>,
    joins: &'a Joins,
    attacher: &'a AttacherLink,
    kernel: Option<&'a KernelMaps>,
}

impl<'a> View<'a> {
    /// The descriptors of an item.
    fn descriptors(&self, key: &Key) -> Vec<BorrowedFd<'a>> {
        match key {
            Key::Slot(id) => {
                let slot = self.slots.get(id);
                slot.map(WorkerSlot::descriptors).unwrap_or_default()
            }
            Key::Process(id) => {
                let process = self.processes.get(id);
                process.and_then(WorkerProcess::descriptors).map(Vec::from).unwrap_or_default()
            }
            Key::Memberships(number) => {
                self.joins.pool.socket(*number).map(|socket| socket.fd).into_iter().collect()
            }
            Key::Absorber(absorber) => self.joins.absorber(absorber).map(AsFd::as_fd).into_iter().collect(),
            Key::Attacher => {
                let client = self.attacher.client.as_ref();
                client.map(|client| client.descriptors().to_vec()).unwrap_or_default()
            }
            Key::KernelEngine => self.kernel.map(KernelMaps::descriptors).unwrap_or_default(),
            _ => Vec::new(),
        }
    }
}

impl HeldItems for View<'_> {
    fn startup_file(&self) -> &str {
        self.startup_file
    }

    fn slots(&self) -> impl Iterator<Item = &WorkerId> {
        self.slots.keys()
    }

    fn slot(&self, id: &WorkerId) -> Option<(SlotRecord, u64)> {
        self.slots.get(id).map(|slot| (slot.record(), slot.kernel_drops))
    }

    fn program(&self, id: &WorkerId) -> Option<&str> {
        let process = self.processes.get(id).filter(|process| process.descriptors().is_some());
        process.map(|process| process.program.as_str())
    }

    fn membership_sockets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.joins.pool.sockets().map(|socket| (socket.number, socket.revision))
    }

    fn joined_on(&self, socket: u64) -> Vec<Membership> {
        self.joins.pool.socket(socket).iter().flat_map(|socket| socket.memberships()).collect()
    }

    fn absorbers(&self) -> impl Iterator<Item = &Absorber> {
        self.joins.absorbers()
    }

    fn attacher(&self) -> Option<u32> {
        self.attacher.client.as_ref()?.pid()
    }

    fn kernel_engine(&self) -> Option<u64> {
        self.kernel.map(KernelMaps::number)
    }
}
