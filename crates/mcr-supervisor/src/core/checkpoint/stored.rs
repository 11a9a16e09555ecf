//! Decodes the items that a keeper held.

use std::collections::{BTreeMap, BTreeSet};

use mcr_sys::membership::Membership;
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64;

use super::config_parts::Incarnated;
use super::key::Key;
use super::records::{
    CheckpointError, ConfigRecord, KernelSlots, MembershipRecord, PageSlots, ProcessRecord, SlotRecord,
    WorkerRecord, decode, decode_kernel_slots, decode_page_slots, membership,
};
use crate::core::aggregation::OffloadRecord;
use crate::core::ledger::Ledger;
use crate::core::plan::WorkerId;

/// The items of a keeper, each with its record.
pub(crate) type Stored<R> = BTreeMap<Key, R>;

/// What is stored for one worker.
#[derive(Clone, Debug)]
pub(crate) struct StoredWorker {
    /// Its capture socket and page.
    pub(crate) slot: SlotRecord,
    /// Its process, if it had one.
    pub(crate) process: Option<ProcessRecord>,
    /// What was sent to it.
    pub(crate) record: WorkerRecord,
    /// The slot assignment of its page, or why it is unknown: another version, or damaged.
    pub(crate) page_slots: Result<PageSlots, CheckpointError>,
    /// Frames that the kernel had dropped.
    pub(crate) kernel_drops: u64,
}

/// Returns the stored config, if there is one. Fails if another version wrote it, or if the supervisor was killed while
/// writing the parts.
pub(crate) fn read_config<R: AsRef<[u8]>>(
    stored: &Stored<R>,
) -> Result<Option<ConfigRecord>, CheckpointError> {
    let Some(head) = stored.get(&Key::Config) else { return Ok(None) };
    let mut config: ConfigRecord = json(head)?;
    for (number, hash) in std::mem::take(&mut config.parts).into_iter().enumerate() {
        let part = stored.get(&Key::Rules(number)).filter(|part| xxh3_64(part.as_ref()) == hash);
        let part = part.ok_or_else(|| CheckpointError(format!("part {number} is missing or another one")))?;
        for (rule, incarnation) in json::<Vec<Incarnated>>(part)? {
            config.incarnations.push((rule.id(), incarnation));
            config.config.rules.push(rule);
        }
    }
    Ok(Some(config))
}

/// Returns the accumulated counters; empty if none are stored. Fails if another version wrote them.
pub(crate) fn read_ledger<R: AsRef<[u8]>>(stored: &Stored<R>) -> Result<Ledger, CheckpointError> {
    stored.get(&Key::Ledger).map_or_else(|| Ok(Ledger::default()), |found| decode(found.as_ref()))
}

/// Returns every worker with a stored item.
pub(crate) fn workers<R>(stored: &Stored<R>) -> BTreeSet<WorkerId> {
    stored.keys().filter_map(Key::worker).cloned().collect()
}

/// Decodes one worker. Fails if it has no capture socket.
pub(crate) fn read_worker<R: AsRef<[u8]>>(
    stored: &Stored<R>,
    id: &WorkerId,
) -> Result<StoredWorker, CheckpointError> {
    let get = |kind: fn(WorkerId) -> Key| stored.get(&kind(id.clone()));
    let missing = |what: &str| CheckpointError(format!("{what} is missing"));
    Ok(StoredWorker {
        slot: json(get(Key::Slot).ok_or_else(|| missing("the capture socket"))?)?,
        process: get(Key::Process).map(json).transpose()?,
        record: get(Key::Worker).map(json).transpose()?.unwrap_or_default(),
        page_slots: get(Key::PageSlots)
            .ok_or_else(|| missing("the record of page slots"))
            .and_then(|found| decode_page_slots(found.as_ref())),
        kernel_drops: get(Key::KernelDrops).map(json).transpose()?.unwrap_or_default(),
    })
}

/// Decodes the memberships of a socket's record, or of those about to be joined.
pub(crate) fn read_memberships(record: &impl AsRef<[u8]>) -> Result<Vec<Membership>, CheckpointError> {
    let records: Vec<MembershipRecord> = json(record)?;
    Ok(records.into_iter().map(membership).collect())
}

/// Decodes the slots of the kernel engine's counters.
pub(crate) fn read_kernel_slots(record: &impl AsRef<[u8]>) -> Result<KernelSlots, CheckpointError> {
    decode_kernel_slots(record.as_ref())
}

/// Decodes which interfaces were made to merge what they receive; none if nothing is stored.
pub(crate) fn read_offloads<R: AsRef<[u8]>>(
    stored: &Stored<R>,
) -> Result<Vec<OffloadRecord>, CheckpointError> {
    stored.get(&Key::Offloads).map_or_else(|| Ok(Vec::new()), json)
}

/// Checks that this program understands all stored items, which may be from another version. The error names the first
/// that it does not understand.
pub(crate) fn check<R: AsRef<[u8]>>(stored: &Stored<R>) -> Result<(), CheckpointError> {
    let named = |name: &dyn std::fmt::Display, error| CheckpointError(format!("{name}: {error}"));
    if let Some(unknown) = stored.keys().find(|key| matches!(key, Key::Unknown(_))) {
        return Err(CheckpointError(format!("{unknown}: this version stores no such item")));
    }
    read_config(stored).map_err(|error| named(&Key::Config, error.to_string()))?;
    read_ledger(stored).map_err(|error| named(&Key::Ledger, error.to_string()))?;
    read_offloads(stored).map_err(|error| named(&Key::Offloads, error.to_string()))?;
    for id in workers(stored) {
        let worker = read_worker(stored, &id).map_err(|error| named(&id, error.to_string()))?;
        worker.page_slots.map_err(|error| named(&id, error.to_string()))?;
    }
    Ok(())
}

fn json<T: for<'de> Deserialize<'de>>(record: &impl AsRef<[u8]>) -> Result<T, CheckpointError> {
    serde_json::from_slice(record.as_ref()).map_err(|error| CheckpointError(error.to_string()))
}
