//! Whether an input can deliver and an output can send; if not, the reason.

use std::net::IpAddr;

use mcr_rules::destination::BROADCAST;
use mcr_rules::{Input, InterfaceName, Output, SourceAddress};
use mcr_sys::network::{Address, Link, LinkKind};

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
    let obstacle =
        down(&input.interface, link).or_else(|| without_multicast(&input.interface, link, input.group));
    (Some(link), obstacle.map_or(Readiness::Ready, Readiness::Waiting))
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
    let unusable =
        || down(name, link).or_else(broadcast).or_else(|| without_multicast(name, link, output.group));
    let obstacle = unusable().or_else(|| match output.options.source {
        Some(SourceAddress::Fixed(source)) if !usable(network, source) => {
            Some(format!("this host has no address {source}"))
        }
        // Any address of the arriving datagrams will do.
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

/// Why an interface can't carry a group.
fn without_multicast(name: &InterfaceName, link: &Link, group: IpAddr) -> Option<String> {
    (group.is_multicast() && link.routed_ipvlan)
        .then(|| format!("{name} is an ipvlan in L3 mode, which carries no multicast"))
}

fn usable(network: &NetworkState, address: IpAddr) -> bool {
    network.links().flat_map(|link| network.addresses(link.ifindex)).any(|a| a.address == address && a.usable)
}

/// The address of a link that the kernel would send from (RFC 6724 section 5 in outline): of the destination's network or
/// scope, or else the first.
pub(in crate::core) fn source_for(to: IpAddr, link: &Link, network: &NetworkState) -> Option<IpAddr> {
    let own = network.addresses(link.ifindex).iter();
    let usable = own.filter(|own| own.usable && own.address.is_ipv6() == to.is_ipv6());
    let rank = |own: &&Address| (own.contains(to), is_link_scope(own.address) == is_link_scope(to));
    // Of several with one rank, the first.
    usable.rev().max_by_key(rank).map(|own| own.address)
}

/// Whether an address is of link-local scope or below: link-local addresses, and IPv6 groups of these scopes.
pub(super) fn is_link_scope(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.octets();
            v6.is_unicast_link_local() || (first == 0xff && second & 0xf <= 2)
        }
    }
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
