//! Whether the kernel can relay a rule, and if not, why.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mcr_control::reply::EngineReason;
use mcr_rules::destination::BROADCAST;
use mcr_rules::{EngineChoice, Output, Rule, SourceAddress, SourcePort};
use mcr_sys::bpf::early_drop::Destination;
use mcr_sys::bpf::relay::MAX_FAN_OUT;
use mcr_sys::filter::EGRESS_MARK;
use mcr_sys::link::IfIndex;
use mcr_sys::network::{Link, LinkKind};

use super::readiness::source_for;
use super::{OutputKey, RuleKey};
use crate::core::network::NetworkState;

/// A source port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Port {
    /// One that no program of the host has.
    Any,
    /// That of the arriving datagram.
    Arriving,
    Fixed(u16),
}

/// An output as the kernel sends on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct KernelOutput {
    pub(crate) key: OutputKey,
    pub(crate) ifindex: IfIndex,
    /// The MAC addresses that it sends to and from.
    pub(crate) mac: [u8; 6],
    pub(crate) source_mac: [u8; 6],
    pub(crate) to: SocketAddr,
    pub(crate) source: IpAddr,
    pub(crate) source_port: Port,
    pub(crate) mark: u32,
    /// `None`: one less than the arriving one.
    pub(crate) ttl: Option<u8>,
    /// `None`: the arriving one.
    pub(crate) dscp: Option<u8>,
}

/// A rule as the kernel relays it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct KernelRule {
    pub(crate) key: RuleKey,
    pub(crate) to: Destination,
    /// Sources admitted; empty for any.
    pub(crate) sources: Vec<IpAddr>,
    /// The largest IP packet that fits all outputs.
    pub(crate) max_bytes: u16,
    pub(crate) min_ttl: u8,
    pub(crate) outputs: Vec<KernelOutput>,
}

/// Above this number of outputs, a worker's cost per datagram is lower where each comes in a frame of its own.
const FEW_OUTPUTS: usize = 3;

/// What a choice depends on beside the rule.
pub(in crate::core) struct Circumstances<'a> {
    pub(in crate::core) network: &'a NetworkState,
    /// What rules want that do not say.
    pub(in crate::core) choice: EngineChoice,
    /// The operator's mark for what outputs send.
    pub(in crate::core) mark: u32,
    /// What outputs send is marked as MCR's own.
    pub(in crate::core) marked: bool,
    /// Where outputs send with the arriving source address.
    pub(in crate::core) kept_source: &'a [(IpAddr, u16)],
}

/// The rule as the kernel relays it, or why a worker does; `None` if a worker is what is wanted.
pub(in crate::core) type Choice = Result<Arc<KernelRule>, Option<EngineReason>>;

/// Chooses for a rule on a link; `ready` says whether each output can send.
pub(in crate::core) fn choose(
    rule: &Rule,
    key: RuleKey,
    link: &Link,
    ready: impl IntoIterator<Item = bool>,
    with: &Circumstances<'_>,
) -> Choice {
    let choice = rule.engine.unwrap_or(with.choice);
    if choice == EngineChoice::Worker {
        return Err(None);
    }
    input_obstacle(rule, link, with).map_or(Ok(()), |reason| Err(Some(reason)))?;
    let limit = if choice == EngineChoice::Auto { FEW_OUTPUTS } else { MAX_FAN_OUT as usize };
    if rule.outputs.len() > limit {
        return Err(Some(EngineReason::TooManyOutputs));
    }
    let mut outputs = Vec::with_capacity(rule.outputs.len());
    let mut max_bytes = u16::MAX;
    for ((output, key), ready) in rule.outputs.iter().zip(OutputKey::all_of(rule)).zip(ready) {
        let there = with.network.link(output.interface.as_str()).filter(|_| ready);
        let there = there.ok_or(Some(EngineReason::OutputDown))?;
        outputs.push(kernel_output(output, key, rule, there, with)?);
        max_bytes = max_bytes.min(u16::try_from(there.mtu).unwrap_or(u16::MAX));
    }
    let decrements = rule.outputs.iter().any(|output| output.options.ttl.fixed().is_none());
    Ok(Arc::new(KernelRule {
        key,
        to: Destination { ifindex: link.ifindex, address: rule.input.group, port: rule.input.port },
        sources: rule.input.sources.clone(),
        max_bytes,
        min_ttl: if decrements { 2 } else { 1 },
        outputs,
    }))
}

