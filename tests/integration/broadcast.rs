//! Broadcast: consoles, televisions, discovery protocols, Wake-on-LAN. As input and output, limited and of a network; it does
//! not loop.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use mcr_testnet::frames::{self, UdpFrame};
use mcr_testnet::{Daemon, Host, IoBackend, RawPrefix, Topology, assert_accounting, wait_for};
use serde_json::{Value, json};

use crate::scenario::{
    INPUT_PORT, input_on, relay, rule, send_super_frame, split_if_super_frames_are_lost, stats_without_drops,
    with,
};

const DEADLINE: Duration = Duration::from_secs(10);

fn frame(to: &str, payload: &[u8]) -> UdpFrame {
    UdpFrame::new("10.1.0.1:4000".parse().unwrap(), to.parse().unwrap(), payload)
}

/// A socket of a host for a port, bound to no address as those of programs that receive broadcasts are.
fn receiver(host: &Host, port: u16) -> UdpSocket {
    let socket = host.run(|| UdpSocket::bind(("0.0.0.0", port))).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn next(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2000];
    let (bytes, from) = socket.recv_from(&mut buffer).unwrap();
    (buffer[..bytes].to_vec(), from)
}

fn end(interface: &str, group: &str, port: u16) -> Value {
    with(input_on(interface, group), "port", port)
}

on_both_backends! {
    fn broadcasts_are_relayed(io) {
        let topology = Topology::sender_relay_receiver();
        let daemon = relay(&topology, io, &[
            rule(end("eth0", "broadcast", 5000), [end("eth1", "broadcast", 6001)]),
            rule(end("eth0", "10.1.0.255", 5001), [end("eth1", "10.2.0.255", 6002)]),
            rule(end("eth0", "239.1.1.1", 5002), [end("eth1", "broadcast", 6003)]),
            rule(end("eth0", "broadcast", 5003), [end("eth1", "10.2.0.2", 6004)]),
        ]);
        let list = daemon.ctl_json(&["list"]);
        let groups = (&list["rules"][0]["input"]["group"], &list["rules"][0]["outputs"][0]["group"]);
        assert_eq!(groups, (&json!("broadcast"), &json!("broadcast")), "{list:#}");
        let receivers = [6001, 6002, 6003, 6004].map(|port| receiver(&topology.receiver, port));
        let sender = frames::sender(&topology.sender, "eth0", RawPrefix::None);
        // Those of the limited broadcast to port 5001 are not for the rule on the network's.
        for (to, payload) in [
            ("255.255.255.255:5000", "limited"),
            ("10.1.0.255:5000", "network"),
            ("255.255.255.255:5001", "other"),
            ("10.2.0.255:5000", "other network"),
            ("10.1.0.255:5001", "network"),
            ("239.1.1.1:5002", "multicast"),
            ("255.255.255.255:5003", "limited"),
        ] {
            sender.send(&frame(to, payload.as_bytes()).bytes()).unwrap();
        }
        send_super_frame(&topology.sender, "eth0", &frame("255.255.255.255:5000", &[7; 25]), 10);
        let mut got = Vec::new();
        for (receiver, count) in receivers.iter().zip([5, 1, 1, 1]) {
            for _ in 0..count {
                let (payload, from) = next(receiver);
                assert_eq!(from.ip().to_string(), "10.2.0.1");
                got.push(payload);
            }
        }
        let expected: [&[u8]; 8] =
            [b"limited", b"network", &[7; 10], &[7; 10], &[7; 5], b"network", b"multicast", b"limited"];
        assert_eq!(got, expected);
        let stats = stats_without_drops(&daemon);
        let packets: Vec<_> = stats["rules"].as_array().unwrap().iter().map(|rule| rule["packets"].clone()).collect();
        assert_eq!(packets, [5, 1, 1, 1], "{stats:#}");
        assert_eq!(stats["rules"][0]["outputs"][0]["group"], "broadcast", "{stats:#}");
    }

    /// Discovery both ways; and with both interfaces on one network, what comes back is recognized.
    fn broadcasts_do_not_loop(io) {
        let (relay_host, sender, switch) = (Host::new("relay"), Host::new("sender"), Host::new("switch"));
        switch.setup("bridge", |links| links.create_bridge("bridge", false));
        for (host, interface, port, address) in [
            (&relay_host, "eth0", "to_relay0", "10.1.0.2/24"),
            (&relay_host, "eth1", "to_relay1", "10.2.0.2/24"),
            (&sender, "eth0", "to_sender", "10.1.0.1/24"),
        ] {
            switch.cable(port, host, interface);
            switch.setup(port, |links| links.set_master(port, Some("bridge")));
            host.add_address(interface, address);
        }
        switch.set_up("bridge", true);
        // What the relay sends comes back to it in one super-frame.
        split_if_super_frames_are_lost(&relay_host, &["eth0", "eth1"]);
        let one_way = |from: &str, to: &str| {
            rule(end(from, "broadcast", INPUT_PORT), [end(to, "broadcast", INPUT_PORT)])
        };
        let config = json!({"rules": [one_way("eth0", "eth1"), one_way("eth1", "eth0")]});
        let daemon = Daemon::start(&relay_host, io, &config.to_string());
        daemon.wait_until_active(2);
        let raw = frames::sender(&sender, "eth0", RawPrefix::None);
        for _ in 0..20 {
            raw.send(&frame("255.255.255.255:5000", b"who is there?").bytes()).unwrap();
        }
        wait_for("what comes back", DEADLINE, || {
            let stats = daemon.ctl_json(&["stats"]);
            if stats["skips"]["own_source"] == 40 { Ok(()) } else { Err(stats) }
        });
        let stats = daemon.settled_stats();
        assert_accounting(&stats);
        for rule in stats["rules"].as_array().unwrap() {
            assert_eq!(rule["packets"], 20, "{stats:#}");
        }
        assert_eq!(stats["skips"]["own_source"], 40, "{stats:#}");
    }
}

