use std::net::{IpAddr, Ipv6Addr};

use super::*;

const UDP: u8 = PROTOCOL_UDP;
const NO_NEXT: u8 = 59;

/// A packet of the fixed header, the extension headers (type, bytes), and a body of 12 bytes. The first byte of each
/// extension header is replaced by the type of the next, that of the last by `UDP`.
fn packet(extensions: &[(u8, &[u8])]) -> Vec<u8> {
    packet_ending_in(UDP, extensions)
}

fn packet_ending_in(last: u8, extensions: &[(u8, &[u8])]) -> Vec<u8> {
    let types: Vec<u8> = extensions.iter().map(|(kind, _)| *kind).chain([last]).collect();
    let mut body = Vec::new();
    for ((_, bytes), next) in extensions.iter().zip(&types[1..]) {
        body.push(*next);
        body.extend(&bytes[1..]);
    }
    body.extend([0; 12]);
    let mut packet = vec![0x6b, 0x80, 0, 0];
    packet.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    packet.extend([types[0], 64]);
    packet.extend("fd01::1".parse::<Ipv6Addr>().unwrap().octets());
    packet.extend("ff15::1".parse::<Ipv6Addr>().unwrap().octets());
    packet.extend(body);
    packet
}

/// Hop-by-hop and destination options: one PadN of four bytes.
const OPTIONS: &[u8] = &[0, 0, 1, 4, 0, 0, 0, 0];
const LONG_OPTIONS: &[u8] = &[0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// A routing header with no segments left.
const NO_SEGMENTS_LEFT: &[u8] = &[0, 2, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1];
const SEGMENT_LEFT: &[u8] = &[0, 2, 0, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1];
/// AH with an integrity value of 12 bytes: 24 bytes, so a length of 4.
const AUTHENTICATED: &[u8] = &[0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9];
/// The same with an integrity value of 16 bytes: 28 bytes, not a multiple of 8.
const ODD_AUTHENTICATED: &[u8] =
    &[0, 5, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9];
const ATOMIC_FRAGMENT: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 7];
const RESERVED_BITS: &[u8] = &[0, 0xff, 0, 6, 0, 0, 0, 7];
const FIRST_FRAGMENT: &[u8] = &[0, 0, 0, 1, 0, 0, 0, 7];
const LAST_FRAGMENT: &[u8] = &[0, 0, 5, 0xa8, 0, 0, 0, 7];

#[test]
fn a_valid_packet() {
    let parsed = parse_ipv6(&packet(&[])).unwrap();
    assert_eq!(IpAddr::from(parsed.source), "fd01::1".parse::<IpAddr>().unwrap());
    assert_eq!(IpAddr::from(parsed.destination), "ff15::1".parse::<IpAddr>().unwrap());
    assert_eq!((parsed.ttl, parsed.dscp, parsed.payload), (64, 46, 40..52));
}

#[test]
fn the_traffic_class_spans_two_bytes() {
    for class in 0..=u8::MAX {
        let mut packet = packet(&[]);
        packet[0] = 0x60 | class >> 4;
        packet[1] = class << 4 | 0x0f;
        packet[2..4].fill(0xff);
        assert_eq!(parse_ipv6(&packet).unwrap().dscp, class >> 2, "class {class:#04x}");
    }
}

#[test]
fn extension_headers_are_skipped() {
    let full = [
        (HOP_BY_HOP, OPTIONS),
        (DESTINATION_OPTIONS, LONG_OPTIONS),
        (ROUTING, NO_SEGMENTS_LEFT),
        (FRAGMENT, ATOMIC_FRAGMENT),
        (AUTHENTICATION, AUTHENTICATED),
        (DESTINATION_OPTIONS, OPTIONS),
    ];
    for (extensions, what) in [
        (&[(HOP_BY_HOP, OPTIONS)][..], "hop-by-hop"),
        (&[(HOP_BY_HOP, LONG_OPTIONS)], "long hop-by-hop"),
        (&[(DESTINATION_OPTIONS, OPTIONS)], "destination options"),
        (&[(ROUTING, NO_SEGMENTS_LEFT)], "routing"),
        (&[(AUTHENTICATION, AUTHENTICATED)], "AH"),
        (&[(AUTHENTICATION, ODD_AUTHENTICATED)], "AH of 28 bytes"),
        (&[(FRAGMENT, ATOMIC_FRAGMENT)], "atomic fragment"),
        (&[(FRAGMENT, RESERVED_BITS)], "atomic fragment, reserved bits set"),
        (&full, "all, in the order of RFC 8200"),
        (&[(DESTINATION_OPTIONS, OPTIONS); MAX_EXTENSION_HEADERS], "the longest chain"),
    ] {
        let packet = packet(extensions);
        let start = 40 + extensions.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        let payload = parse_ipv6(&packet).map(|parsed| parsed.payload);
        assert_eq!(payload, Ok(start..start + 12), "{what}");
    }
}

