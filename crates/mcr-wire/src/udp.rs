//! UDP: ports, length and checksum.

use std::net::{IpAddr, SocketAddr};

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::checksum::Sum;
use crate::refusal::Refusal;

/// The header of a UDP datagram (RFC 768).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |          Source port          |        Destination port       |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |             Length            |            Checksum           |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct UdpHeader {
    /// Source port; 0 means none.
    pub source_port: U16,
    /// Destination port.
    pub destination_port: U16,
    /// Bytes of header and payload together.
    pub length: U16,
    /// Checksum of pseudo header, header and payload; 0 means none, which only IPv4 allows.
    pub checksum: U16,
}

/// Bytes of a UDP header.
pub const UDP_HEADER_BYTES: usize = size_of::<UdpHeader>();

/// UDP as a protocol of IPv4 and a next header of IPv6 (RFC 768, RFC 8200).
pub const PROTOCOL_UDP: u8 = 17;

/// What a checksum must satisfy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChecksumRule {
    /// Nothing: it is partial, or the kernel has verified it.
    Trust,
    /// It must be correct; 0 means that there is none (IPv4, RFC 768).
    Optional,
    /// It must be correct (IPv6, RFC 8200 section 8.1; the tunnels of RFC 6935 are no inputs here).
    Mandatory,
}

/// Parses the UDP datagram in the payload of an IP packet. Returns the header, and the bytes of header and payload together.
///
/// A datagram may be shorter than the IP payload; what follows it is not payload (RFC 9868, section 5).
/// `addresses` is the sum of the IP addresses, for the pseudo header.
///
/// # Errors
/// [`Refusal::BadLength`] or [`Refusal::BadChecksum`].
#[inline]
pub(crate) fn parse_udp(
    ip_payload: &[u8],
    addresses: Sum,
    rule: ChecksumRule,
) -> Result<(&UdpHeader, usize), Refusal> {
    let (header, _) = UdpHeader::ref_from_prefix(ip_payload).map_err(|_| Refusal::BadLength)?;
    let length = header.length.get();
    let bytes = usize::from(length);
    if bytes < UDP_HEADER_BYTES {
        return Err(Refusal::BadLength);
    }
    let datagram = ip_payload.get(..bytes).ok_or(Refusal::BadLength)?;
    let verify = match rule {
        ChecksumRule::Trust => false,
        ChecksumRule::Optional => header.checksum.get() != 0,
        ChecksumRule::Mandatory if header.checksum.get() == 0 => return Err(Refusal::BadChecksum),
        ChecksumRule::Mandatory => true,
    };
    if verify {
        // Both pseudo headers (RFC 768; RFC 8200 section 8.1) have the same sum: addresses, protocol, length.
        let sum = addresses.add_u16(u16::from(PROTOCOL_UDP)).add_u16(length).add_bytes(datagram);
        if !sum.is_valid() {
            return Err(Refusal::BadChecksum);
        }
    }
    Ok((header, bytes))
}

