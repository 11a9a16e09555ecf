//! What the relay takes is dropped behind its capture, and spares the host's IP input (decisions 031–033): everything is still
//! relayed, every socket of the host gets all of its datagrams, senders are not refused, and it holds through crash, upgrade and
//! interfaces made anew.

mod frames;
mod lifetime;

pub(crate) use self::lifetime::attacher;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use mcr_sys::test_env::without_capability;
use mcr_testnet::{Daemon, Host, IoBackend, Topology, assert_accounting, wait_for};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};
use serde_json::{Value, json};

use crate::lacking::has_firewall;
use crate::scenario::{
    INPUT_PORT, assert_received, input, is_in_user_namespace, output, recv, relay, rule, send,
};

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
const CAP_BPF: u8 = 39;

/// Destination, the relay's address for a sender's socket, the address that stands for all, the output's group.
const INPUTS: [(&str, &str, &str); 4] = [
    ("239.1.1.1", "0.0.0.0", "239.2.2.2"),
    ("10.1.0.2", "0.0.0.0", "239.2.2.2"),
    ("ff15::1", "::", "ff15::2"),
    ("fd01::2", "::", "ff15::2"),
];

/// `interfaces`: what is said of one.
pub(crate) fn interface(daemon: &Daemon, name: &str) -> Value {
    let all = daemon.ctl_json(&["interfaces"]);
    let found = all["interfaces"].as_array().unwrap().iter().find(|one| one["name"] == name);
    found.cloned().unwrap_or(Value::Null)
}

pub(crate) fn wait_for_early_drop(daemon: &Daemon, name: &str, state: &str) -> Value {
    wait_for("the state of the early drop", DEADLINE, || {
        let found = interface(daemon, name);
        if found["early_drop"] == state { Ok(found) } else { Err(found) }
    })
}

/// A relay whose early drop is in force on eth0; `None` where the kernel permits no programs.
pub(crate) fn dropping_relay(topology: &Topology, io: IoBackend, rules: &[Value]) -> Option<Daemon> {
    let daemon = relay(topology, io, rules);
    if is_in_user_namespace() {
        wait_for_early_drop(&daemon, "eth0", "off");
        return None;
    }
    wait_for_early_drop(&daemon, "eth0", "on");
    Some(daemon)
}

/// A program's socket on the relay that receives what is sent to an address: bound to it, or to all.
pub(crate) fn listener(relay: &Host, bound: &str, to: &str, only_on_eth0: bool) -> UdpSocket {
    let (bound, to): (IpAddr, IpAddr) = (bound.parse().unwrap(), to.parse().unwrap());
    let index = relay.index("eth0").to_raw();
    relay.run(|| {
        let family = if bound.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket: OwnedFd = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None).unwrap();
        bind(&socket, &SocketAddr::new(bound, INPUT_PORT)).unwrap();
        if only_on_eth0 {
            sockopt::set_socket_recv_buffer_size(&socket, 1 << 20).unwrap();
        }
        let socket = UdpSocket::from(socket);
        match to {
            IpAddr::V4(group) if group.is_multicast() => {
                socket.join_multicast_v4(&group, &"10.1.0.2".parse().unwrap()).unwrap();
            }
            IpAddr::V6(group) if group.is_multicast() => socket.join_multicast_v6(&group, index).unwrap(),
            _ => {}
        }
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    })
}

/// A counter of the relay's IP layer.
fn counter(relay: &Host, name: &str) -> u64 {
    let text = relay.run(|| {
        ["snmp", "snmp6", "netstat"]
            .map(|file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default())
            .concat()
    });
    if let Some(line) = text.lines().find(|line| line.split_whitespace().next() == Some(name)) {
        return line.split_whitespace().nth(1).unwrap().parse().unwrap();
    }
    let (table, name) = name.split_once('.').unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with(&format!("{table}:")));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split_whitespace().position(|one| one == name).unwrap();
    values.split_whitespace().nth(at).unwrap().parse().unwrap()
}

