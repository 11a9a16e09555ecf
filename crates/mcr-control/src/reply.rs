//! What the daemon answers: one type per method of `io.mcr.Control`, field by field as in the interface description.
//! `mcrctl --json` prints these, so a field may be added, but none removed or renamed.

mod statistics;

use std::collections::BTreeMap;
use std::net::IpAddr;

use mcr_rules::change::ConfigDiff;
use mcr_rules::log::{Facility, Level};
use mcr_rules::{
    Input, InterfaceName, MergeOptions, OutputOptions, Rule, RuleId, RuleName, RuleOptions, StreamFormat,
};
use serde::{Deserialize, Serialize};

use crate::message::ReplyBody;

pub use self::statistics::{
    FlowStatus, FlowsReply, HealthStats, KernelStats, LastSkip, LatencyBucket, LatencyStats, LegStats,
    OutputStats, PastWorkers, RuleStats, StatsReply, WorkerStats,
};

/// A reply that holds nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// `AddRule` and `RemoveRule`: the rule that came or went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleReply {
    /// Its id.
    pub id: RuleId,
}

mcr_rules::named! {
    /// Whether a rule or one of its outputs works.
    pub enum RuleState {
        /// In force.
        Active = "active",
        /// Waits for something that the reason names; becomes active by itself.
        Pending = "pending",
        /// Held back on purpose; the reason says by what.
        Paused = "paused",
    }
}

mcr_rules::named! {
    /// What relays the datagrams of an output.
    #[derive(Default)]
    pub enum Engine {
        /// A worker process.
        #[default]
        Worker = "worker",
        /// A program in the kernel, at the ingress of the input interface. What it does not understand goes to a worker.
        Kernel = "kernel",
    }
}

mcr_rules::named! {
    /// Why a worker relays a rule for which the kernel was asked (`engine`).
    pub enum EngineReason {
        /// The daemon has not got CAP_BPF and CAP_NET_ADMIN.
        NoPermission = "no_permission",
        /// The kernel does not load the programs, or permits no process without capabilities to change their maps.
        KernelTooOld = "kernel_too_old",
        /// More outputs than the kernel relays to, or, with `"auto"`, more than pay.
        TooManyOutputs = "too_many_outputs",
        /// More rules or outputs than there are counters for.
        TooManyRules = "too_many_rules",
        /// Its streams are checked.
        Health = "health",
        /// It has a rate limit.
        MaxPps = "max_pps",
        /// It merges legs.
        Merge = "merge",
        /// It is traced.
        Traced = "traced",
        /// It takes what programs of this host send.
        LocalInput = "local_input",
        /// It takes frames to other hosts.
        Promiscuous = "promiscuous",
        /// It takes broadcasts.
        Broadcast = "broadcast",
        /// An interface has no Ethernet header.
        LinkType = "link_type",
        /// An output is of the other address family.
        Family = "family",
        /// An output sends to a host, whose MAC address is not known.
        NeighbourUnknown = "neighbour_unknown",
        /// An output sends with the arriving source address, or what it takes may be sent with it.
        KeptSource = "kept_source",
        /// Programs of this host get what an output sends.
        Loop = "loop",
        /// Another rule has the same interface, group and port.
        SharedDestination = "shared_destination",
        /// An output can't send.
        OutputDown = "output_down",
        /// The input interface is down.
        InputDown = "input_down",
        /// Frames do not come to the program: another one at the same ingress takes them.
        NotExecuted = "not_executed",
        /// It is about to be switched to the kernel.
        Starting = "starting",
    }
}

/// `ListRules`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesReply {
    /// Every rule of the running config, in its order.
    pub rules: Vec<RuleStatus>,
}

