//! Fragments, of both families. The datagram is 31 bytes long.

use mcr_testnet::frames::{Checksum, UdpFrame, fragments};

use super::{
    ANY_SOURCE, IPV6, ONE_SOURCE, Outcome, Row, address, filtered, frame_to, one_of, put_together, row,
    skipped_once,
};

/// The first fragment of `first` bytes, and the others of `second` bytes.
fn mixed(frame: &UdpFrame, first: usize, second: usize) -> Vec<Vec<u8>> {
    let mut all = fragments(frame, first);
    all.truncate(1);
    all.extend(fragments(frame, second).into_iter().skip(1));
    all
}

pub(super) fn rows() -> Vec<Row> {
    [complete(), given_up(), refused()].into_iter().flatten().collect()
}

/// The fragments in these places.
fn places(mut frames: Vec<Vec<u8>>, places: &[usize]) -> Vec<Vec<u8>> {
    places.iter().map(|place| std::mem::take(&mut frames[*place])).collect()
}

/// The first fragment again, before the others.
fn twice(mut frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    frames.insert(0, frames[0].clone());
    frames
}

fn v4(identification: u16) -> UdpFrame {
    one_of(identification, super::v4())
}

fn v6(identification: u16) -> UdpFrame {
    one_of(identification, super::v6())
}

fn complete() -> Vec<Row> {
    let dont_fragment = fragments(&v4(4), 16).into_iter().map(|mut frame| {
        dont_fragment(&mut frame);
        frame
    });
    vec![
        put_together("four fragments", ANY_SOURCE, fragments(&v4(1), 8)),
        put_together("IPv6 fragments", IPV6, fragments(&v6(1), 16)),
        put_together("fragments in reverse order", ANY_SOURCE, places(fragments(&v4(2), 8), &[3, 2, 1, 0])),
        put_together("IPv6 fragments out of order", IPV6, places(fragments(&v6(2), 8), &[2, 0, 3, 1])),
        put_together("a fragment twice", ANY_SOURCE, twice(fragments(&v4(3), 16))),
        put_together("an IPv6 fragment twice", IPV6, twice(fragments(&v6(3), 16))),
        put_together("fragments with \"don't fragment\" set", ANY_SOURCE, dont_fragment.collect()),
    ]
}

fn given_up() -> Vec<Row> {
    let mut other_content = twice(fragments(&v4(8), 16));
    *other_content[1].last_mut().expect("a byte") ^= 1;
    let longer = UdpFrame { payload: vec![7; 40], udp_checksum: Checksum::Is(0), ..v4(9) };
    let two_ends = [places(fragments(&v4(9), 16), &[1]), places(fragments(&longer, 32), &[1])].concat();
    vec![
        skipped_once("the last fragment alone", "fragment_incomplete", places(fragments(&v4(5), 16), &[1])),
        skipped_once(
            "IPv6 fragments without the first",
            "fragment_incomplete",
            places(fragments(&v6(5), 8), &[1, 2, 3]),
        ),
        skipped_once(
            "a fragment in the middle is missing",
            "fragment_incomplete",
            places(fragments(&v4(6), 8), &[0, 1, 3]),
        ),
        skipped_once("fragments that overlap", "fragment_overlap", mixed(&v4(7), 16, 8)),
        skipped_once("IPv6 fragments that overlap", "fragment_overlap", mixed(&v6(7), 16, 8)),
        skipped_once("a fragment twice, with another content", "fragment_overlap", other_content),
        skipped_once("two last fragments", "fragment_overlap", two_ends),
    ]
}

fn refused() -> Vec<Row> {
    let excluded = UdpFrame { source: address("10.1.0.9:7000"), ..frame_to(ONE_SOURCE) };
    let other_port = UdpFrame { destination: address("239.1.1.1:5001"), ..v4(12) };
    let wrong = UdpFrame { udp_checksum: Checksum::Wrong, ..v4(13) };
    let none = UdpFrame { udp_checksum: Checksum::Is(0), ..v6(13) };
    // The first of two fragments is 12 bytes long, and not the last.
    let odd = UdpFrame { flags_and_offset: 0x2000, ip_length: Some(20 + 12), ..v4(14) };
    let last_place = UdpFrame { flags_and_offset: 0x1fff, ..v4(15) };
    let own = UdpFrame { source: address("10.1.0.2:7000"), ..v4(16) };
    let tcp = UdpFrame { protocol: 6, flags_and_offset: 0x2000, ..v4(17) };
    let each = |what, reason, frames| row(what, frames, Outcome::Skipped { reason, count: 2 });
    vec![
        skipped_once(
            "a fragment whose length is no multiple of eight",
            "fragment_invalid",
            vec![odd.bytes()],
        ),
        skipped_once("a fragment at the last possible offset", "fragment_invalid", vec![last_place.bytes()]),
        skipped_once(
            "fragments with a wrong checksum of the datagram",
            "bad_checksum",
            fragments(&wrong, 16),
        ),
        skipped_once("IPv6 fragments without a checksum", "bad_checksum", fragments(&none, 16)),
        skipped_once("fragments to another port", "no_rule", fragments(&other_port, 16)),
        each(
            "fragments of a source that the rule excludes",
            "source_excluded",
            fragments(&one_of(11, excluded), 16),
        ),
        each("fragments from this host's own address", "own_source", fragments(&own, 16)),
        filtered("a fragment of TCP", &tcp),
    ]
}

/// Sets the flag, and corrects the checksum of the header by it (RFC 1624).
fn dont_fragment(frame: &mut [u8]) {
    frame[20] |= 0x40;
    let sum = u16::from_be_bytes([frame[24], frame[25]]);
    let (less, borrow) = sum.overflowing_sub(0x4000);
    frame[24..26].copy_from_slice(&(less - u16::from(borrow)).to_be_bytes());
}