/// What the IP layer got, by the destination's family.
fn ip_input(relay: &Host, to: &str) -> u64 {
    counter(relay, if to.contains(':') { "Ip6InReceives" } else { "Ip.InReceives" })
}

fn sent(topology: &Topology, to: &str, count: u64) {
    let sent =
        send(&topology.sender, "eth0", to, &format!("--count {count} --size 100 --rate 20000")).finish();
    assert_eq!(sent["sent"], count, "{sent:#}");
}

on_both_backends! {
    /// Without a socket the IP layer gets nothing; with one, bound in any way, before or after, that gets all. What is relayed
    /// and counted is the same.
    fn sockets_get_all_of_theirs_and_the_ip_layer_nothing_else(io) {
        for (to, any, group) in INPUTS {
            let topology = Topology::sender_relay_receiver();
            let early = listener(&topology.relay, any, to, false);
            let Some(daemon) = dropping_relay(&topology, io, &[rule(input(to), [output(group)])]) else { return };
            let receiver = recv(&topology.receiver, "eth0", group, "--count 200");
            sent(&topology, to, 50);
            (0..50).for_each(|_| _ = early.recv(&mut [0; 200]).unwrap());
            drop(early);
            let before = ip_input(&topology.relay, to);
            sent(&topology, to, 50);
            let late = listener(&topology.relay, to, to, true);
            sent(&topology, to, 50);
            (0..50).for_each(|_| _ = late.recv(&mut [0; 200]).unwrap());
            drop(late);
            sent(&topology, to, 50);
            assert_received(&receiver.finish(), 200);
            let got = ip_input(&topology.relay, to) - before;
            // Membership queries and neighbours may come in between.
            assert!((50..70).contains(&got), "the IP layer got {got} of 150 to {to}");
            let dropped = wait_for("the counter", DEADLINE, || {
                let state = interface(&daemon, "eth0");
                if state["early_drops"] == 100 { Ok(state) } else { Err(state) }
            });
            assert_eq!(dropped["early_drop_bytes"], 100 * 100, "{dropped:#}");
            assert_accounting(&daemon.settled_stats());
        }
    }
}

/// A sender's socket that learns of refusals.
pub(crate) fn sender(topology: &Topology, to: &str) -> UdpSocket {
    let to: IpAddr = to.parse().unwrap();
    let from = if to.is_ipv4() { "10.1.0.1:0" } else { "[fd01::1]:0" };
    topology.sender.run(|| {
        let socket = UdpSocket::bind(from).unwrap();
        socket.connect((to, INPUT_PORT)).unwrap();
        socket
    })
}

/// Sends, and fails if the kernel of the relay refuses.
pub(crate) fn send_unrefused(sender: &UdpSocket, count: u32) {
    for _ in 0..count {
        sender.send(b"a datagram").unwrap();
        std::thread::yield_now();
    }
    assert!(sender.take_error().unwrap().is_none(), "refused");
}

/// Nothing holds the port: a collector binds it without sharing, before, between and after; senders are never refused.
#[test]
fn a_collector_has_the_port_in_any_order_and_senders_are_never_refused() {
    for (to, any, group) in [INPUTS[1], INPUTS[3]] {
        let topology = Topology::sender_relay_receiver();
        let rules = [rule(input(to), [output(group)])];
        let Some(daemon) = dropping_relay(&topology, IoBackend::Uring, &rules) else { return };
        wait_for("a free port", DEADLINE, || {
            let held = daemon.ctl_json(&["memberships"])["memberships"][0].clone();
            if held["held_by"].is_null() && held["joined"] == true { Ok(()) } else { Err(held) }
        });
        assert_eq!(daemon.ctl_json(&["list"])["rules"][0]["reason"], Value::Null);
        let sender = sender(&topology, to);
        for _ in 0..3 {
            send_unrefused(&sender, 20);
            let collector = listener(&topology.relay, any, to, false);
            send_unrefused(&sender, 20);
            (0..20).for_each(|_| assert_eq!(collector.recv(&mut [0; 100]).unwrap(), 10));
        }
        send_unrefused(&sender, 20);
    }
}

