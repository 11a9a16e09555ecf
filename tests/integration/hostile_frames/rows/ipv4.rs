//! IPv4 and UDP over it.

use std::net::Ipv4Addr;

use mcr_testnet::frames::{Checksum, UdpFrame, twin_of};

use super::{
    ANY_SOURCE, ONE_SOURCE, PAYLOAD, Row, address, filtered, frame_to, relayed, relayed_as, skipped, v4,
};

/// Unusual, and right.
pub(super) fn unusual() -> Vec<Row> {
    let port_0 = UdpFrame { source: address("10.1.0.1:0"), ..v4() };
    let unroutable = UdpFrame { source: address("203.0.113.5:7000"), ..v4() };
    let short = UdpFrame { udp_length: Some(8 + 6), ..v4() };
    vec![
        relayed("one IPv4 option", ANY_SOURCE, &UdpFrame { options: vec![1, 1, 1, 0], ..v4() }),
        relayed("the most IPv4 options", ANY_SOURCE, &UdpFrame { options: vec![1; 40], ..v4() }),
        relayed("TTL 1", ANY_SOURCE, &UdpFrame { ttl: 1, ..v4() }),
        relayed("DF not set", ANY_SOURCE, &UdpFrame { flags_and_offset: 0, ..v4() }),
        relayed("the reserved IPv4 flag", ANY_SOURCE, &UdpFrame { flags_and_offset: 0x8000, ..v4() }),
        relayed("no UDP checksum", ANY_SOURCE, &UdpFrame { udp_checksum: Checksum::Is(0), ..v4() }),
        relayed("source port 0", ANY_SOURCE, &port_0),
        relayed("a source without a route", ANY_SOURCE, &unroutable),
        relayed("no payload", ANY_SOURCE, &UdpFrame { payload: Vec::new(), ..v4() }),
        relayed_as("a UDP length below that of the packet", ANY_SOURCE, &short, &PAYLOAD[..6]),
        relayed("the source of the rule", ONE_SOURCE, &frame_to(ONE_SOURCE)),
    ]
}

/// Lies of the IPv4 header.
pub(super) fn malformed() -> Vec<Row> {
    let words = |words| UdpFrame { header_words: Some(words), ..v4() };
    let length = |bytes| UdpFrame { ip_length: Some(bytes), ..v4() };
    vec![
        skipped("TTL 0", "ttl_zero", &UdpFrame { ttl: 0, ..v4() }),
        skipped("version 6", "bad_header", &UdpFrame { version: Some(6), ..v4() }),
        skipped("version 0", "bad_header", &UdpFrame { version: Some(0), ..v4() }),
        skipped("an IPv4 header of 16 bytes", "bad_header", &words(4)),
        skipped("an IPv4 header of 0 bytes", "bad_header", &words(0)),
        skipped("an IPv4 header length that covers the UDP header", "bad_checksum", &words(8)),
        filtered("an IPv4 header length beyond the frame", &words(15)),
        skipped("a total length of 0", "bad_header", &length(0)),
        skipped("a total length below the header length", "bad_header", &length(19)),
        skipped("a total length without UDP", "bad_length", &length(20)),
        skipped("a total length that truncates the UDP header", "bad_length", &length(27)),
        skipped("a total length that truncates the payload", "bad_length", &length(40)),
        skipped("a total length one beyond the frame", "truncated", &length(20 + 8 + 24)),
        skipped("a total length of 65,535", "truncated", &length(65_535)),
        skipped("truncated in the payload", "truncated", &UdpFrame { cut: Some(50), ..v4() }),
        skipped("truncated in the UDP header", "truncated", &UdpFrame { cut: Some(39), ..v4() }),
        skipped(
            "a wrong header checksum",
            "bad_checksum",
            &UdpFrame { header_checksum: Checksum::Wrong, ..v4() },
        ),
    ]
}

/// Lies of UDP.
pub(super) fn malformed_udp() -> Vec<Row> {
    let length = |bytes| UdpFrame { udp_length: Some(bytes), ..v4() };
    vec![
        skipped("a wrong UDP checksum", "bad_checksum", &UdpFrame { udp_checksum: Checksum::Wrong, ..v4() }),
        skipped("a UDP length of 0", "bad_length", &length(0)),
        skipped("a UDP length of 7", "bad_length", &length(7)),
        skipped("a UDP length one beyond the packet", "bad_length", &length(8 + 24)),
        skipped(
            "a UDP length that reaches into the padding",
            "bad_length",
            &UdpFrame { padding: 30, ..length(8 + 30) },
        ),
        skipped("a UDP length of 65,535", "bad_length", &length(65_535)),
    ]
}

/// Well-formed, and not for us.
pub(super) fn foreign() -> Vec<Row> {
    let twin = UdpFrame { destination: (twin_of(Ipv4Addr::new(239, 1, 1, 1)), 5000).into(), ..v4() };
    let other_port = UdpFrame { destination: address("239.1.1.1:5001"), ..v4() };
    let other_group = UdpFrame { destination: address("239.1.1.2:5000"), ..v4() };
    let own = UdpFrame { source: address("10.1.0.2:7000"), ..v4() };
    let own_elsewhere = UdpFrame { source: address("10.2.0.1:7000"), ..v4() };
    let other_source = UdpFrame { source: address("10.1.0.9:7000"), ..frame_to(ONE_SOURCE) };
    vec![
        filtered("TCP", &UdpFrame { protocol: 6, ..v4() }),
        filtered("UDP-Lite", &UdpFrame { protocol: 136, ..v4() }),
        filtered("an authentication header", &UdpFrame { protocol: 51, ..v4() }),
        filtered("another group with the same MAC", &twin),
        filtered("another group", &other_group),
        skipped("another port", "no_rule", &other_port),
        skipped("a source that the rule excludes", "source_excluded", &other_source),
        skipped("this host's own address as source", "own_source", &own),
        relayed("this host's address on another interface", ANY_SOURCE, &own_elsewhere),
    ]
}
