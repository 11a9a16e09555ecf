//! The program's verdict on any frame, compared with the parser of the worker.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use mcr_sys::bpf::early_drop::{Destination, EarlyDrop};
use mcr_sys::link::IfIndex;
use mcr_testnet::Topology;
use mcr_testnet::frames::mutation::Mutations;
use mcr_testnet::frames::{Checksum, UdpFrame};
use mcr_wire::{FrameMeta, LinkLayer, Refusal, parse_frame};

use crate::scenario::is_in_user_namespace;

/// `TC_ACT_SHOT`.
const DROP: i32 = 2;
/// To the next program.
const NEXT: i32 = -1;
const FRAMES: usize = 20_000;

fn targets() -> Vec<(SocketAddr, SocketAddr)> {
    let pairs = [("10.1.0.1:7000", "239.1.1.1:5000"), ("[fd01::1]:7000", "[ff15::1]:5000")];
    pairs.map(|(from, to)| (from.parse().unwrap(), to.parse().unwrap())).into()
}

/// The program, in force on the relay's eth0.
fn loaded(topology: &Topology) -> EarlyDrop {
    let ifindex = topology.relay.index("eth0");
    let program = EarlyDrop::load().unwrap();
    program.stay(Duration::from_secs(600)).unwrap();
    program.count_on(ifindex).unwrap();
    let all = targets().into_iter().map(|(_, to)| Destination { ifindex, address: to.ip(), port: to.port() });
    program.set_destinations(&Vec::from_iter(all)).unwrap();
    program
}

/// The program's verdict. Newer kernels (6.18) run none on a frame that is too short for its IP header; it would pass.
fn verdict(program: &EarlyDrop, frame: &[u8], ifindex: IfIndex) -> i32 {
    const SHORTEST: usize = 14 + 40;
    match program.program().test_run(frame, ifindex) {
        Err(_) if frame.len() < SHORTEST => NEXT,
        verdict => verdict.unwrap_or_else(|error| panic!("{error}: {frame:02x?}")),
    }
}

/// What is dropped is a datagram to a destination for the worker's parser, too, unless that refuses it because it is expired or
/// damaged, which the kernel would discard as well; and nothing is dropped while a socket receives it.
#[test]
fn only_datagrams_of_rules_are_dropped_and_none_of_a_socket() {
    if is_in_user_namespace() {
        return;
    }
    let topology = Topology::sender_relay_receiver();
    let program = loaded(&topology);
    let ifindex = topology.relay.index("eth0");
    let mut mutations = Mutations::new(16, targets(), vec!["10.1.0.2:7000".parse().unwrap()]);
    let frames: Vec<Vec<u8>> =
        (0..FRAMES).map(|_| mutations.frame()).filter(|frame| frame.len() >= 14).collect();
    let run = |frame: &[u8]| verdict(&program, frame, ifindex);
    let mut dropped = 0;
    topology.relay.run(|| {
        for frame in &frames {
            let verdict = run(frame);
            assert!([DROP, NEXT].contains(&verdict), "{verdict}");
            if verdict == DROP {
                dropped += 1;
                let meta = FrameMeta { checksum_verified: true, ..FrameMeta::default() };
                match parse_frame(frame, LinkLayer::Ethernet, meta) {
                    Ok(datagram) => {
                        let to = (IpAddr::from(datagram.destination.0), datagram.destination.1);
                        assert!(
                            targets().iter().any(|(_, known)| (known.ip(), known.port()) == to),
                            "{frame:02x?}"
                        );
                    }
                    Err(refusal) => assert!(
                        matches!(refusal, Refusal::TtlZero | Refusal::BadChecksum),
                        "{refusal:?}: {frame:02x?}"
                    ),
                }
            }
        }
        assert!(dropped > FRAMES / 100, "{dropped}");
        // A socket of both families.
        let _socket = UdpSocket::bind("[::]:5000").unwrap();
        for frame in &frames {
            assert_eq!(run(frame), NEXT, "{frame:02x?}");
        }
    });
}

/// Each doubt by itself.
#[test]
fn what_it_does_not_understand_passes() {
    if is_in_user_namespace() {
        return;
    }
    let topology = Topology::sender_relay_receiver();
    let program = loaded(&topology);
    let ifindex = topology.relay.index("eth0");
    let run = |frame: UdpFrame| topology.relay.run(|| verdict(&program, &frame.bytes(), ifindex));
    for (from, to) in targets() {
        let good = || UdpFrame::new(from, to, b"payload");
        let elsewhere = |to: SocketAddr| UdpFrame::new(from, to, b"payload");
        for dropped in [
            good(),
            UdpFrame { padding: 20, ..good() },
            UdpFrame { payload: Vec::new(), ..good() },
            UdpFrame { udp_checksum: Checksum::Wrong, ..good() },
            UdpFrame { dscp: 46, ttl: 1, ..good() },
        ] {
            assert_eq!(run(dropped.clone()), DROP, "{dropped:?}");
        }
        let size = u16::try_from(if to.is_ipv4() { 35 } else { 15 }).unwrap();
        for passed in [
            UdpFrame { tags: vec![(0x8100, 7)], ..good() },
            UdpFrame { macs: Some(([2, 0, 0, 0, 0, 0x77], [2, 0, 0, 0, 0, 1])), ..good() },
            UdpFrame { version: Some(5), ..good() },
            UdpFrame { protocol: 136, ..good() },
            UdpFrame { ip_length: Some(size + 1), ..good() },
            UdpFrame { udp_length: Some(7), ..good() },
            UdpFrame { udp_length: Some(16), ..good() },
            UdpFrame { cut: Some(40), ..good() },
            UdpFrame { ether_type: Some(0x88cc), ..good() },
            elsewhere(SocketAddr::new(to.ip(), 5001)),
        ] {
            assert_eq!(run(passed.clone()), NEXT, "{passed:?}");
        }
    }
    let (from, to) = targets()[0];
    let good = || UdpFrame::new(from, to, b"payload");
    for passed in [
        UdpFrame { flags_and_offset: 0x2000, ..good() },
        UdpFrame { flags_and_offset: 0x0001, ..good() },
        UdpFrame { options: vec![1, 1, 1, 1], ..good() },
        UdpFrame { header_words: Some(6), ..good() },
        UdpFrame::new(from, "239.1.1.2:5000".parse().unwrap(), b"payload"),
    ] {
        assert_eq!(run(passed.clone()), NEXT, "{passed:?}");
    }
}