/// One rule and how it fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleStatus {
    /// The rule's id.
    pub id: RuleId,
    /// The operator's name for it.
    pub name: Option<RuleName>,
    /// Whether it relays.
    pub state: RuleState,
    /// Why it is not active, or what is wrong although it is.
    pub reason: Option<String>,
    /// What relays it.
    #[serde(default)]
    pub engine: Engine,
    /// Why not the kernel, if it was asked for.
    #[serde(default)]
    pub engine_reason: Option<EngineReason>,
    /// Its options, every field present.
    #[serde(flatten)]
    pub options: RuleOptions,
    /// The former name of `options.stream`.
    pub health: Option<StreamFormat>,
    /// What holds the port of a unicast input: `mcrd`, or another program; `None` for a group, or if nothing does.
    #[serde(default)]
    pub port_holder: Option<String>,
    /// What it takes; of a merged rule the first leg.
    pub input: Input,
    /// The same, or all legs of a merged rule.
    #[serde(default)]
    pub inputs: Vec<Input>,
    /// How the legs are merged; `None` for a rule with one input.
    #[serde(default)]
    pub merge: Option<MergeOptions>,
    /// Where it goes.
    pub outputs: Vec<OutputStatus>,
}

/// One output, every field present, and how it fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputStatus {
    /// The interface it leaves on.
    pub interface: InterfaceName,
    /// The group or host it is sent to.
    #[serde(with = "mcr_rules::destination")]
    pub group: IpAddr,
    /// The UDP port it is sent to.
    pub port: u16,
    /// Its options, every field present.
    #[serde(flatten)]
    pub options: OutputOptions,
    /// Whether it works.
    pub state: RuleState,
    /// Why it does not.
    pub reason: Option<String>,
    /// What relays its datagrams.
    #[serde(default)]
    pub engine: Engine,
}

/// A rule whose outputs or name differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedRule {
    /// The rule's id, the same before and after.
    pub id: RuleId,
    /// The rule as it runs.
    pub old: RuleEntry,
    /// The rule as it would be.
    pub new: RuleEntry,
}

/// A rule in a difference: as in the file, and with the former name of its `stream`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleEntry {
    /// The rule.
    #[serde(flatten)]
    pub rule: Rule,
    /// The former name of `stream`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<StreamFormat>,
}

impl From<Rule> for RuleEntry {
    fn from(rule: Rule) -> Self {
        Self { health: rule.options.stream, rule }
    }
}

/// Part of `DiffConfig` and `LoadConfig`: what would change, or has changed, in the running config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffReply {
    /// Rules that only the new config has.
    pub added: Vec<RuleEntry>,
    /// Rules that only the running config has.
    pub removed: Vec<RuleEntry>,
    /// Rules whose outputs or name differ.
    pub changed: Vec<ChangedRule>,
    /// Whether `settings` differ.
    pub settings_changed: bool,
    /// Whether `pinning` differs.
    pub pinning_changed: bool,
}

impl DiffReply {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn items(&self) -> usize {
        let plain = self.added.iter().chain(&self.removed);
        let changed = self.changed.iter().flat_map(|changed| [&changed.old, &changed.new]);
        plain.chain(changed).map(|entry| 1 + entry.rule.outputs.len()).sum()
    }
}

impl From<ConfigDiff> for DiffReply {
    fn from(diff: ConfigDiff) -> Self {
        Self {
            added: diff.added.into_iter().map(RuleEntry::from).collect(),
            removed: diff.removed.into_iter().map(RuleEntry::from).collect(),
            changed: diff
                .changed
                .into_iter()
                .map(|(old, new)| ChangedRule { id: new.id(), old: old.into(), new: new.into() })
                .collect(),
            settings_changed: diff.settings_changed,
            pinning_changed: diff.pinning_changed,
        }
    }
}

/// `LoadConfig`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReply {
    /// Whether the change is in force; false for a dry run.
    pub applied: bool,
    /// What changed, or would change.
    pub diff: DiffReply,
    /// Seconds until the change returns unless it is confirmed; `None` if it stays.
    pub confirm_within_s: Option<u64>,
}

/// `GetStatus`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    /// The startup file's path.
    pub startup_file: String,
    /// Seconds until the last load returns unless it is confirmed; `None` if none waits for that.
    pub confirm_within_s: Option<u64>,
    /// What is not as it should be, or will change by itself; in words.
    pub notices: Vec<String>,
}

