//! Sample configs and networks for tests.

use std::net::IpAddr;

use mcr_rules::{
    Config, Input, InputOptions, Merge, MergeBy, MergeOptions, Output, OutputOptions, Rule, RuleOptions,
};
use mcr_sys::link::IfIndex;
use mcr_sys::network::{Address, Link, LinkKind};

use crate::core::network::NetworkState;

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn output(interface: &str, group: &str, port: u16) -> Output {
    Output {
        interface: interface.parse().unwrap(),
        group: address(group),
        port,
        options: OutputOptions::default(),
    }
}

/// A rule from `interface` to group 239.2.0.1 on the same port of another.
pub(crate) fn rule(interface: &str, group: &str, port: u16, to: &str) -> Rule {
    Rule {
        name: None,
        input: Input {
            interface: interface.parse().unwrap(),
            group: address(group),
            port,
            sources: Vec::new(),
            options: InputOptions::default(),
        },
        merge: None,
        outputs: vec![output(to, "239.2.0.1", port)],
        options: RuleOptions::default(),
        engine: None,
    }
}

/// A merged rule with a leg on each of these interfaces.
pub(crate) fn merged_rule(from: &[&str], to: &str) -> Rule {
    let legs = from.iter().map(|interface| rule(interface, "239.1.0.9", 5009, to).input);
    let mut legs = legs.collect::<Vec<_>>().into_iter();
    let first = rule(from[0], "239.1.0.9", 5009, to);
    let _ = legs.next();
    let options = MergeOptions::by(MergeBy::Rtp);
    Rule { merge: Some(Merge { more: legs.collect(), options }), ..first }
}

pub(crate) fn config(rules: impl IntoIterator<Item = Rule>) -> Config {
    Config { rules: rules.into_iter().collect(), ..Config::default() }
}

pub(crate) fn link(ifindex: u32, name: &str) -> Link {
    Link {
        ifindex: IfIndex::new(ifindex),
        name: name.to_owned(),
        altnames: Vec::new(),
        alias: None,
        kind: if name == "lo" { LinkKind::Loopback } else { LinkKind::Ethernet },
        mtu: 1500,
        up: true,
        carrier: true,
        carrier_ups: 1,
        multicast: true,
        bridge_port: false,
        vlan: false,
        mac: (name != "lo").then(|| [2, 0, 0, 0, 0, u8::try_from(ifindex).unwrap()]),
        routed_ipvlan: false,
    }
}

pub(crate) fn host_address(ifindex: u32, text: &str) -> Address {
    let address = address(text);
    Address {
        ifindex: IfIndex::new(ifindex),
        address,
        prefix: if address.is_ipv6() { 64 } else { 24 },
        usable: true,
    }
}

/// Links `eth0` (index 10) to `eth3` (13), up, each with an IPv4 and an IPv6 address, and `lo` (1).
pub(crate) fn network() -> NetworkState {
    let mut network = NetworkState::default();
    let mut links = vec![link(1, "lo")];
    let mut addresses = vec![host_address(1, "127.0.0.1")];
    for n in 0..4u32 {
        links.push(link(10 + n, &format!("eth{n}")));
        addresses.push(host_address(10 + n, &format!("10.{n}.0.2")));
        addresses.push(host_address(10 + n, &format!("fd0{n}::2")));
    }
    network.replace(links, addresses);
    network
}
