//! IPv6: the header, and a bounded number of extension headers.

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::address::AddressBits;
use crate::checksum::Sum;
use crate::ip::IpPacket;
use crate::refusal::Refusal;
use crate::udp::PROTOCOL_UDP;

/// The IPv6 header (RFC 8200, section 3).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |Version| Traffic Class |           Flow Label                  |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |         Payload Length        |  Next Header  |   Hop Limit   |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                    Source Address (16 bytes)                  |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                 Destination Address (16 bytes)                |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv6Header {
    /// Version (6) in the upper 4 bits, then the traffic class (8 bits) and the flow label (20 bits).
    pub version_class_label: U32,
    /// Bytes behind this header, extension headers included.
    pub payload_length: U16,
    /// Type of the next header.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
}

/// The first bytes of every extension header but the fragment header (RFC 8200, section 4; RFC 4302, section 2).
///
/// ```text
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |  Next Header  |  Hdr Ext Len  | Routing Type  | Segments Left |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ExtensionHeader {
    next_header: u8,
    /// Units of eight bytes beyond the first eight; for AH units of four beyond the first eight.
    length: u8,
    /// Of a routing header; options otherwise.
    _routing_type: u8,
    /// Of a routing header; options otherwise.
    segments_left: u8,
}

/// The fragment header (RFC 8200, section 4.5).
///
/// ```text
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |  Next Header  |   Reserved    |      Fragment Offset    |Res|M|
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                         Identification                        |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct FragmentHeader {
    pub(crate) next_header: u8,
    _reserved: u8,
    pub(crate) offset_and_more: U16,
    pub(crate) identification: U32,
}

/// Bytes of an IPv6 header without extension headers.
pub const IPV6_HEADER_BYTES: usize = size_of::<Ipv6Header>();

/// The most extension headers of a packet. RFC 8200 defines six types, of which one may appear twice; more are an attempt to
/// keep the parser busy.
pub const MAX_EXTENSION_HEADERS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Offset and "more fragments" in the fragment header, without its two reserved bits.
const FRAGMENT_BITS: u16 = 0xfff9;

/// Parses an IPv6 packet that carries UDP. `packet` starts at the IP header and may end in link padding.
///
/// Checks, in this order: size, version, payload length, hop limit, extension headers, protocol.
///
/// # Errors
/// [`Refusal::Truncated`], [`Refusal::BadHeader`], [`Refusal::TtlZero`], [`Refusal::Fragment`] or
/// [`Refusal::NotUdp`].
#[inline]
pub(crate) fn parse_ipv6(packet: &[u8]) -> Result<IpPacket, Refusal> {
    let (header, _) = Ipv6Header::ref_from_prefix(packet).map_err(|_| Refusal::Truncated)?;
    let [version_and_class, class_and_label, ..] = header.version_class_label.to_bytes();
    if version_and_class >> 4 != 6 {
        return Err(Refusal::BadHeader);
    }
    let end = IPV6_HEADER_BYTES + usize::from(header.payload_length.get());
    let packet = packet.get(..end).ok_or(Refusal::Truncated)?;
    if header.hop_limit == 0 {
        return Err(Refusal::TtlZero);
    }
    let start = match header.next_header {
        PROTOCOL_UDP => IPV6_HEADER_BYTES,
        first => match skip_extension_headers(packet, first)? {
            (PROTOCOL_UDP, start) => start,
            _ => return Err(Refusal::NotUdp),
        },
    };
    let class = version_and_class << 4 | class_and_label >> 4;
    Ok(IpPacket {
        source: AddressBits::v6(header.source),
        destination: AddressBits::v6(header.destination),
        ttl: header.hop_limit,
        dscp: class >> 2,
        payload: start..end,
        addresses: Sum::default().add_bytes(&header.source).add_bytes(&header.destination),
    })
}

/// Skips the extension headers of `packet`, which ends where its payload length says. `first` is the next header of the IPv6
/// header. Returns the upper-layer protocol and where it starts.
///
/// # Errors
/// [`Refusal::BadHeader`] or [`Refusal::Fragment`].
#[cold]
pub(crate) fn skip_extension_headers(packet: &[u8], first: u8) -> Result<(u8, usize), Refusal> {
    match walk(packet, first)? {
        Chain::UpperLayer(protocol, start) => Ok((protocol, start)),
        Chain::Fragment(..) => Err(Refusal::Fragment),
    }
}

/// Finds the fragment header of a packet that is a fragment, and where its data starts.
pub(crate) fn find_fragment_header(packet: &[u8], first: u8) -> Option<(&FragmentHeader, usize)> {
    match walk(packet, first) {
        Ok(Chain::Fragment(header, start)) => Some((header, start)),
        _ => None,
    }
}

/// What a chain of extension headers leads to, and where that starts.
enum Chain<'a> {
    UpperLayer(u8, usize),
    /// The data of a fragment.
    Fragment(&'a FragmentHeader, usize),
}

/// See [`skip_extension_headers`].
fn walk(packet: &[u8], first: u8) -> Result<Chain<'_>, Refusal> {
    let mut next = first;
    let mut offset = IPV6_HEADER_BYTES;
    for skipped in 0..=MAX_EXTENSION_HEADERS {
        let rest = packet.get(offset..).ok_or(Refusal::BadHeader)?;
        (next, offset) = match next {
            // Must be the first (RFC 8200, section 4.1).
            HOP_BY_HOP if skipped > 0 => return Err(Refusal::BadHeader),
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | AUTHENTICATION => {
                let (header, _) = ExtensionHeader::ref_from_prefix(rest).map_err(|_| Refusal::BadHeader)?;
                // This is not the final destination (RFC 8200, section 4.4).
                if next == ROUTING && header.segments_left != 0 {
                    return Err(Refusal::BadHeader);
                }
                let units = usize::from(header.length);
                let bytes = match next {
                    // The fixed fields take 12 bytes (RFC 4302, section 2).
                    AUTHENTICATION if units == 0 => return Err(Refusal::BadHeader),
                    AUTHENTICATION => (units + 2) * 4,
                    _ => (units + 1) * 8,
                };
                (header.next_header, offset + bytes)
            }
            FRAGMENT => {
                let (header, _) = FragmentHeader::ref_from_prefix(rest).map_err(|_| Refusal::BadHeader)?;
                // An atomic fragment is a whole packet (RFC 6946).
                let start = offset + size_of::<FragmentHeader>();
                if header.offset_and_more.get() & FRAGMENT_BITS != 0 {
                    return Ok(Chain::Fragment(header, start));
                }
                (header.next_header, start)
            }
            protocol => return Ok(Chain::UpperLayer(protocol, offset)),
        };
    }
    Err(Refusal::BadHeader)
}

#[cfg(test)]
mod tests;
