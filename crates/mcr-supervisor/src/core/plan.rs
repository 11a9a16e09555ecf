//! What the whole system should look like for a config and a network: [`plan`] is a function of its arguments and of
//! nothing else.
//!
//! A rule is *installed* (captured, joined, in its workers' sets) as soon as its input interface exists, and stays so
//! while that is down or an output can't send: nothing needs to be done when it comes back. Whether it *relays* is
//! told by [`Readiness`].

mod as_number;
mod change;
mod draft;
mod readiness;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mcr_control::reply::Engine;
use mcr_link::message::LinkLayer;
use mcr_rules::{
    Config, InterfaceName, IoChoice, Output, OutputOptions, Rule, RuleId, RuleOptions, Settings,
};
use mcr_sys::link::IfIndex;
use mcr_sys::membership::Membership;
use serde::{Deserialize, Serialize};

use crate::core::cores::Cores;
use crate::core::filter_set::FilterSet;
use crate::core::network::NetworkState;

pub(crate) use self::change::{Replaced, plan_change};
use self::draft::Draft;
pub(super) use self::draft::distinct;

/// An interface by name and index: a name that moves to another index (or the other way round) is another interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct InterfaceId {
    /// The name that rules use.
    pub(crate) name: InterfaceName,
    /// The kernel's index.
    #[serde(with = "as_number")]
    pub(crate) ifindex: IfIndex,
}

/// A worker: one core of one interface. Its processes come and go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct WorkerId {
    /// The interface it receives on.
    pub(crate) interface: InterfaceId,
    /// The core it runs on.
    pub(crate) core: u16,
}

impl std::fmt::Display for WorkerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "worker {} core {}", self.interface.name, self.core)
    }
}

/// A rule of the running config. A rule that is removed and added again is another one: it counts from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct RuleKey {
    /// The rule's id.
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

/// What makes an output the same one after its TTL or DSCP changed, within its rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct OutputKey {
    /// Address and port it is sent to.
    pub(crate) to: (IpAddr, u16),
    /// The interface it leaves on.
    pub(crate) interface: InterfaceName,
    /// The address it is sent from.
    pub(crate) source: Option<IpAddr>,
    /// 0, or which one among outputs that are alike in all this.
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
    #[must_use]
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

/// What an egress socket is made for; outputs alike in this share one per worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct EgressKey {
    /// The interface to send on.
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
    /// The kernel's queue of the socket, in bytes. Unknown, so 0, in records of older versions.
    #[serde(default)]
    pub(crate) send_buffer_bytes: u32,
}

/// What a worker process is started with. A process that was started with anything else than planned is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct WorkerSettings {
    /// How it receives and sends.
    pub(crate) io: IoChoice,
    /// Its receive buffers; a power of two.
    pub(crate) ring_buffers: u16,
    /// Microseconds that a datagram may wait for others.
    pub(crate) latency_budget_us: u32,
}

impl WorkerSettings {
    /// Whether a process with these settings works as one with the others: `auto` and `io_uring` both try io_uring first.
    pub(super) fn are_like(self, others: Self) -> bool {
        let tries_uring = |settings: Self| settings.io != IoChoice::Recvmmsg;
        Self { io: others.io, ..self } == others && tries_uring(self) == tries_uring(others)
    }

    fn of(settings: &Settings, io: Option<IoChoice>) -> Self {
        let Settings { ring_buffers, latency_budget_us, .. } = *settings;
        Self { io: io.unwrap_or(settings.io), ring_buffers, latency_budget_us }
    }
}

/// A unicast input: the address and port that must be taken from the kernel's own UDP (KERNEL_FACTS.md 25).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Absorber {
    /// The interface it arrives on.
    #[serde(with = "as_number")]
    pub(crate) ifindex: IfIndex,
    /// This host's address.
    pub(crate) address: IpAddr,
    /// The port.
    pub(crate) port: u16,
}

/// Whether something can work now; if not, why, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// It can.
    Ready,
    /// It waits for this.
    Waiting(String),
}

/// One output as its rule's workers need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedOutput {
    /// Tells it from the rule's others.
    pub(crate) key: OutputKey,
    /// Where to send, with scope.
    pub(crate) address: SocketAddr,
    /// How datagrams are sent.
    pub(crate) options: OutputOptions,
    /// What relays to it.
    pub(crate) engine: Engine,
    /// The socket it needs; `None` while it can't send.
    pub(crate) egress: Option<EgressKey>,
}

