//! What the whole system should look like for a config and a network: [`plan`] is a function of its arguments and of
//! nothing else.
//!
//! A rule is *installed* (captured, joined, in its workers' sets) as soon as its input interface exists, and stays so
//! while that is down or an output can't send: nothing needs to be done when it comes back. Whether it *relays* is
//! told by [`Readiness`].

mod change;
mod readiness;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use mcr_link::message::LinkLayer;
use mcr_rules::{Config, Dscp, Health, InterfaceName, Output, Rule, RuleId, Ttl};
use mcr_sys::filter::WantedDestination;
use mcr_sys::link::IfIndex;
use mcr_sys::membership::Membership;
use mcr_sys::network::{Link, LinkKind};
use serde::{Deserialize, Serialize};

use crate::core::cores::Cores;
use crate::core::memory::as_number;
use crate::core::network::NetworkState;
use crate::core::wanted::Wanted;

pub use self::change::{Replaced, plan_change};

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
    /// Which life of it.
    pub life: u64,
}

impl RuleKey {
    fn of(rule: &Rule, lives: &Lives) -> Self {
        let id = rule.id();
        Self { id, life: lives.get(&id).copied().unwrap_or_default() }
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
    pub wanted: Wanted,
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

/// Which life each rule of the config is in; see [`RuleKey`].
pub type Lives = BTreeMap<RuleId, u64>;

/// Makes the plan.
#[must_use]
pub fn plan(config: &Config, lives: &Lives, network: &NetworkState, cores: &Cores) -> Plan {
    let mut draft = Draft::new(config, network, cores, Plan::default());
    for name in config.pinning.keys() {
        if let Some(link) = network.link(name.as_str()) {
            draft.interface(name, link);
        }
    }
    for rule in &config.rules {
        let planned = draft.rule(RuleKey::of(rule, lives), rule);
        draft.plan.rules.push(planned);
    }
    draft.finish()
}

/// A plan in the making.
struct Draft<'a> {
    config: &'a Config,
    network: &'a NetworkState,
    cores: &'a Cores,
    own_addresses: Arc<[IpAddr]>,
    /// The interfaces that are not, or not any more, as in the plan.
    interfaces: BTreeMap<InterfaceId, Touched>,
    plan: Plan,
}

/// More new rules than this are put in order together with all others.
const ONE_BY_ONE: usize = 16;

/// An interface in the making.
struct Touched {
    planned: PlannedInterface,
    /// The rules that come to those it has.
    new: Vec<Arc<PlannedRelay>>,
    /// Rules have left.
    shrunk: bool,
}

impl From<PlannedInterface> for Touched {
    fn from(planned: PlannedInterface) -> Self {
        Self { planned, new: Vec::new(), shrunk: false }
    }
}

impl<'a> Draft<'a> {
    fn new(config: &'a Config, network: &'a NetworkState, cores: &'a Cores, plan: Plan) -> Self {
        let grace = Duration::from_secs(config.settings.worker_grace_s.into());
        let own_addresses = network.own_addresses().into();
        let plan = Plan { grace, ..plan };
        Self { config, network, cores, own_addresses, interfaces: BTreeMap::new(), plan }
    }
}

impl Draft<'_> {
    /// An interface that is about to change; `None` if there is none yet.
    fn touched(&mut self, id: &InterfaceId) -> Option<&mut Touched> {
        if let Some(planned) = self.plan.interfaces.get(id)
            && !self.interfaces.contains_key(id)
        {
            self.interfaces.insert(id.clone(), (**planned).clone().into());
        }
        self.interfaces.get_mut(id)
    }

    fn interface(&mut self, name: &InterfaceName, link: &Link) -> &mut Touched {
        let id = InterfaceId { name: name.clone(), ifindex: link.ifindex };
        let _ = self.touched(&id);
        self.interfaces.entry(id).or_insert_with(|| {
            Touched::from(PlannedInterface {
                link: if link.kind == LinkKind::NoHeader { LinkLayer::None } else { LinkLayer::Ethernet },
                mtu: link.mtu,
                up: link.up,
                pinned: self.config.pinning.contains_key(name),
                cores: self.cores.of(self.config, name),
                relays: Vec::new(),
                wanted: Arc::default(),
                egress: BTreeSet::new(),
                own_addresses: match link.kind {
                    LinkKind::Loopback => Arc::default(),
                    _ => Arc::clone(&self.own_addresses),
                },
            })
        })
    }

    fn rule(&mut self, key: RuleKey, rule: &Rule) -> Arc<PlannedRule> {
        let network = self.network;
        let (outputs, readiness) = plan_outputs(rule, network);
        let (link, input) = readiness::input(&rule.input, network);
        let mut planned = PlannedRule {
            key,
            installed: None,
            memberships: Vec::new(),
            absorber: None,
            input,
            outputs: readiness,
            egress: outputs.iter().map(|output| output.egress).collect(),
            max_pps: rule.max_pps,
        };
        if let Some(link) = link {
            let name = &rule.input.interface;
            let ifindex = link.ifindex;
            planned.installed = Some(InterfaceId { name: name.clone(), ifindex });
            self.interface(name, link).new.push(Arc::new(PlannedRelay {
                key,
                group: rule.input.group,
                port: rule.input.port,
                sources: rule.input.sources.clone(),
                max_pps: rule.max_pps,
                health: rule.health,
                outputs,
            }));
            planned.memberships = memberships(rule, ifindex);
            if planned.memberships.is_empty() {
                let absorber = Absorber { ifindex, address: rule.input.group, port: rule.input.port };
                self.plan.absorbers.insert(absorber, name.clone());
                planned.absorber = Some(absorber);
            }
            for membership in &planned.memberships {
                let carrier_epoch = network.carrier_epoch(ifindex);
                let entry = self.plan.memberships.entry(*membership);
                entry
                    .or_insert_with(|| PlannedMembership { interface: name.clone(), rules: 0, carrier_epoch })
                    .rules += 1;
            }
        }
        Arc::new(planned)
    }

