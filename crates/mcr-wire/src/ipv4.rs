//! IPv4: header, options, lengths and checksum. Fragments are refused; see [`crate::fragment`].

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::address::AddressBits;
use crate::checksum::Sum;
use crate::ip::IpPacket;
use crate::refusal::Refusal;
use crate::udp::PROTOCOL_UDP;

/// The fixed part of an IPv4 header (RFC 791, section 3.1; DSCP and ECN: RFC 2474, RFC 3168).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |Version|  IHL  |   DSCP    |ECN|          Total Length         |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |         Identification        |0|D|M|     Fragment Offset     |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |  Time to Live |    Protocol   |         Header Checksum       |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                       Source Address                          |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                    Destination Address                        |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                    Options (0 to 40 bytes)                    |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv4Header {
    /// Version (4) in the high half; header length in words of four bytes in the low half.
    pub version_and_length: u8,
    /// DSCP in the upper six bits, ECN in the lower two.
    pub dscp_and_ecn: u8,
    /// Bytes of header and payload together.
    pub total_length: U16,
    /// Identifies the fragments of a datagram.
    pub identification: U16,
    /// Flags in the upper three bits; fragment offset in units of eight bytes in the lower 13.
    pub flags_and_offset: U16,
    /// Time to live, in hops.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Checksum of the header with its options.
    pub checksum: U16,
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
}

impl Ipv4Header {
    /// Bytes of the header with its options, as the header says; below [`IPV4_HEADER_BYTES`] if it is invalid.
    #[inline]
    #[must_use]
    pub fn header_bytes(&self) -> usize {
        usize::from(self.version_and_length & 0x0f) * 4
    }

    /// The fragment offset in units of eight bytes; 0 in the first fragment and in a whole packet.
    #[inline]
    #[must_use]
    pub fn fragment_offset(&self) -> u16 {
        self.flags_and_offset.get() & 0x1fff
    }
}

/// Bytes of an IPv4 header without options.
pub const IPV4_HEADER_BYTES: usize = size_of::<Ipv4Header>();

/// "More fragments" and the fragment offset.
const FRAGMENT_BITS: u16 = 0x3fff;

