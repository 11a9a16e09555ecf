//! Fragments of IP datagrams (RFC 791 section 3.2, RFC 8200 section 4.5), for [`crate::reassembly`].

use std::net::IpAddr;
use std::ops::Range;

use zerocopy::FromBytes;

use crate::checksum::Sum;
use crate::ethernet::IpVersion;
use crate::frame::{LinkLayer, locate_packet};
use crate::ipv4::{IPV4_HEADER_BYTES, Ipv4Header};
use crate::ipv6::{IPV6_HEADER_BYTES, Ipv6Header, find_fragment_header};

/// The most bytes of an IP packet behind an IPv4 header without options, or behind an IPv6 header.
const MAX_DATA_BYTES: [usize; 2] = [65_535 - IPV4_HEADER_BYTES, 65_535];

/// What the fragments of a datagram have in common (RFC 8200 section 4.5), and what the datagram has from the first of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentHead {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Distinguishes the datagrams of these addresses; 16 bits for IPv4.
    pub identification: u32,
    /// Protocol (IPv4), or next header of the fragment header (IPv6). That of the first fragment counts.
    pub next_header: u8,
    /// TTL or hop limit. That of the first fragment counts.
    pub ttl: u8,
    /// DSCP and ECN. That of the first fragment counts.
    pub traffic_class: u8,
}

/// A fragment of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Which datagram.
    pub head: FragmentHead,
    /// The place of its data in the datagram in bytes, a multiple of eight.
    pub offset: u16,
    /// It is not the last one.
    pub more: bool,
    /// The place of its IP header in the frame.
    pub ip_offset: usize,
    /// The place of its data in the frame.
    pub data: Range<usize>,
}

/// Parses a frame that [`crate::parse_frame`] refuses as [`crate::Refusal::Fragment`]. `None` for any other.
#[must_use]
pub fn parse_fragment(frame: &[u8], link: LinkLayer) -> Option<Fragment> {
    let (version, ip_offset) = locate_packet(frame, link).ok()?;
    let packet = frame.get(ip_offset..)?;
    let mut fragment = match version {
        IpVersion::V4 => parse_ipv4(packet),
        IpVersion::V6 => parse_ipv6(packet),
    }?;
    fragment.ip_offset = ip_offset;
    fragment.data = fragment.data.start + ip_offset..fragment.data.end + ip_offset;
    (fragment.more || fragment.offset > 0).then_some(fragment)
}

fn parse_ipv4(packet: &[u8]) -> Option<Fragment> {
    let (header, _) = Ipv4Header::ref_from_prefix(packet).ok()?;
    let data = header.header_bytes()..usize::from(header.total_length.get());
    packet.get(data.clone())?;
    let head = FragmentHead {
        source: header.source.into(),
        destination: header.destination.into(),
        identification: header.identification.get().into(),
        next_header: header.protocol,
        ttl: header.ttl,
        traffic_class: header.dscp_and_ecn,
    };
    let more = header.flags_and_offset.get() & 0x2000 != 0;
    Some(Fragment { head, offset: header.fragment_offset() << 3, more, ip_offset: 0, data })
}

fn parse_ipv6(packet: &[u8]) -> Option<Fragment> {
    let (header, _) = Ipv6Header::ref_from_prefix(packet).ok()?;
    let end = IPV6_HEADER_BYTES + usize::from(header.payload_length.get());
    let (fragment, start) = find_fragment_header(packet.get(..end)?, header.next_header)?;
    let [version_and_class, class_and_label, ..] = header.version_class_label.to_bytes();
    let head = FragmentHead {
        source: header.source.into(),
        destination: header.destination.into(),
        identification: fragment.identification.get(),
        next_header: fragment.next_header,
        ttl: header.hop_limit,
        traffic_class: version_and_class << 4 | class_and_label >> 4,
    };
    let place = fragment.offset_and_more.get();
    Some(Fragment { head, offset: place & 0xfff8, more: place & 1 != 0, ip_offset: 0, data: start..end })
}

impl Fragment {
    /// The range of the datagram that it fills, in bytes. `None` if no datagram has such a fragment: it is empty, not the last
    /// and no multiple of eight bytes long, or it ends where no packet does.
    #[must_use]
    pub(crate) fn range(&self) -> Option<Range<usize>> {
        let start = usize::from(self.offset);
        let end = start + self.data.len();
        let valid = !self.data.is_empty()
            && (!self.more || self.data.len().is_multiple_of(8))
            && end <= MAX_DATA_BYTES[usize::from(self.head.source.is_ipv6())];
        valid.then_some(start..end)
    }
}

impl FragmentHead {
    /// Whether two fragments are of one datagram.
    pub(crate) fn is_of_same_datagram(&self, other: &Self) -> bool {
        self.identification == other.identification
            && self.source == other.source
            && self.destination == other.destination
    }

