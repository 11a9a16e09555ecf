//! Whether there are receivers for the outputs, as far as this host can know.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use mcr_control::explanation::{Finding, FindingId, Stage};
use mcr_rules::destination::BROADCAST;
use mcr_sys::network::Link;

use super::Account;
use super::facts::{OutputFacts, Subject};
use super::words::list;

pub(super) fn examine(subject: &Subject<'_>, account: &mut Account) {
    for output in subject.outputs() {
        match output.link {
            Some(link) if output.output.group.is_multicast() => group(subject, &output, link, account),
            Some(link) if is_broadcast(subject, output.output.group, link) => {
                account.know(Stage::Downstream, format!("all hosts on {}", link.name));
            }
            Some(link) => host(subject, &output, link, account),
            None => account.mark_unknown(Stage::Downstream, ""),
        }
    }
}

fn is_broadcast(subject: &Subject<'_>, to: IpAddr, link: &Link) -> bool {
    to == BROADCAST || subject.facts.network.broadcast_addresses(link.ifindex).contains(&to)
}

fn group(subject: &Subject<'_>, output: &OutputFacts<'_>, link: &Link, account: &mut Account) {
    let facts = subject.facts;
    let (name, to) = (&link.name, output.output.group);
    let seen = facts.observation.into_iter().flat_map(|seen| &seen.receivers);
    let reported: BTreeSet<_> = seen
        .filter(|receiver| receiver.ifindex == link.ifindex.to_raw() && receiver.group == to)
        .map(|receiver| receiver.from)
        .collect();
    if !reported.is_empty() {
        let who = list(reported.into_iter().map(|who| who.to_string()));
        account.know(Stage::Downstream, format!("{who} on {name} is a member of {to}"));
        return;
    }
    let bridge = facts.host.descriptions.get(&link.ifindex).and_then(|described| described.bridge);
    if let Some(bridge) = bridge.filter(|bridge| bridge.snooping) {
        let asked = facts.host.bridge_memberships.iter();
        let ports: BTreeSet<String> = asked
            .filter(|one| one.bridge == link.ifindex && one.group == to && one.port != link.ifindex)
            .map(|one| {
                facts
                    .network
                    .link_by_index(one.port)
                    .map_or_else(|| one.port.to_string(), |link| link.name.clone())
            })
            .collect();
        if !ports.is_empty() {
            account.know(
                Stage::Downstream,
                format!("there is a member of {to} behind {} of {name}", list(ports)),
            );
            return;
        }
        let prunes = facts.queries.prunes(facts.after.at, link.ifindex, to.is_ipv6(), &bridge);
        if prunes && !is_always_flooded(to) {
            let words = format!(
                "the bridge {name} snoops, and no port has joined {to}: it forwards the group to router ports only"
            );
            account.find(
                Finding::new(FindingId::NoReceiver, words).with("output", output.output.to_string()).hint(
                    format!("has the receiver joined {to}? `bridge mdb show dev {name}` lists the members"),
                ),
            );
            return;
        }
    }
    let how = if facts.observation.is_some() {
        format!(
            "no membership report for {to} on {name} {}; receivers send one when they join and when queried",
            subject.meanwhile()
        )
    } else {
        format!("whether {to} has members on {name} is unknown")
    };
    account.mark_unknown(Stage::Downstream, how);
}

/// Groups that bridges flood to all ports regardless of membership (RFC 4541 sections 2.1.2 and 3): 224.0.0.0/24, and
/// all nodes.
fn is_always_flooded(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group.octets().starts_with(&[224, 0, 0]),
        IpAddr::V6(group) => group == Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
    }
}

fn host(subject: &Subject<'_>, output: &OutputFacts<'_>, link: &Link, account: &mut Account) {
    let (name, to) = (&link.name, output.output.group);
    let host = &subject.facts.host;
    let hop = host.next_hops.get(&(link.ifindex, to)).copied().unwrap_or(to);
    let is_routed = hop != to;
    let whom = if is_routed { format!("{hop}, the gateway to {to},") } else { to.to_string() };
    let known = host.neighbors.iter().find(|one| one.ifindex == link.ifindex && one.address == hop);
    let asking = if hop.is_ipv6() { "neighbor discovery" } else { "ARP" };
    let near = subject.facts.network.addresses(link.ifindex).iter();
    let is_near = near.clone().any(|own| same_network(own.address, to, own.prefix));
    match known {
        Some(neighbor) if neighbor.unreachable => {
            let hint = if is_routed {
                format!(
                    "is the gateway up and connected? `ip route get {to} oif {name}` shows the route, `ip neigh show dev {name}` the neighbors"
                )
            } else if is_near {
                format!("is the receiver up and connected? `ip neigh show dev {name}`")
            } else {
                let networks =
                    near.filter(|own| own.address.is_ipv6() == to.is_ipv6() && !is_link_local(own.address));
                let networks = list(networks.map(|own| format!("{}/{}", own.address, own.prefix)));
                format!(
                    "{to} is in none of the networks of {name} ({networks}), and without a route the kernel treats it as on-link: ip route add {to} via GATEWAY dev {name}"
                )
            };
            let words = format!("{whom} does not answer {asking} on {name}: datagrams to {to} are lost");
            account.find(
                Finding::new(FindingId::ReceiverSilent, words)
                    .with("output", output.output.to_string())
                    .hint(hint),
            );
        }
        Some(_) if is_routed => {
            account
                .know(Stage::Downstream, format!("{to} is behind the gateway {hop}, a neighbor on {name}"));
        }
        Some(_) => account.know(Stage::Downstream, format!("{to} is a neighbor on {name}")),
        None if is_routed => account.mark_unknown(
            Stage::Downstream,
            format!("{to} is behind the gateway {hop}, which is not a neighbor on {name} yet"),
        ),
        None => account.mark_unknown(
            Stage::Downstream,
            format!(
                "{to} is not a neighbor on {name}: it is behind a router or tunnel, or nothing was sent yet"
            ),
        ),
    }
}

/// Whether the address is link-local, a prefix that every interface has (RFC 4291 section 2.5.6).
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Whether two addresses share a prefix of this length.
fn same_network(one: IpAddr, other: IpAddr, prefix: u8) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
    one.is_ipv6() == other.is_ipv6() && (bits(one) ^ bits(other)) & mask == 0
}
