//! Programs of the relay's host that have the port of a unicast input, before or after the rule: they get their datagrams,
//! senders are not refused, and whoever has the port is reported.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use mcr_sys::test_env::without_capability;
use mcr_testnet::{Daemon, IoBackend, Topology, assert_accounting, wait_for};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
use serde_json::{Value, json};

use crate::scenario::{INPUT_PORT, assert_received, input, output, recv, rule, send, with};

/// A relay that holds ports by sockets: without early drop, which `early_drop` tests.
fn relay(topology: &Topology, io: IoBackend, rules: &[Value]) -> Daemon {
    let config = json!({"rules": rules, "settings": {"early_drop": "off"}});
    let daemon = Daemon::start(&topology.relay, io, &config.to_string());
    daemon.wait_until_active(rules.len());
    daemon
}

const DEADLINE: Duration = Duration::from_secs(20);

/// The sender's address, the input's, the address that stands for all, and a group for the output.
const FAMILIES: [(&str, &str, &str, &str); 2] =
    [("10.1.0.1", "10.1.0.2", "0.0.0.0", "239.2.2.2"), ("fd01::1", "fd01::2", "::", "ff15::2")];

/// A program's socket on the relay.
fn listener(topology: &Topology, address: &str, reuse: bool) -> std::io::Result<UdpSocket> {
    let address: IpAddr = address.parse().unwrap();
    topology.relay.run(|| {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        // Not for the programs that the test starts.
        let socket: OwnedFd = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseaddr(&socket, reuse)?;
        bind(&socket, &SocketAddr::new(address, INPUT_PORT))?;
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(DEADLINE))?;
        Ok(socket)
    })
}

/// A sender that learns of a refusal.
fn sender(topology: &Topology, from: &str, to: &str) -> UdpSocket {
    let [from, to]: [IpAddr; 2] = [from, to].map(|address| address.parse().unwrap());
    topology.sender.run(|| {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.connect((to, INPUT_PORT)).unwrap();
        socket
    })
}

fn first_rule(daemon: &Daemon) -> Value {
    daemon.ctl_json(&["list"])["rules"][0].clone()
}

/// Waits until `list` names this holder of the port.
fn wait_for_holder(daemon: &Daemon, holder: &str) -> Value {
    wait_for("the holder of the port", DEADLINE, || {
        let rule = first_rule(daemon);
        let found = rule["port_holder"].as_str().is_some_and(|found| found.contains(holder));
        if found && rule["state"] == "active" { Ok(rule) } else { Err(rule) }
    })
}

fn this_program() -> String {
    format!("(pid {})", std::process::id())
}

/// Sends, and fails if the kernel of the relay refuses.
fn send_unrefused(sender: &UdpSocket, count: u32) {
    for _ in 0..count {
        sender.send(b"a datagram").unwrap();
    }
    assert!(sender.take_error().unwrap().is_none(), "refused");
}

on_both_backends! {
    fn a_program_that_has_the_port_first_keeps_it_and_is_followed(io) {
        for (from, to, any, group) in FAMILIES {
            for (address, reuse) in [(any, true), (any, false), (to, true)] {
                let topology = Topology::sender_relay_receiver();
                let owner = listener(&topology, address, reuse).unwrap();
                let daemon = relay(&topology, io, &[rule(input(to), [output(group)])]);
                let rule = wait_for_holder(&daemon, &this_program());
                let reason = rule["reason"].as_str().unwrap();
                assert!(reason.contains("gets the datagrams, too"), "{reason}");
                let memberships = daemon.ctl_json(&["memberships"]);
                let held = &memberships["memberships"][0];
                assert_eq!((&held["joined"], &held["port"]), (&json!(false), &json!(INPUT_PORT)), "{held}");
                assert!(held["held_by"].as_str().unwrap().contains(&this_program()), "{held}");
                // As many as fit into the queue of a socket, which nobody reads meanwhile.
                let receiver = recv(&topology.receiver, "eth0", group, "--count 50");
                let _ = send(&topology.sender, "eth0", to, "--count 50 --size 100").finish();
                assert_received(&receiver.finish(), 50);
                (0..50).for_each(|_| _ = owner.recv(&mut [0; 2000]).unwrap());
                drop(owner);
                wait_for_holder(&daemon, "mcrd");
                send_unrefused(&sender(&topology, from, to), 20);
                assert_eq!(first_rule(&daemon)["reason"], Value::Null);
                assert_accounting(&daemon.settled_stats());
            }
        }
    }

    /// As syslog daemons do. Until it is noticed, the absorbing socket takes its datagrams.
    fn a_program_that_shares_the_port_later_gets_it(io) {
        for (from, to, any, group) in FAMILIES {
            let topology = Topology::sender_relay_receiver();
            let daemon = relay(&topology, io, &[rule(input(to), [output(group)])]);
            wait_for_holder(&daemon, "mcrd");
            let sender = sender(&topology, from, to);
            send_unrefused(&sender, 5);
            let program = listener(&topology, any, true).unwrap();
            program.set_nonblocking(true).unwrap();
            wait_for("a datagram for the program", DEADLINE, || {
                send_unrefused(&sender, 1);
                program.recv(&mut [0; 100]).map_err(|error| (error, first_rule(&daemon)))
            });
            wait_for_holder(&daemon, &this_program());
            assert!(daemon.log().contains("gets the datagrams, too"), "{}", daemon.log());
            send_unrefused(&sender, 20);
            // One that is still under way would be refused when the program is gone.
            sender.send(b"the last").unwrap();
            wait_for("the last datagram", DEADLINE, || {
                let mut datagram = [0; 100];
                match program.recv(&mut datagram) {
                    Ok(bytes) if datagram[..bytes] == *b"the last" => Ok(()),
                    other => Err(other),
                }
            });
            drop(program);
            wait_for_holder(&daemon, "mcrd");
            send_unrefused(&sender, 20);
        }
    }
}

