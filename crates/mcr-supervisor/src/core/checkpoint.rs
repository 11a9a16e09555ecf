//! What must be remembered beyond a supervisor's life, as records: the keeper holds them beside the descriptors they
//! describe, and the next supervisor makes its state of them ([`adoption`](crate::core::adoption)).
//!
//! | record | written | descriptors |
//! |---|---|---|
//! | [`SlotRecord`] | when a capture socket is open | capture socket, telemetry page |
//! | [`ProcessRecord`] | when a process was started, and when it is ready | channel, pidfd |
//! | [`WorkerRecord`] | before a worker is told anything, after it died | |
//! | places ([`encode_page_slots`]) | before a rule set is sent | |
//! | ledger ([`encode_ledger`]) | before places are given away anew | |
//! | [`ConfigRecord`] | when a change of the config is done | |
//!
//! Small records are JSON, which other versions can read; places and ledger can be large, are compact, and are only
//! for the same [`CHECKPOINT_VERSION`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mcr_link::message::IoBackend;
use mcr_link::rule_set::EgressId;
use mcr_link::telemetry::{MAX_OUTPUTS, MAX_RULES};
use mcr_rules::{Config, InterfaceName, RuleId};
use mcr_sys::filter::FilterDestination;
use mcr_sys::link::IfIndex;
use mcr_sys::membership::Membership;
use serde::{Deserialize, Serialize};

use crate::core::actual::{ActualWorker, Readied};
use crate::core::filter_set::{FilterSet, union};
use crate::core::ledger::Ledger;
use crate::core::plan::{EgressKey, Incarnations, OutputKey, RuleKey, WorkerId, WorkerSettings};
use crate::core::restart::Restart;
use crate::core::slots::Slots;

/// The version of the compact records.
pub(crate) const CHECKPOINT_VERSION: u32 = 2;

/// A capture socket and its page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SlotRecord {
    /// Whose.
    pub(crate) worker: WorkerId,
    /// The fan-out group that the socket is in.
    pub(crate) fanout: u16,
    /// The layout of the page ([`mcr_link::message::LINK_VERSION`]).
    pub(crate) link_version: u32,
    /// What is not as wanted.
    #[serde(default)]
    pub(crate) note: Option<String>,
}

/// A worker's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessRecord {
    /// Whose.
    pub(crate) worker: WorkerId,
    /// Process id.
    pub(crate) pid: u32,
    /// When it was started.
    pub(crate) since: Duration,
    /// When it was ready, and what it said then.
    pub(crate) ready: Option<(Duration, ReadyRecord)>,
    /// The version of the messages it understands.
    pub(crate) link_version: u32,
    /// The program it runs; another one is replaced.
    pub(crate) program: String,
    /// What it was started with; other settings are replaced.
    #[serde(default)]
    pub(crate) settings: Option<WorkerSettings>,
}

/// [`Readied`], to be remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReadyRecord {
    pub(crate) io: IoBackend,
    pub(crate) uid: u32,
    pub(crate) notes: Vec<String>,
}

impl From<&Readied> for ReadyRecord {
    fn from(readied: &Readied) -> Self {
        Self { io: readied.io, uid: readied.uid, notes: readied.notes.clone() }
    }
}

impl From<ReadyRecord> for Readied {
    fn from(record: ReadyRecord) -> Self {
        Self::new(record.io, record.uid, record.notes)
    }
}

/// What a worker was told, and how its processes fared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct WorkerRecord {
    /// The newest generation that was made for it.
    pub(crate) generation: u64,
    /// The generation that was sent last, and its content hash.
    pub(crate) sent: Option<(u64, u64)>,
    /// The egress sockets that the sent set names: those the worker has once it has applied it.
    pub(crate) named: Vec<(EgressKey, EgressId)>,
    /// The number of the next egress socket.
    pub(crate) next_egress: u32,
    /// When a dead process may be replaced.
    pub(crate) restart: Restart,
    /// How many processes died.
    pub(crate) restarts: u64,
    /// How the last one died.
    pub(crate) last_failure: Option<String>,
    /// It was told to leave for good.
    pub(crate) leaving: bool,
    /// How many drifts of its tables were found.
    pub(crate) drifts: u64,
    /// Number of its processes that stalled.
    pub(crate) stalls: u64,
}

impl WorkerRecord {
    /// What is to be remembered of a worker.
    #[must_use]
    pub(crate) fn of(worker: &ActualWorker) -> Self {
        let sent = worker.in_flight.as_ref().or(worker.applied.as_ref());
        let (sent, named) = match sent {
            None => (worker.adopted.set, worker.egress.clone()),
            Some(handed) => {
                let mut named = worker.egress.clone();
                named.retain(|_, egress| handed.named.contains(egress));
                (Some((handed.set.generation, handed.hash)), named)
            }
        };
        Self {
            generation: worker.generation,
            sent,
            named: named.into_iter().collect(),
            next_egress: worker.next_egress,
            restart: worker.restart.clone(),
            restarts: worker.restarts,
            last_failure: worker.last_failure.clone(),
            leaving: worker.leaving,
            drifts: worker.health.drifts,
            stalls: worker.health.stalls,
        }
    }
}

