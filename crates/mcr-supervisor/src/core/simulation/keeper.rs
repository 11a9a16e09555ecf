//! The simulated keeper: it receives the derived items in the same groups as the real one, and the supervisor may be
//! killed between any two groups and before and after each action.

use std::collections::{BTreeMap, BTreeSet};

use mcr_link::message::LINK_VERSION;
use mcr_sys::membership::Membership;

use super::kernel_engine::KernelEngine;
use super::{Page, World};
use crate::core::checkpoint::{Change, Checkpoint, HeldItems, Key, SlotRecord, Stored, read_memberships};
use crate::core::filter_set::FilterSet;
use crate::core::plan::{Absorber, WorkerId};
use crate::core::reconcile::Action;

/// The program that workers run.
pub(super) const PROGRAM: &str = "program";
/// Memberships per socket.
const SOCKET_ROOM: usize = 2;

/// The items, and what is kept open by the keeper alone.
#[derive(Default)]
pub(crate) struct Keeper {
    checkpoint: Checkpoint,
    pub(super) stored: Stored<Vec<u8>>,
    /// Capture sockets and pages closed by the supervisor.
    pub(super) closed: BTreeMap<WorkerId, (FilterSet, Page)>,
    /// The maps of a kernel engine that has ended.
    pub(super) ended_kernel: Option<KernelEngine>,
}

impl Keeper {
    /// A new supervisor connects to the keeper.
    pub(super) fn adopted(&mut self) {
        self.checkpoint = Checkpoint::found(self.stored.keys().cloned());
    }

    fn apply(&mut self, group: Vec<Change>) {
        for change in group {
            if *change.key() == Key::KernelEngine {
                self.ended_kernel = None;
            }
            match change {
                Change::Put(key, record) => _ = self.stored.insert(key, record),
                Change::Remove(key) => {
                    if let Key::Slot(id) = &key {
                        self.closed.remove(id);
                    }
                    self.stored.remove(&key);
                }
            }
        }
    }
}

impl World {
    /// Brings the keeper up to date before these actions are executed. Returns whether the supervisor was killed.
    pub(super) fn store(&mut self, pending: &[Action]) -> bool {
        if self.is_killed_here() {
            return true;
        }
        for group in self.difference(pending) {
            if self.is_killed_here() {
                return true;
            }
            self.keeper.apply(group);
        }
        self.is_killed_here()
    }

    fn difference(&mut self, pending: &[Action]) -> Vec<Vec<Change>> {
        let mut checkpoint = std::mem::take(&mut self.keeper.checkpoint);
        let groups = checkpoint.difference(&self.machine, self, pending);
        self.keeper.checkpoint = checkpoint;
        groups
    }

    /// What the keeper holds.
    pub(crate) fn stored(&self) -> &Stored<Vec<u8>> {
        &self.keeper.stored
    }

    /// The keeper dies, and the supervisor starts another one.
    pub(crate) fn replace_keeper(&mut self) {
        self.keeper = Keeper::default();
        self.difference(&[]).into_iter().for_each(|group| self.keeper.apply(group));
    }

    /// A point at which the supervisor can be killed. Returns whether it was.
    pub(super) fn is_killed_here(&mut self) -> bool {
        match self.kill_after.take() {
            None => false,
            Some((0, old_program)) => {
                self.crash(old_program);
                true
            }
            Some((points, old_program)) => {
                self.kill_after = Some((points - 1, old_program));
                false
            }
        }
    }
}

impl HeldItems for World {
    fn startup_file(&self) -> &str {
        "startup"
    }

    fn slots(&self) -> impl Iterator<Item = &WorkerId> {
        self.captures.keys()
    }

    fn slot(&self, id: &WorkerId) -> Option<(SlotRecord, u64)> {
        let record = SlotRecord {
            fanout: 1,
            link_version: LINK_VERSION,
            note: None,
            promiscuous: false,
            send_locked: true,
        };
        self.captures.contains_key(id).then_some((record, 0))
    }

    fn program(&self, id: &WorkerId) -> Option<&str> {
        self.processes.contains_key(id).then_some(PROGRAM)
    }

    fn membership_sockets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.joined.open.iter().map(|(number, socket)| (*number, socket.revision))
    }

    fn joined_on(&self, socket: u64) -> Vec<Membership> {
        self.joined.open[&socket].joined.iter().copied().collect()
    }

    fn absorbers(&self) -> impl Iterator<Item = &Absorber> {
        self.absorbed.iter()
    }

    fn attacher(&self) -> Option<u32> {
        None
    }

    fn kernel_engine(&self) -> Option<u64> {
        self.kernel.as_ref().map(|_| 1)
    }
}

/// Membership sockets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sockets {
    open: BTreeMap<u64, Socket>,
    next: u64,
    changes: u64,
}

#[derive(Clone, Debug, Default)]
struct Socket {
    revision: u64,
    joined: BTreeSet<Membership>,
}

impl Sockets {
    pub(crate) fn all(&self) -> BTreeSet<Membership> {
        self.open.values().flat_map(|socket| socket.joined.iter().copied()).collect()
    }

    pub(crate) fn contains(&self, membership: &Membership) -> bool {
        self.open.values().any(|socket| socket.joined.contains(membership))
    }

    /// Returns whether it was not joined yet.
    pub(super) fn join(&mut self, membership: Membership) -> bool {
        if self.contains(&membership) {
            return false;
        }
        let with_room = self.open.iter_mut().find(|(_, socket)| socket.joined.len() < SOCKET_ROOM);
        let number = with_room.map_or(self.next, |(number, _)| *number);
        self.next = self.next.max(number + 1);
        self.changes += 1;
        let socket = self.open.entry(number).or_default();
        socket.revision = self.changes;
        socket.joined.insert(membership)
    }

    /// Returns whether it was joined.
    pub(super) fn leave(&mut self, membership: &Membership) -> bool {
        let mut sockets = self.open.values_mut();
        let Some(socket) = sockets.find_map(|socket| socket.joined.remove(membership).then_some(socket))
        else {
            return false;
        };
        self.changes += 1;
        socket.revision = self.changes;
        self.open.retain(|_, socket| !socket.joined.is_empty());
        true
    }

    /// What the next supervisor restores from the keeper's sockets.
    pub(super) fn adopted(&self, stored: &Stored<Vec<u8>>) -> Self {
        let joining = stored.get(&Key::Joining).map(|record| read_memberships(record).unwrap());
        let joining = joining.unwrap_or_default();
        let mut adopted = Self::default();
        for (key, record) in stored {
            let Key::Memberships(number) = key else { continue };
            let claimed = read_memberships(record).unwrap();
            for left_over in self.open.get(number).iter().flat_map(|socket| &socket.joined) {
                let known = claimed.contains(left_over) || joining.contains(left_over);
                assert!(known, "{left_over:?} is joined for ever on socket {number}");
            }
            let joined: BTreeSet<_> = claimed.into_iter().filter(|one| !adopted.contains(one)).collect();
            adopted.next = number + 1;
            if !joined.is_empty() {
                adopted.open.insert(*number, Socket { revision: 0, joined });
            }
        }
        adopted
    }
}
