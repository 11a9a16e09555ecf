//! Tunnels of the kernel, as input and as output.

use std::net::UdpSocket;
use std::time::Duration;

use mcr_testnet::{Host, Topology, wait_for};

use super::{DATAGRAMS, creates, ip, passes, ready, run, stream};
use crate::scenario::{
    assert_received, input_on, output_on, packets_of, recv, relay, rule, stats_without_drops,
};

/// Creates the two ends of a tunnel between the relay and another host.
fn tunnel(topology: &Topology, far: &Host, kind: &str, name: &str) -> bool {
    let (relay, other) = if std::ptr::eq(far, &raw const topology.sender) {
        ("10.1.0.2", "10.1.0.1")
    } else {
        ("10.2.0.1", "10.2.0.2")
    };
    [(&topology.relay, relay, other), (far, other, relay)].into_iter().all(|(host, local, remote)| {
        creates(host, &format!("ip link add {name} type {kind} local {local} remote {remote} ttl 16"))
    })
}

on_both_backends! {
    fn gre_is_input_and_output(io) {
        let topology = Topology::sender_relay_receiver();
        for (far, name, network, order) in [(&topology.sender, "in0", 80, [2, 1]), (&topology.receiver, "out0", 81, [1, 2])] {
            if !tunnel(&topology, far, "gre", name) {
                return;
            }
            ready(&topology.relay, name, network, order[0]);
            ready(far, name, network, order[1]);
            ip(&topology.relay, &format!("link set {name} multicast on"));
            ip(far, &format!("link set {name} multicast on"));
        }
        passes(&topology, io, ("in0", "in0"), ("out0", "out0"));
    }

    /// IPv4 in IPv4 only.
    fn ipip_is_input_and_output(io) {
        let topology = Topology::sender_relay_receiver();
        for (far, name, relay_address, far_address) in [
            (&topology.sender, "in0", "10.82.0.2/24", "10.82.0.1/24"),
            (&topology.receiver, "out0", "10.83.0.1/24", "10.83.0.2/24"),
        ] {
            if !tunnel(&topology, far, "ipip", name) {
                return;
            }
            for (host, address) in [(&topology.relay, relay_address), (far, far_address)] {
                host.add_address(name, address);
                ip(host, &format!("link set {name} multicast on up"));
            }
        }
        let daemon = relay(&topology, io, &[rule(input_on("in0", "239.1.1.1"), [output_on("out0", "239.2.2.1")])]);
        let receiver = recv(&topology.receiver, "out0", "239.2.2.1", &format!("--count {DATAGRAMS}"));
        stream(&topology, "in0", "239.1.1.1");
        assert_received(&receiver.finish(), DATAGRAMS);
        assert_eq!(packets_of(&stats_without_drops(&daemon), "239.2.2.1"), DATAGRAMS);
    }

    /// WireGuard of the kernel, at both sides of the relay.
    fn wireguard_is_input_and_output(io) {
        let topology = Topology::sender_relay_receiver();
        if !wireguard_tool() {
            return;
        }
        for (far, name, network, order, underlay) in [
            (&topology.sender, "in0", 84, [2, 1], ["10.1.0.2", "10.1.0.1"]),
            (&topology.receiver, "out0", 85, [1, 2], ["10.2.0.1", "10.2.0.2"]),
        ] {
            let ends = [&topology.relay, far];
            if !ends.iter().all(|host| creates(host, &format!("ip link add {name} type wireguard"))) {
                return;
            }
            let port = 51_000 + u16::from(network);
            let public = ends.map(|host| key(host, name, port));
            for (number, host) in ends.into_iter().enumerate() {
                let other = 1 - number;
                let (key, address) = (&public[other], underlay[other]);
                run(host, &format!("wg set {name} peer {key} endpoint {address}:{port} allowed-ips 0.0.0.0/0,::/0"));
                ready(host, name, network, order[number]);
                ip(host, &format!("link set {name} multicast on"));
            }
            wait_for("a handshake", Duration::from_secs(30), || shake_hands(ends, name, network));
        }
        passes(&topology, io, ("in0", "in0"), ("out0", "out0"));
    }
}

/// Sends a datagram through the tunnel, and returns whether both ends have made a handshake.
fn shake_hands(ends: [&Host; 2], name: &str, network: u8) -> Result<(), String> {
    ends[0].run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        for number in [1, 2] {
            // To the host itself, or to the other one; it may not be reachable yet.
            let _ = socket.send_to(b"hello", format!("10.{network}.0.{number}:9"));
        }
    });
    let shown = ends.map(|host| host.output("wg", &["show", name, "latest-handshakes"]).stdout);
    let shown = shown.map(|text| String::from_utf8_lossy(&text).trim().to_owned());
    let made = |text: &String| text.split_whitespace().nth(1).is_some_and(|time| time != "0");
    if shown.iter().all(made) { Ok(()) } else { Err(shown.join("; ")) }
}

fn wireguard_tool() -> bool {
    let there = std::process::Command::new("wg").arg("--version").output().is_ok();
    if !there {
        println!("skipped: wg is not installed");
    }
    there
}

/// Gives an interface a private key, and returns its public one.
fn key(host: &Host, name: &str, port: u16) -> String {
    let script = format!(
        "umask 077; f=$(mktemp); wg genkey > $f; wg set {name} private-key $f listen-port {port}; wg pubkey < $f; rm $f"
    );
    let output = host.output("sh", &["-c", &script]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
