//! Frames that are not one Ethernet frame of 1,500 bytes with one datagram: super-frames of a segmenting sender, jumbo
//! frames, interfaces without link header, loopback.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use crate::scenario::{
    INPUT_PORT, OUTPUT_PORT, assert_received, input, input_on, kernel_loses_super_frames, output, packets_of,
    recv, relay, rule, send, split_before_sending, stats_without_drops,
};
use etherparse::PacketBuilder;
use mcr_sys::egress::{EgressOptions, Family, Origin, open_egress};
use mcr_sys::mmsg::{Ancillary, SendBatch, SocketAddress};
use mcr_testnet::{Host, Topology, with_room};
use serde_json::Value;

const GROUP_V4: &str = "239.1.1.1";
const GROUP_V6: &str = "ff15::1:1";
const RELAYED_V4: &str = "239.2.2.2";
const RELAYED_V6: &str = "ff15::2:2";

/// A socket on a host that sends through an interface, without a daemon's help.
fn sender_on(host: &Host, interface: &str, group: &str) -> OwnedFd {
    let options = EgressOptions {
        ifindex: host.index(interface),
        family: Family::of(group.parse().unwrap()),
        ttl: Some(8),
        dscp: Some(0),
        origin: Origin::Interface,
        multicast_loop: true,
        send_buffer_bytes: 4 << 20,
        marked: false,
        mark: 0,
    };
    host.run(|| open_egress(&options)).expect("a socket to send from")
}

/// A socket on the receiver that has joined a group on `eth0`.
fn receiver_of(topology: &Topology, group: &str) -> UdpSocket {
    let receiver = &topology.receiver;
    let ifindex = receiver.index("eth0").to_raw();
    let socket = receiver.run(|| {
        let group: IpAddr = group.parse().unwrap();
        let socket = UdpSocket::bind(SocketAddr::new(group, OUTPUT_PORT)).expect("bind to the group");
        match group {
            IpAddr::V4(group) => socket.join_multicast_v4(&group, &"10.2.0.2".parse().unwrap()),
            IpAddr::V6(group) => socket.join_multicast_v6(&group, ifindex),
        }
        .expect("join the group");
        socket
    });
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    with_room(socket)
}

/// Bytes that tell where in which send they belong.
fn payload(number: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (number * 131 + at * 7 + at / 251).to_le_bytes()[0]).collect()
}

/// Sends a payload as one segmented send.
fn send_segmented(socket: &OwnedFd, group: &str, payload: &[u8], segment_bytes: u16) {
    let to = SocketAddress::new(SocketAddr::new(group.parse().unwrap(), INPUT_PORT));
    let ancillary = Ancillary { segment_bytes: Some(segment_bytes), ..Ancillary::default() };
    let mut batch = SendBatch::new(1, 1);
    let mut sending = batch.begin();
    sending.push(Some(&to), &ancillary, [payload]).unwrap();
    sending.send(socket.as_fd(), |_, outcome| assert_eq!(outcome, Ok(payload.len())));
}

fn assert_next(receiver: &UdpSocket, expected: &[u8], what: &str) {
    let mut buffer = [0; 65_536];
    let bytes = receiver.recv(&mut buffer).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(buffer.get(..bytes) == Some(expected), "{what}: {bytes} bytes that are not those sent");
}

fn count(stats: &Value, field: &str) -> u64 {
    stats["workers"][0][field].as_u64().unwrap_or_else(|| panic!("no {field}: {stats:#}"))
}