/// Parses an IPv4 packet that carries UDP. `packet` starts at the IP header and may end in link padding.
///
/// Checks, in this order: size, version, header length, header checksum, total length, protocol, TTL, fragmentation. The
/// first fault is reported.
///
/// # Errors
/// [`Refusal::Truncated`], [`Refusal::BadHeader`], [`Refusal::BadChecksum`], [`Refusal::NotUdp`],
/// [`Refusal::TtlZero`] or [`Refusal::Fragment`].
#[inline(always)]
pub(crate) fn parse_ipv4(packet: &[u8]) -> Result<IpPacket, Refusal> {
    let (header, _) = Ipv4Header::ref_from_prefix(packet).map_err(|_| Refusal::Truncated)?;
    if header.version_and_length >> 4 != 4 {
        return Err(Refusal::BadHeader);
    }
    let header_bytes = header.header_bytes();
    if header_bytes < IPV4_HEADER_BYTES {
        return Err(Refusal::BadHeader);
    }
    let header_and_options = packet.get(..header_bytes).ok_or(Refusal::Truncated)?;
    // The kernel computes this checksum before a frame reaches a device, so it is never partial.
    if !Sum::default().add_bytes(header_and_options).is_valid() {
        return Err(Refusal::BadChecksum);
    }
    let end = usize::from(header.total_length.get());
    if end < header_bytes {
        return Err(Refusal::BadHeader);
    }
    if end > packet.len() {
        return Err(Refusal::Truncated);
    }
    if header.protocol != PROTOCOL_UDP {
        return Err(Refusal::NotUdp);
    }
    if header.ttl == 0 {
        return Err(Refusal::TtlZero);
    }
    if header.flags_and_offset.get() & FRAGMENT_BITS != 0 {
        return Err(Refusal::Fragment);
    }
    Ok(IpPacket {
        source: AddressBits::v4(header.source),
        destination: AddressBits::v4(header.destination),
        ttl: header.ttl,
        dscp: header.dscp_and_ecn >> 2,
        payload: header_bytes..end,
        addresses: Sum::default().add_bytes(&header.source).add_bytes(&header.destination),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A valid packet of 20 + `options` + 12 bytes, without its checksum.
    fn packet(options: &[u8]) -> Vec<u8> {
        let header_bytes = 20 + options.len();
        let total = u8::try_from(header_bytes + 12).unwrap();
        let ihl = u8::try_from(header_bytes / 4).unwrap();
        let mut packet = vec![0x40 | ihl, 0xb8, 0, total, 0, 1, 0x40, 0, 16, 17, 0, 0];
        packet.extend([10, 1, 0, 1, 239, 1, 1, 1]);
        packet.extend(options);
        packet.extend([0; 12]);
        packet
    }

    /// A packet with some bytes changed and a correct header checksum.
    fn with(changes: &[(usize, u8)]) -> Vec<u8> {
        let mut packet = packet(&[]);
        for (place, value) in changes {
            packet[*place] = *value;
        }
        sealed(packet)
    }

    fn sealed(mut packet: Vec<u8>) -> Vec<u8> {
        let header_bytes = (usize::from(packet[0] & 15) * 4).clamp(20, packet.len());
        packet[10..12].fill(0);
        let checksum = Sum::default().add_bytes(&packet[..header_bytes]).checksum();
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    #[test]
    fn a_valid_packet() {
        let parsed = parse_ipv4(&with(&[])).unwrap();
        assert_eq!(parsed.source, AddressBits::v4([10, 1, 0, 1]));
        assert_eq!(parsed.destination, AddressBits::v4([239, 1, 1, 1]));
        assert_eq!((parsed.ttl, parsed.dscp, parsed.payload), (16, 46, 20..32));
    }

    #[test]
    fn options_of_every_length_are_skipped() {
        for words in 0..=10_usize {
            let packet = sealed(packet(&vec![1; words * 4]));
            let start = 20 + words * 4;
            assert_eq!(parse_ipv4(&packet).unwrap().payload, start..start + 12, "{words} words");
        }
    }

    #[test]
    fn refusals() {
        for (changes, expected, what) in [
            (&[(0, 0x65)][..], Refusal::BadHeader, "version 6"),
            (&[(0, 0x05)], Refusal::BadHeader, "version 0"),
            (&[(0, 0x44)], Refusal::BadHeader, "header of 16 bytes"),
            (&[(0, 0x40)], Refusal::BadHeader, "header of 0 bytes"),
            (&[(0, 0x4f)], Refusal::Truncated, "header of 60 bytes in a frame of 32"),
            (&[(3, 19)], Refusal::BadHeader, "total length below the header"),
            (&[(3, 0)], Refusal::BadHeader, "total length 0"),
            (&[(3, 33)], Refusal::Truncated, "one byte more than there is"),
            (&[(2, 255)], Refusal::Truncated, "much more than there is"),
            (&[(9, 6)], Refusal::NotUdp, "TCP"),
            (&[(9, 51)], Refusal::NotUdp, "AH"),
            (&[(9, 136)], Refusal::NotUdp, "UDP-Lite"),
            (&[(8, 0)], Refusal::TtlZero, "TTL 0"),
            (&[(6, 0x20)], Refusal::Fragment, "first fragment"),
            (&[(6, 0x20), (7, 1)], Refusal::Fragment, "middle fragment"),
            (&[(7, 1)], Refusal::Fragment, "last fragment"),
            (&[(6, 0x1f), (7, 0xff)], Refusal::Fragment, "last possible offset"),
        ] {
            assert_eq!(parse_ipv4(&with(changes)).unwrap_err(), expected, "{what}");
        }
    }

    #[test]
    fn unusual_but_valid() {
        for (changes, what) in [
            (&[(6, 0x40), (7, 0)][..], "don't fragment"),
            (&[(6, 0x80), (7, 0)], "the reserved flag"),
            (&[(8, 1)], "TTL 1"),
            (&[(8, 255)], "TTL 255"),
            (&[(1, 3)], "congestion experienced"),
            (&[(3, 20)], "no payload, which the UDP parser refuses"),
        ] {
            assert!(parse_ipv4(&with(changes)).is_ok(), "{what}");
        }
    }

    #[test]
    fn padding_is_not_payload() {
        let mut packet = with(&[]);
        packet.extend([0xee; 18]);
        assert_eq!(parse_ipv4(&packet).unwrap().payload, 20..32);
    }

    #[test]
    fn any_flipped_header_bit_is_refused() {
        let valid = sealed(packet(&[1, 1, 1, 0]));
        for bit in 0..24 * 8 {
            let mut wrong = valid.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(parse_ipv4(&wrong).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_prefix_is_truncated() {
        let whole = with(&[]);
        for bytes in 0..whole.len() {
            assert_eq!(parse_ipv4(&whole[..bytes]).unwrap_err(), Refusal::Truncated, "{bytes} bytes");
        }
    }
}
