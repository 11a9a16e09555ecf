//! A lenient parser, which reads the addresses of any frame for diagnosis and checks nothing. It shares the header types with
//! the strict parsers. No decision to relay depends on it.

use std::net::IpAddr;

use zerocopy::FromBytes;

use crate::ethernet::{
    ETHER_TYPE_LEGACY_VLAN, ETHER_TYPE_SERVICE_VLAN, ETHER_TYPE_VLAN, ETHERNET_HEADER_BYTES, VLAN_TAG_BYTES,
};
use crate::frame::LinkLayer;
use crate::ipv4::{IPV4_HEADER_BYTES, Ipv4Header};
use crate::ipv6::{IPV6_HEADER_BYTES, Ipv6Header, skip_extension_headers};
use crate::udp::PROTOCOL_UDP;

/// QinQ.
const MAX_VLAN_TAGS: usize = 2;

/// The addresses of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peek {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// UDP ports, source first; `None` if it is not UDP, not the first fragment, or too short.
    pub ports: Option<(u16, u16)>,
}

/// An IP header, and what follows it.
pub(crate) struct IpPeek<'a> {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) ttl: u8,
    /// The upper-layer protocol, if it was reached.
    pub(crate) protocol: u8,
    /// From the upper-layer header on, without link padding. Empty if the upper-layer header is not in this packet.
    pub(crate) payload: &'a [u8],
}

/// Reads the addresses of a frame; `None` without two IP addresses.
#[must_use]
pub fn peek(frame: &[u8], link: LinkLayer) -> Option<Peek> {
    let IpPeek { source, destination, ttl, protocol, payload } =
        peek_ip(frame.get(ip_offset(frame, link)?..)?)?;
    let ports = if protocol == PROTOCOL_UDP { word(payload, 0).zip(word(payload, 2)) } else { None };
    Some(Peek { source, destination, ttl, ports })
}

/// Reads the headers of an IP packet; `None` without two IP addresses.
pub(crate) fn peek_ip(packet: &[u8]) -> Option<IpPeek<'_>> {
    match packet.first()? >> 4 {
        4 => peek_ipv4(packet),
        6 => peek_ipv6(packet),
        _ => None,
    }
}

fn ip_offset(frame: &[u8], link: LinkLayer) -> Option<usize> {
    if link == LinkLayer::None {
        return Some(0);
    }
    let mut at = ETHERNET_HEADER_BYTES;
    for _ in 0..MAX_VLAN_TAGS {
        match word(frame, at - 2)? {
            ETHER_TYPE_VLAN | ETHER_TYPE_SERVICE_VLAN | ETHER_TYPE_LEGACY_VLAN => at += VLAN_TAG_BYTES,
            _ => break,
        }
    }
    Some(at)
}

fn peek_ipv4(packet: &[u8]) -> Option<IpPeek<'_>> {
    let (header, _) = Ipv4Header::ref_from_prefix(packet).ok()?;
    let start = header.header_bytes();
    let has_upper_layer = header.fragment_offset() == 0 && start >= IPV4_HEADER_BYTES;
    Some(IpPeek {
        source: header.source.into(),
        destination: header.destination.into(),
        ttl: header.ttl,
        protocol: header.protocol,
        payload: if has_upper_layer { upper_layer(packet, start, header.total_length.into()) } else { &[] },
    })
}

fn peek_ipv6(packet: &[u8]) -> Option<IpPeek<'_>> {
    let (header, _) = Ipv6Header::ref_from_prefix(packet).ok()?;
    let (protocol, start) =
        skip_extension_headers(packet, header.next_header).unwrap_or((header.next_header, packet.len()));
    let end = IPV6_HEADER_BYTES + usize::from(header.payload_length);
    Some(IpPeek {
        source: header.source.into(),
        destination: header.destination.into(),
        ttl: header.hop_limit,
        protocol,
        payload: upper_layer(packet, start, end),
    })
}

/// The bytes from `start` to `end`, or to the end of the packet if `end` contradicts it.
fn upper_layer(packet: &[u8], start: usize, end: usize) -> &[u8] {
    packet.get(start..end).or_else(|| packet.get(start..)).unwrap_or_default()
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|word| u16::from_be_bytes(*word))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;

    const UDP: u8 = PROTOCOL_UDP;

    fn ipv4(offset: u16, protocol: u8) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 30, 0, 0];
        packet.extend(offset.to_be_bytes());
        packet.extend([9, protocol, 0, 0, 10, 1, 0, 1, 239, 1, 1, 1, 0x0f, 0xa0, 0x13, 0x88]);
        packet
    }

    #[test]
    fn addresses_and_ports_behind_each_link_layer() {
        let seen = Peek {
            source: "10.1.0.1".parse().unwrap(),
            destination: "239.1.1.1".parse().unwrap(),
            ttl: 9,
            ports: Some((4000, 5000)),
        };
        assert_eq!(peek(&ipv4(0, UDP), LinkLayer::None), Some(seen));
        let mut frame = vec![0; 12];
        frame.extend([0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 8, 0]);
        frame.extend(ipv4(0, UDP));
        assert_eq!(peek(&frame, LinkLayer::Ethernet), Some(seen));
        for other in [ipv4(7, UDP), ipv4(0, 6), ipv4(0, UDP)[..20].to_vec()] {
            assert_eq!(peek(&other, LinkLayer::None), Some(Peek { ports: None, ..seen }));
        }
    }

    #[test]
    fn ports_behind_extension_headers() {
        let addresses = [Ipv6Addr::LOCALHOST, "ff15::1".parse().unwrap()].map(|address| address.octets());
        for (next, extension) in [(UDP, &[][..]), (60, &[UDP, 0, 1, 4, 0, 0, 0, 0])] {
            let payload_length = u8::try_from(extension.len() + 4).unwrap();
            let mut packet = vec![0x60, 0, 0, 0, 0, payload_length, next, 7];
            packet.extend(addresses.concat());
            packet.extend(extension);
            packet.extend([0, 1, 0, 2]);
            let seen = peek(&packet, LinkLayer::None).unwrap();
            assert_eq!((seen.destination, seen.ttl, seen.ports), (addresses[1].into(), 7, Some((1, 2))));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(frame: Vec<u8>) {
            let _ = peek(&frame, LinkLayer::Ethernet);
            let _ = peek(&frame, LinkLayer::None);
        }
    }
}
