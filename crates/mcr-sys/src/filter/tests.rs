//! The same cases three times: interpreted, and by the kernel on every kind of interface.

mod interpreter;
mod on_sockets;

use interpreter::{Frame, passes};
use proptest::prelude::*;

use super::*;
use crate::fixture::packets::{ICMPV6, TCP, UDP, datagram, ipv4, ipv6, udp};
use crate::fixture::wanted;

/// The wanted destinations of the cases.
fn destinations() -> Vec<FilterDestination> {
    vec![
        wanted("239.1.1.1", 5000),
        wanted("239.1.1.1", 5001),
        wanted("239.1.1.2", 6000),
        wanted("10.9.0.2", 7000),
        wanted("ff15::1", 5000),
        wanted("ff15::2:1", 5001),
        wanted("fd09::2", 7000),
    ]
}

/// Packets without link header; the text of each is its place in the list.
fn cases() -> Vec<(&'static str, Vec<u8>, bool)> {
    let group = "239.1.1.1".parse().unwrap();
    let group6 = "ff15::1".parse().unwrap();
    let other6 = "ff15::9".parse().unwrap();
    let mut cases: Vec<(&str, Vec<u8>, bool)> = Vec::new();
    let text = |cases: &Vec<(&str, Vec<u8>, bool)>| cases.len().to_string();
    for (name, address, port, expected) in [
        ("first port", "239.1.1.1", 5000, true),
        ("second port", "239.1.1.1", 5001, true),
        ("port of another group", "239.1.1.1", 6000, false),
        ("second group", "239.1.1.2", 6000, true),
        ("first group's port on the second", "239.1.1.2", 5000, false),
        ("unwanted group", "239.1.1.3", 5000, false),
        ("same MAC, other group", "224.129.1.1", 5000, false),
        ("unicast", "10.9.0.2", 7000, true),
        ("unicast, other port", "10.9.0.2", 7001, false),
        ("IPv6", "ff15::1", 5000, true),
        ("IPv6, other port", "ff15::1", 5001, false),
        ("IPv6, second group", "ff15::2:1", 5001, true),
        ("IPv6, only the last word agrees", "ff16::1", 5000, false),
        ("IPv6, only the last word differs", "ff15::3", 5000, false),
        ("IPv6, last word of one, rest of another", "ff15::2:2", 5001, false),
        ("IPv6 unicast", "fd09::2", 7000, true),
    ] {
        let text = text(&cases);
        cases.push((name, datagram(address, port, &text), expected));
    }
    for (name, protocol, words, fragment, port, expected) in [
        ("IPv4 options", UDP, 2, 0, 5000, true),
        ("most IPv4 options", UDP, 10, 0, 5000, true),
        ("IPv4 options, other port", UDP, 2, 0, 4999, false),
        ("don't fragment", UDP, 0, 0x4000, 5000, true),
        ("don't fragment, other port", UDP, 0, 0x4000, 4999, false),
        ("first fragment", UDP, 0, 0x2000, 5000, true),
        ("later fragment", UDP, 0, 0x2064, 4999, true),
        ("last fragment", UDP, 0, 0x0064, 4999, true),
        ("TCP", TCP, 0, 0, 5000, false),
        ("fragment of TCP", TCP, 0, 0x2000, 5000, false),
    ] {
        let body = udp(port, &text(&cases));
        cases.push((name, ipv4(group, protocol, words, fragment, &body), expected));
    }
    let text_now = text(&cases);
    cases.push((
        "fragment of an unwanted group",
        ipv4("239.1.1.9".parse().unwrap(), UDP, 0, 0x2000, &udp(5000, &text_now)),
        false,
    ));
    for (name, address, first, second, expected) in [
        ("hop-by-hop options, UDP", group6, 0, UDP, true),
        ("routing header, UDP", group6, 43, UDP, true),
        ("destination options, UDP", group6, 60, UDP, true),
        ("AH, UDP", group6, 51, UDP, true),
        ("fragment of UDP", group6, 44, UDP, true),
        ("two extension headers", group6, 0, 60, true),
        ("MLD report", group6, 0, ICMPV6, false),
        ("fragment of TCP in IPv6", group6, 44, TCP, false),
        ("extension header, unwanted group", other6, 0, UDP, false),
    ] {
        let mut body = vec![second, 0, 1, 4, 0, 0, 0, 0];
        body.extend(udp(4999, &text(&cases)));
        cases.push((name, ipv6(address, first, &body), expected));
    }
    let text_now = text(&cases);
    cases.push(("ICMPv6", ipv6(group6, ICMPV6, &udp(5000, &text_now)), false));
    cases
}

