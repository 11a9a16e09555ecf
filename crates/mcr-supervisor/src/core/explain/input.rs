//! The input interface and its membership.

use std::net::IpAddr;
use std::time::Duration;

use mcr_control::explanation::{Finding, FindingId, Severity, Stage};
use mcr_rules::InterfaceName;
use mcr_rules::destination::{self, BROADCAST};
use mcr_sys::network::{Link, LinkKind};

use super::Account;
use super::facts::{HeardQuery, Subject};
use super::words::{about_limit, list, time};
use crate::core::actual::Attempt;
use crate::core::plan::{Readiness, missing};
use crate::core::status::port_remark;

/// What to do about an ipvlan that is not a port of the network.
pub(super) const OTHER_MODE: &str =
    "use an ipvlan in mode l2, a macvlan, or its lower interface; unicast works in L3 mode";

pub(super) fn examine(subject: &Subject<'_>, account: &mut Account) {
    let (input, network) = (&subject.rule.input, subject.facts.network);
    let name = &input.interface;
    let Some(link) = subject.link else {
        let others = network.links().map(|link| link.name.clone()).filter(|name| name != "lo");
        account.find(
            Finding::new(FindingId::InterfaceMissing, missing(name, network))
                .hint(format!("this host has {}; the rule becomes active when {name} appears", list(others))),
        );
        return;
    };
    if let LinkKind::Other(kind) = link.kind {
        let words = format!("interface {name} has an unsupported link type (ARPHRD {kind})");
        account.find(
            Finding::new(FindingId::InterfaceUnreadable, words)
                .with("arphrd", kind)
                .hint("use an Ethernet, loopback, tun, WireGuard, GRE or IPIP interface"),
        );
        return;
    }
    if let Some(finding) = not_up(link, [FindingId::InterfaceDown, FindingId::NoCarrier]) {
        account.find(finding);
    }
    if input.group.is_multicast() && link.routed_ipvlan {
        let words = format!("{name} is an ipvlan in L3 mode, which receives no multicast");
        account.find(Finding::new(FindingId::NoMulticast, words).hint(OTHER_MODE));
    }
    not_our_address(subject, account);
    let addresses = network.addresses(link.ifindex);
    let family = if input.group.is_ipv6() { "IPv6" } else { "IPv4" };
    let of_family = addresses.iter().filter(|address| address.address.is_ipv6() == input.group.is_ipv6());
    let of_family: Vec<String> =
        of_family.map(|address| format!("{}/{}", address.address, address.prefix)).collect();
    if of_family.is_empty() && input.group.is_multicast() && link.kind == LinkKind::Ethernet {
        let words = format!(
            "{name} has no {family} address: its membership reports have no source address, and some switches ignore these"
        );
        account.find(
            Finding::new(FindingId::NoInputAddress, words)
                .severity(if subject.packets() > 0 { Severity::Note } else { Severity::Warning })
                .hint(if input.group.is_ipv6() {
                    format!(
                        "add an IPv6 address to {name}; sysctl net.ipv6.conf.{name}.disable_ipv6 must be 0"
                    )
                } else {
                    format!("add an IPv4 address to {name}")
                }),
        );
    }
    if link.bridge_port && subject.packets() == 0 {
        let words = format!("{name} is a bridge port: groups are joined on the bridge, not on the port");
        account.find(
            Finding::new(FindingId::BridgePort, words).hint("use the bridge as the interface of the rule"),
        );
    }
    let addressed = if of_family.is_empty() { format!("no {family} address") } else { list(of_family) };
    let state = match (link.up, link.carrier) {
        (false, _) => "down",
        (true, false) => "up, without carrier",
        (true, true) => "up",
    };
    account.know(Stage::Input, format!("{name} is {state}, {addressed}, MTU {}", link.mtu));
}

/// The input is an address that its interface receives nothing for.
fn not_our_address(subject: &Subject<'_>, account: &mut Account) {
    let (input, network) = (&subject.rule.input, subject.facts.network);
    let name = &input.interface;
    if let (None, Readiness::Waiting(reason)) = (&subject.planned.installed, &subject.planned.input) {
        let is_broadcast = |link: &&Link| network.broadcast_addresses(link.ifindex).contains(&input.group);
        let hint = match network.links().find(is_broadcast) {
            _ if input.group == BROADCAST => "use an Ethernet interface, or a multicast group".to_owned(),
            Some(other) => format!("make {} the interface of the rule's input", other.name),
            None => format!(
                "a unicast input must be an address of this host, or the broadcast address of a network of {name}: add it to {name}, or correct the rule; for datagrams to another host from a mirror port, set `promiscuous: true` on the input"
            ),
        };
        account.find(Finding::new(FindingId::NotOurAddress, reason.clone()).hint(hint));
    }
}

