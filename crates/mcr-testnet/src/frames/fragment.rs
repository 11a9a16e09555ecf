//! Fragments of one datagram.

use super::{Extension, UdpFrame};

const FRAGMENT_HEADER: u8 = 44;
const MORE_FRAGMENTS_V4: u16 = 0x2000;
const MORE_FRAGMENTS_V6: u16 = 1;

/// The frames of a datagram sent in fragments of `bytes` each (a multiple of eight); the last may be shorter.
#[must_use]
pub fn fragments(frame: &UdpFrame, bytes: usize) -> Vec<Vec<u8>> {
    assert!(bytes > 0 && bytes.is_multiple_of(8), "fragments of {bytes} bytes is not a multiple of eight");
    let datagram = frame.datagram();
    let last = datagram.len().div_ceil(bytes) - 1;
    let piece = |(number, part): (usize, &[u8])| {
        let units = u16::try_from(number * bytes / 8).expect("an offset in a datagram");
        let header = header(frame, units, number < last, part.len());
        [frame.link_header(), header, part.to_vec()].concat()
    };
    datagram.chunks(bytes).enumerate().map(piece).collect()
}

/// The IP header of the fragment with `part_bytes` bytes at offset `units`, in units of eight bytes.
fn header(frame: &UdpFrame, units: u16, more: bool, part_bytes: usize) -> Vec<u8> {
    let mut frame = frame.clone();
    if frame.is_ipv4() {
        frame.flags_and_offset = units | if more { MORE_FRAGMENTS_V4 } else { 0 };
    } else {
        let offset = (units << 3 | if more { MORE_FRAGMENTS_V6 } else { 0 }).to_be_bytes();
        let [high, low] = frame.identification.to_be_bytes();
        let bytes = vec![0, 0, offset[0], offset[1], 0, 0, high, low];
        frame.extensions.push(Extension { kind: FRAGMENT_HEADER, bytes });
    }
    frame.ip_header(part_bytes)
}