#[test]
fn interpreted_cases() {
    let program = FilterProgram::for_destinations(&destinations());
    assert_eq!(program.precision(), Precision::Exact);
    for (name, packet, expected) in cases() {
        assert_eq!(passes(&program, &Frame::ethernet(&packet)), expected, "{name}, Ethernet");
        assert_eq!(passes(&program, &Frame::without_header(&packet)), expected, "{name}, no link header");
    }
}

#[test]
fn malformed_packets_are_accepted_to_be_counted_or_dropped() {
    let program = FilterProgram::for_destinations(&destinations());
    let good = datagram("239.1.1.1", 5000, "x");
    for (name, change, expected) in [
        ("IHL 4", (0, 0x44), true),
        ("IHL 0", (0, 0x40), true),
        ("version 6", (0, 0x65), true),
        ("TTL 0", (8, 0), true),
        ("UDP length 0", (25, 0), true),
        ("other port", (22, 0), false),
    ] {
        let mut packet = good.clone();
        packet[change.0] = change.1;
        assert_eq!(passes(&program, &Frame::ethernet(&packet)), expected, "{name}");
    }
    for bytes in 0..24 {
        assert!(!passes(&program, &Frame::ethernet(&good[..bytes])), "cut to {bytes} bytes");
    }
    let mut options_beyond = good;
    options_beyond[0] = 0x4f;
    assert!(!passes(&program, &Frame::ethernet(&options_beyond)), "options beyond the frame");
}

#[test]
fn direction_tags_and_protocols() {
    let program = FilterProgram::for_destinations(&destinations());
    let good = Frame::ethernet(&datagram("239.1.1.1", 5000, "x"));
    assert!(passes(&program, &good));
    assert!(passes(&program, &Frame { pkttype: libc::PACKET_HOST, ..good.clone() }));
    assert!(passes(&program, &Frame { hatype: libc::ARPHRD_LOOPBACK, ..good.clone() }));
    assert!(!passes(&program, &Frame { pkttype: libc::PACKET_OUTGOING, ..good.clone() }), "outgoing");
    assert!(!passes(&program, &Frame { pkttype: libc::PACKET_OTHERHOST, ..good.clone() }), "other host");
    for (tag, expected) in [(0, true), (0xe000, true), (1, false), (0x0fff, false), (0xa800, false)] {
        assert_eq!(passes(&program, &Frame { vlan: Some(tag), ..good.clone() }), expected, "tag {tag:#06x}");
    }
    for ether_type in [0, 0x0806, 0x86dd, 0x8100, 0x88a8, 0x8847, 0x0801] {
        assert!(!passes(&program, &Frame { protocol: ether_type, ..good.clone() }), "{ether_type:#06x}");
    }
}

