//! Frames that `etherparse` builds, and frames that were modified afterwards, parsed by both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    IpAuthHeader, IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv4Options, Ipv6Extensions, Ipv6FlowLabel,
    Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, Ipv6RoutingExtensions, PacketBuilder,
};
use proptest::prelude::*;

use super::*;

const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const GROUP_MAC: [u8; 6] = [1, 0, 0x5e, 1, 1, 1];

/// A frame as `etherparse` writes it, and the datagram in it.
#[derive(Clone, Debug)]
struct Built {
    frame: Vec<u8>,
    link: LinkLayer,
    datagram: Datagram,
}

fn build(link: LinkLayer, ip: IpHeaders, ports: (u16, u16), payload: &[u8]) -> Built {
    let (source, destination, ttl, dscp) = match &ip {
        IpHeaders::Ipv4(header, _) => (
            IpAddr::from(header.source),
            IpAddr::from(header.destination),
            header.time_to_live,
            header.dscp.value(),
        ),
        IpHeaders::Ipv6(header, _) => (
            IpAddr::from(header.source),
            IpAddr::from(header.destination),
            header.hop_limit,
            header.traffic_class >> 2,
        ),
    };
    let mut frame = Vec::new();
    match link {
        LinkLayer::Ethernet => PacketBuilder::ethernet2(SOURCE_MAC, GROUP_MAC)
            .ip(ip)
            .udp(ports.0, ports.1)
            .write_to_vec(&mut frame, payload),
        LinkLayer::None => PacketBuilder::ip(ip).udp(ports.0, ports.1).write_to_vec(&mut frame, payload),
    }
    .unwrap();
    let datagram = Datagram {
        source: (source.into(), ports.0),
        destination: (destination.into(), ports.1),
        ttl,
        dscp,
        payload: frame.len() - payload.len()..frame.len(),
        segment_bytes: None,
    };
    Built { frame, link, datagram }
}

pub(super) fn ipv4_frame_with_payload(bytes: usize) -> Vec<u8> {
    let ip = Ipv4Header { time_to_live: 1, destination: [239, 1, 1, 1], ..Ipv4Header::default() };
    build(LinkLayer::Ethernet, IpHeaders::Ipv4(ip, Default::default()), (1, 2), &vec![7; bytes]).frame
}

fn ipv4() -> impl Strategy<Value = IpHeaders> {
    let options = (0..=10_usize).prop_flat_map(|words| proptest::collection::vec(any::<u8>(), words * 4));
    (any::<Ipv4Addr>(), any::<Ipv4Addr>(), 1..=u8::MAX, 0..64_u8, any::<bool>(), options).prop_map(
        |(source, destination, ttl, dscp, dont_fragment, options)| {
            let header = Ipv4Header {
                dscp: dscp.try_into().unwrap(),
                dont_fragment,
                time_to_live: ttl,
                source: source.octets(),
                destination: destination.octets(),
                options: Ipv4Options::try_from(options.as_slice()).unwrap(),
                ..Ipv4Header::default()
            };
            IpHeaders::Ipv4(header, Default::default())
        },
    )
}

/// A hop-by-hop or destination options header of valid length and arbitrary content.
fn options() -> impl Strategy<Value = Option<Ipv6RawExtHeader>> {
    let content = (0..6_usize).prop_flat_map(|units| proptest::collection::vec(any::<u8>(), units * 8 + 6));
    proptest::option::of(
        content.prop_map(|content| Ipv6RawExtHeader::new_raw(IpNumber::UDP, &content).unwrap()),
    )
}

fn routing() -> impl Strategy<Value = Option<Ipv6RoutingExtensions>> {
    (options(), options()).prop_map(|(routing, final_destination_options)| {
        let routing = routing?;
        // No segments left (the fourth byte of the header, the second of its content).
        let mut content = routing.payload().to_vec();
        content[1] = 0;
        let routing = Ipv6RawExtHeader::new_raw(IpNumber::UDP, &content).unwrap();
        Some(Ipv6RoutingExtensions { routing, final_destination_options })
    })
}

fn extensions() -> impl Strategy<Value = Ipv6Extensions> {
    let auth = proptest::option::of(
        (0..8_usize).prop_map(|words| IpAuthHeader::new(IpNumber::UDP, 1, 2, &vec![3; words * 4]).unwrap()),
    );
    let fragment = proptest::option::of(
        any::<u32>().prop_map(|id| Ipv6FragmentHeader::new(IpNumber::UDP, IpFragOffset::ZERO, false, id)),
    );
    (options(), options(), routing(), fragment, auth).prop_map(
        |(hop_by_hop_options, destination_options, routing, fragment, auth)| Ipv6Extensions {
            hop_by_hop_options,
            destination_options,
            routing,
            fragment,
            auth,
        },
    )
}

fn ipv6() -> impl Strategy<Value = IpHeaders> {
    let plain = Just(Ipv6Extensions::default());
    (
        any::<Ipv6Addr>(),
        any::<Ipv6Addr>(),
        1..=u8::MAX,
        any::<u8>(),
        0..1_u32 << 20,
        prop_oneof![plain, extensions()],
    )
        .prop_map(|(source, destination, hop_limit, traffic_class, label, extensions)| {
            let header = Ipv6Header {
                traffic_class,
                flow_label: Ipv6FlowLabel::try_new(label).unwrap(),
                hop_limit,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(header, extensions)
        })
}

fn built() -> impl Strategy<Value = Built> {
    (
        prop_oneof![Just(LinkLayer::Ethernet), Just(LinkLayer::None)],
        prop_oneof![ipv4(), ipv6()],
        any::<(u16, u16)>(),
        proptest::collection::vec(any::<u8>(), 0..300),
    )
        .prop_map(|(link, ip, ports, payload)| build(link, ip, ports, &payload))
}

/// A modification of a frame.
#[derive(Clone, Debug)]
enum Change {
    Set(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Extend(Vec<u8>),
    /// Corrects the IPv4 header checksum, so that the faults behind it are reached.
    Seal,
}

fn change() -> impl Strategy<Value = Change> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        6 => (index(), any::<u8>()).prop_map(|(place, value)| Change::Set(place, value)),
        3 => (index(), 0..8_u8).prop_map(|(place, bit)| Change::Flip(place, bit)),
        1 => index().prop_map(Change::Cut),
        1 => proptest::collection::vec(any::<u8>(), 0..64).prop_map(Change::Extend),
        4 => Just(Change::Seal),
    ]
}

