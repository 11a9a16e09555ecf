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
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use mcr_link::message::LinkLayer;
use mcr_rules::{Config, Dscp, Health, InterfaceName, Output, Rule, RuleId, Ttl};
use mcr_sys::link::IfIndex;
use mcr_sys::membership::Membership;
use serde::{Deserialize, Serialize};

use crate::core::cores::Cores;
use crate::core::filter_set::FilterSet;
use crate::core::network::NetworkState;

pub use self::change::{Replaced, plan_change};
use self::draft::Draft;
pub(super) use self::draft::distinct;

/// An interface by name and index: a name that moves to another index (or the other way round) is another interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InterfaceId {
    /// The name that rules use.
    pub name: InterfaceName,
    /// The kernel's index.
    #[serde(with = "as_number")]
    pub ifindex: IfIndex,
}

/// A worker: one core of one interface. Its processes come and go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId {
    /// The interface it receives on.
    pub interface: InterfaceId,
    /// The core it runs on.
    pub core: u16,
}

impl std::fmt::Display for WorkerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "worker {} core {}", self.interface.name, self.core)
    }
}

/// A rule of the running config. A rule that is removed and added again is another one: it counts from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleKey {
    /// The rule's id.
    pub id: RuleId,
    /// Which incarnation of it.
    pub incarnation: u64,
}

impl RuleKey {
    fn of(rule: &Rule, incarnations: &Incarnations) -> Self {
        let id = rule.id();
        Self { id, incarnation: incarnations.get(&id).copied().unwrap_or_default() }
    }
}

/// What makes an output the same one after its TTL or DSCP changed, within its rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OutputKey {
    /// Address and port it is sent to.
    pub to: (IpAddr, u16),
    /// The interface it leaves on.
    pub interface: InterfaceName,
    /// The address it is sent from.
    pub source: Option<IpAddr>,
    /// 0, or which one among outputs that are alike in all this.
    pub ordinal: u16,
}

impl OutputKey {
    fn first_of(output: &Output) -> Self {
        Self {
            to: (output.group, output.port),
            interface: output.interface.clone(),
            source: output.source,
            ordinal: 0,
        }
    }

    /// The keys of a rule's outputs, in its order.
    #[must_use]
    pub fn all_of(rule: &Rule) -> Vec<Self> {
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
pub struct EgressKey {
    /// The interface to send on.
    #[serde(with = "as_number")]
    pub ifindex: IfIndex,
    /// IPv6 instead of IPv4.
    pub ipv6: bool,
    /// The fixed TTL; `None` if the worker sets it per datagram.
    pub ttl: Option<u8>,
    /// The fixed DSCP; `None` if the worker sets it per datagram.
    pub dscp: Option<u8>,
    /// The address to send from.
    pub source: Option<IpAddr>,
}

/// A unicast input: the address and port that must be taken from the kernel's own UDP (KERNEL_FACTS.md 25).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Absorber {
    /// The interface it arrives on.
    #[serde(with = "as_number")]
    pub ifindex: IfIndex,
    /// This host's address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// Whether something can work now; if not, why, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It can.
    Ready,
    /// It waits for this.
    Waiting(String),
}

/// One output as its rule's workers need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedOutput {
    /// Tells it from the rule's others.
    pub key: OutputKey,
    /// Where to send, with scope.
    pub address: SocketAddr,
    /// TTL or hop limit.
    pub ttl: Ttl,
    /// DSCP.
    pub dscp: Dscp,
    /// The socket it needs; `None` while it can't send.
    pub egress: Option<EgressKey>,
}

/// One rule as its workers need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedRelay {
    /// Which rule.
    pub key: RuleKey,
    /// Destination address of the datagrams.
    pub group: IpAddr,
    /// Destination port.
    pub port: u16,
    /// Sources admitted, sorted; empty for any.
    pub sources: Vec<IpAddr>,
    /// Datagrams per second that each worker relays at most.
    pub max_pps: Option<NonZeroU32>,
    /// What is checked of their contents.
    pub health: Option<Health>,
    /// Where they go.
    pub outputs: Vec<PlannedOutput>,
}

/// An input interface that exists: what all its workers do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedInterface {
    /// What stands in front of the IP header.
    pub link: LinkLayer,
    /// MTU in bytes.
    pub mtu: u32,
    /// A capture socket joins a fan-out group only while the interface is up.
    pub up: bool,
    /// Its workers stay without rules.
    pub pinned: bool,
    /// One worker per core.
    pub cores: BTreeSet<u16>,
    /// The rules, sorted by id. Those that did not change keep their place in memory.
    pub relays: Vec<Arc<PlannedRelay>>,
    /// What the kernel's filter lets through, sorted.
    pub wanted: FilterSet,
    /// The sockets that the rules need.
    pub egress: BTreeSet<EgressKey>,
    /// This host's addresses, whose datagrams are not relayed; empty on loopback.
    pub own_addresses: Arc<[IpAddr]>,
}

/// One rule of the config and its prospects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedRule {
    /// Which rule.
    pub key: RuleKey,
    /// Where it is captured; `None` while it can't be.
    pub installed: Option<InterfaceId>,
    /// The memberships it needs; empty for a unicast input.
    pub memberships: Vec<Membership>,
    /// The absorber of a unicast input.
    pub absorber: Option<Absorber>,
    /// Whether the input can deliver.
    pub input: Readiness,
    /// Whether each output can send, in the rule's order.
    pub outputs: Vec<Readiness>,
    /// The egress sockets of the outputs, in the rule's order.
    pub egress: Vec<Option<EgressKey>>,
    /// Datagrams per second that each worker relays at most.
    pub max_pps: Option<NonZeroU32>,
}

/// A membership and who needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedMembership {
    /// The interface's name.
    pub interface: InterfaceName,
    /// How many rules need it.
    pub rules: u64,
    /// Joined anew when this grows: the link had lost its carrier, and a switch forgets (KERNEL_FACTS.md 23).
    pub carrier_epoch: u64,
}

/// The goal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Input interfaces that exist and have rules or are pinned.
    pub interfaces: BTreeMap<InterfaceId, Arc<PlannedInterface>>,
    /// Every rule, in the config's order.
    pub rules: Vec<Arc<PlannedRule>>,
    /// Every membership.
    pub memberships: BTreeMap<Membership, PlannedMembership>,
    /// Every absorber.
    pub absorbers: BTreeMap<Absorber, InterfaceName>,
    /// How long a worker without rules stays.
    pub grace: Duration,
}

/// Which incarnation each rule of the config is in; see [`RuleKey`].
pub type Incarnations = BTreeMap<RuleId, u64>;

/// Makes the plan.
#[must_use]
pub fn plan(config: &Config, incarnations: &Incarnations, network: &NetworkState, cores: &Cores) -> Plan {
    let mut draft = Draft::new(config, network, cores, Plan::default());
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
