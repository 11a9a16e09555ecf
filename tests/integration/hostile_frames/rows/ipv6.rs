//! IPv6 with its extension headers, and UDP over it.

use std::net::Ipv6Addr;

use mcr_testnet::frames::{Checksum, Extension, UdpFrame, fragments, twin_of_v6};

use super::{IPV6, Row, address, filtered, one_of, put_together, relayed, skipped, v6};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ESP: u8 = 50;
const AUTHENTICATION: u8 = 51;
const ICMP: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;

/// Six bytes of padding.
const PADDING: &[u8] = &[0, 0, 1, 4, 0, 0, 0, 0];
const ROUTER_ALERT: &[u8] = &[0, 0, 5, 2, 0, 0, 1, 0];
const ROUTE_DONE: &[u8] = &[0, 0, 4, 0, 0, 0, 0, 0];
const ROUTE_OPEN: &[u8] = &[0, 0, 4, 1, 0, 0, 0, 0];
const AUTHENTICATED: &[u8] = &[0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9];
const WHOLE_FRAGMENT: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 7];
const BEYOND: &[u8] = &[0, 200, 1, 4, 0, 0, 0, 0];
const JUMBO: &[u8] = &[0, 0, 0xc2, 4, 0, 1, 0, 0];

const OPTIONS: (u8, &[u8]) = (DESTINATION_OPTIONS, PADDING);

fn with(extensions: &[(u8, &[u8])]) -> UdpFrame {
    let extension = |(kind, bytes): &(u8, &[u8])| Extension { kind: *kind, bytes: bytes.to_vec() };
    UdpFrame { extensions: extensions.iter().map(extension).collect(), ..v6() }
}

/// Unusual, and right.
pub(super) fn unusual() -> Vec<Row> {
    let all = [
        (HOP_BY_HOP, ROUTER_ALERT),
        OPTIONS,
        (ROUTING, ROUTE_DONE),
        (FRAGMENT, WHOLE_FRAGMENT),
        (AUTHENTICATION, AUTHENTICATED),
        OPTIONS,
    ];
    vec![
        relayed("well-formed IPv6", IPV6, &v6()),
        relayed("IPv6 with padding behind the packet", IPV6, &UdpFrame { padding: 7, ..v6() }),
        relayed("IPv6 without payload", IPV6, &UdpFrame { payload: Vec::new(), ..v6() }),
        relayed("hop limit 1", IPV6, &UdpFrame { ttl: 1, ..v6() }),
        relayed("hop-by-hop options", IPV6, &with(&[(HOP_BY_HOP, ROUTER_ALERT)])),
        relayed("destination options", IPV6, &with(&[OPTIONS])),
        relayed("a routing header without segments left", IPV6, &with(&[(ROUTING, ROUTE_DONE)])),
        relayed("IPv6 with an authentication header", IPV6, &with(&[(AUTHENTICATION, AUTHENTICATED)])),
        relayed("an atomic fragment", IPV6, &with(&[(FRAGMENT, WHOLE_FRAGMENT)])),
        relayed("every extension header", IPV6, &with(&all)),
    ]
}

/// Lies of the IPv6 header, and of UDP behind it.
pub(super) fn malformed() -> Vec<Row> {
    let length = |bytes| UdpFrame { ip_length: Some(bytes), ..v6() };
    let udp_length = |bytes| UdpFrame { udp_length: Some(bytes), ..v6() };
    let checksum = |udp_checksum| UdpFrame { udp_checksum, ..v6() };
    vec![
        skipped("hop limit 0", "ttl_zero", &UdpFrame { ttl: 0, ..v6() }),
        skipped("version 4", "bad_header", &UdpFrame { version: Some(4), ..v6() }),
        skipped("a payload length beyond the frame", "truncated", &length(8 + 24)),
        skipped("a payload length of 0", "bad_length", &length(0)),
        skipped("a payload length that truncates the UDP header", "bad_length", &length(7)),
        skipped("IPv6 truncated in the payload", "truncated", &UdpFrame { cut: Some(70), ..v6() }),
        skipped("no UDP checksum over IPv6", "bad_checksum", &checksum(Checksum::Is(0))),
        skipped("a wrong UDP checksum over IPv6", "bad_checksum", &checksum(Checksum::Wrong)),
        skipped("a UDP length of 7 over IPv6", "bad_length", &udp_length(7)),
        skipped("a UDP length beyond the IPv6 packet", "bad_length", &udp_length(8 + 24)),
    ]
}

/// Lies of the extension headers.
pub(super) fn malformed_chains() -> Vec<Row> {
    let jumbogram = UdpFrame { ip_length: Some(0), ..with(&[(HOP_BY_HOP, JUMBO)]) };
    let behind_options = fragments(&one_of(40, with(&[OPTIONS])), 16);
    vec![
        skipped("a jumbogram", "bad_header", &jumbogram),
        skipped("a routing header with segments left", "bad_header", &with(&[(ROUTING, ROUTE_OPEN)])),
        skipped("hop-by-hop options not first", "bad_header", &with(&[OPTIONS, (HOP_BY_HOP, PADDING)])),
        skipped("options beyond the packet", "bad_header", &with(&[(HOP_BY_HOP, BEYOND)])),
        skipped("nine extension headers", "bad_header", &with(&[OPTIONS; 9])),
        put_together("fragments behind options", IPV6, behind_options),
    ]
}

/// Well-formed, and not for us.
pub(super) fn foreign() -> Vec<Row> {
    let twin = UdpFrame {
        destination: (twin_of_v6(Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 1)), 5000).into(),
        ..v6()
    };
    let other_port = |frame: UdpFrame| UdpFrame { destination: address("[ff15::1]:5001"), ..frame };
    let carrying = |protocol, frame: UdpFrame| UdpFrame { protocol, ..frame };
    let own = UdpFrame { source: address("[fd01::2]:7000"), ..v6() };
    let router_alert = || with(&[(HOP_BY_HOP, ROUTER_ALERT)]);
    vec![
        filtered("TCP over IPv6", &carrying(6, v6())),
        filtered("ESP", &carrying(ESP, v6())),
        filtered("ICMP behind hop-by-hop options", &carrying(ICMP, router_alert())),
        skipped("TCP behind options twice", "not_udp", &carrying(6, with(&[OPTIONS, OPTIONS]))),
        filtered("another IPv6 group with the same MAC", &twin),
        skipped("another port over IPv6", "no_rule", &other_port(v6())),
        skipped("another port behind options", "no_rule", &other_port(with(&[OPTIONS]))),
        skipped("this host's own IPv6 address as source", "own_source", &own),
    ]
}
