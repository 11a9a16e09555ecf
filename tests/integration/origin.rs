//! From whom datagrams come, and who gets them beside the receivers: copies for programs of the relay's host, source ports,
//! kept source addresses, and what comes back.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use mcr_sys::filter::{FilterDestination, FilterProgram};
use mcr_sys::packet::{Capture, CaptureOptions, Fanout};
use mcr_testnet::{Generator, Host, Topology, assert_accounting, wait_for, with_room};
use serde_json::{Value, json};

use crate::scenario::{
    INPUT_PORT, OUTPUT_PORT, assert_received, input, input_on, kernel_loses_super_frames, output, output_on,
    recv, relay, rule, send, split_if_super_frames_are_lost, stats_without_drops, with,
};

const DEADLINE: Duration = Duration::from_secs(10);
/// As many as a socket holds.
const DATAGRAMS: usize = 50;
/// Input and output, of both families.
const GROUPS: [(&str, &str); 2] = [("239.1.1.1", "239.2.2.2"), ("ff15::1:1", "ff15::2:2")];

/// A socket of a program on a host that has joined a group on an interface, for datagrams to this port.
fn listener(host: &Host, interfaces: &[&str], group: &str, port: u16) -> UdpSocket {
    let indices: Vec<u32> = interfaces.iter().map(|interface| host.index(interface).to_raw()).collect();
    let socket = host.run(|| {
        let group: IpAddr = group.parse().unwrap();
        let socket = UdpSocket::bind(SocketAddr::new(group, port)).expect("bind to the group");
        for index in indices {
            match group {
                IpAddr::V4(group) => {
                    let any = std::net::Ipv4Addr::UNSPECIFIED;
                    rustix::net::sockopt::set_ip_add_membership_with_ifindex(&socket, &group, &any, index)
                        .expect("join the group");
                }
                IpAddr::V6(group) => socket.join_multicast_v6(&group, index).expect("join the group"),
            }
        }
        socket
    });
    socket.set_nonblocking(true).unwrap();
    with_room(socket)
}

/// The senders of what waits in a socket.
fn senders(socket: &UdpSocket) -> Vec<SocketAddr> {
    let mut buffer = [0; 65_536];
    std::iter::from_fn(|| socket.recv_from(&mut buffer).ok()).map(|(_, sender)| sender).collect()
}

/// Waits for this number of datagrams in a socket. Returns their senders.
fn wait_for_senders(socket: &UdpSocket, datagrams: usize) -> Vec<SocketAddr> {
    let mut all = Vec::new();
    wait_for("datagrams", DEADLINE, || {
        all.extend(senders(socket));
        if all.len() >= datagrams { Ok(()) } else { Err(all.len()) }
    });
    assert_eq!(all.len(), datagrams);
    all
}

/// Sends from an address and port of a host.
fn send_from(host: &Host, group: &str, source: &str, port: u16, datagrams: usize) {
    let options =
        format!("--source {source} --source-port {port} --count {datagrams} --rate 5000 --size 100");
    assert_eq!(send(host, "eth0", group, &options).finish()["errors"], 0);
}

/// Has a host accept datagrams from addresses to which it has no route through the interface.
fn accept_any_source(host: &Host) {
    host.run(|| {
        for interface in ["all", "eth0"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter"), "0").unwrap();
        }
    });
}

fn addresses(senders: &[SocketAddr]) -> BTreeSet<String> {
    senders.iter().map(|sender| sender.ip().to_string()).collect()
}

fn ports(senders: &[SocketAddr]) -> BTreeSet<u16> {
    senders.iter().map(SocketAddr::port).collect()
}

/// The relay's own and the sender's address of a family.
fn hosts(group: &str) -> (&'static str, &'static str) {
    if group.contains(':') { ("fd02::1", "fd01::1") } else { ("10.2.0.1", "10.1.0.1") }
}

