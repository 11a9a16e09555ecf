//! A look at the addresses of a frame that was refused, for people who trace: what can be read is read, nothing is
//! checked. No decision rests on it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::frame::LinkLayer;

const ETHERNET_BYTES: usize = 14;
const TAG_BYTES: usize = 4;
const MAX_TAGS: usize = 2;
const UDP: u8 = 17;

/// Addresses of a frame as they stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// UDP ports, source first; `None` if it is not UDP, or not the first fragment, or cut off.
    pub ports: Option<(u16, u16)>,
}

/// Reads what can be read; `None` if there are no two IP addresses.
#[must_use]
pub fn glance(frame: &[u8], link: LinkLayer) -> Option<Glance> {
    let packet = frame.get(ip_offset(frame, link)?..)?;
    match packet.first()? >> 4 {
        4 => glance_ipv4(packet),
        6 => glance_ipv6(packet),
        _ => None,
    }
}

fn ip_offset(frame: &[u8], link: LinkLayer) -> Option<usize> {
    if link == LinkLayer::None {
        return Some(0);
    }
    let mut at = ETHERNET_BYTES;
    for _ in 0..MAX_TAGS {
        match number(frame, at - 2)? {
            0x8100 | 0x88a8 => at += TAG_BYTES,
            _ => break,
        }
    }
    Some(at)
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn glance_ipv4(packet: &[u8]) -> Option<Glance> {
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets).into())
    };
    let header = usize::from(packet.first()? & 15) * 4;
    let first_fragment = number(packet, 6)? & 0x1fff == 0;
    let udp = *packet.get(9)? == UDP && first_fragment;
    Some(Glance {
        source: address(12)?,
        destination: address(16)?,
        ttl: *packet.get(8)?,
        ports: if udp { ports(packet, header) } else { None },
    })
}

fn glance_ipv6(packet: &[u8]) -> Option<Glance> {
    const HEADER: usize = 40;
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(octets).into())
    };
    Some(Glance {
        source: address(8)?,
        destination: address(24)?,
        ttl: *packet.get(7)?,
        ports: if *packet.get(6)? == UDP { ports(packet, HEADER) } else { None },
    })
}

fn ports(packet: &[u8], udp: usize) -> Option<(u16, u16)> {
    Some((number(packet, udp)?, number(packet, udp + 2)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ipv4(offset: u16, protocol: u8) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 30, 0, 0];
        packet.extend(offset.to_be_bytes());
        packet.extend([9, protocol, 0, 0, 10, 1, 0, 1, 239, 1, 1, 1, 0x0f, 0xa0, 0x13, 0x88]);
        packet
    }

    #[test]
    fn addresses_and_ports_behind_each_link_layer() {
        let seen = Glance {
            source: "10.1.0.1".parse().unwrap(),
            destination: "239.1.1.1".parse().unwrap(),
            ttl: 9,
            ports: Some((4000, 5000)),
        };
        assert_eq!(glance(&ipv4(0, UDP), LinkLayer::None), Some(seen));
        let mut frame = vec![0; 12];
        frame.extend([0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 8, 0]);
        frame.extend(ipv4(0, UDP));
        assert_eq!(glance(&frame, LinkLayer::Ethernet), Some(seen));
        for other in [ipv4(7, UDP), ipv4(0, 6), ipv4(0, UDP)[..20].to_vec()] {
            assert_eq!(glance(&other, LinkLayer::None), Some(Glance { ports: None, ..seen }));
        }
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, UDP, 7];
        packet.extend(Ipv6Addr::LOCALHOST.octets());
        packet.extend("ff15::1".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend([0, 1, 0, 2]);
        let six = glance(&packet, LinkLayer::None).unwrap();
        assert_eq!((six.destination, six.ttl, six.ports), ("ff15::1".parse().unwrap(), 7, Some((1, 2))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at_without_panic(frame: Vec<u8>) {
            let _ = glance(&frame, LinkLayer::Ethernet);
            let _ = glance(&frame, LinkLayer::None);
        }
    }
}
