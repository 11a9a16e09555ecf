use super::*;

mod against_oracle;
mod oracle;

const PENDING: FrameMeta =
    FrameMeta { checksum_pending: true, checksum_verified: false, segment_bytes: None };

/// 239.1.1.1:5000 from 10.1.0.1:12345, TTL 1, payload "relay".
const IPV4_FRAME: &[u8] = &[
    0x01, 0x00, 0x5e, 0x01, 0x01, 0x01, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x08, 0x00, //
    0x45, 0x00, 0x00, 0x21, 0x00, 0x00, 0x40, 0x00, 0x01, 0x11, 0x7f, 0xc8, 10, 1, 0, 1, 239, 1, 1,
    1, //
    0x30, 0x39, 0x13, 0x88, 0x00, 0x0d, 0x6a, 0x47, b'r', b'e', b'l', b'a', b'y',
];

fn ipv4_datagram() -> Datagram {
    Datagram {
        source: (AddressBits::v4([10, 1, 0, 1]), 12345),
        destination: (AddressBits::v4([239, 1, 1, 1]), 5000),
        ttl: 1,
        dscp: 0,
        payload: 42..47,
        segment_bytes: None,
    }
}

#[test]
fn a_literal_frame() {
    let parsed = parse_frame(IPV4_FRAME, LinkLayer::Ethernet, FrameMeta::default());
    assert_eq!(parsed, Ok(ipv4_datagram()));
}

#[test]
fn a_frame_without_link_header() {
    let parsed = parse_frame(&IPV4_FRAME[14..], LinkLayer::None, FrameMeta::default());
    assert_eq!(parsed, Ok(Datagram { payload: 28..33, ..ipv4_datagram() }));
}

#[test]
fn the_wrong_link_layer_is_refused() {
    for (frame, link) in
        [(IPV4_FRAME, LinkLayer::None), (&IPV4_FRAME[14..], LinkLayer::Ethernet), (&[], LinkLayer::None)]
    {
        assert_eq!(parse_frame(frame, link, FrameMeta::default()), Err(Refusal::NotIp), "{link:?}");
    }
}

#[test]
fn the_ether_type_must_match_the_ip_version() {
    let mut frame = IPV4_FRAME.to_vec();
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame.extend([0; 60]);
    let parsed = parse_frame(&frame, LinkLayer::Ethernet, FrameMeta::default());
    assert_eq!(parsed, Err(Refusal::BadHeader));
}

#[test]
fn padding_to_the_shortest_ethernet_frame_is_not_payload() {
    let mut frame = IPV4_FRAME.to_vec();
    frame.resize(60, 0xee);
    assert_eq!(parse_frame(&frame, LinkLayer::Ethernet, FrameMeta::default()), Ok(ipv4_datagram()));
}

#[test]
fn a_wrong_checksum_is_accepted_only_if_the_kernel_verified_or_left_it() {
    let mut frame = IPV4_FRAME.to_vec();
    frame[46] ^= 0xff;
    let none = FrameMeta::default();
    for (meta, expected) in [
        (none, Err(Refusal::BadChecksum)),
        (PENDING, Ok(())),
        (FrameMeta { checksum_verified: true, ..none }, Ok(())),
        (FrameMeta { segment_bytes: Some(2), ..none }, Ok(())),
    ] {
        assert_eq!(parse_frame(&frame, LinkLayer::Ethernet, meta).map(|_| ()), expected, "{meta:?}");
    }
    // The IPv4 header checksum is never partial.
    frame[22] = 9;
    assert_eq!(parse_frame(&frame, LinkLayer::Ethernet, PENDING), Err(Refusal::BadChecksum));
}

#[test]
#[expect(clippy::single_range_in_vec_init, reason = "some frames carry one datagram")]
fn a_super_frame_is_split_at_its_segment_size() {
    for (segment_bytes, expected) in [
        (None, &[42..47][..]),
        (Some(1), &[42..43, 43..44, 44..45, 45..46, 46..47]),
        (Some(2), &[42..44, 44..46, 46..47]),
        (Some(4), &[42..46, 46..47]),
        (Some(5), &[42..47]),
        (Some(6), &[42..47]),
        (Some(u16::MAX), &[42..47]),
    ] {
        let meta = FrameMeta { segment_bytes, ..PENDING };
        let datagram = parse_frame(IPV4_FRAME, LinkLayer::Ethernet, meta).unwrap();
        assert_eq!(datagram.segments().collect::<Vec<_>>(), expected, "{segment_bytes:?}");
        assert_eq!(datagram.segment_count(), expected.len());
    }
}

#[test]
fn an_empty_payload_is_one_empty_datagram() {
    for segment_bytes in [None, Some(1), Some(1000)] {
        let empty = Datagram { payload: 42..42, segment_bytes, ..ipv4_datagram() };
        #[expect(clippy::single_range_in_vec_init, reason = "one segment is expected")]
        let expected = [42..42];
        assert_eq!(empty.segments().collect::<Vec<_>>(), expected);
        assert_eq!(empty.segment_count(), 1);
    }
}

#[test]
fn super_frames_with_an_invalid_segment_size() {
    let frame = against_oracle::ipv4_frame_with_payload(MAX_SEGMENTS + 1);
    for (segment_bytes, expected) in
        [(0, Err(Refusal::BadSuperFrame)), (1, Err(Refusal::BadSuperFrame)), (2, Ok(MAX_SEGMENTS / 2 + 1))]
    {
        let meta = FrameMeta { segment_bytes: Some(segment_bytes), ..PENDING };
        let count = parse_frame(&frame, LinkLayer::Ethernet, meta).map(|datagram| datagram.segment_count());
        assert_eq!(count, expected, "{segment_bytes}");
    }
    let most = against_oracle::ipv4_frame_with_payload(MAX_SEGMENTS);
    let meta = FrameMeta { segment_bytes: Some(1), ..PENDING };
    let datagram = parse_frame(&most, LinkLayer::Ethernet, meta).unwrap();
    assert_eq!(datagram.segments().count(), MAX_SEGMENTS);
}
