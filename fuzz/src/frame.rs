//! Frames: two bytes for what the kernel reports, then the frame.

use mcr_wire::{Datagram, FrameMeta, LinkLayer, parse_frame, parse_vnet_header};

use crate::oracle;

/// Asserts the property.
///
/// # Panics
/// It does not hold.
pub fn check(data: &[u8]) {
    with_virtio_header(data);
    let [flags, segment, frame @ ..] = data else { return };
    let link = if flags & 1 == 0 { LinkLayer::Ethernet } else { LinkLayer::None };
    let checksum_pending = flags & 2 != 0;
    let meta = FrameMeta { checksum_pending, checksum_verified: false, segment_bytes: None };
    oracle::assert_agreement(frame, link, meta);
    let segment_bytes = Some(u16::from(*segment) * 7);
    if let Ok(datagram) = parse_frame(frame, link, FrameMeta { segment_bytes, ..meta }) {
        segments_cover(&datagram, frame.len());
    }
}

fn with_virtio_header(bytes: &[u8]) {
    let Ok((meta, frame)) = parse_vnet_header(bytes) else { return };
    for link in [LinkLayer::Ethernet, LinkLayer::None] {
        if let Ok(datagram) = parse_frame(frame, link, meta) {
            segments_cover(&datagram, frame.len());
        }
    }
}

fn segments_cover(datagram: &Datagram, frame_bytes: usize) {
    assert!(datagram.payload.end <= frame_bytes && datagram.ttl > 0 && datagram.dscp < 64);
    let mut start = datagram.payload.start;
    let mut count = 0;
    for segment in datagram.segments() {
        assert_eq!(segment.start, start);
        assert!(datagram.segment_bytes.is_none_or(|bytes| segment.len() <= usize::from(bytes)));
        start = segment.end;
        count += 1;
    }
    assert_eq!((start, count), (datagram.payload.end, datagram.segment_count()));
}