impl Change {
    fn apply(&self, frame: &mut Vec<u8>, ip_offset: usize) {
        // A modification matters in the headers.
        let headers = frame.len().min(ip_offset + 96);
        match self {
            Self::Set(place, value) if headers > 0 => frame[place.index(headers)] = *value,
            Self::Flip(place, bit) if headers > 0 => frame[place.index(headers)] ^= 1 << bit,
            Self::Cut(place) => frame.truncate(place.index(frame.len() + 1)),
            Self::Extend(bytes) => frame.extend(bytes),
            Self::Seal => {
                let Ok((header, _)) = Ipv4Header::from_slice(frame.get(ip_offset..).unwrap_or(&[])) else {
                    return;
                };
                let checksum = header.calc_header_checksum();
                frame[ip_offset + 10..ip_offset + 12].copy_from_slice(&checksum.to_be_bytes());
            }
            Self::Set(..) | Self::Flip(..) => {}
        }
    }
}

/// Tags like those of VLAN, QinQ, priorities and MACsec between the addresses and the packet, with any EtherType.
#[test]
fn agrees_with_the_oracle_on_tags() {
    let (addresses, packet) = IPV4_FRAME.split_at(12);
    // The rest of a tag after its EtherType: priority, VLAN, MACsec without and with its sender, two VLAN tags.
    let tags: [&[u8]; 8] = [
        &[],
        // Priorities: VLAN 0, once and twice.
        &[0, 0],
        &[0xa0, 0],
        &[0, 0, 0x81, 0, 0, 0],
        &[0, 7],
        &[0, 0, 0, 0, 0, 1],
        &[0x20, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 0, 1],
        &[0, 7, 0x81, 0, 0, 7],
    ];
    for ether_type in 0..=u16::MAX {
        for tag in tags {
            let frame = [addresses, &ether_type.to_be_bytes(), tag, packet].concat();
            oracle::assert_agreement(&frame, LinkLayer::Ethernet, FrameMeta::default());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn agrees_with_the_oracle_on_frames_that_it_builds(built in built(), padding in 0..64_usize) {
        let mut frame = built.frame;
        frame.resize(frame.len() + padding, 0xee);
        let parsed = parse_frame(&frame, built.link, FrameMeta::default());
        prop_assert_eq!(parsed, Ok(built.datagram));
    }

    #[test]
    fn agrees_with_the_oracle_on_modified_frames(
        built in built(),
        changes in proptest::collection::vec(change(), 0..6),
        checksum_pending: bool,
    ) {
        let mut frame = built.frame;
        let ip_offset = if built.link == LinkLayer::Ethernet { ETHERNET_HEADER_BYTES } else { 0 };
        for change in &changes {
            change.apply(&mut frame, ip_offset);
        }
        let meta = FrameMeta { checksum_pending, ..FrameMeta::default() };
        oracle::assert_agreement(&frame, built.link, meta);
    }

    #[test]
    fn segments_cover_the_payload_of_an_accepted_frame(
        built in built(),
        changes in proptest::collection::vec(change(), 0..4),
        segment_bytes: u16,
    ) {
        let mut frame = built.frame;
        for change in &changes {
            change.apply(&mut frame, 14);
        }
        let meta = FrameMeta { segment_bytes: Some(segment_bytes), ..PENDING };
        if let Ok(datagram) = parse_frame(&frame, built.link, meta) {
            let segments: Vec<_> = datagram.segments().collect();
            prop_assert_eq!(segments.len(), datagram.segment_count());
            prop_assert!(datagram.payload.end <= frame.len());
            let mut start = datagram.payload.start;
            for segment in &segments {
                prop_assert_eq!(segment.start, start);
                prop_assert!(segment.len() <= usize::from(segment_bytes));
                start = segment.end;
            }
            prop_assert_eq!(start, datagram.payload.end);
            for whole in &segments[..segments.len() - 1] {
                prop_assert_eq!(whole.len(), usize::from(segment_bytes));
            }
        }
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ethernet: bool,
        meta in (any::<bool>(), any::<bool>(), any::<Option<u16>>()),
        start in proptest::option::of(prop_oneof![Just(0x45_u8), Just(0x60), Just(0x4f)]),
    ) {
        let mut frame = bytes;
        let link = if ethernet { LinkLayer::Ethernet } else { LinkLayer::None };
        if let (Some(start), true) = (start, frame.len() > 14) {
            let ip_offset = if ethernet { 14 } else { 0 };
            frame[12..14].copy_from_slice(if start >> 4 == 4 { &[8, 0] } else { &[0x86, 0xdd] });
            frame[ip_offset] = start;
        }
        let meta = FrameMeta { checksum_pending: meta.0, checksum_verified: meta.1, segment_bytes: meta.2 };
        if let Ok(datagram) = parse_frame(&frame, link, meta) {
            prop_assert!(datagram.payload.start <= datagram.payload.end);
            prop_assert!(datagram.payload.end <= frame.len());
        }
        let _ = crate::parse_vnet_header(&frame);
    }
}