#[test]
fn a_tag_in_the_frame_passes_if_it_is_a_priority_tag() {
    let program = FilterProgram::for_destinations(&destinations());
    for (address, port, ether_type) in [("239.1.1.1", 5000, 0x0800_u16), ("ff15::1", 5000, 0x86dd)] {
        let good = Frame::ethernet(&datagram(address, port, "x"));
        let tagged = |tag: u16, inner: u16| {
            let mut bytes = good.bytes.clone();
            bytes.splice(14..14, [tag.to_be_bytes(), inner.to_be_bytes()].concat());
            bytes
        };
        for protocol in [0x8100, 0x88a8] {
            for (tag, inner, expected) in [
                (0, ether_type, true),
                (0x6000, ether_type, true),
                (7, ether_type, false),
                (0, 0x0806, false),
                (0, 0x8100, false),
            ] {
                let frame = Frame { bytes: tagged(tag, inner), protocol, ..good.clone() };
                assert_eq!(passes(&program, &frame), expected, "{address}, {tag:#06x}, {inner:#06x}");
            }
        }
        let other_port = datagram(address, port + 9, "x");
        let bytes = [&good.bytes[..14], &[0, 0], &ether_type.to_be_bytes(), &other_port].concat();
        assert!(!passes(&program, &Frame { bytes, protocol: 0x8100, ..good.clone() }), "{address}");
        let cut = Frame { bytes: good.bytes[..15].to_vec(), protocol: 0x8100, ..good.clone() };
        assert!(!passes(&program, &cut), "{address}");
    }
}

#[test]
fn frames_for_another_host_pass_for_promiscuous_destinations_only() {
    let promiscuous = |address: &str| FilterDestination { promiscuous: true, ..wanted(address, 5000) };
    let mut list = vec![wanted("239.1.1.1", 5000), wanted("ff15::1", 5000), promiscuous("10.9.0.7")];
    let mut program = FilterProgram::for_destinations(&list);
    let kinds = [libc::PACKET_HOST, libc::PACKET_MULTICAST, libc::PACKET_OTHERHOST, libc::PACKET_OUTGOING];
    let verdicts = |program: &FilterProgram, address: &str| {
        let frame = Frame::ethernet(&datagram(address, 5000, "x"));
        kinds.map(|pkttype| passes(program, &Frame { pkttype, ..frame.clone() }))
    };
    for (address, other_host) in [("239.1.1.1", false), ("ff15::1", false), ("10.9.0.7", true)] {
        assert_eq!(verdicts(&program, address), [true, true, other_host, false], "{address}");
    }
    assert_eq!(verdicts(&program, "10.9.0.8"), [false; 4]);
    assert!(program.is_promiscuous());
    let all = program.all_udp();
    assert_eq!(verdicts(&all, "10.9.0.8"), [true, true, true, false]);
    while let Some(coarser) = program.coarser() {
        program = coarser;
        assert_eq!(verdicts(&program, "10.9.0.7"), [true, true, true, false]);
    }
    list.push(promiscuous("ff15::1"));
    let program = FilterProgram::for_destinations(&list);
    assert_eq!(verdicts(&program, "ff15::1"), [true, true, true, false]);
    assert_eq!(verdicts(&program, "239.1.1.1"), [true, true, false, false]);
}

#[test]
fn a_filter_for_sent_frames_passes_those_of_other_programs_only() {
    let program = FilterProgram::for_direction(Direction::Sent, &destinations());
    for (name, packet, expected) in cases() {
        let frame = Frame { pkttype: libc::PACKET_OUTGOING, ..Frame::ethernet(&packet) };
        assert_eq!(passes(&program, &frame), expected, "{name}");
        assert_eq!(passes(&program, &Frame { mark: 0x4001, ..frame.clone() }), expected, "{name}");
        assert!(!passes(&program, &Frame { mark: EGRESS_MARK | 1, ..frame.clone() }), "{name}");
        for pkttype in [libc::PACKET_HOST, libc::PACKET_MULTICAST, libc::PACKET_OTHERHOST] {
            assert!(!passes(&program, &Frame { pkttype, ..frame.clone() }), "{name}");
        }
    }
}

#[test]
fn one_family_only() {
    let (four, six) = (datagram("239.1.1.1", 5000, "x"), datagram("ff15::1", 5000, "x"));
    for (address, passing, refused) in [("239.1.1.1", &four, &six), ("ff15::1", &six, &four)] {
        let program = FilterProgram::for_destinations(&[wanted(address, 5000)]);
        assert!(passes(&program, &Frame::ethernet(passing)), "{address}");
        assert!(!passes(&program, &Frame::ethernet(refused)), "{address}");
    }
}

