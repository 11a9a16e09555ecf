//! Whether an input can deliver and an output can send; if not, the reason.

use std::net::IpAddr;

use mcr_rules::destination::BROADCAST;
use mcr_rules::{Input, InterfaceName, Output};
use mcr_sys::network::{Link, LinkKind};

use super::Readiness;
use crate::core::network::NetworkState;

/// Returns the link an input is captured on (`None`: it can't be now), and whether datagrams can arrive.
pub(super) fn input<'a>(input: &Input, network: &'a NetworkState) -> (Option<&'a Link>, Readiness) {
    let Some(link) = network.link(input.interface.as_str()) else {
        return (None, Readiness::Waiting(missing(&input.interface, network)));
    };
    if let LinkKind::Other(kind) = link.kind {
        let reason = format!("interface {} has an unsupported link type (ARPHRD {kind})", input.interface);
        return (None, Readiness::Waiting(reason));
    }
    if let Some(reason) = unreachable_input(input, link, network) {
        return (None, Readiness::Waiting(reason));
    }
    (Some(link), down(&input.interface, link).map_or(Readiness::Ready, Readiness::Waiting))
}

/// Why datagrams to the input's address can't arrive on the link.
fn unreachable_input(input: &Input, link: &Link, network: &NetworkState) -> Option<String> {
    let (name, group) = (&input.interface, input.group);
    if group == BROADCAST {
        return no_broadcast(name, link);
    }
    // A unicast flow is addressed to this host, unless the input is promiscuous; without the address nothing can arrive.
    if group.is_multicast() || input.options.promiscuous || network.has_address(group) {
        return None;
    }
    let broadcast_of: Vec<&Link> =
        network.links().filter(|link| network.broadcast_addresses(link.ifindex).contains(&group)).collect();
    match broadcast_of.first() {
        _ if broadcast_of.iter().any(|of| of.ifindex == link.ifindex) => no_broadcast(name, link),
        Some(other) => Some(format!("{group} is the broadcast address of a network of {}", other.name)),
        None => Some(format!("this host has no address {group}")),
    }
}

fn no_broadcast(name: &InterfaceName, link: &Link) -> Option<String> {
    (link.kind != LinkKind::Ethernet).then(|| format!("interface {name} has no broadcast"))
}

/// Returns the link an output sends on (`None`: it can't send now), and its readiness.
pub(super) fn output<'a>(output: &Output, network: &'a NetworkState) -> (Option<&'a Link>, Readiness) {
    let name = &output.interface;
    let Some(link) = network.link(name.as_str()) else {
        return (None, Readiness::Waiting(missing(name, network)));
    };
    let broadcast = || if output.group == BROADCAST { no_broadcast(name, link) } else { None };
    let obstacle = down(name, link).or_else(broadcast).or_else(|| match output.options.source {
        Some(source) if !usable(network, source) => Some(format!("this host has no address {source}")),
        Some(_) => None,
        None => without_address(name, link, output.group, network),
    });
    match obstacle {
        None => (Some(link), Readiness::Ready),
        Some(reason) => (None, Readiness::Waiting(reason)),
    }
}

/// Why a rule waits for an interface.
pub(in crate::core) fn missing(name: &InterfaceName, network: &NetworkState) -> String {
    let meant = network.meant(name.as_str()).map(|meant| format!("; did you mean {meant}?"));
    format!("interface {name} does not exist{}", meant.unwrap_or_default())
}

fn down(name: &InterfaceName, link: &Link) -> Option<String> {
    if !link.up {
        Some(format!("interface {name} is down"))
    } else if !link.carrier {
        Some(format!("interface {name} has no carrier"))
    } else {
        None
    }
}

fn usable(network: &NetworkState, address: IpAddr) -> bool {
    network.links().flat_map(|link| network.addresses(link.ifindex)).any(|a| a.address == address && a.usable)
}

fn without_address(name: &InterfaceName, link: &Link, to: IpAddr, network: &NetworkState) -> Option<String> {
    let mut of_family =
        network.addresses(link.ifindex).iter().filter(|a| a.address.is_ipv6() == to.is_ipv6()).peekable();
    let family = if to.is_ipv6() { "IPv6" } else { "IPv4" };
    if of_family.peek().is_none() {
        return Some(format!("{name} has no {family} address"));
    }
    // Duplicate address detection takes a second or two (RFC 4862 section 5.4).
    (!of_family.any(|a| a.usable)).then(|| format!("{name} has no usable {family} address yet"))
}