#[test]
fn refused_extension_headers() {
    const ESP: u8 = 50;
    let beyond = &[0, 200, 0, 0, 0, 0, 0, 0];
    for (packet, expected, what) in [
        (packet(&[(FRAGMENT, FIRST_FRAGMENT)]), Refusal::Fragment, "first fragment"),
        (packet(&[(FRAGMENT, LAST_FRAGMENT)]), Refusal::Fragment, "last fragment"),
        (
            packet(&[(HOP_BY_HOP, OPTIONS), (FRAGMENT, FIRST_FRAGMENT)]),
            Refusal::Fragment,
            "fragment behind options",
        ),
        (
            packet(&[(DESTINATION_OPTIONS, OPTIONS), (HOP_BY_HOP, OPTIONS)]),
            Refusal::BadHeader,
            "hop-by-hop not first",
        ),
        (packet(&[(ROUTING, SEGMENT_LEFT)]), Refusal::BadHeader, "a segment left"),
        (packet(&[(HOP_BY_HOP, beyond)]), Refusal::BadHeader, "header longer than the packet"),
        (packet(&[(AUTHENTICATION, beyond)]), Refusal::BadHeader, "AH longer than the packet"),
        (packet(&[(AUTHENTICATION, OPTIONS)]), Refusal::BadHeader, "AH without room for its fields"),
        (
            packet(&[(DESTINATION_OPTIONS, OPTIONS); MAX_EXTENSION_HEADERS + 1]),
            Refusal::BadHeader,
            "a chain too long",
        ),
        (packet_ending_in(6, &[]), Refusal::NotUdp, "TCP"),
        (packet_ending_in(58, &[]), Refusal::NotUdp, "ICMPv6"),
        (packet_ending_in(58, &[(HOP_BY_HOP, OPTIONS)]), Refusal::NotUdp, "MLD"),
        (packet_ending_in(ESP, &[]), Refusal::NotUdp, "ESP"),
        (packet_ending_in(NO_NEXT, &[]), Refusal::NotUdp, "nothing"),
        (packet_ending_in(135, &[]), Refusal::NotUdp, "mobility"),
    ] {
        assert_eq!(parse_ipv6(&packet).unwrap_err(), expected, "{what}");
    }
}

#[test]
fn refused_fixed_headers() {
    for (place, value, expected, what) in [
        (0, 0x40, Refusal::BadHeader, "version 4"),
        (0, 0x00, Refusal::BadHeader, "version 0"),
        (5, 13, Refusal::Truncated, "one byte more than there is"),
        (4, 0xff, Refusal::Truncated, "much more than there is"),
        (7, 0, Refusal::TtlZero, "hop limit 0"),
    ] {
        let mut packet = packet(&[]);
        packet[place] = value;
        assert_eq!(parse_ipv6(&packet).unwrap_err(), expected, "{what}");
    }
}

#[test]
fn extension_headers_beyond_the_payload_length_are_refused() {
    let mut packet = packet(&[(HOP_BY_HOP, OPTIONS), (DESTINATION_OPTIONS, LONG_OPTIONS)]);
    for length in 0..24 {
        packet[5] = length;
        assert_eq!(parse_ipv6(&packet).unwrap_err(), Refusal::BadHeader, "payload length {length}");
    }
    packet[5] = 24;
    assert_eq!(parse_ipv6(&packet).unwrap().payload, 64..64, "headers fit, and nothing is left for UDP");
}

#[test]
fn every_prefix_is_truncated_and_padding_is_not_payload() {
    let mut whole = packet(&[(HOP_BY_HOP, OPTIONS)]);
    for bytes in 0..whole.len() {
        assert_eq!(parse_ipv6(&whole[..bytes]).unwrap_err(), Refusal::Truncated, "{bytes} bytes");
    }
    whole.extend([0xee; 30]);
    assert_eq!(parse_ipv6(&whole).unwrap().payload, 48..60);
}