/// One rule as its workers need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedRelay {
    /// Which rule.
    pub(crate) key: RuleKey,
    /// Destination address of the datagrams.
    pub(crate) group: IpAddr,
    /// Destination port.
    pub(crate) port: u16,
    /// Sources admitted, sorted; empty for any.
    pub(crate) sources: Vec<IpAddr>,
    /// How they are relayed.
    pub(crate) options: RuleOptions,
    /// Where they go.
    pub(crate) outputs: Vec<PlannedOutput>,
}

/// An input interface that exists: what all its workers do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedInterface {
    /// What their processes are started with.
    pub(crate) settings: WorkerSettings,
    /// The size of the queue of each capture socket that the kernel is asked for.
    pub(crate) receive_buffer_bytes: u32,
    /// What stands in front of the IP header.
    pub(crate) link: LinkLayer,
    /// MTU in bytes.
    pub(crate) mtu: u32,
    /// A capture socket joins a fan-out group only while the interface is up.
    pub(crate) up: bool,
    /// Its workers stay without rules.
    pub(crate) pinned: bool,
    /// One worker per core.
    pub(crate) cores: BTreeSet<u16>,
    /// The rules, sorted by id. Those that did not change keep their place in memory.
    pub(crate) relays: Vec<Arc<PlannedRelay>>,
    /// What the kernel's filter lets through, sorted.
    pub(crate) wanted: FilterSet,
    /// The sockets that the rules need.
    pub(crate) egress: BTreeSet<EgressKey>,
    /// This host's addresses, whose datagrams are not relayed; empty on loopback.
    pub(crate) own_addresses: Arc<[IpAddr]>,
}

/// One rule of the config and its prospects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedRule {
    /// Which rule.
    pub(crate) key: RuleKey,
    /// Where it is captured; `None` while it can't be.
    pub(crate) installed: Option<InterfaceId>,
    /// The memberships it needs; empty for a unicast input.
    pub(crate) memberships: Vec<Membership>,
    /// The absorber of a unicast input.
    pub(crate) absorber: Option<Absorber>,
    /// Whether the input can deliver.
    pub(crate) input: Readiness,
    /// Whether each output can send, in the rule's order.
    pub(crate) outputs: Vec<Readiness>,
    /// What relays to each output, in the rule's order.
    pub(crate) engines: Vec<Engine>,
    /// The egress sockets of the outputs, in the rule's order.
    pub(crate) egress: Vec<Option<EgressKey>>,
    /// How its datagrams are relayed.
    pub(crate) options: RuleOptions,
}

/// A membership and who needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedMembership {
    /// The interface's name.
    pub(crate) interface: InterfaceName,
    /// How many rules need it.
    pub(crate) rules: u64,
    /// Joined anew when this grows: the link had lost its carrier, and a switch forgets (KERNEL_FACTS.md 23).
    pub(crate) carrier_epoch: u64,
}

/// The goal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Input interfaces that exist and have rules or are pinned.
    pub(crate) interfaces: BTreeMap<InterfaceId, Arc<PlannedInterface>>,
    /// Every rule, in the config's order.
    pub(crate) rules: Vec<Arc<PlannedRule>>,
    /// Every membership.
    pub(crate) memberships: BTreeMap<Membership, PlannedMembership>,
    /// Every absorber.
    pub(crate) absorbers: BTreeMap<Absorber, InterfaceName>,
    /// How long a worker without rules stays.
    pub(crate) grace: Duration,
}

/// Which incarnation each rule of the config is in; see [`RuleKey`].
pub(crate) type Incarnations = BTreeMap<RuleId, u64>;

/// What a plan is made from.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// The config.
    pub(crate) config: &'a Config,
    /// The incarnations of its rules.
    pub(crate) incarnations: &'a Incarnations,
    /// Links and addresses.
    pub(crate) network: &'a NetworkState,
    /// The core of each interface.
    pub(crate) cores: &'a Cores,
    /// Overrides the config's setting.
    pub(crate) io: Option<IoChoice>,
}

/// Makes the plan.
#[must_use]
pub(crate) fn plan(inputs: Inputs<'_>) -> Plan {
    let Inputs { config, incarnations, network, .. } = inputs;
    let mut draft = Draft::new(inputs, Plan::default());
    for name in config.pinning.keys() {
        if let Some(link) = network.link(name.as_str()) {
            draft.interface(name, link);
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
