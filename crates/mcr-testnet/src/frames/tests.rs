use super::*;

use std::net::UdpSocket;
use std::time::Duration;

const PAYLOAD: &[u8] = b"an odd number of bytes.";

fn v4() -> UdpFrame {
    UdpFrame::new("10.1.0.1:7000".parse().unwrap(), "239.1.1.1:5000".parse().unwrap(), PAYLOAD)
}

fn v6() -> UdpFrame {
    UdpFrame::new("[fd01::1]:7000".parse().unwrap(), "[ff15::1]:5000".parse().unwrap(), PAYLOAD)
}

/// A hop-by-hop header with padding only (RFC 8200 section 4.2).
fn padding_option() -> Extension {
    Extension { kind: 0, bytes: vec![0, 0, 1, 4, 0, 0, 0, 0] }
}

/// The frames received by a socket that they are addressed to: the kernel is the oracle.
fn received(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let (near, far) = (Host::new("near"), Host::new("far"));
    near.cable("eth0", &far, "eth0");
    near.add_address("eth0", "10.1.0.1/24");
    far.add_address("eth0", "10.1.0.2/24");
    far.add_address("eth0", "fd01::2/64");
    let index = far.index("eth0").to_raw();
    let (socket_v4, socket_v6) = far.run(|| {
        let socket_v4 = UdpSocket::bind("0.0.0.0:5000").unwrap();
        socket_v4.join_multicast_v4(&"239.1.1.1".parse().unwrap(), &"10.1.0.2".parse().unwrap()).unwrap();
        // Bound to the group: bound to any address it would take the IPv4 port too.
        let socket_v6 = UdpSocket::bind("[ff15::1]:5000").unwrap();
        socket_v6.join_multicast_v6(&"ff15::1".parse().unwrap(), index).unwrap();
        (socket_v4, socket_v6)
    });
    let sender = sender(&near, "eth0", RawPrefix::None);
    let end_v4 = UdpFrame { payload: b"end".to_vec(), ..v4() };
    let end_v6 = UdpFrame { payload: b"end".to_vec(), ..v6() };
    for frame in frames.iter().chain(&[end_v4.bytes(), end_v6.bytes()]) {
        sender.send(frame).unwrap();
    }
    let mut all = Vec::new();
    for socket in [socket_v4, socket_v6] {
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        loop {
            let mut buffer = vec![0; 2048];
            let bytes = socket.recv(&mut buffer).expect("the last frame arrives");
            buffer.truncate(bytes);
            if buffer == b"end" {
                break;
            }
            all.push(buffer);
        }
    }
    all
}

#[test]
fn the_kernel_accepts_valid_frames() {
    for (frames, what) in [
        (vec![v4().bytes()], "IPv4"),
        (vec![v6().bytes()], "IPv6"),
        (vec![UdpFrame { options: vec![1, 1, 1, 0], ..v4() }.bytes()], "options"),
        (vec![UdpFrame { extensions: vec![padding_option()], ..v6() }.bytes()], "extension header"),
        (vec![UdpFrame { udp_checksum: Checksum::Is(0), ..v4() }.bytes()], "no checksum"),
        (vec![UdpFrame { padding: 20, ..v4() }.bytes()], "padding"),
        (fragments(&v4(), 8), "fragments of IPv4"),
        (fragments(&v6(), 16), "fragments of IPv6"),
    ] {
        assert_eq!(received(&frames), [PAYLOAD], "{what}");
    }
}

#[test]
fn the_kernel_drops_each_malformed_frame() {
    let malformed = [
        UdpFrame { version: Some(6), ..v4() },
        UdpFrame { header_words: Some(4), ..v4() },
        UdpFrame { ip_length: Some(19), ..v4() },
        UdpFrame { ip_length: Some(1000), ..v4() },
        UdpFrame { header_checksum: Checksum::Wrong, ..v4() },
        UdpFrame { udp_length: Some(7), ..v4() },
        UdpFrame { udp_length: Some(1000), ..v4() },
        UdpFrame { udp_checksum: Checksum::Wrong, ..v4() },
        UdpFrame { protocol: 6, ..v4() },
        UdpFrame { tags: vec![(VLAN, 5)], ..v4() },
        UdpFrame { tags: vec![(PROVIDER_VLAN, 5), (VLAN, 6)], ..v4() },
        UdpFrame { ether_type: Some(0x86dd), ..v4() },
        UdpFrame { cut: Some(50), ..v4() },
        UdpFrame { version: Some(4), ..v6() },
        UdpFrame { ip_length: Some(1000), ..v6() },
        UdpFrame { udp_checksum: Checksum::Wrong, ..v6() },
        UdpFrame { udp_checksum: Checksum::Is(0), ..v6() },
        UdpFrame { cut: Some(70), ..v6() },
    ];
    let frames: Vec<_> = malformed.iter().map(UdpFrame::bytes).collect();
    assert_eq!(received(&frames), Vec::<Vec<u8>>::new());
}

#[test]
fn groups_with_the_same_mac_differ_in_address() {
    let group = Ipv4Addr::new(239, 1, 1, 1);
    assert_eq!(twin_of(group), Ipv4Addr::new(239, 129, 1, 1));
    assert_eq!(mac_of(group.into()), mac_of(twin_of(group).into()));
    let group: Ipv6Addr = "ff15::1".parse().unwrap();
    assert_ne!(twin_of_v6(group), group);
    assert_eq!(mac_of(group.into()), mac_of(twin_of_v6(group).into()));
    assert_eq!(mac_of("10.1.0.1".parse().unwrap()), [0xff; 6]);
}

#[test]
fn fragments_hold_the_whole_datagram() {
    assert_eq!(fragments(&v4(), 8).len(), 4);
    assert_eq!(fragments(&v4(), 1024).len(), 1);
    let parts: Vec<u8> = fragments(&v4(), 16).iter().flat_map(|frame| frame[34..].to_vec()).collect();
    assert_eq!(parts, v4().bytes()[34..]);
}

#[test]
fn a_super_frame_that_the_kernel_splits_arrives_as_datagrams() {
    let (near, far) = (Host::new("near"), Host::new("far"));
    near.cable("eth0", &far, "eth0");
    far.add_address("eth0", "10.1.0.2/24");
    let socket = far.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:5000").unwrap();
        socket.join_multicast_v4(&"239.1.1.1".parse().unwrap(), &"10.1.0.2".parse().unwrap()).unwrap();
        socket
    });
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let sender = sender(&near, "eth0", RawPrefix::VnetHeader);
    sender.send(&[&super_frame_header(34, 10)[..], &v4().bytes()].concat()).unwrap();
    for expected in PAYLOAD.chunks(10) {
        let mut buffer = [0; 64];
        let bytes = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..bytes], expected);
    }
}
