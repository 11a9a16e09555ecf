//! The datagrams of a frame, split so that each part fits into one send.

use std::iter::from_fn;

use mcr_sys::mmsg::{MAX_SEGMENTS, MAX_SEND_BYTES};
use mcr_wire::{Datagram, VNET_HEADER_BYTES};

use super::send::Piece;

/// Datagrams that arrived together: one, or several of a super-frame, contiguous in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival<F> {
    pub(crate) piece: Piece<F>,
    /// The size of each but the last, which may be shorter; the size of the only one.
    pub(crate) segment_bytes: u16,
    pub(crate) datagrams: u16,
    /// No other rule has counted these datagrams as matched.
    pub(crate) first_match: bool,
    pub(crate) ttl: u8,
    pub(crate) dscp: u8,
}

/// The datagrams of a frame; at least one arrival.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a frame's payload is below 64 KiB, and 64 datagrams at most"
)]
pub(crate) fn arrivals<F: Copy>(
    frame: F,
    datagram: &Datagram,
    first_match: bool,
) -> impl Iterator<Item = Arrival<F>> + use<F> {
    let (ttl, dscp) = (datagram.ttl, datagram.dscp);
    let (mut start, end) = (datagram.payload.start, datagram.payload.end);
    let all = datagram.payload.len();
    let (size, step) = match datagram.segment_bytes.map(usize::from) {
        // A super-frame may have a single datagram.
        Some(size @ 1..) if size < all => (size, size * (MAX_SEND_BYTES / size).clamp(1, MAX_SEGMENTS)),
        _ => (all, all),
    };
    let mut more = true;
    from_fn(move || {
        if !more {
            return None;
        }
        let bytes = step.min(end - start);
        let (segment_bytes, datagrams) =
            if bytes <= size { (bytes, 1) } else { (size, bytes.div_ceil(size)) };
        let piece = Piece { frame, start: (VNET_HEADER_BYTES + start) as u32, bytes: bytes as u32 };
        start += bytes;
        more = start < end;
        Some(Arrival {
            piece,
            segment_bytes: segment_bytes as u16,
            datagrams: datagrams as u16,
            first_match,
            ttl,
            dscp,
        })
    })
}
