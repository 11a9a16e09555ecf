use std::net::UdpSocket;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::fixture::{Cable, DEADLINE, cable, wait_for_drops};
use mcr_testnet::LinkSetup;

const ABSORBED: u16 = 7000;
const CLOSED: u16 = 7001;

fn sender_to(cable: &Cable, source: &str, destination: SocketAddr) -> UdpSocket {
    let make = || {
        let socket = UdpSocket::bind(source).unwrap();
        socket.connect(destination).unwrap();
        socket
    };
    cable.there.run(make).unwrap()
}

/// Waits for the ICMP answer to what was sent.
fn assert_refused(sender: &UdpSocket) {
    let mut entries = [PollFd::new(sender, PollFlags::ERR)];
    let timeout = Timespec { tv_sec: DEADLINE.as_secs().cast_signed(), tv_nsec: 0 };
    assert_eq!(poll(&mut entries, Some(&timeout)), Ok(1), "no answer came");
    let error = sender.take_error().unwrap().expect("an error is waiting");
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
}

/// Fact 25: with the absorber the kernel answers nothing, without it each datagram is refused.
fn assert_absorbs(cable: &Cable, source: &str, address: SocketAddr, elsewhere: SocketAddr) {
    let sender = sender_to(cable, source, address);
    let control = sender_to(cable, source, elsewhere);
    let open = || open_absorber(cable.here_index, address.ip(), ABSORBED).unwrap();
    let absorber = cable.here.run(open).unwrap();
    for count in 1..=3 {
        sender.send(b"x").unwrap();
        wait_for_drops(absorber.as_fd(), count);
    }
    control.send(b"x").unwrap();
    assert_refused(&control);
    assert!(sender.take_error().unwrap().is_none(), "no answer");
    let nothing = rustix::net::recv(&absorber, &mut [0; 10], rustix::net::RecvFlags::empty());
    assert_eq!(nothing, Err(rustix::io::Errno::AGAIN));
    drop(absorber);
    sender.send(b"x").unwrap();
    assert_refused(&sender);
}

#[test]
fn ipv4_is_not_answered() {
    let cable = cable();
    let at = |port| SocketAddr::from(([10, 9, 0, 2], port));
    assert_absorbs(&cable, "10.9.0.1:0", at(ABSORBED), at(CLOSED));
}

#[test]
fn ipv6_is_not_answered() {
    let cable = cable();
    let at = |port| SocketAddr::new("fd09::2".parse().unwrap(), port);
    assert_absorbs(&cable, "[fd09::1]:0", at(ABSORBED), at(CLOSED));
}

#[test]
fn link_local_is_not_answered() {
    let cable = cable();
    for (namespace, address) in [(&cable.here, "fe80::2"), (&cable.there, "fe80::1")] {
        let mut setup = LinkSetup::in_namespace(namespace).unwrap();
        setup.add_address("cable", address.parse().unwrap(), 64).unwrap();
    }
    let scope = cable.there_index.to_raw();
    let at = |port| SocketAddr::V6(SocketAddrV6::new("fe80::2".parse().unwrap(), port, 0, scope));
    assert_absorbs(&cable, "[::]:0", at(ABSORBED), at(CLOSED));
}

#[test]
fn a_port_in_use_and_a_foreign_address_are_distinguished() {
    let cable = cable();
    let in_namespace = || {
        let _taken = UdpSocket::bind("0.0.0.0:7000").unwrap();
        let errno =
            |address: [u8; 4]| open_absorber(cable.here_index, address.into(), ABSORBED).unwrap_err().errno();
        assert_eq!(errno([10, 9, 0, 2]), Some(libc::EADDRINUSE));
        assert_eq!(errno([10, 9, 0, 77]), Some(libc::EADDRNOTAVAIL));
    };
    cable.here.run(in_namespace).unwrap();
}

/// An IPv6 absorber leaves the port to IPv4 programs.
#[test]
fn families_do_not_take_each_others_ports() {
    let cable = cable();
    let in_namespace = || {
        let _six = open_absorber(cable.here_index, "fd09::2".parse().unwrap(), ABSORBED).unwrap();
        let _four = open_absorber(cable.here_index, "10.9.0.2".parse().unwrap(), ABSORBED).unwrap();
    };
    cable.here.run(in_namespace).unwrap();
}