#[test]
fn all_ports_of_an_address_and_no_other_of_its_neighbors() {
    for (open, narrow) in [("239.1.1.1", "239.1.1.2"), ("ff15::1", "ff15::2")] {
        let program = FilterProgram::for_destinations(&[
            wanted(open, 5000),
            wanted(narrow, 5000),
            wanted(open, ANY_PORT),
        ]);
        for (address, port, passing) in
            [(open, 5000, true), (open, 5001, true), (narrow, 5000, true), (narrow, 5001, false)]
        {
            let frame = Frame::ethernet(&datagram(address, port, "x"));
            assert_eq!(passes(&program, &frame), passing, "{address} port {port}");
        }
    }
}

#[test]
fn an_empty_filter_accepts_nothing_and_all_udp_is_all_udp() {
    for (name, packet, _) in cases() {
        let frame = Frame::ethernet(&packet);
        assert!(!passes(&FilterProgram::for_destinations(&[]), &frame), "{name}");
        assert!(!passes(&FilterProgram::reject_all(), &frame), "{name}");
        let is_udp = !["TCP", "ICMPv6", "MLD report"].iter().any(|other| name.contains(other));
        assert_eq!(passes(&FilterProgram::reject_all().all_udp(), &frame), is_udp, "{name}");
    }
    let udp = Frame::ethernet(&datagram("1.2.3.4", 9, "x"));
    let all_udp = FilterProgram::reject_all().all_udp();
    assert!(!passes(&all_udp, &Frame { vlan: Some(7), ..udp.clone() }));
    assert!(!passes(&all_udp, &Frame { pkttype: libc::PACKET_OUTGOING, ..udp }));
}

/// `count` groups, the family and the port by `each`.
fn many(count: u32, each: impl Fn(u32) -> FilterDestination) -> Vec<FilterDestination> {
    (0..count).map(each).collect()
}

fn group4(number: u32) -> IpAddr {
    IpAddr::from((0xe901_0000 + number * 3).to_be_bytes())
}

fn group6(number: u32) -> IpAddr {
    IpAddr::from((0xff15_u128 << 112 | u128::from(number * 3)).to_be_bytes())
}

#[test]
fn many_destinations_fit_and_are_as_precise_as_fits() {
    let port = |number: u32| u16::try_from(1000 + number % 60_000).unwrap();
    let four =
        |port: u16| move |number| FilterDestination { address: group4(number), port, promiscuous: false };
    let six =
        |port: u16| move |number| FilterDestination { address: group6(number), port, promiscuous: false };
    let exact = Precision::Exact;
    for (name, wanted, expected) in [
        ("2,000 groups, one port", many(2_000, four(5000)), exact),
        ("2,000 IPv6 groups, one port", many(2_000, six(5000)), exact),
        (
            "500 groups, each with its own port",
            many(500, |n| FilterDestination { address: group4(n), port: port(n), promiscuous: false }),
            exact,
        ),
        (
            "2,000 ports of one group",
            many(2_000, |n| FilterDestination { address: group4(0), port: port(n), promiscuous: false }),
            exact,
        ),
        (
            "2,000 groups, each with its own port",
            many(2_000, |n| FilterDestination { address: group4(n), port: port(n), promiscuous: false }),
            Precision::Addresses,
        ),
        ("4,000 groups", many(4_000, four(5000)), Precision::Prefixes { ignored_bits: 3 }),
        ("16,384 groups", many(16_384, four(5000)), Precision::Prefixes { ignored_bits: 5 }),
        ("16,384 IPv6 groups", many(16_384, six(5000)), Precision::Prefixes { ignored_bits: 5 }),
    ] {
        let program = FilterProgram::for_destinations(&wanted);
        assert_eq!(program.precision(), expected, "{name}: {} instructions", program.instructions().len());
        assert!(program.instructions().len() <= MAX_INSTRUCTIONS, "{name}");
        for FilterDestination { address, port, .. } in &wanted {
            let frame = Frame::ethernet(&datagram(&address.to_string(), *port, "x"));
            assert!(passes(&program, &frame), "{name}: {address} {port}");
        }
        for far in ["239.255.0.1", "10.1.1.1", "ff15:1::1", "ff15::ffff:1"] {
            let frame = Frame::ethernet(&datagram(far, 5000, "x"));
            assert!(!passes(&program, &frame), "{name}: {far}");
        }
    }
}

