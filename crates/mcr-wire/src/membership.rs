//! IGMP (RFC 2236, RFC 3376) and MLD (RFC 2710, RFC 3810), as far as they tell who queries, how often, and who wants
//! which group. For diagnosis: no decision to relay depends on it.

use std::net::IpAddr;
use std::time::Duration;

use crate::peek::{IpPeek, peek_ip};

/// IGMP as a protocol of IPv4 (RFC 3376, section 4).
const PROTOCOL_IGMP: u8 = 2;
/// ICMPv6 as a next header of IPv6 (RFC 4443).
const PROTOCOL_ICMPV6: u8 = 58;
/// Where a query has its Querier's Query Interval Code (RFC 3376, section 4.1.7; RFC 3810, section 5.1.9).
const IGMP_INTERVAL_AT: usize = 9;
const MLD_INTERVAL_AT: usize = 25;
/// The length of an IGMPv3 query without sources.
const IGMP_V3_QUERY_BYTES: usize = 12;

/// An IGMP or MLD message with its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership<'a> {
    /// The sender; 0.0.0.0 for a querier without an address.
    pub source: IpAddr,
    /// The message.
    pub message: Message<'a>,
}

/// An IGMP or MLD message. Messages by which a host leaves a group are not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A query.
    Query {
        /// The querier's query interval, which IGMPv3 and MLDv2 have; `None` if it is 0, too.
        interval: Option<Duration>,
        /// The time within which members report: the maximum response time.
        max_response: Duration,
        /// It asks for all groups.
        general: bool,
    },
    /// A report of groups that a host wants.
    Report(Groups<'a>),
}

/// The groups of a report, without those that the host leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Groups<'a> {
    /// The group of an IGMPv1, IGMPv2 or MLDv1 report.
    One(Option<IpAddr>),
    /// The group records of an IGMPv3 report.
    Ipv4Records(&'a [u8]),
    /// The multicast address records of an MLDv2 report.
    Ipv6Records(&'a [u8]),
}

/// Reads the message in an IP packet; `None` if there is none, or it is cut off.
#[must_use]
pub fn parse_membership(packet: &[u8]) -> Option<Membership<'_>> {
    let IpPeek { source, protocol, payload, .. } = peek_ip(packet)?;
    let message = match (source, protocol) {
        (IpAddr::V4(_), PROTOCOL_IGMP) => parse_igmp(payload),
        (IpAddr::V6(_), PROTOCOL_ICMPV6) => parse_mld(payload),
        _ => None,
    };
    Some(Membership { source, message: message? })
}

fn parse_igmp(message: &[u8]) -> Option<Message<'_>> {
    Some(match message.first()? {
        0x11 => Message::Query {
            interval: query_interval(message, IGMP_INTERVAL_AT),
            max_response: igmp_response_time(*message.get(1)?, message.len()),
            general: message.get(4..8)? == [0; 4],
        },
        0x12 | 0x16 => Message::Report(Groups::One(address::<4>(message.get(4..)?))),
        0x22 => Message::Report(Groups::Ipv4Records(message.get(8..)?)),
        _ => return None,
    })
}

/// Reads an MLD message, from the ICMPv6 type on.
#[must_use]
pub fn parse_mld(message: &[u8]) -> Option<Message<'_>> {
    Some(match message.first()? {
        130 => Message::Query {
            interval: query_interval(message, MLD_INTERVAL_AT),
            max_response: mld_response_time(u16::from_be_bytes(*message.get(4..)?.first_chunk()?)),
            general: message.get(8..24)? == [0; 16],
        },
        131 => Message::Report(Groups::One(address::<16>(message.get(8..)?))),
        143 => Message::Report(Groups::Ipv6Records(message.get(8..)?)),
        _ => return None,
    })
}