/// The kernel lets no second socket bind the port without SO_REUSEADDR.
#[test]
fn a_program_that_does_not_share_the_port_is_refused() {
    for (_, to, any, group) in FAMILIES {
        let topology = Topology::sender_relay_receiver();
        let daemon = relay(&topology, IoBackend::Uring, &[rule(input(to), [output(group)])]);
        wait_for_holder(&daemon, "mcrd");
        let refused = listener(&topology, any, false).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::AddrInUse);
        let memberships = daemon.ctl_json(&["memberships"]);
        assert_eq!(memberships["memberships"][0]["held_by"], "mcrd", "{memberships:#}");
        let id = first_rule(&daemon)["id"].as_str().unwrap().to_owned();
        assert_eq!(daemon.ctl(&["remove", "--id", &id]).code, 0);
        wait_for("a free port", DEADLINE, || listener(&topology, any, false));
    }
}

/// `hold_port: false` leaves the port to other programs; without one, the kernel refuses the senders.
#[test]
fn a_port_that_is_not_held_is_free() {
    for (from, to, any, group) in FAMILIES {
        let topology = Topology::sender_relay_receiver();
        let one = |hold: bool| rule(with(input(to), "hold_port", hold), [output(group)]);
        let daemon = relay(&topology, IoBackend::Uring, &[one(true)]);
        wait_for_holder(&daemon, "mcrd");
        let refused = listener(&topology, any, false).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::AddrInUse);
        let id = first_rule(&daemon)["id"].clone();
        let file = daemon.directory().join("free.json5");
        std::fs::write(&file, json!({"rules": [one(false)], "settings": {"early_drop": "off"}}).to_string())
            .unwrap();
        assert_eq!(daemon.ctl(&["load", "--replace", file.to_str().unwrap()]).code, 0);
        let rule = first_rule(&daemon);
        assert_eq!((&rule["id"], &rule["state"]), (&id, &json!("active")), "the same rule: {rule:#}");
        assert_eq!((&rule["port_holder"], &rule["input"]["hold_port"]), (&Value::Null, &json!(false)));
        let sender = sender(&topology, from, to);
        wait_for("a refusal", DEADLINE, || match sender.send(b"x") {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let program = listener(&topology, any, false).unwrap();
        sender.send(b"for the program").unwrap();
        assert_eq!(program.recv(&mut [0; 100]).unwrap(), 15);
        assert!(daemon.ctl(&["show"]).stdout.contains("hold_port: false"));
    }
}

/// The keeper holds the port for a supervisor that may come back, and no longer.
#[test]
fn a_killed_daemon_holds_the_port_for_the_orphan_timeout() {
    let topology = Topology::sender_relay_receiver();
    let rules = [rule(input("10.1.0.2"), [output("239.2.2.2")])];
    let config =
        json!({"rules": rules, "settings": {"orphan_timeout_s": 2, "early_drop": "off"}}).to_string();
    let mut daemon = Daemon::start(&topology.relay, IoBackend::Uring, &config);
    daemon.wait_until_active(1);
    daemon.kill();
    let sender = sender(&topology, "10.1.0.1", "10.1.0.2");
    send_unrefused(&sender, 5);
    assert!(listener(&topology, "0.0.0.0", false).is_err(), "the keeper holds it");
    wait_for("the end of the keeper", DEADLINE, || listener(&topology, "0.0.0.0", false));
}

on_both_backends! {
    /// As with the rights of a service without CAP_NET_BIND_SERVICE.
    fn a_port_that_can_not_be_held_stops_nothing(io) {
        const CAP_NET_BIND_SERVICE: u8 = 10;
        for (_, to, _, group) in FAMILIES {
            let topology = Topology::sender_relay_receiver();
            let input = with(input(to), "port", 514);
            let rules = [with(rule(input, [output(group)]), "name", "syslog")];
            let config = json!({"rules": rules, "settings": {"early_drop": "off"}}).to_string();
            let daemon = Daemon::start_with(&topology.relay, &config, |command| {
                command.env("MCRD_IO", io.as_str());
                without_capability(command, CAP_NET_BIND_SERVICE);
            });
            daemon.wait_until_active(1);
            let rule = first_rule(&daemon);
            let reason = rule["reason"].as_str().unwrap();
            assert!(reason.contains("Permission denied") && reason.contains("514"), "{reason}");
            assert_eq!(rule["port_holder"], Value::Null, "{rule:#}");
            let receiver = recv(&topology.receiver, "eth0", group, "--count 50");
            let options = ["send", "--interface", "eth0", "--group", to, "--port", "514", "--count", "50"];
            let _ = mcr_testnet::Generator::send(&topology.sender, &options[1..]).finish();
            assert_received(&receiver.finish(), 50);
            let explained = daemon.ctl_json(&["explain", "syslog", "--listen", "0"]);
            let explained = &explained["rules"][0];
            assert_eq!(explained["verdict"], "impaired", "{explained:#}");
            assert_eq!(explained["findings"][0]["id"], "port_not_held", "{explained:#}");
            assert_eq!(explained["findings"][0]["severity"], "warning", "{explained:#}");
        }
    }
}
