//! The desired state of the whole system for a config and a network: [`plan`] is a pure function of its arguments.
//!
//! A rule is *installed* (captured, joined, in its workers' sets) as soon as its input interface exists, and stays
//! installed while the interface is down or an output can't send: nothing needs to be done when it recovers.
//! [`Readiness`] says whether it *relays*.

pub(in crate::core) mod as_number;
mod change;
mod draft;
pub(crate) mod kernel;
mod linked;
mod merged;
mod readiness;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mcr_link::message::LinkLayer;
use mcr_link::rule_set::RelayMerge;
use mcr_rules::{
    Config, InputOptions, InterfaceName, IoChoice, Output, OutputOptions, Rule, RuleId, RuleOptions,
    SandboxChoice, Settings, SourceAddress,
};
use mcr_sys::link::IfIndex;
use mcr_sys::membership::Membership;
use mcr_sys::network::Link;
use serde::{Deserialize, Serialize};

use crate::core::cores::Cores;
use crate::core::filter_set::FilterSet;
use crate::core::network::NetworkState;

pub(crate) use self::change::{Replaced, plan_change};
use self::draft::Draft;
pub(super) use self::draft::{distinct, has_local_inputs, keep_source_alike};
use self::kernel::Choice;
pub(super) use self::readiness::missing;

/// An interface by name and index: a name that moves to another index, or an index with a new name, is another
/// interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct InterfaceId {
    /// The link's name; rules may use an altname.
    pub(crate) name: InterfaceName,
    /// The kernel's index.
    #[serde(with = "as_number")]
    pub(crate) ifindex: IfIndex,
    /// Not what arrives on it, but what programs of this host send on it: a worker of its own captures this.
    #[serde(default)]
    pub(crate) local: bool,
    /// The interfaces of the legs of merged rules, by name, the first of which it names itself: a worker of their own captures these.
    #[serde(default)]
    pub(crate) linked: Vec<LinkedInterface>,
}

/// One of the interfaces of a worker of merged rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct LinkedInterface {
    /// The link's name.
    pub(crate) name: InterfaceName,
    /// The kernel's index.
    #[serde(with = "as_number")]
    pub(crate) ifindex: IfIndex,
}

impl InterfaceId {
    /// The interface of a link that the config knows by `name`.
    fn of(name: &InterfaceName, link: &Link) -> Self {
        let name = link.name.parse().unwrap_or_else(|_| name.clone());
        Self::new(name, link.ifindex)
    }

    /// What arrives on one interface.
    pub(crate) const fn new(name: InterfaceName, ifindex: IfIndex) -> Self {
        Self { name, ifindex, local: false, linked: Vec::new() }
    }

    /// What arrives on the interfaces of legs; `None` without any.
    pub(crate) fn of_legs(linked: BTreeSet<LinkedInterface>) -> Option<Self> {
        let LinkedInterface { name, ifindex } = linked.first()?.clone();
        Some(Self { linked: linked.into_iter().collect(), ..Self::new(name, ifindex) })
    }

    /// The interfaces that its workers capture on, one socket each.
    pub(crate) fn captured(&self) -> impl Iterator<Item = (&InterfaceName, IfIndex)> {
        let alone = self.linked.is_empty().then_some((&self.name, self.ifindex));
        alone.into_iter().chain(self.linked.iter().map(|linked| (&linked.name, linked.ifindex)))
    }

    /// What programs of this host send on the interface.
    pub(crate) fn local(&self) -> Self {
        Self { local: true, ..self.clone() }
    }

    /// Whether the other id is of the same interface.
    pub(crate) fn is_of_same_interface(&self, other: &Self) -> bool {
        (self.ifindex, &self.name, &self.linked) == (other.ifindex, &other.name, &other.linked)
    }
}

/// The names of what its workers capture on.
impl std::fmt::Display for InterfaceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name.as_str())?;
        self.linked.iter().skip(1).try_for_each(|linked| write!(f, "+{}", linked.name))
    }
}

/// A worker: one core of one interface. Its processes may be replaced.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct WorkerId {
    pub(crate) interface: InterfaceId,
    pub(crate) core: u16,
}