#[test]
fn unwanted_traffic_costs_few_instructions_whatever_is_wanted() {
    let wanted = many(2_000, |n| FilterDestination { address: group4(n), port: 5000, promiscuous: false });
    let program = FilterProgram::for_destinations(&wanted);
    let most = (0..6_000_u32)
        .map(|number| {
            let address = IpAddr::from((0xe901_0000 + number).to_be_bytes()).to_string();
            interpreter::run(&program, &Frame::ethernet(&datagram(&address, 1, "x"))).1
        })
        .max();
    assert!(most <= Some(60), "{most:?} instructions");
}

#[test]
fn a_coarser_program_is_shorter_until_there_is_none() {
    let wanted = many(2_000, |n| FilterDestination { address: group4(n), port: 5000, promiscuous: false });
    let frame = Frame::ethernet(&datagram(&group4(1_234).to_string(), 5000, "x"));
    let mut program = FilterProgram::for_destinations(&wanted);
    let mut steps = 0;
    while let Some(coarser) = program.coarser() {
        assert!(coarser.instructions().len() <= program.instructions().len() / 2);
        assert!(coarser.precision() > program.precision());
        assert!(passes(&coarser, &frame));
        program = coarser;
        steps += 1;
    }
    assert!(steps >= 3 && program.instructions().len() < 2 * MIN_INSTRUCTIONS);
}

proptest! {
    /// An exact program passes a plain datagram if and only if its destination is wanted.
    #[test]
    fn exact_means_exact(
        wanted in prop::collection::btree_set((0..40_u32, 0..2_usize, 0..4_u16), 0..60),
        asked in (0..40_u32, 0..2_usize, 0..4_u16),
        no_header: bool,
    ) {
        let make = |(number, family, port): (u32, usize, u16)| FilterDestination {
            address: [group4, group6][family](number), port: 1 + port * 257, promiscuous: false
        };
        let list: Vec<_> = wanted.iter().copied().map(make).collect();
        let program = FilterProgram::for_destinations(&list);
        prop_assert_eq!(program.precision(), Precision::Exact);
        let asked_for = make(asked);
        let packet = datagram(&asked_for.address.to_string(), asked_for.port, "x");
        let frame = if no_header { Frame::without_header(&packet) } else { Frame::ethernet(&packet) };
        prop_assert_eq!(passes(&program, &frame), wanted.contains(&asked));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Any program is one that the kernel's checks accept: jumps land inside, the last line returns.
    #[test]
    fn every_jump_lands(count in 0..5_000_u32, spread in 1..9_u32, ports in 1..2_000_u32) {
        let list = many(count, |n| FilterDestination {
            address: if n % 3 == 0 { group6(n * spread) } else { group4(n * spread) },
            port: u16::try_from(n % ports).unwrap(),
            promiscuous: n % 5 == 0,
        });
        let program = FilterProgram::for_destinations(&list);
        let lines = program.instructions();
        prop_assert!(lines.len() <= MAX_INSTRUCTIONS);
        for (at, line) in lines.iter().enumerate() {
            let farthest = match u32::from(line.code) & 0x07 {
                libc::BPF_JMP if u32::from(line.code) & 0xf0 == libc::BPF_JA => usize::try_from(line.k).unwrap(),
                libc::BPF_JMP => usize::from(line.jt.max(line.jf)),
                _ => continue,
            };
            prop_assert!(at + 1 + farthest < lines.len(), "line {}", at);
        }
        prop_assert_eq!(lines.last().map(|line| line.code), Some(assembly::RETURN));
    }
}