on_both_backends! {
    /// What is sent is for the network. On loopback there is no other network.
    fn programs_of_the_host_get_what_is_sent_only_if_the_output_says_so(io) {
        let topology = Topology::sender_relay_receiver();
        for (group, relayed) in GROUPS {
            for (looped, key) in [(false, None), (false, Some(false)), (true, Some(true))] {
                let to = key.map_or(output(relayed), |key| with(output(relayed), "loop", key));
                let daemon = relay(&topology, io, &[rule(input(group), [to])]);
                let beside = listener(&topology.relay, &["eth1"], relayed, OUTPUT_PORT);
                let receiver = recv(&topology.receiver, "eth0", relayed, "");
                let _ = send(&topology.sender, "eth0", group, &format!("--count {DATAGRAMS} --rate 5000")).finish();
                assert_received(&receiver.finish(), DATAGRAMS as u64);
                stats_without_drops(&daemon);
                let copies = if looped { DATAGRAMS } else { 0 };
                assert_eq!(senders(&beside).len(), copies, "{relayed}: loop {key:?}");
            }
            // On loopback, without the key. There are no routes of IPv6 multicast there.
            if group.contains(':') {
                continue;
            }
            let daemon = relay(&topology, io, &[rule(input(group), [output_on("lo", relayed)])]);
            let local = listener(&topology.relay, &["lo"], relayed, OUTPUT_PORT);
            let _ = send(&topology.sender, "eth0", group, &format!("--count {DATAGRAMS} --rate 5000")).finish();
            wait_for_senders(&local, DATAGRAMS);
            stats_without_drops(&daemon);
        }
    }

    /// The host's programs hear both networks themselves.
    fn a_listener_beside_a_two_way_relay_gets_each_datagram_once(io) {
        for (group, _) in GROUPS {
            let topology = Topology::sender_relay_receiver();
            let same = |interface: &str| with(output_on(interface, group), "port", INPUT_PORT);
            let daemon = relay(&topology, io, &[
                rule(input(group), [same("eth1")]),
                rule(input_on("eth1", group), [same("eth0")]),
            ]);
            let listener = listener(&topology.relay, &["eth0", "eth1"], group, INPUT_PORT);
            for (from, to) in [(&topology.sender, &topology.receiver), (&topology.receiver, &topology.sender)] {
                let port = INPUT_PORT.to_string();
                let receiver = Generator::recv(to, &["--interface", "eth0", "--group", group, "--port", &port]);
                let _ = send(from, "eth0", group, &format!("--count {DATAGRAMS} --rate 5000")).finish();
                assert_received(&receiver.finish(), DATAGRAMS as u64);
                assert_eq!(wait_for_senders(&listener, DATAGRAMS).len(), DATAGRAMS, "{group}");
            }
            stats_without_drops(&daemon);
            assert!(senders(&listener).is_empty(), "{group}");
        }
    }

    /// Two receivers that refuse, two that don't, on one socket: each refusal is counted where it belongs.
    fn a_refusal_is_counted_at_the_output_that_it_names(io) {
        for (group, [open, closed], multicast) in [
            ("239.1.1.1", ["10.2.0.2", "10.2.0.3"], "239.2.2.2"),
            ("ff15::1:1", ["fd02::2", "fd02::3"], "ff15::2:2"),
        ] {
            let topology = Topology::sender_relay_receiver();
            let prefix = if group.contains(':') { 64 } else { 24 };
            topology.receiver.add_address("eth0", &format!("{closed}/{prefix}"));
            let daemon = relay(&topology, io, &[rule(input(group), [output(open), output(closed), output(multicast)])]);
            let receiver = recv(&topology.receiver, "eth0", open, "");
            let sent = send(&topology.sender, "eth0", group, "--count 1500 --rate 1000").finish();
            assert_eq!(sent["sent"], 1500);
            let stats = daemon.settled_stats();
            assert_accounting(&stats);
            let of = |place: usize| stats["rules"][0]["outputs"][place].clone();
            for place in [0, 2] {
                assert_eq!((&of(place)["packets"], &of(place)["errors"]), (&json!(1500), &json!(0)), "{stats:#}");
            }
            // The kernel of the receiver answers six at once, then one each second.
            let refused = of(1)["drops"]["refused"].as_u64().unwrap_or_default();
            assert!(refused >= 5, "{stats:#}");
            assert_eq!(of(1)["errors"], refused, "{stats:#}");
            assert_eq!(of(1)["packets"], 1500 - refused, "{stats:#}");
            assert_received(&receiver.finish(), 1500);
        }
    }

    /// A fixed port or the arriving one, to groups and hosts; the checksum is right, or the receiver's kernel would discard
    /// them. Larger than the MTU, they are fragmented as others are.
    fn a_source_port_is_what_the_output_says(io) {
        let topology = Topology::sender_relay_receiver();
        for host in [&topology.sender, &topology.relay] {
            host.set_mtu("eth0", 9_100);
        }
        for (group, relayed) in GROUPS {
            let (own, _) = hosts(group);
            let unicast = if group.contains(':') { "fd02::2" } else { "10.2.0.2" };
            let to = |group: &str, port: u16, source_port: Value| {
                with(with(output(group), "port", port), "source_port", source_port)
            };
            let rules = [rule(input(group), [
                to(relayed, 6001, json!(5353)),
                to(relayed, 6002, json!("keep")),
                to(unicast, 6003, json!(5353)),
                with(to(unicast, 6004, json!(161)), "source", own),
            ])];
            let daemon = relay(&topology, io, &rules);
            let [fixed, kept] = [6001, 6002].map(|port| listener(&topology.receiver, &["eth0"], relayed, port));
            let [to_host, sourced] = [6003, 6004]
                .map(|port| with_room(topology.receiver.run(|| UdpSocket::bind((unicast, port)).unwrap())));
            [&to_host, &sourced].iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
            for size in [64, 201, 1472, 9000] {
                let options = format!("--source-port 4321 --count 5 --rate 1000 --size {size}");
                let _ = send(&topology.sender, "eth0", group, &options).finish();
                for (socket, port) in [(&fixed, 5353), (&kept, 4321), (&to_host, 5353), (&sourced, 161)] {
                    let seen = wait_for_senders(socket, 5);
                    let expected = (BTreeSet::from([own.to_owned()]), BTreeSet::from([port]));
                    assert_eq!((addresses(&seen), ports(&seen)), expected, "{size} bytes to {group}");
                }
            }
            stats_without_drops(&daemon);
        }
    }

    /// Whether a program of the host binds the port before or after, with or without SO_REUSEADDR, for all addresses or one:
    /// it can, and gets each datagram that is for it.
    fn a_source_port_takes_nothing_from_a_program_of_the_host(io) {
        let topology = Topology::sender_relay_receiver();
        let bind = |address: &str, port: u16| {
            let socket = topology.relay.run(|| UdpSocket::bind((address, port)).expect("the port is free"));
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let before = [bind("0.0.0.0", 5353), bind("::1", 5353)];
        let from_port = |group: &str, port: u16| with(output(group), "source_port", port);
        let daemon = relay(&topology, io, &[
            rule(input("239.1.1.1"), [from_port("239.2.2.2", 5353), from_port("239.2.2.3", 162)]),
            rule(input("ff15::1:1"), [from_port("ff15::2:2", 5353), from_port("ff15::2:3", 162)]),
        ]);
        let after = [bind("10.2.0.1", 162), bind("fd02::1", 162)];
        let all = [bind("10.1.0.2", 162), bind("fd02::1", 5353)];
        let receivers = ["239.2.2.2", "239.2.2.3", "ff15::2:2", "ff15::2:3"]
            .map(|group| recv(&topology.receiver, "eth0", group, ""));
        for group in ["239.1.1.1", "ff15::1:1"] {
            let _ = send(&topology.sender, "eth0", group, &format!("--count {DATAGRAMS} --rate 5000")).finish();
        }
        // Who receives may answer the port that it sees.
        let v4 = topology.receiver.run(|| UdpSocket::bind("10.2.0.2:0").unwrap());
        let v6 = topology.receiver.run(|| UdpSocket::bind("[fd02::2]:0").unwrap());
        for _ in 0..20 {
            for to in ["10.2.0.1:5353", "10.2.0.1:162"] {
                v4.send_to(b"x", to).unwrap();
            }
            for to in ["[fd02::1]:162", "[fd02::1]:5353"] {
                v6.send_to(b"x", to).unwrap();
            }
        }
        for socket in [&before[0], &after[0], &after[1], &all[1]] {
            wait_for_senders(socket, 20);
        }
        receivers.into_iter().for_each(|receiver| assert_received(&receiver.finish(), DATAGRAMS as u64));
        stats_without_drops(&daemon);
    }

    /// Several senders at once, each datagram with its own address and port, to groups and hosts, beside an output that does
    /// not keep them.
    fn a_kept_source_is_that_of_each_datagram(io) {
        let topology = Topology::sender_relay_receiver();
        accept_any_source(&topology.receiver);
        topology.sender.add_address("eth0", "10.1.0.9/24");
        topology.sender.add_address("eth0", "fd01::9/64");
        for (group, relayed) in GROUPS {
            let six = group.contains(':');
            let (own, first) = hosts(group);
            let (second, unicast) = if six { ("fd01::9", "fd02::2") } else { ("10.1.0.9", "10.2.0.2") };
            let keep = |group: &str, port: u16| with(with(output(group), "port", port), "source", "keep");
            let rules = [rule(input(group), [
                keep(relayed, 6001),
                with(keep(relayed, 6002), "source_port", "keep"),
                keep(unicast, 6003),
                with(keep(unicast, 6004), "source_port", "keep"),
                with(output(relayed), "port", 6005),
            ])];
            let daemon = relay(&topology, io, &rules);
            let receiver = &topology.receiver;
            let joined = [6001, 6002, 6005].map(|port| listener(receiver, &["eth0"], relayed, port));
            let hosted =
                [6003, 6004].map(|port| with_room(receiver.run(|| UdpSocket::bind((unicast, port)).unwrap())));
            hosted.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
            std::thread::scope(|scope| {
                for (source, port) in [(first, 4001), (second, 4002)] {
                    let sender = &topology.sender;
                    scope.spawn(move || send_from(sender, group, source, port, DATAGRAMS));
                }
            });
            let both = BTreeSet::from([first.to_owned(), second.to_owned()]);
            for (socket, keeps_port) in [(&joined[0], false), (&joined[1], true), (&hosted[0], false), (&hosted[1], true)] {
                let seen = wait_for_senders(socket, 2 * DATAGRAMS);
                assert_eq!(addresses(&seen), both, "{group}");
                let of_first = seen.iter().filter(|sender| sender.ip().to_string() == first).count();
                assert_eq!(of_first, DATAGRAMS, "{group}");
                if keeps_port {
                    assert!(seen.iter().all(|sender| (sender.ip().to_string() == first) == (sender.port() == 4001)));
                    assert_eq!(ports(&seen), BTreeSet::from([4001, 4002]), "{group}");
                }
            }
            assert_eq!(addresses(&wait_for_senders(&joined[2], 2 * DATAGRAMS)), BTreeSet::from([own.to_owned()]));
            let stats = stats_without_drops(&daemon);
            assert_eq!(stats["rules"][0]["packets"], 2 * DATAGRAMS, "{stats:#}");
        }
    }

    /// A super-frame leaves as one, with the arriving source; with a source port, as the datagrams in it.
    fn super_frames_keep_their_source(io) {
        let topology = Topology::sender_relay_receiver();
        if kernel_loses_super_frames(&topology.relay) {
            println!("skipped: this kernel gives no UDP super-frames to packet sockets");
            return;
        }
        let keep = |group: &str| with(output(group), "source", "keep");
        let daemon = relay(&topology, io, &[
            rule(input("239.1.1.1"), [keep("239.2.2.2"), with(keep("239.2.2.3"), "source_port", "keep")]),
        ]);
        let [whole, cut] = ["239.2.2.2", "239.2.2.3"].map(|group| capture(&topology.receiver, group));
        let options = "--count 640 --burst 64 --size 200 --source-port 4001 --segment always --rate 64000";
        let _ = send(&topology.sender, "eth0", "239.1.1.1", options).finish();
        stats_without_drops(&daemon);
        let (frames, datagrams, sources) = captured(&whole);
        assert_eq!((datagrams, sources), (640, BTreeSet::from(["10.1.0.1".to_owned()])));
        assert!(frames <= 64, "{frames} frames for 640 datagrams");
        let (frames, datagrams, sources) = captured(&cut);
        assert_eq!((frames, datagrams, sources), (640, 640, BTreeSet::from(["10.1.0.1".to_owned()])));
    }

    /// They come to the port that is sent from, and end there.
    fn replies_are_counted_and_reported(io) {
        let topology = Topology::sender_relay_receiver();
        let rules = GROUPS.map(|(group, relayed)| {
            let keep = with(with(output(relayed), "port", 6002), "source", "keep");
            rule(input(group), [output(relayed), keep])
        });
        let daemon = relay(&topology, io, &rules);
        for (group, relayed) in GROUPS {
            let receiver = listener(&topology.receiver, &["eth0"], relayed, OUTPUT_PORT);
            let _ = send(&topology.sender, "eth0", group, "--count 1").finish();
            let sender = wait_for_senders(&receiver, 1)[0];
            let from = if group.contains(':') { "[fd02::2]:0" } else { "10.2.0.2:0" };
            let answering = topology.receiver.run(|| UdpSocket::bind(from).unwrap());
            (0..7).for_each(|_| assert_eq!(answering.send_to(b"answer", sender).unwrap(), 6));
        }
        let stats = wait_for("seven replies", DEADLINE, || {
            let stats = daemon.ctl_json(&["stats"]);
            let replies = |rule: usize| stats["rules"][rule]["outputs"][0]["replies"] == 7;
            if replies(0) && replies(1) { Ok(stats) } else { Err(stats) }
        });
        for rule in stats["rules"].as_array().into_iter().flatten() {
            assert_eq!(rule["outputs"][1]["replies"], 0, "{stats:#}");
        }
        let report = daemon.ctl_json(&["doctor", "--listen", "0"]);
        for rule in report["rules"].as_array().into_iter().flatten() {
            let mut findings = rule["findings"].as_array().into_iter().flatten();
            assert!(findings.any(|finding| finding["id"] == "replies"), "{rule:#}");
        }
        stats_without_drops(&daemon);
    }

    /// Both interfaces are on one switch: what is sent on one arrives on the other, from an address that is not the host's.
    fn what_returns_with_a_kept_source_is_not_relayed_again(io) {
        let (host, switch) = (Host::new("relay"), Host::new("switch"));
        switch.setup("bridge", |links| links.create_bridge("bridge", false));
        switch.set_up("bridge", true);
        switch.add_address("bridge", "10.7.0.9/24");
        switch.add_address("bridge", "fd07::9/64");
        for (number, interface) in [(1, "x"), (2, "y")] {
            host.cable(interface, &switch, interface);
            switch.setup(interface, |links| links.set_master(interface, Some("bridge")));
            host.add_address(interface, &format!("10.7.0.{number}/24"));
            host.add_address(interface, &format!("fd07::{number}/64"));
        }
        split_if_super_frames_are_lost(&host, &["x", "y"]);
        split_if_super_frames_are_lost(&switch, &["x", "y"]);
        let one_way = |group: &str, from: &str, to: &str| {
            let to = with(with(output_on(to, group), "port", INPUT_PORT), "source", "keep");
            rule(input_on(from, group), [with(to, "ttl", 255)])
        };
        let rules: Vec<Value> = GROUPS
            .iter()
            .flat_map(|(group, _)| [one_way(group, "x", "y"), one_way(group, "y", "x")])
            .collect();
        let daemon = mcr_testnet::Daemon::start(&host, io, &json!({"rules": rules}).to_string());
        daemon.wait_until_active(4);
        for (group, _) in GROUPS {
            let _ = send(&switch, "bridge", group, "--count 20 --ttl 200").finish();
        }
        let stats = daemon.settled_stats();
        assert_accounting(&stats);
        let matched: u64 =
            stats["workers"].as_array().into_iter().flatten().filter_map(|worker| worker["matched"].as_u64()).sum();
        // Of both families, each datagram arrives on both interfaces, is relayed to the other, and returns.
        assert_eq!((matched, &stats["skips"]["own_source"]), (80, &json!(80)), "{stats:#}");
    }

    /// With the arriving source a datagram could circle through a router: it leaves with less TTL than it arrived with, as
    /// long as a router could forward it.
    fn a_kept_source_limits_the_ttl(io) {
        let topology = Topology::sender_relay_receiver();
        split_if_super_frames_are_lost(&topology.relay, &["eth1"]);
        let keep = |group: &str, ttl: u8| with(with(output(group), "source", "keep"), "ttl", ttl);
        let outputs = [
            (keep("239.2.2.2", 16), [(1, 1), (2, 1), (9, 8), (64, 16)]),
            (keep("224.0.0.251", 255), [(1, 255), (2, 255), (9, 255), (64, 255)]),
            (keep("10.2.0.2", 16), [(1, 16), (2, 16), (9, 16), (64, 16)]),
        ];
        let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), outputs.clone().map(|(output, _)| output))]);
        let captures = ["239.2.2.2", "224.0.0.251", "10.2.0.2"].map(|group| capture(&topology.receiver, group));
        for place in 0..4 {
            let mut all: std::collections::BTreeMap<String, Vec<Vec<u8>>> = std::collections::BTreeMap::new();
            let ttl = outputs[0].1[place].0;
            let _ = send(&topology.sender, "eth0", "239.1.1.1", &format!("--count 3 --rate 1000 --ttl {ttl}")).finish();
            let _ = daemon.settled_stats();
            for (capture, (output, expected)) in captures.iter().zip(&outputs) {
                let seen: Vec<u8> = wait_for("three datagrams", DEADLINE, || {
                    let frames = all.entry(output.to_string()).or_default();
                    frames.extend(self::frames(capture));
                    let of = |frame: &Vec<u8>| std::iter::repeat_n(frame[10 + 14 + 8], carried(frame));
                    let seen: Vec<u8> = frames.iter().flat_map(of).collect();
                    if seen.len() >= 3 { Ok(seen) } else { Err(seen) }
                });
                assert_eq!(seen, [expected[place].1; 3], "{output} from TTL {ttl}");
            }
        }
        assert_accounting(&daemon.settled_stats());
    }
}

