//! What the keeper should hold is derived from the complete state and compared with what it holds: no other code
//! stores or removes single items.
//!
//! ```text
//!  Machine ─┐                ┌──────────────────────────┐
//!  HeldItems ────┼─▶ items() ────▶│ Checkpoint::difference() │─▶ groups of puts and removals ─▶ keeper
//!  actions ─┘  key, revision └──────────────────────────┘
//! ```
//!
//! Groups are sent in this order, since the supervisor may be killed between any two:
//!
//! 1. the config, so that the ledger never lacks the counters of a rule that the config has;
//! 2. the ledger, with the kernel engine and the removal of workers that were discarded, so that no counter is lost or counted twice;
//! 3. each worker, after the ledger, since a page slot is reused once its counters are in the ledger;
//! 4. sockets;
//! 5. the memberships about to be joined: those listed before are in the sockets' records.
//!
//! Interfaces whose settings are changed are recorded in group 4: before the change, since the state has what is about to be set.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::iter::Peekable;

use mcr_sys::membership::Membership;

use super::config_parts::ConfigParts;
use super::key::Key;
use super::records::{
    ConfigRecord, MembershipRecord, ProcessRecord, SlotRecord, WorkerRecord, encode, encode_kernel_slots,
    encode_page_slots, filter_of, membership_record,
};
use crate::core::actual::ActualWorker;
use crate::core::filter_set::FilterSet;
use crate::core::machine::Machine;
use crate::core::plan::{Absorber, WorkerId};
use crate::core::reconcile::Action;

/// What the executor holds, as far as the records describe it. All iterators are in ascending order.
pub(crate) trait HeldItems {
    /// Where the config came from.
    fn startup_file(&self) -> &str;
    /// The workers that have a capture socket and a telemetry page.
    fn slots(&self) -> impl Iterator<Item = &WorkerId>;
    /// One of them, and the number of frames that the kernel dropped there.
    fn slot(&self, id: &WorkerId) -> Option<(SlotRecord, u64)>;
    /// The program of a worker's process; `None` without a process that can be reached.
    fn program(&self, id: &WorkerId) -> Option<&str>;
    /// The membership sockets: number and revision, which increases with each join or leave.
    fn membership_sockets(&self) -> impl Iterator<Item = (u64, u64)>;
    /// The memberships joined on one of them.
    fn joined_on(&self, socket: u64) -> Vec<Membership>;
    /// The open absorbers.
    fn absorbers(&self) -> impl Iterator<Item = &Absorber>;
    /// The process id of the attacher.
    fn attacher(&self) -> Option<u32>;
    /// Whether there are maps of the kernel engine, and which, by a number.
    fn kernel_engine(&self) -> Option<u64>;
}

/// Distinguishes records of an item without the cost of encoding them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Revision {
    /// Unknown: differs from any record.
    Unknown,
    /// A change counter, or a hash of the record.
    Number(u64),
    /// Of page slots: change counters of rules and outputs, and the filter.
    PageSlots(u64, u64, FilterSet),
}

impl Revision {
    fn of(record: &impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        record.hash(&mut hasher);
        Self::Number(hasher.finish())
    }
}

/// A change to the keeper's items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Stores this record with the item's descriptors.
    Put(Key, Vec<u8>),
    /// Removes this item.
    Remove(Key),
}

impl Change {
    /// The item's name.
    pub(crate) fn key(&self) -> &Key {
        match self {
            Self::Put(key, _) | Self::Remove(key) => key,
        }
    }
}

/// The state that items are derived from.
struct Source<'a, H> {
    machine: &'a Machine,
    held: &'a H,
    parts: &'a ConfigParts,
    joining: Vec<MembershipRecord>,
}

/// One kind of item of a worker; `None` if the worker has none.
type OfWorker<S> = fn(&S, &WorkerId) -> Option<(Key, Revision)>;