/// Where a worker counts, and what it may be relaying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageSlots {
    /// Places of rules in its page.
    pub(crate) rules: Slots<RuleKey>,
    /// Places of outputs.
    pub(crate) outputs: Slots<(RuleKey, OutputKey)>,
    /// What its filter must let through for the set that it has or is about to have.
    pub(crate) wanted: FilterSet,
}

/// [`PageSlots`] as they are written.
type PageSlotsRecord<'a> =
    (Cow<'a, Slots<RuleKey>>, Cow<'a, Slots<(RuleKey, OutputKey)>>, Vec<(IpAddr, u16)>);

/// The places of a page in which nobody counts.
#[must_use]
pub(crate) fn no_page_slots() -> PageSlots {
    PageSlots { rules: Slots::new(MAX_RULES), outputs: Slots::new(MAX_OUTPUTS), wanted: Arc::default() }
}

/// The running config, which may be another than the startup file's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConfigRecord {
    /// The startup file of the daemon that ran it.
    pub(crate) startup_file: String,
    /// The config.
    pub(crate) config: Config,
    /// The incarnations of its rules.
    #[serde(rename = "lives")]
    pub(crate) incarnations: Vec<(RuleId, u64)>,
    /// The newest incarnation.
    #[serde(rename = "last_life")]
    pub(crate) last_incarnation: u64,
    /// The cores of interfaces that are not pinned.
    pub(crate) cores: BTreeMap<InterfaceName, u16>,
    /// Hashes of further records, which have the rules and their incarnations; none if this one has them.
    #[serde(default)]
    pub(crate) parts: Vec<u64>,
}

impl ConfigRecord {
    /// The incarnations, as the planner takes them.
    #[must_use]
    pub(crate) fn incarnations(&self) -> Incarnations {
        self.incarnations.iter().copied().collect()
    }
}

/// A record that can't be read: of another version, or broken.
#[derive(Debug, thiserror::Error)]
#[error("what was remembered can't be read: {0}")]
pub(crate) struct CheckpointError(String);

/// Writes the places of a worker's page.
#[must_use]
pub(crate) fn encode_page_slots(worker: &ActualWorker) -> Vec<u8> {
    let handed = [&worker.in_flight, &worker.applied].into_iter().flatten().map(|handed| &handed.wanted);
    let wanted = union(handed.chain([&worker.adopted.wanted]));
    let record: PageSlotsRecord<'_> = (
        Cow::Borrowed(&worker.rule_slots),
        Cow::Borrowed(&worker.output_slots),
        wanted.iter().map(|wanted| (wanted.address, wanted.port)).collect(),
    );
    encode(&record)
}

/// Reads what [`encode_page_slots`] wrote.
///
/// # Errors
/// It is of another version, or makes no sense.
pub(crate) fn decode_page_slots(bytes: &[u8]) -> Result<PageSlots, CheckpointError> {
    let (rules, outputs, wanted): PageSlotsRecord<'static> = decode(bytes)?;
    if !rules.is_sound(MAX_RULES) || !outputs.is_sound(MAX_OUTPUTS) {
        return Err(CheckpointError("places are given twice".to_owned()));
    }
    let wanted = wanted.into_iter().map(|(address, port)| FilterDestination { address, port });
    Ok(PageSlots { rules: rules.into_owned(), outputs: outputs.into_owned(), wanted: wanted.collect() })
}

/// Writes the ledger.
#[must_use]
pub(crate) fn encode_ledger(ledger: &Ledger) -> Vec<u8> {
    encode(ledger)
}

/// Reads what [`encode_ledger`] wrote.
///
/// # Errors
/// It is of another version.
pub(crate) fn decode_ledger(bytes: &[u8]) -> Result<Ledger, CheckpointError> {
    decode(bytes)
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    // Encoding into memory can't fail for these types; an empty record is one that can't be read.
    postcard::to_stdvec(&(CHECKPOINT_VERSION, value)).unwrap_or_default()
}

fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, CheckpointError> {
    let wrong = |error: postcard::Error| CheckpointError(error.to_string());
    let (version, rest) = postcard::take_from_bytes::<u32>(bytes).map_err(wrong)?;
    if version != CHECKPOINT_VERSION {
        return Err(CheckpointError(format!("it is of version {version}, this is {CHECKPOINT_VERSION}")));
    }
    postcard::from_bytes(rest).map_err(wrong)
}

/// A membership as it is remembered.
pub(crate) type MembershipRecord = (u32, IpAddr, Option<IpAddr>);

/// Writes a membership.
#[must_use]
pub(crate) fn membership_record(membership: &Membership) -> MembershipRecord {
    (membership.ifindex.to_raw(), membership.group, membership.source)
}

/// Reads what [`membership_record`] wrote.
#[must_use]
pub(crate) fn membership((ifindex, group, source): MembershipRecord) -> Membership {
    Membership { ifindex: IfIndex::new(ifindex), group, source }
}

#[cfg(test)]
mod tests;