    /// Writes the header of the whole packet with this many bytes behind it, without options and extension headers. Returns its
    /// length; `None` if there is no room.
    pub(crate) fn write_header(&self, packet: &mut [u8], data_bytes: usize) -> Option<usize> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = packet.first_chunk_mut::<IPV4_HEADER_BYTES>()?;
                let length = u16::try_from(IPV4_HEADER_BYTES + data_bytes).ok()?;
                let [length_high, length_low] = length.to_be_bytes();
                let [.., id_high, id_low] = self.identification.to_be_bytes();
                let fixed = [0x45, self.traffic_class, length_high, length_low, id_high, id_low, 0, 0];
                header[..8].copy_from_slice(&fixed);
                header[8..12].copy_from_slice(&[self.ttl, self.next_header, 0, 0]);
                header[12..16].copy_from_slice(&source.octets());
                header[16..].copy_from_slice(&destination.octets());
                let checksum = Sum::default().add_bytes(header).checksum().to_be_bytes();
                header[10..12].copy_from_slice(&checksum);
                Some(IPV4_HEADER_BYTES)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = packet.first_chunk_mut::<IPV6_HEADER_BYTES>()?;
                let [length_high, length_low] = u16::try_from(data_bytes).ok()?.to_be_bytes();
                let class = self.traffic_class;
                header[..8].copy_from_slice(&[
                    0x60 | class >> 4,
                    class << 4,
                    0,
                    0,
                    length_high,
                    length_low,
                    self.next_header,
                    self.ttl,
                ]);
                header[8..24].copy_from_slice(&source.octets());
                header[24..].copy_from_slice(&destination.octets());
                Some(IPV6_HEADER_BYTES)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header};
    use proptest::prelude::*;

    use super::*;
    use crate::Refusal;

    const DATA: &[u8] = b"sixteen bytes of";

    /// A fragment as etherparse writes it, behind an Ethernet header.
    fn frame(v6: bool, offset: u16, more: bool, class: u8, id: u32) -> Vec<u8> {
        let mut frame = vec![7; 12];
        let place = IpFragOffset::try_new(offset / 8).unwrap();
        if v6 {
            frame.extend([0x86, 0xdd]);
            let header = Ipv6Header {
                traffic_class: class,
                payload_length: 24,
                next_header: IpNumber::IPV6_FRAGMENTATION_HEADER,
                hop_limit: 9,
                source: [1; 16],
                destination: [0xff; 16],
                ..Ipv6Header::default()
            };
            frame.extend(header.to_bytes());
            frame.extend(Ipv6FragmentHeader::new(IpNumber::UDP, place, more, id).to_bytes());
        } else {
            frame.extend([8, 0]);
            let mut header = Ipv4Header {
                dscp: (class >> 2).try_into().unwrap(),
                ecn: (class & 3).try_into().unwrap(),
                identification: u16::try_from(id & 0xffff).unwrap(),
                more_fragments: more,
                fragment_offset: place,
                protocol: IpNumber::UDP,
                time_to_live: 9,
                total_len: 36,
                source: [10, 0, 0, 1],
                destination: [239, 1, 1, 1],
                ..Ipv4Header::default()
            };
            header.header_checksum = header.calc_header_checksum();
            frame.extend(header.to_bytes());
        }
        frame.extend(DATA);
        frame.extend([0xee; 5]);
        frame
    }

    proptest! {
        #[test]
        fn a_fragment_is_read_as_etherparse_wrote_it(
            v6: bool, units in 0..8_192_u16, more: bool, class: u8, id: u32,
        ) {
            let bytes = frame(v6, units * 8, more, class, id);
            let refused = crate::parse_frame(&bytes, LinkLayer::Ethernet, crate::FrameMeta::default());
            let Some(fragment) = parse_fragment(&bytes, LinkLayer::Ethernet) else {
                prop_assert!(units == 0 && !more && refused.err() != Some(Refusal::Fragment));
                return Ok(());
            };
            prop_assert_eq!(refused.err(), Some(Refusal::Fragment));
            prop_assert_eq!((fragment.offset, fragment.more), (units * 8, more));
            prop_assert_eq!(fragment.head.identification, if v6 { id } else { id & 0xffff });
            prop_assert_eq!((fragment.head.traffic_class, fragment.head.ttl), (class, 9));
            prop_assert_eq!(fragment.head.next_header, 17);
            prop_assert_eq!(&bytes[fragment.data], DATA);
            prop_assert_eq!(parse_fragment(&bytes[14..], LinkLayer::None).map(|one| one.head), Some(fragment.head));
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(frame: Vec<u8>) {
            let _ = parse_fragment(&frame, LinkLayer::Ethernet);
            let _ = parse_fragment(&frame, LinkLayer::None);
        }
    }

    #[test]
    fn fragments_that_no_datagram_has() {
        let fragment = |v6, offset, more, bytes| {
            let head = parse_fragment(&frame(v6, 8, false, 0, 1), LinkLayer::Ethernet).unwrap().head;
            Fragment { head, offset, more, ip_offset: 0, data: 0..bytes }
        };
        for (v6, offset, more, bytes, expected) in [
            (false, 0, true, 8, Some(0..8)),
            (false, 8, false, 1, Some(8..9)),
            (false, 0, true, 12, None),
            (false, 8, false, 0, None),
            (false, 8, true, 0, None),
            (false, 65_512, false, 3, Some(65_512..65_515)),
            (false, 65_512, false, 4, None),
            (true, 65_528, false, 7, Some(65_528..65_535)),
            (true, 65_528, false, 8, None),
        ] {
            assert_eq!(fragment(v6, offset, more, bytes).range(), expected, "{v6} {offset} {more} {bytes}");
        }
    }
}