impl std::fmt::Display for WorkerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = if self.interface.local { " local" } else { "" };
        write!(f, "worker {}{what} core {}", self.interface, self.core)
    }
}

/// A rule of the running config. A rule that is removed and added again has a new key: it counts from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct RuleKey {
    pub(crate) id: RuleId,
    /// Which incarnation of it.
    pub(crate) incarnation: u64,
}

impl RuleKey {
    fn of(rule: &Rule, incarnations: &Incarnations) -> Self {
        let id = rule.id();
        Self { id, incarnation: incarnations.get(&id).copied().unwrap_or_default() }
    }
}

/// Identifies an output within its rule, also after a change of its TTL or DSCP.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct OutputKey {
    /// Destination address and port.
    pub(crate) to: (IpAddr, u16),
    pub(crate) interface: InterfaceName,
    pub(crate) source: Option<SourceAddress>,
    /// 0, or a number that distinguishes outputs that are otherwise alike.
    pub(crate) ordinal: u16,
}

impl OutputKey {
    fn first_of(output: &Output) -> Self {
        Self {
            to: (output.group, output.port),
            interface: output.interface.clone(),
            source: output.options.source,
            ordinal: 0,
        }
    }

    /// The keys of a rule's outputs, in its order.
    pub(crate) fn all_of(rule: &Rule) -> Vec<Self> {
        if let [only] = rule.outputs.as_slice() {
            return vec![Self::first_of(only)];
        }
        let mut alike: BTreeMap<Self, u16> = BTreeMap::new();
        rule.outputs
            .iter()
            .map(|output| {
                let first = Self::first_of(output);
                let seen = alike.entry(first.clone()).or_default();
                let ordinal = *seen;
                *seen = seen.saturating_add(1);
                Self { ordinal, ..first }
            })
            .collect()
    }
}

/// The parameters of an egress socket; outputs with the same parameters share one per worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct EgressKey {
    #[serde(with = "as_number")]
    pub(crate) ifindex: IfIndex,
    /// IPv6 instead of IPv4.
    pub(crate) ipv6: bool,
    /// The fixed TTL; `None` if the worker sets it per datagram.
    pub(crate) ttl: Option<u8>,
    /// The fixed DSCP; `None` if the worker sets it per datagram.
    pub(crate) dscp: Option<u8>,
    /// The address to send from.
    pub(crate) source: Option<IpAddr>,
    /// What the worker sets of the source of each datagram.
    #[serde(default)]
    pub(crate) per_datagram: PerDatagram,
    /// Whether programs of this host get multicast that is sent. They do from sockets of older versions.
    #[serde(default = "looped_before")]
    pub(crate) multicast_loop: bool,
    /// Its send buffer, bytes. Unknown, so 0, in records of older versions.
    #[serde(default)]
    pub(crate) send_buffer_bytes: u32,
    /// What it sends is marked as MCR's own, since an input takes what programs of this host send.
    #[serde(default)]
    pub(crate) marked: bool,
    /// The operator's mark for what it sends; 0: none.
    #[serde(default)]
    pub(crate) mark: u32,
}

/// What a worker sets of the source of each datagram, because the socket does not have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum PerDatagram {
    /// Nothing.
    #[default]
    Nothing,
    /// The address.
    Address,
    /// The address and the port.
    AddressAndPort,
}

const fn looped_before() -> bool {
    true
}

/// What a worker process is started with. A process with other settings than planned is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct WorkerSettings {
    /// Its I/O backend.
    pub(crate) io: IoChoice,
    /// Its receive buffers; a power of two.
    pub(crate) ring_buffers: u16,
    /// How long a datagram may wait for others, microseconds.
    pub(crate) latency_budget_us: u32,
    /// Whether it is confined; a process of an earlier version was not.
    #[serde(default = "not_confined")]
    pub(crate) sandbox: SandboxChoice,
}

const fn not_confined() -> SandboxChoice {
    SandboxChoice::Off
}

impl WorkerSettings {
    /// Whether processes with these settings behave alike: `auto` and `io_uring` both try io_uring first.
    pub(super) fn are_like(self, others: Self) -> bool {
        let tries_uring = |settings: Self| settings.io != IoChoice::Recvmmsg;
        Self { io: others.io, ..self } == others && tries_uring(self) == tries_uring(others)
    }