/// Why an interface does not pass frames: administratively down, or no carrier.
pub(super) fn not_up(link: &Link, [down, no_carrier]: [FindingId; 2]) -> Option<Finding> {
    let name = &link.name;
    if !link.up {
        Some(Finding::new(down, format!("interface {name} is down")).hint(format!("ip link set {name} up")))
    } else if !link.carrier {
        Some(
            Finding::new(no_carrier, format!("interface {name} has no carrier"))
                .with("carrier_ups", link.carrier_ups)
                .hint("check the cable, the switch port, or the remote end of the tunnel"),
        )
    } else {
        None
    }
}

pub(super) fn examine_join(subject: &Subject<'_>, account: &mut Account) {
    let (rule, planned, network) = (subject.rule, subject.planned, subject.facts.network);
    let (name, group) = (&rule.input.interface, rule.input.group);
    if planned.installed.is_none() {
        let why = if subject.link.is_none() { "without the interface" } else { "at present" };
        let what = if group.is_multicast() { "be joined" } else { "come" };
        account.mark_unknown(Stage::Join, format!("{group} can't {what} {why}"));
        return;
    }
    let held = |held: Option<&Attempt>| match held {
        Some(Attempt::Failed(failure)) => Some(failure.reason.clone()),
        None => Some("the join is in progress".to_owned()),
        Some(Attempt::Succeeded { .. }) => None,
    };
    let memberships =
        planned.memberships.iter().map(|one| (one.source, held(subject.facts.actual.memberships.get(one))));
    let mut refused = 0;
    for (source, reason) in memberships {
        let Some(reason) = reason else { continue };
        refused += 1;
        let whose = source.map(|source| format!(" from {source}")).unwrap_or_default();
        account.find(
            Finding::new(FindingId::NotJoined, format!("{group}{whose} is not joined on {name}: {reason}"))
                .hint(format!(
                    "it is retried automatically; {}",
                    about_limit(&reason).unwrap_or("`mcrctl memberships` lists all")
                )),
        );
    }
    if refused > 0 {
        return;
    }
    if !group.is_multicast() {
        if network.has_address(group) {
            examine_port(subject, account);
        } else {
            account.know(Stage::Join, format!("{}: no join needed", destination::text(group)));
        }
        return;
    }
    let sources = rule.input.sources.iter().map(ToString::to_string);
    let from = if rule.input.sources.is_empty() { String::new() } else { format!(" from {}", list(sources)) };
    let querier = querier(subject, account);
    account.know(Stage::Join, format!("{group}{from} is joined on {name}; {querier}"));
}

/// Whether the kernel answers the datagrams of a unicast input with ICMP port unreachable.
fn examine_port(subject: &Subject<'_>, account: &mut Account) {
    let (group, port) = (subject.rule.input.group, subject.rule.input.port);
    let actual = subject.facts.actual;
    let Some(absorber) = &subject.planned.absorber else {
        let words =
            format!("{group} is an address of this host: no join needed; its port {port} is not held");
        account.know(Stage::Join, words);
        return;
    };
    let mut words = format!("{group} is an address of this host: no join needed");
    match (actual.port_holders.get(absorber), port_remark(absorber, actual)) {
        (None, None) if actual.early_drop.covers(absorber) => {
            words.push_str(&format!("; its port {port} is free, and what arrives there is dropped early"));
        }
        (None, None) => words.push_str(&format!("; mcrd holds its port {port}")),
        (Some(holder), remark) => {
            words.push_str(&format!("; its port {port} is held by {holder}"));
            account.find(
                Finding::new(FindingId::PortHeld, remark.unwrap_or_default())
                    .with("holder", holder.to_string())
                    .hint("nothing is lost by it: the rule relays, and mcrd holds the port when that program ends"),
            );
        }
        (None, Some(remark)) => {
            words.push_str(&format!("; its port {port} is not held"));
            account.find(Finding::new(FindingId::PortNotHeld, remark).hint(
                "the rule relays, but many senders stop when they are refused. Give mcrd CAP_NET_BIND_SERVICE for ports below 1024, as the package's service does",
            ));
        }
    }
    account.know(Stage::Join, words);
}

