//! Frames: two bytes of what the kernel would say, then the frame.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{IpNumber, Ipv6ExtensionSlice, NetSlice, SlicedPacket, TransportSlice};
use mcr_wire::{Datagram, FrameMeta, LinkLayer, parse_frame, parse_vnet_header};

/// Extension headers that the relay walks over at most (`mcr_wire`'s own limit).
const MAX_EXTENSION_HEADERS: usize = 8;

/// Asserts the property.
///
/// # Panics
/// It does not hold.
pub fn check(data: &[u8]) {
    with_virtio_header(data);
    let [flags, segment, frame @ ..] = data else { return };
    let link = if flags & 1 == 0 { LinkLayer::Ethernet } else { LinkLayer::None };
    let trusted = flags & 2 != 0;
    let meta = FrameMeta { checksum_pending: trusted, checksum_verified: false, segment_bytes: None };
    let parsed = parse_frame(frame, link, meta);
    if parsed.is_ok() || !stricter_than_the_judge(frame, link) {
        assert_eq!(parsed.clone().ok(), verdict(frame, link, trusted), "{parsed:?}");
    }
    let segment_bytes = Some(u16::from(*segment) * 7);
    if let Ok(datagram) = parse_frame(frame, link, FrameMeta { segment_bytes, ..meta }) {
        segments_cover(&datagram, frame.len());
    }
}

fn with_virtio_header(bytes: &[u8]) {
    let Ok((meta, offset)) = parse_vnet_header(bytes) else { return };
    let frame = &bytes[offset..];
    for link in [LinkLayer::Ethernet, LinkLayer::None] {
        if let Ok(datagram) = parse_frame(frame, link, meta) {
            segments_cover(&datagram, frame.len());
        }
    }
}

fn segments_cover(datagram: &Datagram, frame_bytes: usize) {
    assert!(datagram.payload.end <= frame_bytes && datagram.ttl > 0 && datagram.dscp < 64);
    let mut start = datagram.payload.start;
    let mut count = 0;
    for segment in datagram.segments() {
        assert_eq!(segment.start, start);
        assert!(datagram.segment_bytes.is_none_or(|bytes| segment.len() <= usize::from(bytes)));
        start = segment.end;
        count += 1;
    }
    assert_eq!((start, count), (datagram.payload.end, datagram.segment_count()));
}

/// What `etherparse` finds in the frame, if it takes it for a whole UDP datagram with right checksums.
fn verdict(frame: &[u8], link: LinkLayer, trust_udp_checksum: bool) -> Option<Datagram> {
    let sliced = match link {
        LinkLayer::Ethernet => SlicedPacket::from_ethernet(frame),
        LinkLayer::None => SlicedPacket::from_ip(frame),
    }
    .ok()?;
    if sliced.vlan().is_some() || sliced.is_ip_payload_fragmented() {
        return None;
    }
    let TransportSlice::Udp(udp) = sliced.transport? else { return None };
    // etherparse takes a length of 0 for "up to the end of the packet", as in a jumbogram.
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
            // etherparse steps over AH in IPv4; here, IPv4 with anything but UDP is refused.
            if ip.protocol != IpNumber::UDP {
                return None;
            }
            let expected = header.calc_checksum_ipv4(&ip, udp.payload()).ok()?;
            let (source, destination) = (IpAddr::from(ip.source), IpAddr::from(ip.destination));
            (source, destination, ip.time_to_live, ip.dscp.value(), expected, true)
        }
        NetSlice::Ipv6(ip) => {
            let ip = ip.header().to_header();
            // etherparse takes a length of 0 for "up to the end of the slice".
            if ip.payload_length == 0 {
                return None;
            }
            let expected = header.calc_checksum_ipv6(&ip, udp.payload()).ok()?;
            let (source, destination) = (IpAddr::from(ip.source), IpAddr::from(ip.destination));
            (source, destination, ip.hop_limit, ip.traffic_class >> 2, expected, false)
        }
        NetSlice::Arp(_) => return None,
    };
    let right = header.checksum == expected || (may_be_none && header.checksum == 0);
    if ttl == 0 || !(right || trust_udp_checksum) {
        return None;
    }
    let start = udp.payload().as_ptr().addr() - frame.as_ptr().addr();
    Some(Datagram {
        source: (source, udp.source_port()),
        destination: (destination, udp.destination_port()),
        ttl,
        dscp,
        payload: start..start + udp.payload().len(),
        segment_bytes: None,
    })
}

/// Whether an IPv6 frame uses what the relay refuses and `etherparse` accepts: a route that is not done, or a long chain.
fn stricter_than_the_judge(frame: &[u8], link: LinkLayer) -> bool {
    let ip_offset = if link == LinkLayer::Ethernet { 14 } else { 0 };
    let sliced = SlicedPacket::from_ip(frame.get(ip_offset..).unwrap_or(&[]));
    let Ok(Some(NetSlice::Ipv6(ip))) = sliced.map(|sliced| sliced.net) else { return false };
    let mut count = 0;
    let mut open_route = false;
    for extension in ip.extensions().clone() {
        count += 1;
        if let Ipv6ExtensionSlice::Routing(routing) = extension {
            open_route |= routing.payload()[1] != 0;
        }
    }
    open_route || count > MAX_EXTENSION_HEADERS
}
