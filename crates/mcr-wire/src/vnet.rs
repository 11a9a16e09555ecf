//! The header that `PACKET_VNET_HDR` puts in front of each frame, with what the kernel knows about it.

use zerocopy::byteorder::native_endian::U16;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::frame::FrameMeta;
use crate::refusal::Refusal;

/// `struct virtio_net_hdr` of `linux/virtio_net.h` (virtio 1.2, section 5.1.6), in native byte order.
///
/// ```text
///    0       1       2       4        6           8             10
///    +-------+-------+-------+--------+-----------+-------------+
///    | flags | gso   | hdr   | gso    | csum      | csum        |
///    |       | type  | len   | size   | start     | offset      |
///    +-------+-------+-------+--------+-----------+-------------+
/// ```
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VnetHeader {
    /// [`FLAG_NEEDS_CHECKSUM`], [`FLAG_DATA_VALID`] and others.
    pub flags: u8,
    /// The type of super-frame.
    pub segmentation_type: u8,
    /// Bytes of headers in front of the payload; a hint, not used.
    pub header_length: U16,
    /// Bytes of payload in each datagram of a super-frame but the last.
    pub segment_bytes: U16,
    /// Where the sum of a partial checksum starts; not used.
    pub checksum_start: U16,
    /// Where the checksum belongs, from there; not used.
    pub checksum_offset: U16,
}

/// Bytes in front of each frame.
pub const VNET_HEADER_BYTES: usize = size_of::<VnetHeader>();

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum is partial.
pub const FLAG_NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_F_DATA_VALID`: the checksum was verified by the device or the kernel.
pub const FLAG_DATA_VALID: u8 = 2;

const SEGMENTATION_NONE: u8 = 0;
const SEGMENTATION_TCP4: u8 = 1;
const SEGMENTATION_TCP6: u8 = 4;
const SEGMENTATION_UDP: u8 = 5;
/// `VIRTIO_NET_HDR_GSO_ECN`: a flag in the type; TCP only.
const SEGMENTATION_ECN: u8 = 0x80;

/// Parses the header. Returns its contents and the frame behind it.
///
/// # Errors
/// [`Refusal::Truncated`] if the bytes are too few, [`Refusal::BadSuperFrame`] for a type of super-frame that the kernel is
/// not known to deliver, or one with segments of 0 bytes.
#[inline]
pub fn parse_vnet_header(bytes: &[u8]) -> Result<(FrameMeta, &[u8]), Refusal> {
    let (header, frame) = VnetHeader::ref_from_prefix(bytes).map_err(|_| Refusal::Truncated)?;
    let segment_bytes = match (header.segmentation_type & !SEGMENTATION_ECN, header.segment_bytes.get()) {
        // The IP parser refuses super-frames of TCP, as not UDP.
        (SEGMENTATION_NONE | SEGMENTATION_TCP4 | SEGMENTATION_TCP6, _) => None,
        (SEGMENTATION_UDP, bytes @ 1..) => Some(bytes),
        _ => return Err(Refusal::BadSuperFrame),
    };
    let meta = FrameMeta {
        checksum_pending: header.flags & FLAG_NEEDS_CHECKSUM != 0,
        checksum_verified: header.flags & FLAG_DATA_VALID != 0,
        segment_bytes,
    };
    Ok((meta, frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(flags: u8, kind: u8, segment_bytes: u16) -> Vec<u8> {
        let mut bytes = vec![flags, kind, 0, 0];
        bytes.extend(segment_bytes.to_ne_bytes());
        bytes.extend([34, 0, 6, 0]);
        bytes.push(7);
        bytes
    }

    #[test]
    fn flags_and_types() {
        let none = FrameMeta::default();
        let pending = FrameMeta { checksum_pending: true, ..none };
        let verified = FrameMeta { checksum_verified: true, ..none };
        let super_frame = FrameMeta { segment_bytes: Some(1000), ..pending };
        for (bytes, expected) in [
            (header(0, 0, 0), Ok(none)),
            (header(1, 0, 0), Ok(pending)),
            (header(2, 0, 0), Ok(verified)),
            (header(4, 0, 0), Ok(none)),
            (header(1, 5, 1000), Ok(super_frame)),
            (header(1, 0x85, 1000), Ok(super_frame)),
            (header(1, 5, 0), Err(Refusal::BadSuperFrame)),
            (header(1, 1, 1460), Ok(pending)),
            (header(1, 4, 1440), Ok(pending)),
            (header(1, 3, 1000), Err(Refusal::BadSuperFrame)),
            (header(1, 2, 1000), Err(Refusal::BadSuperFrame)),
            (header(1, 0x7f, 1000), Err(Refusal::BadSuperFrame)),
        ] {
            assert_eq!(parse_vnet_header(&bytes), expected.map(|meta| (meta, [7].as_slice())), "{bytes:?}");
        }
    }

    #[test]
    fn too_short() {
        let whole = header(0, 0, 0);
        for bytes in 0..VNET_HEADER_BYTES {
            assert_eq!(parse_vnet_header(&whole[..bytes]), Err(Refusal::Truncated), "{bytes} bytes");
        }
    }
}