impl<H: HeldItems> Source<'_, H> {
    /// Returns every item with its revision, in key order.
    fn items(&self) -> Vec<(Key, Revision)> {
        let mut items: Vec<(Key, Revision)> = Vec::new();
        let parts = self.parts.hashes().enumerate();
        items.extend(parts.map(|(number, hash)| (Key::Rules(number), Revision::Number(hash))));
        items.push((Key::Config, Revision::Number(self.parts.revision())));
        items.push((Key::Ledger, Revision::Number(self.machine.ledger().revision())));
        let of_workers: [OfWorker<Self>; 5] = [
            |source, id| Some((Key::Slot(id.clone()), Revision::of(&source.held.slot(id)?.0))),
            |source, id| Some((Key::Process(id.clone()), Revision::of(&source.process(id)?))),
            |source, id| {
                let record = WorkerRecord::of(source.worker(id)?);
                Some((Key::Worker(id.clone()), Revision::of(&record)))
            },
            |source, id| Some((Key::PageSlots(id.clone()), page_slots_revision(source.worker(id)?))),
            |source, id| Some((Key::KernelDrops(id.clone()), Revision::Number(source.held.slot(id)?.1))),
        ];
        for of_worker in of_workers {
            items.extend(self.held.slots().filter_map(|id| of_worker(self, id)));
        }
        let offloads = self.machine.aggregation().records();
        if !offloads.is_empty() {
            items.push((Key::Offloads, Revision::of(&offloads)));
        }
        if !self.joining.is_empty() {
            items.push((Key::Joining, Revision::of(&self.joining)));
        }
        let sockets = self.held.membership_sockets();
        items
            .extend(sockets.map(|(number, revision)| (Key::Memberships(number), Revision::Number(revision))));
        let absorbers = self.held.absorbers();
        items.extend(absorbers.map(|absorber| (Key::Absorber(*absorber), Revision::of(&true))));
        items.extend(self.held.attacher().map(|pid| (Key::Attacher, Revision::Number(pid.into()))));
        items.extend(self.held.kernel_engine().map(|number| {
            let counting = self.machine.actual().kernel.counting();
            let slots = (counting.rule_slots.revision(), counting.output_slots.revision());
            (Key::KernelEngine, Revision::of(&(number, slots)))
        }));
        items
    }

    /// Returns the record of an item; `None` if it is not derived.
    fn record(&self, key: &Key) -> Option<Vec<u8>> {
        match key {
            Key::Rules(number) => self.parts.record(*number),
            Key::Config => {
                let (file, parts) = (self.held.startup_file().to_owned(), self.parts.hashes().collect());
                Some(json(&ConfigRecord::without_rules(self.machine, file, parts)))
            }
            Key::Ledger => Some(encode(self.machine.ledger())),
            Key::Slot(id) => Some(json(&self.held.slot(id)?.0)),
            Key::Process(id) => Some(json(&self.process(id)?)),
            Key::Worker(id) => Some(json(&WorkerRecord::of(self.worker(id)?))),
            Key::PageSlots(id) => Some(encode_page_slots(self.worker(id)?)),
            Key::KernelDrops(id) => Some(json(&self.held.slot(id)?.1)),
            Key::Offloads => Some(json(&self.machine.aggregation().records())),
            Key::Joining => Some(json(&self.joining)),
            Key::Memberships(number) => {
                let joined = self.held.joined_on(*number);
                Some(json(&joined.iter().map(membership_record).collect::<Vec<_>>()))
            }
            Key::Absorber(_) | Key::Attacher => Some(Vec::new()),
            Key::KernelEngine => Some(encode_kernel_slots(self.machine.actual().kernel.counting())),
            Key::Unknown(_) => None,
        }
    }

    fn worker(&self, id: &WorkerId) -> Option<&ActualWorker> {
        self.machine.worker(id)
    }

    fn process(&self, id: &WorkerId) -> Option<ProcessRecord> {
        ProcessRecord::of(self.worker(id)?, self.held.program(id)?)
    }
}

fn json(record: &impl serde::Serialize) -> Vec<u8> {
    // Records are plain structs with string keys: encoding can't fail.
    serde_json::to_vec(record).unwrap_or_default()
}

fn page_slots_revision(worker: &ActualWorker) -> Revision {
    Revision::PageSlots(worker.rule_slots.revision(), worker.output_slots.revision(), filter_of(worker))
}

/// What the keeper holds, tracked from what was sent to it.
#[derive(Debug, Default)]
pub(crate) struct Checkpoint {
    items: BTreeMap<Key, Revision>,
    parts: ConfigParts,
}

impl Checkpoint {
    /// A found keeper with these items: each is stored again or removed.
    pub(crate) fn found(keys: impl IntoIterator<Item = Key>) -> Self {
        let items = keys.into_iter().map(|key| (key, Revision::Unknown)).collect();
        Self { items, parts: ConfigParts::default() }
    }

    /// Returns the changes that bring the keeper up to date, in groups to be sent in this order, each atomic, and
    /// marks them as sent. `pending` are the actions about to be executed.
    pub(crate) fn difference(
        &mut self,
        machine: &Machine,
        held: &impl HeldItems,
        pending: &[Action],
    ) -> Vec<Vec<Change>> {
        self.parts.update(machine);
        let joining = pending.iter().filter_map(|action| match action {
            Action::Join { membership, .. } => Some(membership_record(membership)),
            _ => None,
        });
        let source = Source { machine, held, parts: &self.parts, joining: joining.collect() };
        let mut changes = Vec::new();
        let mut before = self.items.iter().peekable();
        for (key, revision) in source.items() {
            changes.extend(removed_before(&mut before, Some(&key)));
            let same = before.next_if(|(old, _)| **old == key).is_some_and(|(_, old)| *old == revision);
            if let Some(record) = (!same).then(|| source.record(&key)).flatten() {
                changes.push((Change::Put(key, record), Some(revision)));
            }
        }
        changes.extend(removed_before(&mut before, None));
        for (change, revision) in &changes {
            match revision {
                Some(revision) => self.items.insert(change.key().clone(), revision.clone()),
                None => self.items.remove(change.key()),
            };
        }
        grouped(changes.into_iter().map(|(change, _)| change).collect())
    }
}

/// Removals of the items before a key that are no longer derived.
fn removed_before<'a>(
    items: &mut Peekable<impl Iterator<Item = (&'a Key, &'a Revision)>>,
    key: Option<&Key>,
) -> Vec<(Change, Option<Revision>)> {
    let gone = std::iter::from_fn(|| items.next_if(|(old, _)| key.is_none_or(|key| *old < key)));
    gone.map(|(old, _)| (Change::Remove(old.clone()), None)).collect()
}

/// Groups changes; see the module documentation.
fn grouped(changes: Vec<Change>) -> Vec<Vec<Change>> {
    let discarded: Vec<WorkerId> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Remove(Key::Slot(id)) => Some(id.clone()),
            _ => None,
        })
        .collect();
    let mut groups: BTreeMap<(u8, Option<WorkerId>), Vec<Change>> = BTreeMap::new();
    for change in changes {
        let group = match (&change, change.key().worker()) {
            (_, Some(id)) if discarded.contains(id) => (2, None),
            (_, Some(id)) => (3, Some(id.clone())),
            (_, None) => match change.key() {
                Key::Rules(_) | Key::Config => (1, None),
                // With the ledger: counters are in one of them.
                Key::Ledger | Key::KernelEngine => (2, None),
                Key::Joining | Key::Unknown(_) => (5, None),
                _ => (4, None),
            },
        };
        groups.entry(group).or_default().push(change);
    }
    groups.into_values().collect()
}
