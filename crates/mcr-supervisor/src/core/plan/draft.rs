//! Building a plan: from scratch, or from the previous plan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use mcr_rules::destination::BROADCAST;
use mcr_rules::{
    Config, EarlyDropChoice, Input, InputOptions, InterfaceName, Output, OutputOptions, Rule, SourceAddress,
};
use mcr_sys::filter::{ANY_PORT, FilterDestination};
use mcr_sys::link::IfIndex;
use mcr_sys::membership::Membership;
use mcr_sys::network::{Link, LinkKind};

use super::kernel::{Choice, Circumstances, choose};
use super::{
    Absorber, ClosedGroups, EgressKey, Inputs, InterfaceId, OutputKey, Own, PerDatagram, Plan,
    PlannedInterface, PlannedMembership, PlannedOutput, PlannedRelay, PlannedRule, Readiness, RuleKey,
    WorkerSettings, linked, readiness,
};
use crate::core::network::NetworkState;

/// A plan being built.
pub(super) struct Draft<'a> {
    pub(super) inputs: Inputs<'a>,
    /// Addresses and MAC addresses of the host; the addresses of its interfaces without link header.
    own: Own,
    /// Sockets mark what they send.
    pub(super) marked: bool,
    /// Interfaces that differ from those in `plan`.
    interfaces: BTreeMap<InterfaceId, Touched>,
    pub(super) plan: Plan,
}

/// More new rules than this are sorted together with all others.
const ONE_BY_ONE: usize = 16;

/// An interface being built.
pub(super) struct Touched {
    pub(super) planned: PlannedInterface,
    /// Rules to be added to the existing ones.
    pub(super) new: Vec<Arc<PlannedRelay>>,
    /// Rules were removed.
    pub(super) shrunk: bool,
}

impl From<PlannedInterface> for Touched {
    fn from(planned: PlannedInterface) -> Self {
        Self { planned, new: Vec::new(), shrunk: false }
    }
}

impl<'a> Draft<'a> {
    pub(super) fn new(inputs: Inputs<'a>, plan: Plan) -> Self {
        let grace = Duration::from_secs(inputs.config.settings.worker_grace_s.into());
        let network = inputs.network;
        let own = Own {
            addresses: network.tunnel_addresses().into(),
            host: network.own_addresses().into(),
            macs: network.own_macs().into(),
            kept_source: kept_source_destinations(inputs.config, network),
        };
        let marked = has_local_inputs(inputs.config);
        Self { inputs, own, marked, interfaces: BTreeMap::new(), plan: Plan { grace, ..plan } }
    }
}