    fn of(settings: &Settings, io: Option<IoChoice>) -> Self {
        let Settings { ring_buffers, latency_budget_us, sandbox, .. } = *settings;
        Self { io: io.unwrap_or(settings.io), ring_buffers, latency_budget_us, sandbox }
    }
}

/// A unicast input: the address and port whose datagrams the kernel's own UDP would answer with ICMP port
/// unreachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Absorber {
    #[serde(with = "as_number")]
    pub(crate) ifindex: IfIndex,
    /// This host's address.
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
}

/// Whether something can work now; if not, why, human-readable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// It can.
    Ready,
    /// It waits for this condition.
    Waiting(String),
}

/// One output as its rule's workers need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedOutput {
    /// Identifies it within the rule.
    pub(crate) key: OutputKey,
    /// Destination, with scope.
    pub(crate) address: SocketAddr,
    /// How datagrams are sent.
    pub(crate) options: OutputOptions,
    /// The source address that the worker sets, unless the arriving one is kept.
    pub(crate) source: Option<IpAddr>,
    /// The socket it needs; `None` while it can't send.
    pub(crate) egress: Option<EgressKey>,
}

/// One rule as its workers need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedRelay {
    pub(crate) key: RuleKey,
    /// Destination address of the datagrams.
    pub(crate) group: IpAddr,
    /// Further ones: the broadcast addresses of the interface's networks, for a broadcast input.
    pub(crate) more_groups: Vec<IpAddr>,
    /// Destination port.
    pub(crate) port: u16,
    /// Sources admitted, sorted; empty for any.
    pub(crate) sources: Vec<IpAddr>,
    pub(crate) input: InputOptions,
    pub(crate) options: RuleOptions,
    /// The legs of a merged rule; group, port and sources are those of the first.
    pub(crate) merge: Option<PlannedMerge>,
    pub(crate) outputs: Vec<PlannedOutput>,
}

/// The legs of a merged rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedMerge {
    pub(crate) relay: RelayMerge,
    /// Which of the legs are promiscuous.
    pub(crate) promiscuous: Vec<bool>,
}

/// An input interface that exists: the configuration of all its workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedInterface {
    /// What their processes are started with.
    pub(crate) settings: WorkerSettings,
    /// The requested receive buffer size of each capture socket.
    pub(crate) receive_buffer_bytes: u32,
    /// The link layer in front of the IP header.
    pub(crate) link: LinkLayer,
    /// Those of all interfaces that are linked; empty for one interface.
    pub(crate) linked: Vec<LinkLayer>,
    pub(crate) mtu: u32,
    /// What its rules take is dropped behind the capture, unless a socket of the host receives it.
    pub(crate) early_drop: bool,
    /// Number of rules that the kernel can relay.
    pub(crate) kernel_rules: usize,
    /// A capture socket joins a fan-out group only while the interface is up.
    pub(crate) up: bool,
    /// Its workers stay even without rules.
    pub(crate) pinned: bool,
    /// One worker per core.
    pub(crate) cores: BTreeSet<u16>,
    /// The rules, sorted by id. Unchanged ones keep their allocation.
    pub(crate) relays: Vec<Arc<PlannedRelay>>,
    /// What the rules need the kernel's filter to accept, sorted.
    pub(crate) wanted: FilterSet,
    /// What it accepts: also the groups on all ports, so that datagrams to ports without a rule are counted.
    pub(crate) accepted: FilterSet,
    /// The sockets that the rules need.
    pub(crate) egress: BTreeSet<EgressKey>,
    /// This host's own datagrams, which are not relayed; empty on loopback, and for what programs of this host send.
    pub(crate) own: Own,
}

/// How this host's own datagrams are recognized among those that arrive on an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Own {
    /// Addresses that are this host's on this interface, sorted.
    pub(crate) addresses: Arc<[IpAddr]>,
    /// All addresses of the host, sorted. Another host may have one of another interface, so the MAC address decides.
    pub(crate) host: Arc<[IpAddr]>,
    /// The MAC addresses of the host's interfaces, sorted.
    pub(crate) macs: Arc<[[u8; 6]]>,
    /// Where the host sends with the source addresses of others, sorted: there, the MAC address decides for every address.
    pub(crate) kept_source: Arc<[(IpAddr, u16)]>,
}

