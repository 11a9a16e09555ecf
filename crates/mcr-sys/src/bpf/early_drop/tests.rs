use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use mcr_testnet::LinkSetup;
use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};

use super::*;
use crate::bpf::attachment::{Attachment, Method, has_other_filters, has_socket_lookup, remove_leftover};
use crate::filter::FilterProgram;
use crate::fixture::{Cable, DEADLINE, cable, receive, take, wanted};

const PORT: u16 = 5000;
const LONG: Duration = Duration::from_secs(60);

#[test]
fn the_sources_are_those_that_were_compiled() {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    for source in ["early_drop.c", "capture.c", "ingress.c", "packet.h", "relay.h", "kernel.h"] {
        let path = format!("{}/../../bpf/{source}", env!("CARGO_MANIFEST_DIR"));
        hasher.update(&std::fs::read(path).unwrap());
    }
    assert_eq!(hasher.digest(), generated::SOURCE_HASH, "run `cargo xtask bpf`");
}

#[test]
fn what_the_verifier_refuses_is_told_with_its_log() {
    let bad = super::super::Code::<()> {
        instructions: &[0x95],
        ..super::super::Code { name: "bad", kind: super::super::Kind::Tc, instructions: &[], uses: &[] }
    };
    let error = Program::load(&bad, |()| 0).unwrap_err().to_string();
    assert!(error.contains("R0 !read_ok"), "{error}");
}

fn loaded() -> EarlyDrop {
    let program = EarlyDrop::load().unwrap();
    program.stay(LONG).unwrap();
    program
}

fn destination(cable: &Cable, address: &str) -> Destination {
    Destination { ifindex: cable.here_index, address: address.parse().unwrap(), port: PORT }
}

/// A program of the host that receives what is sent to `group`.
fn listener(cable: &Cable, bound: &str, group: &str, only_on: Option<&str>) -> UdpSocket {
    let make = || {
        let (bound, group): (IpAddr, IpAddr) = (bound.parse().unwrap(), group.parse().unwrap());
        let family = if bound.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket(family, SocketType::DGRAM, None).unwrap();
        sockopt::set_socket_reuseaddr(&socket, true).unwrap();
        bind(&socket, &SocketAddr::new(bound, PORT)).unwrap();
        let socket = UdpSocket::from(socket);
        match group {
            IpAddr::V4(group) if group.is_multicast() && bound.is_ipv4() => {
                socket.join_multicast_v4(&group, &Ipv4Addr::new(10, 9, 0, 2)).unwrap();
            }
            IpAddr::V6(group) if group.is_multicast() => {
                socket.join_multicast_v6(&group, cable.here_index.to_raw()).unwrap();
            }
            _ => {}
        }
        if only_on.is_some() {
            socket2::SockRef::from(&socket).bind_device(only_on.map(str::as_bytes)).unwrap();
        }
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    };
    cable.here.run(make).unwrap()
}

/// Sends ten datagrams, which the capture sees in any case.
fn send(cable: &Cable, to: &str) {
    let to: IpAddr = to.parse().unwrap();
    let capture = cable.capture_here(&FilterProgram::for_destinations(&[wanted(&to.to_string(), PORT)]));
    cable
        .there
        .run(|| {
            let any: SocketAddr = if to.is_ipv4() { "10.9.0.1:0" } else { "[fd09::1]:0" }.parse().unwrap();
            let socket = UdpSocket::bind(any).unwrap();
            match to {
                IpAddr::V4(_) => {
                    socket2::SockRef::from(&socket).set_multicast_if_v4(&Ipv4Addr::new(10, 9, 0, 1)).unwrap()
                }
                IpAddr::V6(_) => {
                    socket2::SockRef::from(&socket).set_multicast_if_v6(cable.there_index.to_raw()).unwrap()
                }
            }
            for _ in 0..10 {
                socket.send_to(b"<datagram>", (to, PORT)).unwrap();
            }
        })
        .unwrap();
    (0..10).for_each(|_| drop(receive(&capture)));
    assert_eq!(take(&capture), None);
}

fn dropped(program: &EarlyDrop, cable: &Cable) -> u64 {
    program.dropped(cable.here_index).unwrap().unwrap().datagrams
}

fn attached(cable: &Cable, method: Method, program: &EarlyDrop) -> Attachment {
    program.count_on(cable.here_index).unwrap();
    cable.here.run(|| Attachment::by(method, program.program(), cable.here_index)).unwrap().unwrap()
}

