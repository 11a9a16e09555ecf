//! `etherparse` as an independent oracle for frames: for the tests of this crate, and for the fuzz target, which includes this
//! file by its path.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{IpNumber, Ipv6ExtensionSlice, LinkExtSlice, NetSlice, SlicedPacket, TransportSlice};

use crate::ipv6::MAX_EXTENSION_HEADERS;
use crate::{Datagram, FrameMeta, LinkLayer, parse_frame};

/// Asserts that `parse_frame` finds in the frame what `etherparse` finds.
///
/// # Panics
/// It does not.
pub(crate) fn assert_agreement(frame: &[u8], link: LinkLayer, meta: FrameMeta) {
    let parsed = parse_frame(frame, link, meta);
    if parsed.is_ok() || !stricter_than_the_oracle(frame, link) {
        let verdict = verdict(frame, link, meta.checksum_pending);
        assert_eq!(parsed.clone().ok(), verdict, "{parsed:?}, {link:?}, {frame:02x?}");
    }
}

/// The datagram that `etherparse` finds in the frame, if its checksums are correct.
fn verdict(frame: &[u8], link: LinkLayer, trust_udp_checksum: bool) -> Option<Datagram> {
    let sliced = match link {
        LinkLayer::Ethernet => SlicedPacket::from_ethernet(frame),
        LinkLayer::None => SlicedPacket::from_ip(frame),
    }
    .ok()?;
    // etherparse skips VLAN tags, and MACsec that is not encrypted: frames of other interfaces.
    if !of_this_interface(&sliced.link_exts) || sliced.is_ip_payload_fragmented() {
        return None;
    }
    let TransportSlice::Udp(udp) = sliced.transport? else { return None };
    // etherparse reads a length of 0 as "up to the end of the packet", as in a jumbogram.
    if udp.length() < 8 {
        return None;
    }
    let header = udp.to_header();
    let (source, destination, ttl, dscp, expected, may_be_none) = match sliced.net? {
        NetSlice::Ipv4(ip) => {
            // Over the bytes: etherparse's header value has no place for the reserved flag.
            if Sum16BitWords::new().add_slice(ip.header().slice()).ones_complement() != 0 {
                return None;
            }
            let ip = ip.header().to_header();
            // etherparse skips AH in IPv4; here, IPv4 with anything but UDP is refused.
            if ip.protocol != IpNumber::UDP {
                return None;
            }
            let expected = header.calc_checksum_ipv4(&ip, udp.payload()).ok()?;
            let (source, destination) = (IpAddr::from(ip.source), IpAddr::from(ip.destination));
            (source, destination, ip.time_to_live, ip.dscp.value(), expected, true)
        }
        NetSlice::Ipv6(ip) => {
            let ip = ip.header().to_header();
            // etherparse reads a length of 0 as "up to the end of the slice".
            if ip.payload_length == 0 {
                return None;
            }
            let expected = header.calc_checksum_ipv6(&ip, udp.payload()).ok()?;
            let (source, destination) = (IpAddr::from(ip.source), IpAddr::from(ip.destination));
            (source, destination, ip.hop_limit, ip.traffic_class >> 2, expected, false)
        }
        NetSlice::Arp(_) => return None,
    };
    let correct = header.checksum == expected || (may_be_none && header.checksum == 0);
    if ttl == 0 || !(correct || trust_udp_checksum) {
        return None;
    }
    let start = udp.payload().as_ptr().addr() - frame.as_ptr().addr();
    Some(Datagram {
        source: (source.into(), udp.source_port()),
        destination: (destination.into(), udp.destination_port()),
        ttl,
        dscp,
        payload: start..start + udp.payload().len(),
        segment_bytes: None,
    })
}

/// Whether there is nothing between the Ethernet header and the packet but at most a priority tag, which names no VLAN.
fn of_this_interface(tags: &[LinkExtSlice]) -> bool {
    match tags {
        [] => true,
        [LinkExtSlice::Vlan(tag)] => tag.vlan_identifier().value() == 0,
        _ => false,
    }
}

/// Whether an IPv6 frame has what the relay refuses and `etherparse` accepts: a routing header with segments left, or more
/// than `MAX_EXTENSION_HEADERS` extension headers.
fn stricter_than_the_oracle(frame: &[u8], link: LinkLayer) -> bool {
    let sliced = match link {
        LinkLayer::Ethernet => SlicedPacket::from_ethernet(frame),
        LinkLayer::None => SlicedPacket::from_ip(frame),
    };
    let Ok(Some(NetSlice::Ipv6(ip))) = sliced.map(|sliced| sliced.net) else { return false };
    let mut count = 0;
    let mut segments_left = false;
    for extension in ip.extensions().clone() {
        count += 1;
        if let Ipv6ExtensionSlice::Routing(routing) = extension {
            segments_left |= routing.payload()[1] != 0;
        }
    }
    segments_left || count > MAX_EXTENSION_HEADERS
}