/// Decodes the Querier's Query Interval Code.
fn query_interval(message: &[u8], at: usize) -> Option<Duration> {
    let seconds = match u64::from(*message.get(at)?) {
        seconds @ 0..0x80 => seconds,
        // Mantissa and exponent.
        code => ((code & 0xf) | 0x10) << ((code >> 4 & 7) + 3),
    };
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// Decodes the Max Resp Code of IGMP, tenths of a second; IGMPv1 has none, and means 10 s. Only version 3, whose queries are
/// longer than those before, has an exponent (RFC 3376, sections 4.1.1 and 7.1).
fn igmp_response_time(code: u8, query_bytes: usize) -> Duration {
    let code = u64::from(code);
    Duration::from_millis(match code {
        0 => 10_000,
        _ if code < 0x80 || query_bytes < IGMP_V3_QUERY_BYTES => code * 100,
        _ => (((code & 0xf) | 0x10) << ((code >> 4 & 7) + 3)) * 100,
    })
}

/// Decodes the Maximum Response Code of MLD, milliseconds (RFC 3810, section 5.1.3).
fn mld_response_time(code: u16) -> Duration {
    let code = u64::from(code);
    Duration::from_millis(match code {
        0..0x8000 => code,
        _ => ((code & 0xfff) | 0x1000) << ((code >> 12 & 7) + 3),
    })
}

fn address<const BYTES: usize>(bytes: &[u8]) -> Option<IpAddr>
where
    IpAddr: From<[u8; BYTES]>,
{
    bytes.first_chunk::<BYTES>().map(|bytes| IpAddr::from(*bytes))
}

/// Takes records from the front until one says that its group is wanted.
fn next_wanted<const BYTES: usize>(records: &mut &[u8]) -> Option<IpAddr>
where
    IpAddr: From<[u8; BYTES]>,
{
    loop {
        let (kind, auxiliary_words) = (*records.first()?, usize::from(*records.get(1)?));
        let sources = usize::from(u16::from_be_bytes(*records.get(2..)?.first_chunk()?));
        let group = address::<BYTES>(records.get(4..)?)?;
        *records = records.get(4 + BYTES * (1 + sources) + 4 * auxiliary_words..).unwrap_or_default();
        // RFC 3376, section 4.2.12: include and exclude, as current state and as change, and allowed new sources.
        if matches!((kind, sources), (2 | 4, _) | (1 | 3 | 5, 1..)) {
            return Some(group);
        }
    }
}

impl Iterator for Groups<'_> {
    type Item = IpAddr;

    fn next(&mut self) -> Option<IpAddr> {
        match self {
            Self::One(group) => group.take(),
            Self::Ipv4Records(records) => next_wanted::<4>(records),
            Self::Ipv6Records(records) => next_wanted::<16>(records),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

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
            Some(Membership { message: Message::Report(groups), .. }) => {
                groups.map(|group| group.to_string()).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn query(packet: &[u8]) -> (String, Option<u64>) {
        match parse_membership(packet) {
            Some(Membership { source, message: Message::Query { interval, .. } }) => {
                (source.to_string(), interval.map(|interval| interval.as_secs()))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn queries_have_a_source_and_an_interval() {
        let mut igmp = vec![0x11, 100, 0, 0, 0, 0, 0, 0];
        let mut mld = vec![130; 24];
        assert_eq!(query(&ipv4(&igmp)), ("10.0.0.9".to_owned(), None), "IGMPv2 has none");
        assert_eq!(query(&ipv6(&mld)), ("fe80::9".to_owned(), None), "MLDv1 has none");
        igmp.extend([2, 0, 0, 0]);
        mld.extend([2, 0, 0, 0]);
        for (code, seconds) in
            [(0, None), (1, Some(1)), (127, Some(127)), (0x80, Some(128)), (0xff, Some(31_744))]
        {
            (igmp[9], mld[25]) = (code, code);
            assert_eq!(query(&ipv4(&igmp)).1, seconds, "{code}");
            assert_eq!(query(&ipv6(&mld)).1, seconds, "{code}");
        }
    }

    #[test]
    fn queries_have_a_time_to_respond() {
        let of = |message: Option<Message<'_>>| match message {
            Some(Message::Query { max_response, .. }) => u64::try_from(max_response.as_millis()).unwrap(),
            other => panic!("{other:?}"),
        };
        for (code, ms) in
            [(0, 10_000), (1, 100), (100, 10_000), (127, 12_700), (0x80, 12_800), (0xff, 3_174_400)]
        {
            assert_eq!(of(parse_igmp(&[0x11, code, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0])), ms, "{code}");
        }
        for (code, ms) in
            [(0_u16, 0), (10_000, 10_000), (0x7fff, 32_767), (0x8000, 32_768), (0xffff, 8_387_584)]
        {
            let [high, low] = code.to_be_bytes();
            let mut query = vec![130, 0, 0, 0, high, low, 0, 0];
            query.extend([0; 16]);
            assert_eq!(of(parse_mld(&query)), ms, "{code}");
        }
        assert_eq!(of(parse_igmp(&[0x11, 200, 0, 0, 0, 0, 0, 0])), 20_000, "IGMPv2 has no exponent");
        assert_eq!((parse_igmp(&[0x11]), parse_mld(&[130, 0, 0, 0, 1])), (None, None), "cut off");
        let general =
            |message: &[u8]| matches!(parse_igmp(message), Some(Message::Query { general: true, .. }));
        assert!(general(&[0x11, 100, 0, 0, 0, 0, 0, 0]) && !general(&[0x11, 10, 0, 0, 239, 1, 1, 1]));
    }

    #[test]
    fn reports_list_wanted_groups_without_those_left() {
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
        fn iteration_over_arbitrary_bytes_ends(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(Membership { message: Message::Report(groups), .. }) = parse_membership(&bytes) {
                prop_assert!(groups.count() <= bytes.len());
            }
            prop_assert!(Groups::Ipv4Records(&bytes).count() <= bytes.len());
            prop_assert!(Groups::Ipv6Records(&bytes).count() <= bytes.len());
        }
    }
}