/// Captured always; dropped unless a socket receives it, whatever that is bound to.
#[test]
fn what_no_socket_receives_is_dropped_behind_the_capture() {
    for method in [Method::Tcx, Method::Clsact] {
        for to in ["239.1.1.1", "10.9.0.2", "ff15::1", "fd09::2"] {
            let cable = cable();
            let program = loaded();
            let _attachment = attached(&cable, method, &program);
            send(&cable, to);
            assert_eq!(dropped(&program, &cable), 0, "not a destination");
            program.set_destinations(&[destination(&cable, to)]).unwrap();
            send(&cable, to);
            assert_eq!(dropped(&program, &cable), 10, "{to}");
            let any = if to.contains(':') { "::" } else { "0.0.0.0" };
            for (bound, only_on) in [(any, None), (to, None), (any, Some("cable")), (to, Some("cable"))] {
                let socket = listener(&cable, bound, to, only_on);
                send(&cable, to);
                assert_eq!(dropped(&program, &cable), 10, "{to} at {bound} {only_on:?}");
                (0..10).for_each(|_| _ = socket.recv(&mut [0; 100]).unwrap());
            }
            if !to.contains(':') {
                // A socket of both families.
                let socket = listener(&cable, "::", to, None);
                send(&cable, to);
                assert_eq!(dropped(&program, &cable), 10, "{to} at ::");
                drop(socket);
            }
            let _elsewhere = listener(&cable, any, to, Some("lo"));
            send(&cable, to);
            assert_eq!(dropped(&program, &cable), 20, "{to}: a socket of another interface");
        }
    }
}

#[test]
fn without_a_heartbeat_everything_passes() {
    let cable = cable();
    let program = EarlyDrop::load().unwrap();
    let _attachment = attached(&cable, Method::Tcx, &program);
    program.set_destinations(&[destination(&cable, "239.1.1.1")]).unwrap();
    send(&cable, "239.1.1.1");
    assert_eq!(dropped(&program, &cable), 0);
    program.stay(LONG).unwrap();
    send(&cable, "239.1.1.1");
    assert_eq!(dropped(&program, &cable), 10);
    program.stay(Duration::ZERO).unwrap();
    send(&cable, "239.1.1.1");
    assert_eq!(dropped(&program, &cable), 10);
}

#[test]
fn destinations_are_compared_and_repaired() {
    let cable = cable();
    let program = loaded();
    let all = ["239.1.1.1", "239.1.1.2", "ff15::1"].map(|address| destination(&cable, address));
    assert_eq!(program.set_destinations(&all).unwrap(), (3, 0));
    assert_eq!(program.set_destinations(&all).unwrap(), (0, 0));
    assert_eq!(program.set_destinations(&all[1..]).unwrap(), (0, 1));
    program.destinations.remove(&all[1].key()).unwrap();
    program.destinations.insert(&all[0].key(), &[0; 4]).unwrap();
    assert_eq!(program.set_destinations(&all[1..]).unwrap(), (1, 1));
}

/// A program that another attaches later runs behind it, and would not see what is dropped.
#[test]
fn another_program_behind_is_found() {
    let cable = cable();
    let (program, other) = (loaded(), loaded());
    let attachment = attached(&cable, Method::Tcx, &program);
    let is_last = || cable.here.run(|| attachment.is_last(program.program()).unwrap()).unwrap();
    assert!(is_last());
    let behind = attached(&cable, Method::Tcx, &other);
    assert!(!is_last());
    drop(behind);
    assert!(is_last());
    let others = || cable.here.run(|| has_other_filters(cable.here_index).unwrap()).unwrap();
    assert!(!others());
    let tc = |arguments: &str| {
        let words = arguments.split(' ').map(|word| word.replace('_', " "));
        let run = || std::process::Command::new("tc").args(words).status().unwrap().success();
        assert!(cable.here.run(run).unwrap(), "tc {arguments}");
    };
    tc("qdisc add dev cable clsact");
    assert!(!others());
    tc("filter add dev cable ingress bpf bytecode 1,6_0_0_0");
    assert!(others());
    assert!(!cable.here.run(|| has_socket_lookup().unwrap()).unwrap());
}

#[test]
fn a_filter_of_a_killed_process_is_removed_and_a_strangers_stays() {
    let cable = cable();
    let program = loaded();
    std::mem::forget(attached(&cable, Method::Clsact, &program));
    let leftover = || cable.here.run(|| remove_leftover(cable.here_index).unwrap()).unwrap();
    assert!(leftover());
    assert!(!leftover());
    // With the qdisc that it added.
    drop(attached(&cable, Method::Clsact, &program));
    let mut setup = LinkSetup::in_namespace(&cable.here).unwrap();
    setup.delete("cable").unwrap();
    assert!(cable.here.run(|| Attachment::new(program.program(), cable.here_index)).unwrap().is_err());
}
