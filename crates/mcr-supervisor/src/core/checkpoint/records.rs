//! The records of the items.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use mcr_link::message::LINK_VERSION;
use mcr_link::rule_set::EgressId;
use mcr_link::telemetry::{MAX_OUTPUTS, MAX_RULES};
use mcr_rules::{Config, InterfaceName, RuleId};
use mcr_sys::filter::FilterDestination;
use mcr_sys::link::IfIndex;
use mcr_sys::membership::Membership;
use serde::{Deserialize, Serialize};

use crate::core::actual::{ActualWorker, Process, Readied};
use crate::core::filter_set::{FilterSet, union};
use crate::core::machine::Machine;
use crate::core::plan::{EgressKey, Incarnations, OutputKey, RuleKey, WorkerSettings};
use crate::core::restart::Restart;
use crate::core::slots::Slots;

/// The version of the records: increase it when the layout of any of them changes.
pub(crate) const CHECKPOINT_VERSION: u32 = 7;

/// A capture socket and its page.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct SlotRecord {
    /// The fan-out group of the socket.
    pub(crate) fanout: u16,
    /// The layout of the page ([`mcr_link::message::LINK_VERSION`]).
    pub(crate) link_version: u32,
    /// Deviations from the requested settings.
    #[serde(default)]
    pub(crate) note: Option<String>,
    /// The socket sets its interface promiscuous.
    #[serde(default)]
    pub(crate) promiscuous: bool,
    /// The socket can't send. A socket that replaces another has another record, too, so that the keeper gets it.
    #[serde(default)]
    pub(crate) send_locked: bool,
}

/// A worker's process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct ProcessRecord {
    pub(crate) pid: u32,
    pub(crate) since: Duration,
    /// When it became ready, and what it reported then.
    pub(crate) ready: Option<(Duration, Readied)>,
    /// The message version it understands.
    pub(crate) link_version: u32,
    /// The program it runs; a process with another program is replaced.
    pub(crate) program: String,
    /// What it was started with; a process with other settings is replaced.
    #[serde(default)]
    pub(crate) settings: Option<WorkerSettings>,
}

impl ProcessRecord {
    /// The record of a process that runs this program; `None` without a process.
    pub(crate) fn of(worker: &ActualWorker, program: &str) -> Option<Self> {
        let ActualWorker { process, settings, .. } = worker;
        let ready = match process {
            Process::Running { ready_at, readied, .. } => Some((*ready_at, readied.clone())),
            _ => None,
        };
        let (pid, since) = (process.pid()?, process.since()?);
        Some(Self {
            pid,
            since,
            ready,
            link_version: LINK_VERSION,
            program: program.to_owned(),
            settings: *settings,
        })
    }
}

/// What was sent to a worker, and the failures of its processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct WorkerRecord {
    /// The newest generation built for it.
    pub(crate) generation: u64,
    /// The last generation sent, and its content hash.
    pub(crate) sent: Option<(u64, u64)>,
    /// The egress sockets referenced by the sent set, which the worker holds once it has applied it.
    pub(crate) named: Vec<(EgressKey, EgressId)>,
    /// The number of the next egress socket.
    pub(crate) next_egress: u32,
    /// When a dead process may be replaced.
    pub(crate) restart: Restart,
    /// Number of processes that died.
    pub(crate) restarts: u64,
    /// Of these, by their sandbox.
    pub(crate) sandbox_kills: u64,
    /// How the last one died.
    pub(crate) last_failure: Option<String>,
    /// It is being removed and is not replaced.
    pub(crate) leaving: bool,
    /// Number of table drifts found.
    pub(crate) drifts: u64,
    /// Number of its processes that stalled.
    pub(crate) stalls: u64,
}

impl WorkerRecord {
    pub(crate) fn of(worker: &ActualWorker) -> Self {
        let last = worker.in_flight.as_ref().or(worker.applied.as_ref());
        let named = worker.egress.iter().filter(|(_, id)| last.is_none_or(|sent| sent.named.contains(id)));
        let sent = last.map_or(worker.adopted.set, |sent| Some((sent.set.generation, sent.hash)));
        Self {
            generation: worker.generation,
            sent,
            named: named.map(|(key, id)| (*key, *id)).collect(),
            next_egress: worker.next_egress,
            restart: worker.restart.clone(),
            restarts: worker.restarts,
            sandbox_kills: worker.sandbox_kills,
            last_failure: worker.last_failure.clone(),
            leaving: worker.leaving,
            drifts: worker.health.drifts,
            stalls: worker.health.stalls,
        }
    }
}

/// The slot assignment of a worker's telemetry page, and what the worker may be relaying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageSlots {
    pub(crate) rules: Slots<RuleKey>,
    pub(crate) outputs: Slots<(RuleKey, OutputKey)>,
    /// What the filter must accept for the set in force or sent.
    pub(crate) filter: FilterSet,
}

/// The encoded form of [`PageSlots`].
type PageSlotsRecord = (Slots<RuleKey>, Slots<(RuleKey, OutputKey)>, Vec<(IpAddr, u16)>);