impl Draft<'_> {
    /// The interface, for modification; `None` if there is none yet.
    pub(super) fn touched(&mut self, id: &InterfaceId) -> Option<&mut Touched> {
        if let Some(planned) = self.plan.interfaces.get(id)
            && !self.interfaces.contains_key(id)
        {
            self.interfaces.insert(id.clone(), (**planned).clone().into());
        }
        self.interfaces.get_mut(id)
    }

    /// The interface of a link, or what programs of this host send on it.
    pub(super) fn interface(&mut self, id: InterfaceId, link: &Link) -> &mut Touched {
        let local = id.local;
        let _ = self.touched(&id);
        let Self { inputs, own, interfaces, .. } = self;
        interfaces.entry(id).or_insert_with(|| new_interface(inputs, own, local, link).into())
    }

    /// The linked interfaces of these links.
    pub(super) fn linked_interface(&mut self, id: InterfaceId, links: &[&Link]) -> Option<&mut Touched> {
        let (first, others) = links.split_first()?;
        let _ = self.touched(&id);
        let Self { inputs, own, interfaces, .. } = self;
        Some(interfaces.entry(id).or_insert_with(|| {
            let alone = |link: &Link| new_interface(inputs, own, false, link);
            linked::join(alone(first), others.iter().map(|link| alone(link)), links).into()
        }))
    }

    pub(super) fn rule(&mut self, key: RuleKey, rule: &Rule) -> Arc<PlannedRule> {
        if let Some(merge) = &rule.merge {
            return self.merged_rule(key, rule, merge);
        }
        let network = self.inputs.network;
        let (outputs, readiness) = plan_outputs(rule, &self.inputs, self.marked);
        let (link, input) = readiness::input(&rule.input, network);
        let mut planned = PlannedRule {
            key,
            installed: None,
            memberships: Vec::new(),
            absorber: None,
            more_absorbers: Vec::new(),
            input,
            legs: Vec::new(),
            outputs: readiness,
            kernel: Err(None),
            egress: outputs.iter().map(|output| output.egress).collect(),
            options: rule.options,
        };
        if let Some(link) = link {
            let name = &rule.input.interface;
            let ifindex = link.ifindex;
            let id = InterfaceId::of(name, link);
            planned.kernel = self.choose(rule, key, link, &planned.outputs);
            let name = &id.name;
            planned.installed = Some(id.clone());
            let relay = Arc::new(PlannedRelay {
                key,
                group: rule.input.group,
                more_groups: more_groups(&rule.input, link, network),
                port: rule.input.port,
                sources: rule.input.sources.clone(),
                // That port is no matter of the workers.
                input: InputOptions { hold_port: true, ..rule.input.options },
                options: rule.options,
                merge: None,
                outputs,
            });
            // What is sent on loopback arrives there, too.
            if rule.input.options.local && link.kind != LinkKind::Loopback {
                self.interface(id.local(), link).new.push(Arc::clone(&relay));
            }
            let kernel_rules = usize::from(planned.kernel.is_ok());
            let interface = self.interface(id.clone(), link);
            interface.new.push(relay);
            interface.planned.kernel_rules += kernel_rules;
            (planned.memberships, planned.absorber) = self.joins(&rule.input, name, ifindex);
        }
        Arc::new(planned)
    }

    /// The memberships and the absorber of an input.
    pub(super) fn joins(
        &mut self,
        input: &Input,
        name: &InterfaceName,
        ifindex: IfIndex,
    ) -> (Vec<Membership>, Option<Absorber>) {
        let network = self.inputs.network;
        let memberships = memberships(input, ifindex);
        // A promiscuous input may be of another host.
        let holds = input.options.hold_port && network.has_address(input.group);
        let absorber = (memberships.is_empty() && holds).then_some(Absorber {
            ifindex,
            address: input.group,
            port: input.port,
        });
        if let Some(absorber) = absorber {
            self.plan.absorbers.insert(absorber, name.clone());
        }
        for membership in &memberships {
            let carrier_epoch = network.carrier_epoch(ifindex);
            let entry = self.plan.memberships.entry(*membership);
            entry
                .or_insert_with(|| PlannedMembership { interface: name.clone(), rules: 0, carrier_epoch })
                .rules += 1;
        }
        (memberships, absorber)
    }

    fn choose(&self, rule: &Rule, key: RuleKey, link: &Link, outputs: &[Readiness]) -> Choice {
        let Inputs { config, network, .. } = self.inputs;
        let circumstances = Circumstances {
            network,
            choice: config.settings.engine,
            mark: config.settings.egress_mark,
            marked: self.marked,
            kept_source: &self.own.kept_source,
        };
        choose(rule, key, link, outputs.iter().map(|output| *output == Readiness::Ready), &circumstances)
    }

    pub(super) fn finish(mut self) -> Plan {
        for (id, touched) in self.interfaces {
            let mut interface = touched.finish();
            interface.accept_all_ports(&id, self.inputs.closed);
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
    /// Sorts the rules, and collects what they need.
    fn sum_up(&mut self) {
        self.relays.sort_by_key(|relay| relay.key);
        let mut wanted: Vec<FilterDestination> =
            self.relays.iter().flat_map(|relay| relay.wanted()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        if *self.wanted != *wanted {
            self.wanted = wanted.into();
        }
        let needed = self.relays.iter().flat_map(|relay| &relay.outputs).filter_map(|output| output.egress);
        self.egress = distinct(needed);
    }

    /// Inserts one more rule in order, and adds what it needs.
    fn insert(&mut self, relay: Arc<PlannedRelay>) {
        for wanted in relay.wanted() {
            if let Err(place) = self.wanted.binary_search(&wanted) {
                let (before, behind) = self.wanted.split_at(place);
                self.wanted = [before, &[wanted], behind].concat().into();
            }
        }
        self.egress.extend(relay.outputs.iter().filter_map(|output| output.egress));
        let place = self.relays.partition_point(|other| other.key < relay.key);
        self.relays.insert(place, relay);
    }

    /// Adds all ports of the groups that are open for them. Only of groups: to the host's own addresses comes much else.
    fn accept_all_ports(&mut self, id: &InterfaceId, closed: &ClosedGroups) {
        if !id.linked.is_empty() {
            self.accepted = Arc::clone(&self.wanted);
            return;
        }
        let groups = self.wanted.iter().filter(|wanted| wanted.address.is_multicast());
        let open =
            groups.filter(|wanted| closed.is_empty() || !closed.contains(&(id.clone(), wanted.address)));
        let all_ports = open.map(|wanted| FilterDestination { port: ANY_PORT, ..*wanted });
        let mut accepted: Vec<FilterDestination> = all_ports.chain(self.wanted.iter().copied()).collect();
        accepted.sort_unstable();
        accepted.dedup();
        if *self.accepted != *accepted {
            self.accepted = accepted.into();
        }
    }

    /// Whether another differs in more than its settings.
    pub(in crate::core) fn differs_beyond_settings(&self, other: &Self) -> bool {
        let Self { settings, receive_buffer_bytes, .. } = *other;
        Self { settings, receive_buffer_bytes, ..self.clone() } != *other
    }

    /// Shares unchanged rules with an earlier plan, so that comparing them is a pointer comparison.
    pub(in crate::core) fn share_with(&mut self, before: &Self) {
        let mut old = before.relays.iter().peekable();
        for relay in &mut self.relays {
            while old.next_if(|old| old.key < relay.key).is_some() {}
            if let Some(same) = old.next_if(|old| *old == relay) {
                *relay = Arc::clone(same);
            }
        }
    }
}

impl PlannedRelay {
    /// What it needs the filter to pass.
    pub(in crate::core) fn wanted(&self) -> impl Iterator<Item = FilterDestination> {
        let of_leg = linked::wanted(self.merge.as_ref());
        let (port, promiscuous) = (self.port, self.input.promiscuous);
        let alone = self.merge.is_none();
        let groups = self.more_groups.iter().chain([&self.group]).filter(move |_| alone);
        groups.map(move |address| FilterDestination { address: *address, port, promiscuous }).chain(of_leg)
    }
}

/// The broadcast addresses of the interface's networks, for a broadcast input.
pub(super) fn more_groups(input: &Input, link: &Link, network: &NetworkState) -> Vec<IpAddr> {
    if input.group == BROADCAST { network.broadcast_addresses(link.ifindex) } else { Vec::new() }
}

/// Whether an input takes what programs of this host send.
pub(in crate::core) fn has_local_inputs(config: &Config) -> bool {
    config.rules.iter().any(|rule| rule.input.options.local)
}

/// The outputs that keep the source address.
fn kept_source(config: &Config) -> impl Iterator<Item = &Output> {
    let outputs = config.rules.iter().flat_map(|rule| &rule.outputs);
    outputs.filter(|output| output.options.source == Some(SourceAddress::Keep))
}

/// Whether two configs send to the same destinations with kept source addresses.
pub(in crate::core) fn keep_source_alike(one: &Config, other: &Config) -> bool {
    let keys = |config| kept_source(config).map(|output| (&output.interface, output.group, output.port));
    keys(one).eq(keys(other))
}

fn kept_source_destinations(config: &Config, network: &NetworkState) -> Arc<[(IpAddr, u16)]> {
    let mut all = Vec::new();
    for output in kept_source(config) {
        all.push((output.group, output.port));
        if output.group == BROADCAST
            && let Some(link) = network.link(output.interface.as_str())
        {
            let addresses = network.broadcast_addresses(link.ifindex);
            all.extend(addresses.into_iter().map(|address| (address, output.port)));
        }
    }
    all.sort_unstable();
    all.dedup();
    all.into()
}

fn sorted(mut addresses: Vec<IpAddr>) -> Arc<[IpAddr]> {
    addresses.sort_unstable();
    addresses.dedup();
    addresses.into()
}

/// The distinct values of thousands with few distinct ones: inserted one by one, since `collect` would sort all.
pub(in crate::core) fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> BTreeSet<T> {
    let mut set = BTreeSet::new();
    set.extend(values);
    set
}

/// An interface without rules.
fn new_interface(inputs: &Inputs<'_>, own: &Own, local: bool, link: &Link) -> PlannedInterface {
    let Inputs { config, cores, io, network, .. } = *inputs;
    let cores = cores.of(config, link.names());
    PlannedInterface {
        settings: WorkerSettings::of(&config.settings, io),
        receive_buffer_bytes: config.settings.receive_buffer_bytes,
        link: linked::link_layer(link),
        linked: Vec::new(),
        mtu: link.mtu,
        // Without Ethernet header the program understands nothing; what loops back is this host's own.
        early_drop: config.settings.early_drop == EarlyDropChoice::Auto
            && link.kind == LinkKind::Ethernet
            && !local,
        kernel_rules: 0,
        up: link.up,
        pinned: !local && link.names().any(|name| config.pinning.contains_key(name)),
        cores: if local { cores.into_iter().take(1).collect() } else { cores },
        relays: Vec::new(),
        wanted: Arc::default(),
        accepted: Arc::default(),
        egress: BTreeSet::new(),
        own: match link.kind {
            _ if local => Own::default(),
            LinkKind::Loopback => Own::default(),
            // Without MAC addresses, what returns through a tunnel is recognized by the addresses of all tunnels.
            LinkKind::NoHeader => {
                let mut addresses = network.addresses_of(link.ifindex);
                addresses.extend(&*own.addresses);
                Own { addresses: sorted(addresses), ..Own::default() }
            }
            _ => Own { addresses: sorted(network.addresses_of(link.ifindex)), ..own.clone() },
        },
    }
}

fn memberships(input: &Input, ifindex: IfIndex) -> Vec<Membership> {
    let group = input.group;
    if !group.is_multicast() {
        return Vec::new();
    }
    if input.sources.is_empty() {
        return vec![Membership { ifindex, group, source: None }];
    }
    input.sources.iter().map(|source| Membership { ifindex, group, source: Some(*source) }).collect()
}

pub(super) fn plan_outputs(
    rule: &Rule,
    inputs: &Inputs<'_>,
    marked: bool,
) -> (Vec<PlannedOutput>, Vec<Readiness>) {
    let keys = OutputKey::all_of(rule);
    rule.outputs.iter().zip(keys).map(|(output, key)| plan_output(output, key, inputs, marked)).unzip()
}

fn plan_output(
    output: &Output,
    key: OutputKey,
    inputs: &Inputs<'_>,
    marked: bool,
) -> (PlannedOutput, Readiness) {
    let (link, readiness) = readiness::output(output, inputs.network);
    // Without `..`, so that each new option forces a decision whether the socket depends on it.
    let OutputOptions { ttl, dscp, source, source_port, loopback } = output.options;
    let per_datagram = match (source, source_port) {
        (_, Some(_)) => PerDatagram::AddressAndPort,
        (Some(SourceAddress::Keep), None) => PerDatagram::Address,
        _ => PerDatagram::Nothing,
    };
    let fixed = source.and_then(SourceAddress::fixed);
    // The worker computes the checksum, so it has to know the address that the kernel would choose.
    let of_interface = || link.and_then(|link| readiness::source_for(output.group, link, inputs.network));
    let set_source = match per_datagram {
        PerDatagram::AddressAndPort if source.is_none() => of_interface(),
        PerDatagram::AddressAndPort => fixed,
        _ => None,
    };
    let egress = link.map(|link| EgressKey {
        ifindex: link.ifindex,
        ipv6: output.group.is_ipv6(),
        ttl: ttl.fixed(),
        dscp: dscp.fixed(),
        source: fixed.filter(|_| per_datagram == PerDatagram::Nothing),
        per_datagram,
        multicast_loop: loopback,
        send_buffer_bytes: inputs.config.settings.send_buffer_bytes,
        marked,
        mark: inputs.config.settings.egress_mark,
    });
    let scope = link.map_or(0, |link| link.ifindex.to_raw());
    let address = scoped(output.group, output.port, scope);
    let planned = PlannedOutput { key, address, options: output.options, source: set_source, egress };
    (planned, readiness)
}

/// Adds the scope to IPv6 addresses of link-local scope and below, which are ambiguous without it (RFC 4007 section
/// 6).
fn scoped(address: IpAddr, port: u16, ifindex: u32) -> SocketAddr {
    match address {
        IpAddr::V4(v4) => SocketAddr::from((v4, port)),
        IpAddr::V6(v6) => {
            let scope = if readiness::is_link_scope(address) { ifindex } else { 0 };
            SocketAddrV6::new(v6, port, 0, scope).into()
        }
    }
}