/// The header of a datagram, with its checksum, for a socket that does not write it. Addresses are of one family; of parts of
/// the payload, all but the last have an even length.
#[must_use]
pub fn udp_header<'p>(
    source: SocketAddr,
    destination: SocketAddr,
    payload: impl Iterator<Item = &'p [u8]>,
) -> [u8; UDP_HEADER_BYTES] {
    let address = |sum: Sum, address: IpAddr| match address {
        IpAddr::V4(address) => sum.add_bytes(&address.octets()),
        IpAddr::V6(address) => sum.add_bytes(&address.octets()),
    };
    let (bytes, sum) = payload.fold((UDP_HEADER_BYTES, Sum::default()), |(bytes, sum), part| {
        (bytes + part.len(), sum.add_bytes(part))
    });
    let length = u16::try_from(bytes).unwrap_or(u16::MAX);
    let sum =
        address(address(sum, source.ip()), destination.ip()).add_u16(PROTOCOL_UDP.into()).add_u16(length);
    // 0 would say that there is no checksum (RFC 768).
    let checksum = match sum.add_u16(source.port()).add_u16(destination.port()).add_u16(length).checksum() {
        0 => 0xffff,
        checksum => checksum,
    };
    let mut header = [0; UDP_HEADER_BYTES];
    let fields = [source.port(), destination.port(), length, checksum];
    for (place, field) in header.chunks_mut(2).zip(fields) {
        place.copy_from_slice(&field.to_be_bytes());
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESSES: [u8; 8] = [10, 1, 0, 1, 239, 1, 1, 1];

    fn addresses() -> Sum {
        Sum::default().add_bytes(&ADDRESSES)
    }

    fn datagram(length: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x30, 0x39, 0x13, 0x88];
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(payload);
        let sum = addresses().add_u16(17).add_u16(length);
        let end = usize::from(length).min(bytes.len());
        let checksum = sum.add_bytes(&bytes[..end]).checksum();
        bytes[6..8].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    /// What is written is what the parser accepts, and it covers each byte.
    #[test]
    fn a_header_that_is_written_is_read() {
        let payloads: [&[&[u8]]; 4] = [&[], &[b"odd"], &[b"even", b"odd"], &[&[0xff; 1_472]]];
        for payload in payloads {
            let [v4, v6] = [["10.1.0.1:5353", "239.1.1.1:5000"], ["[fd01::1]:5353", "[ff15::1]:5000"]];
            for addresses in [v4, v6].map(|pair| pair.map(|address| address.parse::<SocketAddr>().unwrap())) {
                let [source, destination] = addresses;
                let mut datagram = udp_header(source, destination, payload.iter().copied()).to_vec();
                payload.iter().for_each(|part| datagram.extend(*part));
                let sum = addresses.iter().fold(Sum::default(), |sum, address| match address.ip() {
                    IpAddr::V4(address) => sum.add_bytes(&address.octets()),
                    IpAddr::V6(address) => sum.add_bytes(&address.octets()),
                });
                let (header, bytes) = parse_udp(&datagram, sum, ChecksumRule::Mandatory).unwrap();
                assert_eq!((header.source_port.get(), header.destination_port.get()), (5353, 5000));
                assert_eq!(bytes, datagram.len());
                datagram[0] ^= 1;
                assert!(parse_udp(&datagram, sum, ChecksumRule::Mandatory).is_err());
            }
        }
    }

    #[test]
    fn ports_and_length() {
        let bytes = datagram(12, b"abcd");
        let (header, length) = parse_udp(&bytes, addresses(), ChecksumRule::Mandatory).unwrap();
        assert_eq!((header.source_port.get(), header.destination_port.get(), length), (12345, 5000, 12));
    }

    #[test]
    fn lengths() {
        for (length, expected) in [
            (8, Ok(8)),
            (9, Ok(9)),
            (11, Ok(11)),
            (12, Ok(12)),
            (13, Err(Refusal::BadLength)),
            (65_535, Err(Refusal::BadLength)),
            (7, Err(Refusal::BadLength)),
            (1, Err(Refusal::BadLength)),
            (0, Err(Refusal::BadLength)),
        ] {
            let bytes = datagram(length, b"abcd");
            let parsed = parse_udp(&bytes, addresses(), ChecksumRule::Mandatory);
            assert_eq!(parsed.map(|(_, bytes)| bytes), expected, "length {length}");
        }
    }

    #[test]
    fn a_truncated_header() {
        let whole = datagram(8, b"");
        for bytes in 0..8 {
            let parsed = parse_udp(&whole[..bytes], addresses(), ChecksumRule::Trust);
            assert_eq!(parsed.err(), Some(Refusal::BadLength), "{bytes} bytes");
        }
    }

    #[test]
    fn checksums() {
        let right = datagram(12, b"abcd");
        let mut wrong = right.clone();
        wrong[11] ^= 1;
        let mut none = right.clone();
        none[6..8].fill(0);
        for (bytes, rule, expected) in [
            (&right, ChecksumRule::Optional, true),
            (&right, ChecksumRule::Mandatory, true),
            (&right, ChecksumRule::Trust, true),
            (&wrong, ChecksumRule::Optional, false),
            (&wrong, ChecksumRule::Mandatory, false),
            (&wrong, ChecksumRule::Trust, true),
            (&none, ChecksumRule::Optional, true),
            (&none, ChecksumRule::Mandatory, false),
            (&none, ChecksumRule::Trust, true),
        ] {
            let parsed = parse_udp(bytes, addresses(), rule);
            assert_eq!(parsed.is_ok(), expected, "{bytes:?} {rule:?}");
            assert!(expected || parsed.err() == Some(Refusal::BadChecksum));
        }
    }

    #[test]
    fn a_checksum_of_zero_is_sent_as_all_ones() {
        // A payload with checksum 0, which is sent as ffff (RFC 768).
        let found = (0..=u16::MAX).find_map(|word| {
            let bytes = datagram(10, &word.to_be_bytes());
            (bytes[6..8] == [0, 0]).then_some(bytes)
        });
        let mut bytes = found.unwrap();
        bytes[6..8].fill(0xff);
        assert!(parse_udp(&bytes, addresses(), ChecksumRule::Mandatory).is_ok());
    }
}