    fn finish(mut self) -> Plan {
        for (id, touched) in self.interfaces {
            let interface = touched.finish();
            if interface.relays.is_empty() && !interface.pinned {
                self.plan.interfaces.remove(&id);
                continue;
            }
            self.plan.interfaces.insert(id, Arc::new(interface));
        }
        self.plan
    }
}

impl Touched {
    fn finish(self) -> PlannedInterface {
        let Self { mut planned, new, shrunk } = self;
        if shrunk || new.len() > ONE_BY_ONE {
            planned.relays.extend(new);
            planned.sum_up();
        } else {
            new.into_iter().for_each(|relay| planned.insert(relay));
        }
        planned
    }
}

impl PlannedInterface {
    /// Brings order into the rules, and gathers what they need.
    fn sum_up(&mut self) {
        self.relays.sort_by_key(|relay| relay.key);
        let mut wanted: Vec<WantedDestination> = self
            .relays
            .iter()
            .map(|relay| WantedDestination { address: relay.group, port: relay.port })
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        if *self.wanted != *wanted {
            self.wanted = wanted.into();
        }
        let needed = self.relays.iter().flat_map(|relay| &relay.outputs).filter_map(|output| output.egress);
        self.egress = distinct(needed);
    }

    /// Puts one more rule in its place, and adds what it needs.
    fn insert(&mut self, relay: Arc<PlannedRelay>) {
        let wanted = WantedDestination { address: relay.group, port: relay.port };
        if let Err(place) = self.wanted.binary_search(&wanted) {
            let (before, behind) = self.wanted.split_at(place);
            self.wanted = [before, &[wanted], behind].concat().into();
        }
        self.egress.extend(relay.outputs.iter().filter_map(|output| output.egress));
        let place = self.relays.partition_point(|other| other.key < relay.key);
        self.relays.insert(place, relay);
    }

    /// Takes the rules that are as they were from an earlier plan, so that comparing them costs nothing.
    pub(super) fn share_with(&mut self, before: &Self) {
        let mut old = before.relays.iter().peekable();
        for relay in &mut self.relays {
            while old.next_if(|old| old.key < relay.key).is_some() {}
            if let Some(same) = old.next_if(|old| *old == relay) {
                *relay = Arc::clone(same);
            }
        }
    }
}

/// The values among thousands of which few are different: put in one by one, since collecting them would sort them all.
pub(super) fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> BTreeSet<T> {
    let mut set = BTreeSet::new();
    set.extend(values);
    set
}

fn memberships(rule: &Rule, ifindex: IfIndex) -> Vec<Membership> {
    let group = rule.input.group;
    if !group.is_multicast() {
        return Vec::new();
    }
    if rule.input.sources.is_empty() {
        return vec![Membership { ifindex, group, source: None }];
    }
    rule.input.sources.iter().map(|source| Membership { ifindex, group, source: Some(*source) }).collect()
}

fn plan_outputs(rule: &Rule, network: &NetworkState) -> (Vec<PlannedOutput>, Vec<Readiness>) {
    let keys = OutputKey::all_of(rule);
    rule.outputs.iter().zip(keys).map(|(output, key)| plan_output(output, key, network)).unzip()
}

fn plan_output(output: &Output, key: OutputKey, network: &NetworkState) -> (PlannedOutput, Readiness) {
    let (link, readiness) = readiness::output(output, network);
    let egress = link.map(|link| EgressKey {
        ifindex: link.ifindex,
        ipv6: output.group.is_ipv6(),
        ttl: match output.ttl {
            Ttl::Fixed(ttl) => Some(ttl),
            Ttl::Decrement => None,
        },
        dscp: match output.dscp {
            Dscp::Fixed(dscp) => Some(dscp),
            Dscp::Keep => None,
        },
        source: output.source,
    });
    let scope = link.map_or(0, |link| link.ifindex.to_raw());
    let address = scoped(output.group, output.port, scope);
    (PlannedOutput { key, address, ttl: output.ttl, dscp: output.dscp, egress }, readiness)
}

/// IPv6 addresses of link-local scope and below mean nothing without their interface (RFC 4007 section 6).
fn scoped(address: IpAddr, port: u16, ifindex: u32) -> SocketAddr {
    match address {
        IpAddr::V4(v4) => SocketAddr::from((v4, port)),
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.octets();
            let narrow = v6.is_unicast_link_local() || (first == 0xff && second & 0xf <= 2);
            SocketAddrV6::new(v6, port, 0, if narrow { ifindex } else { 0 }).into()
        }
    }
}

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