/// Whether snooping switches must not prune a group (RFC 4541 sections 2.1.2 and 3): 224.0.0.0/24, ff02::1.
fn is_flooded(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => matches!(group.octets(), [224, 0, 0, _]),
        IpAddr::V6(group) => group.segments() == [0xff02, 0, 0, 0, 0, 0, 0, 1],
    }
}

/// The state of the querier on the input interface.
fn querier(subject: &Subject<'_>, account: &mut Account) -> String {
    let facts = subject.facts;
    let name = &subject.rule.input.interface;
    let ipv6 = subject.rule.input.group.is_ipv6();
    let kind = if ipv6 { "MLD" } else { "IGMP" };
    let Some(link) = subject.link else { return String::new() };
    if link.kind != LinkKind::Ethernet {
        return format!("{kind} snooping does not apply to {name}");
    }
    if is_flooded(subject.rule.input.group) {
        return format!("switches forward {} to all ports, without {kind}", subject.rule.input.group);
    }
    let now = facts.after.at;
    let heard = facts.queries.last.get(&(link.ifindex, ipv6));
    let listening = facts.queries.listening(now, link.ifindex);
    let on_wire = facts.observation.into_iter().flat_map(|seen| &seen.queriers).find(|querier| {
        querier.ifindex == link.ifindex.to_raw() && querier.vlan.is_none() && querier.from.is_ipv6() == ipv6
    });
    let comes = subject.packets() > 0 || subject.was_seen();
    let severity = if comes { Severity::Note } else { Severity::Warning };
    let timeout = HeardQuery::querier_timeout(heard);
    let ago = |heard: &HeardQuery| now.saturating_sub(heard.at);
    match (heard, listening) {
        (Some(heard), _) if ago(heard) <= timeout => {
            if let Some(since) = facts.queries.no_report_since(now, link.ifindex, ipv6) {
                account.find(report_not_seen(name, kind, heard, now.saturating_sub(since)));
            }
            format!("the last {kind} query came {} ago from {}", time(ago(heard)), heard.from)
        }
        _ if on_wire.is_some() => {
            let from = on_wire.map(|querier| querier.from.to_string()).unwrap_or_default();
            let rp_filter = facts.host.rp_filter.get(&link.name).copied().unwrap_or_default();
            let words = format!(
                "{from} sends queries on {name}, but the kernel drops them, so no report is sent and the switch may prune the group"
            );
            account.find(
                Finding::new(FindingId::QuerierFiltered, words)
                .severity(severity)
                .with("rp_filter", rp_filter)
                .hint(format!("the querier's address is not routed through {name}, or a firewall drops {kind} on input: sysctl net.ipv4.conf.{name}.rp_filter=2, or accept {kind}")),
            );
            format!("queries from {from} are dropped by the kernel")
        }
        (heard, Some(listening)) if heard.is_some() || listening >= timeout => {
            let silent = heard.map_or(listening, ago);
            let last = heard.map(|heard| format!(" (the last one came from {})", heard.from));
            let last = last.unwrap_or_default();
            let interval = time(HeardQuery::interval(heard));
            let words = format!(
                "no {kind} querier was heard on {name} for {}{last}: a snooping switch may have pruned the group",
                time(silent)
            );
            account.find(
                Finding::new(FindingId::QuerierSilent, words)
                .severity(severity)
                .with("seconds", silent.as_secs())
                .hint(format!("enable a querier in this VLAN (on the switch or router), or disable {kind} snooping; the query interval is {interval}. If there is one (`tcpdump -ni {name} {}`), a firewall{} of this host drops its queries", if ipv6 { "icmp6" } else { "igmp" }, if ipv6 { "" } else { " or rp_filter" })),
            );
            format!("no {kind} query for {}", time(silent))
        }
        (_, Some(listening)) => {
            format!("no {kind} query in the {} since mcrd listens there", time(listening))
        }
        (_, None) => format!("mcrd can't receive {kind} queries here"),
    }
}

/// A query was heard, and this host did not report.
fn report_not_seen(name: &InterfaceName, kind: &str, query: &HeardQuery, since: Duration) -> Finding {
    let (packets, from) =
        (if kind == "MLD" { "icmpv6 type mld2-listener-report" } else { "ip protocol igmp" }, query.from);
    Finding::new(
        FindingId::ReportNotSeen,
        format!(
            "{from} sends {kind} queries on {name}, and for {} no report of this host left: a snooping switch will prune the group",
            time(since)
        ),
    )
    .with("seconds", since.as_secs())
    .hint(format!("a firewall of this host drops {kind} on output: accept it (nft: `{packets} accept` in the output chain)"))
}