/// Without the right, or where it is off, everything is as before: the port is held.
#[test]
fn without_the_right_the_port_is_held_and_doctor_tells_what_to_give() {
    let topology = Topology::sender_relay_receiver();
    let rules = json!([rule(input("10.1.0.2"), [output("239.2.2.2")])]);
    let daemon = Daemon::start_with(&topology.relay, &json!({"rules": rules}).to_string(), |command| {
        without_capability(command, CAP_BPF);
    });
    daemon.wait_until_active(1);
    let found = wait_for_early_drop(&daemon, "eth0", "off");
    assert!(found["early_drop_reason"].as_str().unwrap().contains("CAP_BPF"), "{found:#}");
    let held_by = || daemon.ctl_json(&["memberships"])["memberships"][0]["held_by"].clone();
    wait_for("a held port", DEADLINE, || if held_by() == "mcrd" { Ok(()) } else { Err(held_by()) });
    send_unrefused(&sender(&topology, "10.1.0.2"), 20);
    let doctor = daemon.ctl_json(&["doctor", "--listen", "0"]);
    let findings = doctor["host"]["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["id"] == "no_early_drop").expect("a finding");
    assert!(finding["hint"].as_str().unwrap().contains("CAP_BPF"), "{finding:#}");
    drop(daemon);

    let config = json!({"rules": rules, "settings": {"early_drop": "off"}}).to_string();
    let daemon = Daemon::start(&topology.relay, IoBackend::Uring, &config);
    daemon.wait_until_active(1);
    let found = wait_for_early_drop(&daemon, "eth0", "off");
    assert!(found["early_drop_reason"].as_str().unwrap().contains("setting"), "{found:#}");
    let doctor = daemon.ctl_json(&["doctor", "--listen", "0"]);
    assert!(!doctor.to_string().contains("no_early_drop"), "{doctor:#}");
}

/// Others than sockets: it stands back, per family, and comes back.
#[test]
fn it_stands_back_for_raw_sockets_filters_and_bridges() {
    let topology = Topology::sender_relay_receiver();
    let rules =
        [rule(input("239.1.1.1"), [output("239.2.2.2")]), rule(input("ff15::1"), [output("ff15::2")])];
    let Some(daemon) = dropping_relay(&topology, IoBackend::Uring, &rules) else { return };
    let raw = topology.relay.run(|| {
        socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::UDP)).unwrap()
    });
    wait_for_early_drop(&daemon, "eth0", "ipv6");
    let before = ip_input(&topology.relay, "239.1.1.1");
    sent(&topology, "239.1.1.1", 50);
    wait_for("the raw socket's datagrams", DEADLINE, || {
        let got = ip_input(&topology.relay, "239.1.1.1") - before;
        if got >= 50 { Ok(()) } else { Err(got) }
    });
    drop(raw);
    wait_for_early_drop(&daemon, "eth0", "on");
    let run = |command: &str| {
        let words: Vec<&str> = command.split(' ').collect();
        let output = topology.relay.output(words[0], &words[1..]);
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    };
    if has_firewall(&topology.relay, "netdev") {
        run("nft add table netdev t");
        run("nft add chain netdev t in { type filter hook ingress device eth0 priority 0 ; }");
        let found = wait_for_early_drop(&daemon, "eth0", "off");
        assert!(found["early_drop_reason"].as_str().unwrap().contains("filters"), "{found:#}");
        run("nft delete table netdev t");
        wait_for_early_drop(&daemon, "eth0", "on");
    }
    topology.relay.setup("eth0", |links| links.create_macvlan("above", "eth0"));
    wait_for_early_drop(&daemon, "eth0", "off");
}