/// `ListWorkers`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkersReply {
    /// Every worker process.
    pub workers: Vec<WorkerStatus>,
}

mcr_rules::named! {
    /// What a worker is doing.
    pub enum WorkerState {
        /// Started, not ready yet.
        Starting = "starting",
        /// Relays with the rule set it must have.
        Running = "running",
        /// Relays, and has not applied its newest rule set yet.
        Updating = "updating",
        /// Has no rules; leaves after the grace period.
        Idle = "idle",
        /// Died; the next one starts after a pause.
        Restarting = "restarting",
        /// Was told to end.
        Stopping = "stopping",
    }
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// The interface it receives on.
    pub interface: InterfaceName,
    /// The same, or all of them: the legs of merged rules arrive on several.
    #[serde(default)]
    pub interfaces: Vec<InterfaceName>,
    /// The core it is pinned to.
    pub core: u16,
    /// It takes what programs of this host send on the interface, instead of what arrives.
    #[serde(default)]
    pub local: bool,
    /// Its process id; 0 while there is none.
    pub pid: u32,
    /// What it is doing.
    pub state: WorkerState,
    /// Why it is not running.
    pub reason: Option<String>,
    /// The generation of the rule set it applied; 0 for none.
    pub generation: u64,
    /// The content hash of the rule set it applied, 16 hex digits.
    pub ruleset_hash: String,
    /// How many workers of this interface and core died.
    pub restarts: u64,
    /// Seconds since this process started.
    pub uptime_s: u64,
    /// `io_uring` or `recvmmsg`; `None` until it is ready.
    pub io: Option<String>,
    /// How many receive buffers it was started with; `None` while there is no process.
    pub ring_buffers: Option<u16>,
    /// The microseconds that it lets a datagram wait for others; `None` while there is no process.
    pub latency_budget_us: Option<u32>,
    /// The uid it runs as; `None` until it is ready.
    pub uid: Option<u32>,
    /// The layers of its sandbox, such as `seccomp`; empty without one, `None` until it is ready.
    #[serde(default)]
    pub sandbox: Option<Vec<String>>,
    /// Number of its processes that their sandbox killed (SIGSYS); among `restarts`.
    #[serde(default)]
    pub sandbox_kills: u64,
    /// What it could not do as wanted, and why: io_uring denied, a smaller receive buffer, privileges it could not drop.
    pub notes: Vec<String>,
    /// It died more than once since it was last well for a minute.
    #[serde(default)]
    pub degraded: bool,
    /// Number of its processes that were replaced because they stalled; among `restarts`.
    #[serde(default)]
    pub stalls: u64,
    /// How often the table that it used was not what it had been given; each was repaired.
    #[serde(default)]
    pub drifts: u64,
    /// Frames of its share that its siblings took because it did not keep up.
    #[serde(default)]
    pub rolled_over: u64,
    /// Milliseconds from the last death to the replacement's having its rules; `None` if none died.
    pub recovery_ms: Option<u64>,
}

impl WorkerStatus {
    /// The interface, for messages: `eth0`, or `eth0 local` for what programs of this host send on it.
    #[must_use]
    pub fn place(&self) -> String {
        let what = if self.local { " local" } else { "" };
        format!("{}{what}", self.interface)
    }
}

/// `ListInterfaces`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InterfacesReply {
    /// The host's interfaces, by index, then those that rules name and the host lacks.
    pub interfaces: Vec<InterfaceStatus>,
}

