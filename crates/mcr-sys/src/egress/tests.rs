use std::net::{Ipv6Addr, UdpSocket};

use super::*;
use crate::filter::FilterDestination;
use crate::fixture::packets::text_of;
use crate::fixture::{Cable, DEADLINE, cable, index, receive, take, wait_for_drops};
use crate::mmsg::{Ancillary, SendBatch};
use crate::packet::Capture;
use mcr_testnet::LinkSetup;

const PORT: u16 = 5000;
/// Of the virtio and Ethernet headers.
const IP_START: usize = 24;

fn options(cable: &Cable, family: Family) -> EgressOptions {
    EgressOptions {
        ifindex: cable.there_index,
        family,
        ttl: None,
        dscp: None,
        origin: Origin::Interface,
        multicast_loop: true,
        send_buffer_bytes: 1 << 20,
        marked: false,
        mark: 0,
    }
}

fn egress(cable: &Cable, options: &EgressOptions) -> UdpSocket {
    cable.there.run(|| open_egress(options).unwrap()).unwrap().into()
}

fn capture(cable: &Cable, address: IpAddr) -> Capture {
    cable.capture_here(&FilterProgram::for_destinations(&[FilterDestination {
        address,
        port: PORT,
        promiscuous: false,
    }]))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Fields of the IP header on the wire: TTL or hop limit, traffic class, source.
fn on_the_wire(frame: &[u8]) -> (u8, u8, IpAddr) {
    let header = &frame[IP_START..];
    if header[0] >> 4 == 4 {
        let source: [u8; 4] = header[12..16].try_into().unwrap();
        (header[8], header[1], source.into())
    } else {
        let source: [u8; 16] = header[8..24].try_into().unwrap();
        (header[7], header[0] << 4 | header[1] >> 4, source.into())
    }
}

#[test]
fn ttl_dscp_and_source_are_on_the_wire() {
    let cable = cable();
    let mut setup = LinkSetup::in_namespace(&cable.there).unwrap();
    for (address, prefix) in [("10.9.0.77", 24), ("fd09::77", 64), ("fe80::1", 64)] {
        setup.add_address("cable", ip(address), prefix).unwrap();
    }
    LinkSetup::in_namespace(&cable.here).unwrap().add_address("cable", ip("fe80::2"), 64).unwrap();
    for (destination, source, expected_source) in [
        ("239.2.2.2", None, "10.9.0.1"),
        ("239.2.2.2", Some("10.9.0.77"), "10.9.0.77"),
        ("10.9.0.2", None, "10.9.0.1"),
        ("10.9.0.2", Some("10.9.0.77"), "10.9.0.77"),
        ("ff15::2", Some("fd09::1"), "fd09::1"),
        ("ff15::2", Some("fd09::77"), "fd09::77"),
        ("ff12::2", None, "fe80::1"),
        ("ff12::2", Some("fe80::1"), "fe80::1"),
        ("fd09::2", Some("fd09::77"), "fd09::77"),
        ("fe80::2", None, "fe80::1"),
    ] {
        let family = Family::of(ip(destination));
        let capture = capture(&cable, ip(destination));
        for (ttl, dscp) in [(1, 0), (16, 34), (255, 63)] {
            let options = EgressOptions {
                ttl: Some(ttl),
                dscp: Some(dscp),
                origin: source.map_or(Origin::Interface, |source| Origin::Address(ip(source))),
                ..options(&cable, family)
            };
            egress(&cable, &options).send_to(b"<out>", (ip(destination), PORT)).unwrap();
            let frame = receive(&capture);
            assert_eq!(text_of(&frame), "out");
            let seen = on_the_wire(&frame);
            assert_eq!(seen, (ttl, dscp << 2, ip(expected_source)), "to {destination} from {source:?}");
        }
    }
}

/// Addresses and ports that the host does not have; larger than the MTU, too. The host's datagrams are not offered to a raw
/// socket.
#[test]
fn any_address_and_any_port_are_sent_from() {
    let cable = cable();
    for (destination, source) in [
        ("239.2.2.2", "192.0.2.7"),
        ("10.9.0.2", "192.0.2.7"),
        ("ff15::2", "2001:db8::7"),
        ("fd09::2", "2001:db8::7"),
        ("ff12::2", "fe80::77"),
    ] {
        let family = Family::of(ip(destination));
        let udp_port = if family == Family::V4 { IP_START + 20 } else { IP_START + 40 };
        for (origin, port) in [(Origin::AnyAddress, PORT), (Origin::AnyPort, 0)] {
            let capture = capture(&cable, ip(destination));
            let socket = egress(&cable, &EgressOptions { origin, ttl: Some(9), ..options(&cable, family) });
            let to = match ip(destination) {
                IpAddr::V6(to) => SocketAddrV6::new(to, port, 0, cable.there_index.to_raw()).into(),
                IpAddr::V4(to) => SocketAddr::from((to, port)),
            };
            let header = [0x14, 0xe9, 0x13, 0x88, 0, 13, 0, 0];
            let ancillary = Ancillary {
                source: Some(ip(source)),
                udp_header: (origin == Origin::AnyPort).then_some(header),
                ..Ancillary::default()
            };
            let mut batch = SendBatch::new(1, 2);
            let mut sending = batch.begin();
            sending.push(Some(&to.into()), &ancillary, [&b"<any>"[..]]).unwrap();
            sending.send(socket.as_fd(), |_, outcome| assert!(outcome.is_ok(), "{destination}: {outcome:?}"));
            let frame = receive(&capture);
            assert_eq!(text_of(&frame), "any");
            assert_eq!(on_the_wire(&frame), (9, 0, ip(source)), "to {destination}");
            if origin == Origin::AnyPort {
                assert_eq!(frame[udp_port..][..2], [0x14, 0xe9], "to {destination}");
                let [own, other] =
                    if family == Family::V4 { ["10.9.0.1", "10.9.0.2"] } else { ["fd09::1", "fd09::2"] };
                let program = cable.there.run(|| UdpSocket::bind((ip(own), 0)).unwrap()).unwrap();
                let sender = cable.here.run(|| UdpSocket::bind((ip(other), 0)).unwrap()).unwrap();
                sender.send_to(b"x", program.local_addr().unwrap()).unwrap();
                assert_eq!(program.recv(&mut [0; 1]).unwrap(), 1);
                let nothing = rustix::net::recv(&socket, &mut [0; 9][..], rustix::net::RecvFlags::DONTWAIT);
                assert!(nothing.is_err());
                assert_eq!(
                    crate::socket_memory::drops(socket.as_fd()).unwrap(),
                    0,
                    "it was offered something"
                );
            }
        }
    }
}

/// Two interfaces, the same group: the datagram leaves through the configured one, whatever the routes are.
#[test]
fn datagrams_leave_through_the_configured_interface() {
    let cable = cable();
    let mut setup = LinkSetup::in_namespace(&cable.there).unwrap();
    setup.create_veth("second", "second", &cable.here).unwrap();
    setup.disable_automatic_ipv6("second").unwrap();
    setup.set_up("second", true).unwrap();
    let mut other_end = LinkSetup::in_namespace(&cable.here).unwrap();
    other_end.set_up("second", true).unwrap();
    setup.add_route("cable", ip("224.0.0.0"), 4, None).unwrap();
    let filter = FilterProgram::for_destinations(&[FilterDestination {
        address: ip("239.2.2.2"),
        port: PORT,
        promiscuous: false,
    }]);
    let second_index = index(&mut other_end, "second");
    let open = || crate::fixture::capture(second_index, &filter, crate::packet::Fanout::New).0;
    let (first, second) = (cable.capture_here(&filter), cable.here.run(open).unwrap());
    let options = EgressOptions { ifindex: index(&mut setup, "second"), ..options(&cable, Family::V4) };
    egress(&cable, &options).send_to(b"<second>", (ip("239.2.2.2"), PORT)).unwrap();
    assert_eq!(text_of(&receive(&second)), "second");
    assert_eq!(take(&first), None);
}

/// Larger than the MTU: fragmented, without DF, and reassembled at the receiver.
#[test]
fn large_datagrams_are_fragmented() {
    let cable = cable();
    for (source, destination, header) in [("10.9.0.1", "10.9.0.2", 28), ("fd09::1", "fd09::2", 48)] {
        let receiver = cable.here.run(|| UdpSocket::bind((ip(destination), PORT)).unwrap()).unwrap();
        receiver.set_read_timeout(Some(DEADLINE)).unwrap();
        let options = EgressOptions {
            origin: Origin::Address(ip(source)),
            ..options(&cable, Family::of(ip(destination)))
        };
        let sender = egress(&cable, &options);
        for bytes in [1500 - header, 1501 - header, 8_900, 65_000] {
            let payload = vec![3; bytes];
            assert_eq!(sender.send_to(&payload, (ip(destination), PORT)).unwrap(), bytes);
            let mut buffer = vec![0; 70_000];
            let received = receiver.recv(&mut buffer).unwrap();
            assert!(buffer[..received] == payload, "{bytes} bytes to {destination}");
        }
    }
    let capture = capture(&cable, ip("239.2.2.2"));
    let sender = egress(&cable, &options(&cable, Family::V4));
    sender.send_to(&[3; 3000], (ip("239.2.2.2"), PORT)).unwrap();
    let flags: Vec<u8> = (0..3).map(|_| receive(&capture)[IP_START + 6] & 0xe0).collect();
    assert_eq!(flags, [0x20, 0x20, 0], "more fragments, more fragments, the last");
    sender.send_to(&[3; 100], (ip("239.2.2.2"), PORT)).unwrap();
    assert_eq!(receive(&capture)[IP_START + 6] & 0x40, 0, "DF");
}

#[test]
fn nothing_is_received() {
    let cable = cable();
    for (source, destination) in [("10.9.0.1", "10.9.0.1"), ("fd09::1", "fd09::1")] {
        let options =
            EgressOptions { origin: Origin::Address(ip(source)), ..options(&cable, Family::of(ip(source))) };
        let socket = egress(&cable, &options);
        let port = socket.local_addr().unwrap().port();
        let stranger = cable
            .here
            .run(|| {
                UdpSocket::bind(match options.family {
                    Family::V4 => (ip("10.9.0.2"), 0),
                    Family::V6 => (ip("fd09::2"), 0),
                })
                .unwrap()
            })
            .unwrap();
        stranger.send_to(b"x", (ip(destination), port)).unwrap();
        wait_for_drops(socket.as_fd(), 1);
        let nothing = socket.recv(&mut [0; 10]).unwrap_err();
        assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    }
}

#[test]
fn full_queues_and_icmp_errors_are_reported() {
    let cable = cable();
    for (family, level, option) in [
        (Family::V4, libc::IPPROTO_IP, libc::IP_RECVERR),
        (Family::V6, libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    ] {
        let socket = egress(&cable, &options(&cable, family));
        assert_eq!(
            socket_option::get::<libc::c_int>("IP_RECVERR", socket.as_fd(), level, option).unwrap(),
            1
        );
    }
    let socket = egress(&cable, &options(&cable, Family::V4));
    let closed = SocketAddr::from(([10, 9, 0, 2], 9));
    socket.send_to(b"x", closed).unwrap();
    let mut seen = Vec::new();
    let end = crate::clock::monotonic() + DEADLINE;
    while seen.is_empty() && crate::clock::monotonic() < end {
        crate::error_queue::drain(socket.as_fd(), |destination, _| seen.push(destination));
    }
    assert_eq!(seen, [Some(closed)]);
}

/// An interface that has no address of the family.
#[test]
fn an_interface_without_address_can_still_send_multicast() {
    let cable = cable();
    let mut setup = LinkSetup::in_namespace(&cable.there).unwrap();
    setup.remove_address("cable", ip("10.9.0.1"), 24).unwrap();
    setup.add_address("lo", ip("10.77.0.1"), 32).unwrap();
    let capture = capture(&cable, ip("239.2.2.2"));
    let socket = egress(&cable, &options(&cable, Family::V4));
    socket.send_to(b"<borrowed>", (ip("239.2.2.2"), PORT)).unwrap();
    let frame = receive(&capture);
    assert_eq!(text_of(&frame), "borrowed");
    assert_eq!(on_the_wire(&frame).2, ip("10.77.0.1"), "the kernel borrows another interface's address");
}

#[test]
fn invalid_options_are_refused() {
    let cable = cable();
    let attempt = |options: EgressOptions| {
        let error = cable.there.run(|| open_egress(&options).unwrap_err()).unwrap();
        (error.step, error.errno())
    };
    let mixed =
        EgressOptions { origin: Origin::Address(Ipv6Addr::LOCALHOST.into()), ..options(&cable, Family::V4) };
    assert_eq!(attempt(mixed), ("open egress socket", None));
    let foreign = EgressOptions { origin: Origin::Address(ip("10.1.2.3")), ..options(&cable, Family::V4) };
    assert_eq!(attempt(foreign), ("bind egress socket to its source", Some(libc::EADDRNOTAVAIL)));
    for family in [Family::V4, Family::V6] {
        let gone = EgressOptions { ifindex: IfIndex::new(987_654), ..options(&cable, family) };
        assert_eq!(attempt(gone).1, Some(libc::ENODEV));
    }
}

#[test]
fn the_send_buffer_has_the_configured_size() {
    let cable = cable();
    let wanted = EgressOptions { send_buffer_bytes: 4 << 20, ..options(&cable, Family::V4) };
    let granted = sockopt::socket_send_buffer_size(egress(&cable, &wanted)).unwrap() / 2;
    assert_eq!(granted, 4 << 20, "socket(7): the kernel doubles the value");
}