/// The running config, which may differ from the startup file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConfigRecord {
    /// The startup file of the daemon that ran it.
    pub(crate) startup_file: String,
    pub(crate) config: Config,
    pub(crate) incarnations: Vec<(RuleId, u64)>,
    /// The newest incarnation.
    pub(crate) last_incarnation: u64,
    /// The cores of interfaces that are not pinned.
    pub(crate) cores: BTreeMap<InterfaceName, u16>,
    /// Hashes of the parts that hold the rules and their incarnations; empty if this record holds them.
    #[serde(default)]
    pub(crate) parts: Vec<u64>,
}

impl ConfigRecord {
    /// The record of the persistent config, without its rules: a change that is pending or on trial does not count
    /// yet.
    pub(super) fn without_rules(machine: &Machine, startup_file: String, parts: Vec<u64>) -> Self {
        let Config { pinning, settings, rules: _ } = machine.lasting_config().0;
        Self {
            startup_file,
            config: Config { pinning: pinning.clone(), settings: settings.clone(), rules: Vec::new() },
            incarnations: Vec::new(),
            last_incarnation: machine.last_incarnation(),
            cores: machine.assigned_cores().clone(),
            parts,
        }
    }

    /// The incarnations, in the planner's format.
    pub(crate) fn incarnations(&self) -> Incarnations {
        self.incarnations.iter().copied().collect()
    }
}

/// A record that can't be decoded: another version, or damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record can't be read: {0}")]
pub(crate) struct CheckpointError(pub(super) String);

/// What a worker's filter must accept for the set in force or sent.
pub(super) fn filter_of(worker: &ActualWorker) -> FilterSet {
    let sent = [&worker.in_flight, &worker.applied].into_iter().flatten().map(|sent| &sent.wanted);
    union(sent.chain([&worker.adopted.wanted]))
}

/// Encodes a worker's [`PageSlots`].
pub(super) fn encode_page_slots(worker: &ActualWorker) -> Vec<u8> {
    let filter: Vec<_> = filter_of(worker).iter().map(|wanted| (wanted.address, wanted.port)).collect();
    encode(&(&worker.rule_slots, &worker.output_slots, filter))
}

/// Decodes what [`encode_page_slots`] wrote, if it is of this version and consistent.
pub(super) fn decode_page_slots(bytes: &[u8]) -> Result<PageSlots, CheckpointError> {
    let (rules, outputs, filter): PageSlotsRecord = decode(bytes)?;
    if !rules.is_sound(MAX_RULES) || !outputs.is_sound(MAX_OUTPUTS) {
        return Err(CheckpointError("a slot of the page is assigned twice".to_owned()));
    }
    let filter =
        filter.into_iter().map(|(address, port)| FilterDestination { address, port, promiscuous: false });
    Ok(PageSlots { rules, outputs, filter: filter.collect() })
}

/// The slots of the kernel engine's counters.
pub(crate) type KernelSlots = (Slots<RuleKey>, Slots<(RuleKey, OutputKey)>);

/// Encodes the slots of the kernel engine's counters.
pub(super) fn encode_kernel_slots(counting: &ActualWorker) -> Vec<u8> {
    encode(&(&counting.rule_slots, &counting.output_slots))
}

/// Decodes what [`encode_kernel_slots`] wrote, if it is of this version and consistent.
pub(super) fn decode_kernel_slots(bytes: &[u8]) -> Result<KernelSlots, CheckpointError> {
    use mcr_sys::bpf::relay;
    let (rules, outputs): KernelSlots = decode(bytes)?;
    if !rules.is_sound(relay::MAX_RULES) || !outputs.is_sound(relay::MAX_OUTPUTS) {
        return Err(CheckpointError("a slot of the kernel engine is assigned twice".to_owned()));
    }
    Ok((rules, outputs))
}

/// Encodes a record with the version.
pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    // Encoding into memory can't fail for these types; an empty record fails to decode.
    postcard::to_stdvec(&(CHECKPOINT_VERSION, value)).unwrap_or_default()
}

/// Decodes what [`encode`] wrote, if it is of this version.
pub(super) fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, CheckpointError> {
    let wrong = |error: postcard::Error| CheckpointError(error.to_string());
    let (version, rest) = postcard::take_from_bytes::<u32>(bytes).map_err(wrong)?;
    if version != CHECKPOINT_VERSION {
        return Err(CheckpointError(format!("it is of version {version}, this is {CHECKPOINT_VERSION}")));
    }
    postcard::from_bytes(rest).map_err(wrong)
}

pub(super) type MembershipRecord = (u32, IpAddr, Option<IpAddr>);

pub(super) fn membership_record(membership: &Membership) -> MembershipRecord {
    (membership.ifindex.to_raw(), membership.group, membership.source)
}

/// Decodes what [`membership_record`] wrote.
pub(super) fn membership((ifindex, group, source): MembershipRecord) -> Membership {
    Membership { ifindex: IfIndex::new(ifindex), group, source }
}