fn input_obstacle(rule: &Rule, link: &Link, with: &Circumstances<'_>) -> Option<EngineReason> {
    let input = &rule.input;
    let destination = (input.group, input.port);
    [
        (link.kind != LinkKind::Ethernet, EngineReason::LinkType),
        (!link.up, EngineReason::InputDown),
        (input.group == BROADCAST, EngineReason::Broadcast),
        (input.options.local, EngineReason::LocalInput),
        (input.options.promiscuous, EngineReason::Promiscuous),
        (rule.options.stream.is_some(), EngineReason::Health),
        (rule.options.max_pps.is_some(), EngineReason::MaxPps),
        // What comes back from such an output is recognized by its MAC address.
        (with.kept_source.binary_search(&destination).is_ok(), EngineReason::KeptSource),
    ]
    .into_iter()
    .find_map(|(is_so, reason)| is_so.then_some(reason))
}

fn kernel_output(
    output: &Output,
    key: OutputKey,
    rule: &Rule,
    link: &Link,
    with: &Circumstances<'_>,
) -> Result<KernelOutput, Option<EngineReason>> {
    let because = |is_so: bool, reason| if is_so { Err(Some(reason)) } else { Ok(()) };
    // Without `..`, so that each new option forces a decision.
    let mcr_rules::OutputOptions { ttl, dscp, source, source_port, loopback } = output.options;
    because(output.group.is_ipv6() != rule.input.group.is_ipv6(), EngineReason::Family)?;
    because(source == Some(SourceAddress::Keep), EngineReason::KeptSource)?;
    because(loopback, EngineReason::Loop)?;
    because(link.kind != LinkKind::Ethernet, EngineReason::LinkType)?;
    let source_mac = link.mac.ok_or(Some(EngineReason::LinkType))?;
    let mac = group_mac(output.group).ok_or(Some(EngineReason::NeighbourUnknown))?;
    let source = match source.and_then(SourceAddress::fixed) {
        Some(source) => source,
        None => source_for(output.group, link, with.network).ok_or(Some(EngineReason::OutputDown))?,
    };
    Ok(KernelOutput {
        key,
        ifindex: link.ifindex,
        mac,
        source_mac,
        to: SocketAddr::new(output.group, output.port),
        source,
        source_port: match source_port {
            None => Port::Any,
            Some(SourcePort::Keep) => Port::Arriving,
            Some(SourcePort::Fixed(port)) => Port::Fixed(port),
        },
        mark: with.mark | if with.marked { EGRESS_MARK } else { 0 },
        ttl: ttl.fixed(),
        dscp: dscp.fixed(),
    })
}

/// The MAC address of a group (RFC 1112 section 6.4, RFC 2464 section 7) or of all; of a host it is not known.
fn group_mac(to: IpAddr) -> Option<[u8; 6]> {
    match to {
        IpAddr::V4(to) if to.is_broadcast() => Some([0xff; 6]),
        IpAddr::V4(to) if to.is_multicast() => {
            let [_, second, third, fourth] = to.octets();
            Some([1, 0, 0x5e, second & 0x7f, third, fourth])
        }
        IpAddr::V6(to) if to.is_multicast() => {
            let [.., a, b, c, d] = to.octets();
            Some([0x33, 0x33, a, b, c, d])
        }
        _ => None,
    }
}
