//! Ethernet II. VLAN tags are refused, except priority tags.

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::refusal::Refusal;

/// The header of an Ethernet II frame (IEEE 802.3, clause 3.1.1; RFC 894).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                      Destination address                      |
/// +                               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                               |                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+         Source address        +
/// |                                                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |           EtherType           |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EthernetHeader {
    /// Destination MAC address.
    pub destination: [u8; 6],
    /// Source MAC address.
    pub source: [u8; 6],
    /// Protocol of the payload; values below 0x0600 are the length of an 802.3 frame.
    pub ether_type: U16,
}

/// Bytes of an Ethernet header.
pub const ETHERNET_HEADER_BYTES: usize = size_of::<EthernetHeader>();

/// IPv4 (RFC 894).
pub const ETHER_TYPE_IPV4: u16 = 0x0800;
/// IPv6 (RFC 2464).
pub const ETHER_TYPE_IPV6: u16 = 0x86dd;
/// Customer VLAN tag (IEEE 802.1Q).
pub const ETHER_TYPE_VLAN: u16 = 0x8100;
/// Service VLAN tag, the outer tag of QinQ (IEEE 802.1ad).
pub const ETHER_TYPE_SERVICE_VLAN: u16 = 0x88a8;
/// Outer tag of QinQ before IEEE 802.1ad; switches still offer it.
pub const ETHER_TYPE_LEGACY_VLAN: u16 = 0x9100;

/// The IP version of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Parses the header of an Ethernet frame. Returns the IP version of the packet at [`ETHERNET_HEADER_BYTES`].
///
/// # Errors
/// [`Refusal::Vlan`] for a VLAN tag, [`Refusal::NotIp`] for anything else that is not IP.
#[inline]
pub fn parse_ethernet(frame: &[u8]) -> Result<IpVersion, Refusal> {
    let (header, _) = EthernetHeader::ref_from_prefix(frame).map_err(|_| Refusal::NotIp)?;
    match header.ether_type.get() {
        ETHER_TYPE_IPV4 => Ok(IpVersion::V4),
        ETHER_TYPE_IPV6 => Ok(IpVersion::V6),
        ETHER_TYPE_VLAN | ETHER_TYPE_SERVICE_VLAN | ETHER_TYPE_LEGACY_VLAN => Err(Refusal::Vlan),
        _ => Err(Refusal::NotIp),
    }
}

/// Bytes of a VLAN tag: its EtherType and the tag control information.
pub const VLAN_TAG_BYTES: usize = 4;

/// Parses a frame with one priority tag (IEEE 802.1Q: VLAN 0), which carries a priority and names no VLAN. Returns the IP
/// version of the packet behind the tag.
///
/// # Errors
/// [`Refusal::Vlan`] for any other tag, [`Refusal::NotIp`] for anything else that is not IP.
pub fn parse_priority_tagged(frame: &[u8]) -> Result<IpVersion, Refusal> {
    let tag = frame.get(ETHERNET_HEADER_BYTES..).and_then(|rest| rest.first_chunk::<VLAN_TAG_BYTES>());
    let [high, low, a, b] = tag.ok_or(Refusal::Vlan)?;
    if u16::from_be_bytes([*high, *low]) & 0x0fff != 0 {
        return Err(Refusal::Vlan);
    }
    match u16::from_be_bytes([*a, *b]) {
        ETHER_TYPE_IPV4 => Ok(IpVersion::V4),
        ETHER_TYPE_IPV6 => Ok(IpVersion::V6),
        ETHER_TYPE_VLAN | ETHER_TYPE_SERVICE_VLAN | ETHER_TYPE_LEGACY_VLAN => Err(Refusal::Vlan),
        _ => Err(Refusal::NotIp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ether_type: u16) -> Vec<u8> {
        let mut frame = vec![0x01, 0, 0x5e, 1, 1, 1, 2, 0, 0, 0, 0, 1];
        frame.extend(ether_type.to_be_bytes());
        frame
    }

    #[test]
    fn ether_types() {
        for (ether_type, expected) in [
            (0x0800, Ok(IpVersion::V4)),
            (0x86dd, Ok(IpVersion::V6)),
            (0x8100, Err(Refusal::Vlan)),
            (0x88a8, Err(Refusal::Vlan)),
            (0x9100, Err(Refusal::Vlan)),
            (0x0806, Err(Refusal::NotIp)),
            (0x8847, Err(Refusal::NotIp)),
            (0x88e5, Err(Refusal::NotIp)),
            (0x88f7, Err(Refusal::NotIp)),
            (0x05dc, Err(Refusal::NotIp)),
            (0x0008, Err(Refusal::NotIp)),
            (0x0000, Err(Refusal::NotIp)),
        ] {
            assert_eq!(parse_ethernet(&frame(ether_type)), expected, "{ether_type:#06x}");
        }
    }

    #[test]
    fn a_priority_tag_names_no_vlan() {
        for (tag, ether_type, expected) in [
            (0, 0x0800, Ok(IpVersion::V4)),
            (0xa000, 0x86dd, Ok(IpVersion::V6)),
            (7, 0x0800, Err(Refusal::Vlan)),
            (0xafff, 0x0800, Err(Refusal::Vlan)),
            (0, 0x8100, Err(Refusal::Vlan)),
            (0, 0x0806, Err(Refusal::NotIp)),
        ] {
            let mut tagged = frame(0x8100);
            tagged.extend([u16::to_be_bytes(tag), u16::to_be_bytes(ether_type)].concat());
            assert_eq!(parse_ethernet(&tagged), Err(Refusal::Vlan));
            assert_eq!(parse_priority_tagged(&tagged), expected, "{tag:#06x} {ether_type:#06x}");
            assert_eq!(parse_priority_tagged(&tagged[..17]), Err(Refusal::Vlan));
        }
    }

    #[test]
    fn a_short_frame_is_not_ip() {
        let whole = frame(0x0800);
        for bytes in 0..whole.len() {
            assert_eq!(parse_ethernet(&whole[..bytes]), Err(Refusal::NotIp), "{bytes} bytes");
        }
    }

    #[test]
    fn header_layout() {
        let bytes: Vec<u8> = (1..=14).collect();
        let header = EthernetHeader::ref_from_bytes(&bytes).unwrap();
        assert_eq!(header.destination, [1, 2, 3, 4, 5, 6]);
        assert_eq!(header.source, [7, 8, 9, 10, 11, 12]);
        assert_eq!(header.ether_type.get(), 0x0d0e);
    }
}
