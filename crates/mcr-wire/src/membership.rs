//! What hosts and routers say of groups: IGMP (RFC 2236, RFC 3376) and MLD (RFC 2710, RFC 3810), as far as it tells who
//! asks and who wants what. For diagnosis; the relay itself never reads it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Ref};

use crate::ipv4::{IPV4_HEADER_BYTES, Ipv4Header};

/// IGMP's number as a protocol of IPv4.
const PROTOCOL_IGMP: u8 = 2;
const NEXT_HOP_BY_HOP: u8 = 0;
const NEXT_ICMPV6: u8 = 58;
const IPV6_HEADER_BYTES: usize = 40;

/// A message about memberships.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership<'a> {
    /// Who said it; a querier without an address says 0.0.0.0.
    pub from: IpAddr,
    /// What.
    pub said: Said<'a>,
}

/// What was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// Who wants which groups?
    Query,
    /// Somebody wants these groups.
    Wants(Groups<'a>),
}

/// The groups of a report; those that it gives up are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Groups<'a> {
    /// Of a report of one group (IGMPv1, IGMPv2, MLDv1).
    One(Option<IpAddr>),
    /// Of a report with records (IGMPv3, MLDv2): the bytes of the records, and that addresses have 16 bytes.
    Records(&'a [u8], bool),
}

/// Reads a message in an IP packet; `None` if it is none, or not whole.
#[must_use]
pub fn parse_membership(packet: &[u8]) -> Option<Membership<'_>> {
    match packet.first()? >> 4 {
        4 => igmp(packet),
        6 => mld(packet),
        _ => None,
    }
}

fn igmp(packet: &[u8]) -> Option<Membership<'_>> {
    let (header, _) = Ref::<_, Ipv4Header>::from_prefix(packet).ok()?;
    let header_bytes = usize::from(header.version_and_length & 0xf) * 4;
    if header.protocol != PROTOCOL_IGMP || header_bytes < IPV4_HEADER_BYTES {
        return None;
    }
    let end = usize::from(header.total_length.get()).min(packet.len());
    let message = packet.get(header_bytes..end)?;
    let said = match message.first()? {
        0x11 => Said::Query,
        0x12 | 0x16 => Said::Wants(Groups::One(address(message.get(4..8)?))),
        0x22 => Said::Wants(Groups::Records(message.get(8..)?, false)),
        _ => return None,
    };
    Some(Membership { from: Ipv4Addr::from(header.source).into(), said })
}

fn mld(packet: &[u8]) -> Option<Membership<'_>> {
    let source = <[u8; 16]>::read_from_bytes(packet.get(8..24)?).ok()?;
    if *packet.get(6)? != NEXT_HOP_BY_HOP {
        return None;
    }
    let options = packet.get(IPV6_HEADER_BYTES..)?;
    if *options.first()? != NEXT_ICMPV6 {
        return None;
    }
    let message = options.get(8 * (1 + usize::from(*options.get(1)?))..)?;
    let said = match message.first()? {
        130 => Said::Query,
        131 => Said::Wants(Groups::One(address(message.get(8..24)?))),
        143 => Said::Wants(Groups::Records(message.get(8..)?, true)),
        _ => return None,
    };
    Some(Membership { from: Ipv6Addr::from(source).into(), said })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Some(bytes) = bytes.first_chunk::<16>() {
        return Some(IpAddr::from(*bytes));
    }
    bytes.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes))
}

impl Iterator for Groups<'_> {
    type Item = IpAddr;

    fn next(&mut self) -> Option<IpAddr> {
        match self {
            Self::One(group) => group.take(),
            Self::Records(rest, ipv6) => loop {
                let address_bytes = if *ipv6 { 16 } else { 4 };
                let (kind, extra) = (*rest.first()?, usize::from(*rest.get(1)?));
                let sources = usize::from(u16::from_be_bytes(*rest.get(2..)?.first_chunk()?));
                let group = address(rest.get(4..4 + address_bytes)?)?;
                *rest = rest.get(4 + address_bytes * (1 + sources) + 4 * extra..).unwrap_or_default();
                // RFC 3376 section 4.2.12: include and exclude, as state and as change, and new sources.
                if matches!((kind, sources), (2 | 4, _) | (1 | 3 | 5, 1..)) {
                    return Some(group);
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ipv4(message: &[u8]) -> Vec<u8> {
        let length = u8::try_from(24 + message.len()).unwrap();
        let mut packet = vec![0x46, 0xc0, 0, length, 0, 0, 0x40, 0, 1, 2, 0, 0, 10, 0, 0, 9, 224, 0, 0, 22];
        packet.extend([0x94, 4, 0, 0]);
        packet.extend(message);
        packet
    }

    fn ipv6(message: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, u8::try_from(8 + message.len()).unwrap(), 0, 1];
        packet.extend(Ipv6Addr::from_bits(0xfe80 << 112 | 9).octets());
        packet.extend(Ipv6Addr::from_bits(0xff02 << 112 | 0x16).octets());
        packet.extend([58, 0, 5, 2, 0, 0, 1, 0]);
        packet.extend(message);
        packet
    }

    fn wants(packet: &[u8]) -> Vec<String> {
        match parse_membership(packet) {
            Some(Membership { said: Said::Wants(groups), .. }) => {
                groups.map(|group| group.to_string()).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn queries_tell_who_asks() {
        let query = ipv4(&[0x11, 100, 0, 0, 0, 0, 0, 0]);
        let expected = Membership { from: "10.0.0.9".parse().unwrap(), said: Said::Query };
        assert_eq!(parse_membership(&query), Some(expected));
        let query = ipv6(&[130; 24]);
        assert_eq!(parse_membership(&query).unwrap().from.to_string(), "fe80::9");
    }

    #[test]
    fn reports_tell_what_is_wanted_and_not_what_is_given_up() {
        assert_eq!(wants(&ipv4(&[0x16, 0, 0, 0, 239, 1, 1, 1])), ["239.1.1.1"]);
        let mut report = vec![0x22, 0, 0, 0, 0, 0, 0, 4];
        report.extend([4, 0, 0, 0, 239, 1, 1, 1]);
        report.extend([3, 0, 0, 0, 239, 1, 1, 2]);
        report.extend([5, 1, 0, 1, 232, 1, 1, 1, 10, 0, 0, 1, 9, 9, 9, 9]);
        report.extend([6, 0, 0, 1, 232, 1, 1, 9, 10, 0, 0, 1]);
        assert_eq!(wants(&ipv4(&report)), ["239.1.1.1", "232.1.1.1"]);
        let mut report = vec![143, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0];
        report.extend(Ipv6Addr::from_bits(0xff15 << 112 | 1).octets());
        assert_eq!(wants(&ipv6(&report)), ["ff15::1"]);
        assert_eq!(parse_membership(&ipv4(&[0x17, 0, 0, 0, 239, 1, 1, 1])), None, "a leave");
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..200), ipv6 in any::<bool>()) {
            if let Some(Membership { said: Said::Wants(groups), .. }) = parse_membership(&bytes) {
                prop_assert!(groups.count() <= bytes.len());
            }
            prop_assert!(Groups::Records(&bytes, ipv6).count() <= bytes.len());
        }
    }
}