/// A capture of the datagrams for a group or host on `eth0` of a host.
fn capture(host: &Host, to: &str) -> Capture {
    let filter = FilterProgram::for_destinations(&[FilterDestination {
        address: to.parse().unwrap(),
        port: OUTPUT_PORT,
        promiscuous: false,
    }]);
    let options = CaptureOptions {
        ifindex: host.index("eth0"),
        filter: &filter,
        receive_buffer_bytes: 4 << 20,
        fanout: Fanout::New,
    };
    host.run(|| Capture::open(&options)).expect("a capture").0
}

/// The frames that wait, each with its virtio header.
fn frames(capture: &Capture) -> Vec<Vec<u8>> {
    let mut frame = vec![0; 70_000];
    std::iter::from_fn(|| {
        let flags = rustix::net::RecvFlags::DONTWAIT;
        let (bytes, _) = rustix::net::recv(capture.as_fd(), &mut frame[..], flags).ok()?;
        Some(frame[..bytes].to_vec())
    })
    .collect()
}

/// How many datagrams are in an IPv4 frame.
fn carried(frame: &[u8]) -> usize {
    const UDP_SEGMENTS: u8 = 5;
    const HEADERS: usize = 10 + 14 + 20 + 8;
    match frame[1] {
        UDP_SEGMENTS => (frame.len() - HEADERS).div_ceil(u16::from_le_bytes([frame[4], frame[5]]).into()),
        _ => 1,
    }
}

/// How many frames and datagrams wait, and from which IPv4 addresses.
fn captured(capture: &Capture) -> (usize, usize, BTreeSet<String>) {
    let frames = frames(capture);
    let datagrams: usize = frames.iter().map(|frame| carried(frame)).sum();
    let source = |frame: &Vec<u8>| {
        let octets: [u8; 4] = frame[10 + 14 + 12..][..4].try_into().unwrap();
        IpAddr::from(octets).to_string()
    };
    (frames.len(), datagrams, frames.iter().map(source).collect())
}