impl Own {
    /// Whether a datagram from this address in a frame from this MAC address is the host's own.
    pub(crate) fn contains(&self, address: IpAddr, mac: [u8; 6]) -> bool {
        self.addresses.binary_search(&address).is_ok()
            || (self.host.binary_search(&address).is_ok() && self.macs.binary_search(&mac).is_ok())
    }
}

/// One rule of the config and its planned state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedRule {
    pub(crate) key: RuleKey,
    /// Where it is captured; `None` while it can't be.
    pub(crate) installed: Option<InterfaceId>,
    /// The memberships it needs; empty for a unicast input.
    pub(crate) memberships: Vec<Membership>,
    /// The absorber of a unicast input.
    pub(crate) absorber: Option<Absorber>,
    /// Those of further legs.
    pub(crate) more_absorbers: Vec<Absorber>,
    /// Whether the input can deliver, or one of the legs.
    pub(crate) input: Readiness,
    /// Whether each leg of a merged rule can, in the rule's order.
    pub(crate) legs: Vec<Readiness>,
    /// Whether each output can send, in the rule's order.
    pub(crate) outputs: Vec<Readiness>,
    /// The rule as the kernel relays it, or why a worker does.
    pub(crate) kernel: Choice,
    /// The egress sockets of the outputs, in the rule's order.
    pub(crate) egress: Vec<Option<EgressKey>>,
    /// How its datagrams are relayed.
    pub(crate) options: RuleOptions,
}

impl PlannedRule {
    /// The absorbers of unicast inputs.
    pub(crate) fn absorbers(&self) -> impl Iterator<Item = Absorber> + '_ {
        self.absorber.into_iter().chain(self.more_absorbers.iter().copied())
    }
}

/// A membership and the rules that need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedMembership {
    pub(crate) interface: InterfaceName,
    /// How many rules need it.
    pub(crate) rules: u64,
    /// Joined again when this increases: the link lost its carrier, so a switch may have forgotten the membership;
    /// the kernel sends no report when the carrier returns.
    pub(crate) carrier_epoch: u64,
}

/// The desired state of the system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Input interfaces that exist and have rules or are pinned.
    pub(crate) interfaces: BTreeMap<InterfaceId, Arc<PlannedInterface>>,
    /// Every rule, in the config's order.
    pub(crate) rules: Vec<Arc<PlannedRule>>,
    pub(crate) memberships: BTreeMap<Membership, PlannedMembership>,
    pub(crate) absorbers: BTreeMap<Absorber, InterfaceName>,
    /// How long a worker without rules is kept.
    pub(crate) grace: Duration,
}

/// The incarnation of each rule of the config; see [`RuleKey`].
pub(crate) type Incarnations = BTreeMap<RuleId, u64>;

#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub(crate) config: &'a Config,
    pub(crate) incarnations: &'a Incarnations,
    pub(crate) network: &'a NetworkState,
    /// The core of each interface.
    pub(crate) cores: &'a Cores,
    /// Overrides the config's setting.
    pub(crate) io: Option<IoChoice>,
    /// The groups that are closed for ports without a rule.
    pub(crate) closed: &'a ClosedGroups,
}

/// Groups of which the filters accept the rules' ports only, by interface.
pub(crate) type ClosedGroups = BTreeSet<(InterfaceId, IpAddr)>;

pub(crate) fn plan(inputs: Inputs<'_>) -> Plan {
    let Inputs { config, incarnations, network, .. } = inputs;
    let mut draft = Draft::new(inputs, Plan::default());
    for name in config.pinning.keys() {
        if let Some(link) = network.link(name.as_str()) {
            draft.interface(InterfaceId::of(name, link), link);
        }
    }
    for rule in &config.rules {
        let planned = draft.rule(RuleKey::of(rule, incarnations), rule);
        draft.plan.rules.push(planned);
    }
    draft.finish()
}

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