mcr_rules::named! {
    /// Why an interface merges received datagrams, or does not.
    pub enum AggregationReason {
        /// `settings.aggregate` says so.
        Setting = "setting",
        /// It is being tried.
        Trial = "trial",
        /// Several datagrams come together.
        Pays = "pays",
        /// Too few datagrams arrive to try it.
        LowRate = "low_rate",
        /// Few datagrams came together when it was tried; it is tried again later.
        DoesNotPay = "does_not_pay",
        /// What arrives is merged already, by a sender on this host.
        MergedBefore = "merged_before",
        /// The operator, or another program, has set it so.
        Operator = "operator",
        /// mcrd lacks CAP_NET_ADMIN.
        NotPermitted = "not_permitted",
        /// The kernel discards super-frames that a packet socket reads (Linux before 6.2).
        KernelTooOld = "kernel_too_old",
        /// The device or the kernel does not do it.
        Unsupported = "unsupported",
    }
}

/// Whether an input interface merges received datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AggregationStatus {
    /// Whether it does.
    pub on: bool,
    /// Why, or why not.
    pub reason: AggregationReason,
    /// Datagrams per frame, over the last second; 0 if none arrived.
    pub per_frame: f64,
}

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// Its other names (ip-link(8), `property add altname`).
    #[serde(default)]
    pub altnames: Vec<String>,
    /// Its index; `None` if the host has no such interface.
    pub index: Option<u32>,
    /// `ethernet`, `loopback`, `no_header` (tun, WireGuard, GRE), `other` or `missing`.
    pub kind: String,
    /// Its MTU in bytes; 0 if missing.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Whether it has a carrier.
    pub carrier: bool,
    /// Whether it does multicast.
    pub multicast: bool,
    /// Its addresses with prefix length, e.g. `10.1.0.2/24`.
    pub addresses: Vec<String>,
    /// How many rules receive on it.
    pub inputs: u64,
    /// How many outputs of rules send on it.
    pub outputs: u64,
    /// Whether it merges received datagrams; `None` if no rule receives on it.
    #[serde(default)]
    pub aggregation: Option<AggregationStatus>,
    /// Of which datagrams what the relay takes is dropped behind the capture: `on`, `ipv4`, `ipv6` or `off`; `None` if no rule
    /// receives on it.
    #[serde(default)]
    pub early_drop: Option<String>,
    /// Why not of all, in words.
    #[serde(default)]
    pub early_drop_reason: Option<String>,
    /// Datagrams dropped early so far.
    #[serde(default)]
    pub early_drops: u64,
    /// Bytes of their payload.
    #[serde(default)]
    pub early_drop_bytes: u64,
}

/// `ListMemberships`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipsReply {
    /// Every group the rules need, by interface.
    pub memberships: Vec<MembershipStatus>,
}

/// One membership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipStatus {
    /// The interface that joins.
    pub interface: InterfaceName,
    /// The group; for a unicast input its address.
    #[serde(with = "mcr_rules::destination")]
    pub group: IpAddr,
    /// The source, if only that one is wanted.
    pub source: Option<IpAddr>,
    /// Whether the kernel has the membership; for a unicast input, whether mcrd holds its port.
    pub joined: bool,
    /// Why not.
    pub reason: Option<String>,
    /// The UDP port of a unicast input.
    #[serde(default)]
    pub port: Option<u16>,
    /// What holds that port: `mcrd`, or another program; `None` if nothing does.
    #[serde(default)]
    pub held_by: Option<String>,
    /// How many rules need it.
    pub rules: u64,
}

/// `GetLogLevels` and `SetLogLevel`: the levels in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevelsReply {
    /// The level of facilities that have none of their own.
    pub default: Level,
    /// The level in force, for every facility.
    pub facilities: BTreeMap<Facility, Level>,
}

impl ReplyBody for Done {}
impl ReplyBody for RuleReply {}
impl ReplyBody for StatusReply {}
impl ReplyBody for WorkersReply {}
impl ReplyBody for InterfacesReply {}
impl ReplyBody for LogLevelsReply {}

impl ReplyBody for RulesReply {
    fn items(&self) -> usize {
        self.rules.iter().map(|rule| 1 + rule.outputs.len()).sum()
    }
}

impl ReplyBody for LoadReply {
    fn items(&self) -> usize {
        self.diff.items()
    }
}

impl ReplyBody for MembershipsReply {
    fn items(&self) -> usize {
        self.memberships.len()
    }
}