#[test]
fn a_broadcast_address_that_can_not_be_received_is_told_with_a_hint() {
    let topology = Topology::sender_relay_receiver();
    let daemon = Daemon::start(&topology.relay, IoBackend::Uring, "{}");
    let add = |name: &str, interface: &str, group: &str| {
        let place = ["--input-interface", interface, "--input-group", group, "--input-port", "9"];
        let arguments = [&["add", "--name", name, "--outputs", "broadcast:9:eth1"][..], &place].concat();
        daemon.ctl(&arguments)
    };
    for (name, interface, group) in [
        ("there", "eth0", "10.1.0.255"),
        ("elsewhere", "eth0", "10.2.0.255"),
        ("loopback", "lo", "broadcast"),
    ] {
        assert_eq!(add(name, interface, group).code, 0, "{name}");
    }
    let refused = add("itself", "eth1", "broadcast");
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("the output eth1 broadcast:9 equals the rule's input"), "{refused:?}");
    let states = || {
        let list = daemon.ctl_json(&["list"]);
        let rules = list["rules"].as_array().cloned().unwrap_or_default();
        let of = |rule: &Value, key: &str| rule[key].as_str().unwrap_or_default().to_owned();
        rules.iter().map(|rule| (of(rule, "state"), of(rule, "reason"))).collect::<Vec<_>>()
    };
    let pending = |reason: &str| ("pending".to_owned(), reason.to_owned());
    let active = || ("active".to_owned(), String::new());
    let rest = [
        pending("10.2.0.255 is the broadcast address of a network of eth1"),
        pending("interface lo has no broadcast"),
    ];
    let wait = |first: (String, String)| {
        let expected = [&[first][..], &rest].concat();
        wait_for("the states", DEADLINE, || if states() == expected { Ok(()) } else { Err(states()) });
    };
    wait(active());
    let found = daemon.ctl_json(&["explain", "elsewhere", "--listen", "0"]);
    let finding = &found["rules"][0]["findings"][0];
    assert_eq!(
        (&finding["id"], &finding["hint"]),
        (&json!("not_our_address"), &json!("make eth1 the interface of the rule's input")),
        "{found:#}"
    );
    topology.relay.remove_address("eth0", "10.1.0.2/24");
    wait(pending("this host has no address 10.1.0.255"));
    topology.relay.add_address("eth0", "10.1.0.2/24");
    wait(active());
    let shown = daemon.ctl(&["show"]).stdout;
    assert!(shown.contains(r#"group: "broadcast""#), "{shown}");
}