on_both_backends! {
    /// Each super-frame is cut at the sender's segment size and nowhere else, whatever the size and the families.
    fn super_frames_are_split_into_the_datagrams_they_carry(io) {
        let topology = Topology::sender_relay_receiver();
        if kernel_loses_super_frames(&topology.relay) {
            println!("skipped: this kernel gives no UDP super-frames to packet sockets");
            return;
        }
        let rules = [
            rule(input(GROUP_V4), [output(RELAYED_V4), output(RELAYED_V6)]),
            rule(input(GROUP_V6), [output("239.2.2.3")]),
        ];
        let daemon = relay(&topology, io, &rules);
        let from_v4 = [RELAYED_V4, RELAYED_V6].map(|group| receiver_of(&topology, group));
        let from_v6 = [receiver_of(&topology, "239.2.2.3")];
        let (mut frames, mut datagrams) = (0, 0);
        for (group, receivers) in [(GROUP_V4, &from_v4[..]), (GROUP_V6, &from_v6[..])] {
            let socket = sender_on(&topology.sender, "eth0", group);
            let cases = [(1_000, 8_000), (1_000, 8_001), (1, 64), (1_400, 64_400), (200, 12_799), (1_452, 1_453)];
            for (number, (segment, bytes)) in cases.into_iter().enumerate() {
                let sent = payload(number, bytes);
                send_segmented(&socket, group, &sent, u16::try_from(segment).unwrap());
                frames += 1;
                for (place, datagram) in sent.chunks(segment).enumerate() {
                    let what = format!("datagram {place} of {bytes} bytes by {segment} to {group}");
                    receivers.iter().for_each(|receiver| assert_next(receiver, datagram, &what));
                    datagrams += 1;
                }
            }
        }
        let stats = stats_without_drops(&daemon);
        assert_eq!(count(&stats, "received"), datagrams, "{stats:#}");
        // Proof that these were super-frames: the worker took one frame for each send.
        assert_eq!(count(&stats, "frames"), frames, "{stats:#}");
    }

    /// What a kernel before 6.2 discards is counted frame by frame, beside datagrams that are relayed, and explained.
    fn super_frames_that_the_kernel_loses_are_counted_and_explained(io) {
        const LOST: u64 = 500;
        let topology = Topology::sender_relay_receiver();
        if !kernel_loses_super_frames(&topology.relay) {
            println!("skipped: this kernel gives UDP super-frames to packet sockets");
            return;
        }
        let daemon = relay(&topology, io, &[rule(input(GROUP_V4), [output(RELAYED_V4)])]);
        let receiver = receiver_of(&topology, RELAYED_V4);
        let socket = sender_on(&topology.sender, "eth0", GROUP_V4);
        for number in 0..LOST {
            send_segmented(&socket, GROUP_V4, &payload(0, 8_000), 1_000);
            if number % 100 == 99 {
                let single = payload(usize::try_from(number).unwrap(), 100);
                send_segmented(&socket, GROUP_V4, &single, u16::MAX);
                assert_next(&receiver, &single, "a datagram among super-frames");
            }
        }
        let stats = stats_without_drops(&daemon);
        assert_eq!(stats["skips"]["super_frame_lost"], LOST, "{stats:#}");
        assert_eq!(count(&stats, "received"), LOST + 5, "{stats:#}");
        assert_eq!(daemon.log().matches("lost a super-frame").count(), 1, "{}", daemon.log());
        let report = daemon.ctl(&["--json", "doctor"]).stdout;
        for words in ["super_frames_lost", "tx-udp-segmentation off", "this kernel loses UDP super-frames"] {
            assert!(report.contains(words), "no {words} in {report}");
        }
    }

    /// The remedy where the kernel discards super-frames; elsewhere it does no harm.
    fn segments_that_the_sender_splits_pass_on_every_kernel(io) {
        let topology = Topology::sender_relay_receiver();
        split_before_sending(&topology.sender, "eth0");
        let rules = [rule(input(GROUP_V4), [output(RELAYED_V4)]), rule(input(GROUP_V6), [output(RELAYED_V6)])];
        let daemon = relay(&topology, io, &rules);
        for (group, relayed) in [(GROUP_V4, RELAYED_V4), (GROUP_V6, RELAYED_V6)] {
            let receiver = receiver_of(&topology, relayed);
            let socket = sender_on(&topology.sender, "eth0", group);
            for number in 0..20 {
                let sent = payload(number, 8_000);
                send_segmented(&socket, group, &sent, 1_000);
                sent.chunks(1_000).for_each(|datagram| assert_next(&receiver, datagram, "a segment"));
            }
        }
        let stats = stats_without_drops(&daemon);
        assert_eq!((count(&stats, "received"), count(&stats, "frames")), (320, 320), "{stats:#}");
    }

    /// A generator that segments, as fast as the receiver can take it: in order, nothing lost or doubled.
    fn rate_a_segmenting_stream_loses_nothing(io) {
        let topology = Topology::sender_relay_receiver();
        if kernel_loses_super_frames(&topology.relay) {
            split_before_sending(&topology.sender, "eth0");
        }
        let daemon = relay(&topology, io, &[rule(input(GROUP_V4), [output(RELAYED_V4)])]);
        let receiver = recv(&topology.receiver, "eth0", RELAYED_V4, "");
        let options = "--count 40000 --rate 40000 --burst 40 --size 500";
        let _ = send(&topology.sender, "eth0", GROUP_V4, options).finish();
        assert_received(&receiver.finish(), 40_000);
        let stats = stats_without_drops(&daemon);
        assert_eq!(packets_of(&stats, RELAYED_V4), 40_000);
    }

    fn jumbo_datagrams_pass_at_mtu_9000(io) {
        let topology = Topology::sender_relay_receiver();
        for (host, interface) in [
            (&topology.sender, "eth0"),
            (&topology.relay, "eth0"),
            (&topology.relay, "eth1"),
            (&topology.receiver, "eth0"),
        ] {
            host.set_mtu(interface, 9000);
        }
        let rules = [
            rule(input(GROUP_V4), [output(RELAYED_V4)]),
            rule(input(GROUP_V6), [output(RELAYED_V6)]),
        ];
        let daemon = relay(&topology, io, &rules);
        let receivers = [RELAYED_V4, RELAYED_V6].map(|group| recv(&topology.receiver, "eth0", group, ""));
        for group in [GROUP_V4, GROUP_V6] {
            let options = "--count 2000 --rate 4000 --size 8900";
            let sent = send(&topology.sender, "eth0", group, options).finish();
            assert_eq!(sent["bytes"], 2000 * 8900, "{sent}");
        }
        for receiver in receivers {
            let report = receiver.finish();
            assert_received(&report, 2000);
            assert_eq!(report["bytes"], 2000 * 8900, "{report}");
        }
        stats_without_drops(&daemon);
    }

    /// Frames of a tun interface start with the IP header, as those of WireGuard and GRE do.
    fn an_interface_without_link_header_is_an_input(io) {
        let topology = Topology::sender_relay_receiver();
        let Some(tun) = topology.relay.tun("tun0") else { return };
        topology.relay.setup("tun0", |links| links.disable_automatic_ipv6("tun0"));
        topology.relay.add_address("tun0", "10.9.0.1/24");
        topology.relay.add_address("tun0", "fd09::1/64");
        topology.relay.set_up("tun0", true);
        let rules = [
            rule(input_on("tun0", GROUP_V4), [output(RELAYED_V4)]),
            rule(input_on("tun0", GROUP_V6), [output(RELAYED_V6)]),
        ];
        let daemon = relay(&topology, io, &rules);
        let receivers = [RELAYED_V4, RELAYED_V6].map(|group| receiver_of(&topology, group));
        for number in 0..100 {
            let sent = payload(number, number * 13);
            let v4 = PacketBuilder::ipv4([10, 9, 0, 7], [239, 1, 1, 1], 5);
            let group: std::net::Ipv6Addr = GROUP_V6.parse().unwrap();
            let source: std::net::Ipv6Addr = "fd09::7".parse().unwrap();
            let v6 = PacketBuilder::ipv6(source.octets(), group.octets(), 5);
            for (builder, receiver) in [v4, v6].into_iter().zip(&receivers) {
                let mut packet = Vec::new();
                builder.udp(4000, INPUT_PORT).write(&mut packet, &sent).unwrap();
                assert_eq!(rustix::io::write(&tun, &packet).expect("write to the tun interface"), packet.len());
                assert_next(receiver, &sent, &format!("datagram {number}"));
            }
        }
        let stats = stats_without_drops(&daemon);
        assert_eq!(stats["rules"][0]["packets"], 100, "{stats:#}");
        assert_eq!(stats["rules"][1]["packets"], 100, "{stats:#}");
    }

    /// What a program on the relay host sends to its loopback: each datagram once, although its source is the host's own.
    fn loopback_is_an_input(io) {
        let topology = Topology::sender_relay_receiver();
        let relay_host = &topology.relay;
        let rules = [
            rule(input_on("lo", "127.0.0.1"), [output(RELAYED_V4)]),
            rule(input_on("lo", "::1"), [output(RELAYED_V6)]),
            rule(input_on("lo", GROUP_V4), [output("239.2.2.3")]),
        ];
        let daemon = relay(&topology, io, &rules);
        let cases = [("127.0.0.1", RELAYED_V4), ("::1", RELAYED_V6), (GROUP_V4, "239.2.2.3")];
        for (group, relayed) in cases {
            let receiver = receiver_of(&topology, relayed);
            let socket = sender_on(relay_host, "lo", group);
            for number in 0..50 {
                let sent = payload(number, 100 + number);
                // One segment: a plain datagram.
                send_segmented(&socket, group, &sent, u16::MAX);
                assert_next(&receiver, &sent, &format!("datagram {number} to {group}"));
            }
        }
        let stats = stats_without_drops(&daemon);
        for rule in stats["rules"].as_array().into_iter().flatten() {
            assert_eq!(rule["packets"], 50, "{stats:#}");
        }
    }
}
