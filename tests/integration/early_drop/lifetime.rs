//! It stays through everything that workers survive, and goes when nobody relays any more.

use mcr_sys::process::{PidFd, Signal};
use mcr_testnet::{Daemon, IoBackend, Topology, wait_for, wait_until};
use serde_json::json;

use super::{
    DEADLINE, counter, dropping_relay, interface, send_unrefused, sender, sent, wait_for_early_drop,
};
use crate::scenario::{
    assert_received, input, input_on, is_in_user_namespace, output, recv, rule, send, stats_without_drops,
    with,
};

/// The attacher's process: a child of the daemon, or the one that the daemon's first supervisor started.
pub(crate) fn attacher(of: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).ok()?;
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(|pid: &u32| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"mcrd\0attach\0")
    })
}

fn is_there(pid: u32) -> bool {
    PidFd::open(pid).is_ok_and(|process| !process.has_ended().unwrap_or(true))
}

/// Supervisor killed, another one started, an upgrade: the same attacher, and no sender is refused in between.
#[test]
fn it_stays_through_a_crash_and_an_upgrade() {
    let topology = Topology::sender_relay_receiver();
    let rules = [rule(input("10.1.0.2"), [output("239.2.2.2")])];
    let Some(mut daemon) = dropping_relay(&topology, IoBackend::Uring, &rules) else { return };
    let process = attacher(daemon.pid()).expect("an attacher");
    let sender = sender(&topology, "10.1.0.2");
    let refused = || counter(&topology.relay, "Icmp.OutDestUnreachs");
    let before = refused();
    send_unrefused(&sender, 20);
    daemon.kill();
    send_unrefused(&sender, 50);
    daemon.start_again(&topology.relay, |_| {});
    daemon.wait_until_active(1);
    send_unrefused(&sender, 50);
    wait_for_early_drop(&daemon, "eth0", "on");
    daemon.upgrade();
    daemon.wait_until_active(1);
    send_unrefused(&sender, 50);
    let found = wait_for_early_drop(&daemon, "eth0", "on");
    assert!(found["early_drops"].as_u64().unwrap() > 0, "{found:#}");
    assert!(is_there(process), "it was replaced");
    assert_eq!(refused(), before, "a sender was refused");
}

/// An orderly stop, and the end of the keeper without supervisor, end the attacher; nothing is dropped any more.
#[test]
fn it_ends_with_the_daemon_and_with_the_keeper() {
    let topology = Topology::sender_relay_receiver();
    let rules = [rule(input("10.1.0.2"), [output("239.2.2.2")])];
    let Some(mut daemon) = dropping_relay(&topology, IoBackend::Uring, &rules) else { return };
    let process = attacher(daemon.pid()).expect("an attacher");
    daemon.terminate();
    assert!(!is_there(process), "it outlives an orderly stop");
    drop(daemon);

    let config = json!({"rules": rules, "settings": {"orphan_timeout_s": 2}}).to_string();
    let mut daemon = Daemon::start(&topology.relay, IoBackend::Uring, &config);
    daemon.wait_until_active(1);
    wait_for_early_drop(&daemon, "eth0", "on");
    let process = attacher(daemon.pid()).expect("an attacher");
    daemon.kill();
    assert!(is_there(process), "it ended with the supervisor");
    wait_until("the end of the attacher", DEADLINE, || !is_there(process));
    let sender = sender(&topology, "10.1.0.2");
    wait_for("a refusal", DEADLINE, || match sender.send(b"x") {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// An attacher that is killed is replaced; meanwhile the port is held.
#[test]
fn a_killed_attacher_is_replaced() {
    let topology = Topology::sender_relay_receiver();
    let rules = [rule(input("10.1.0.2"), [output("239.2.2.2")])];
    let Some(daemon) = dropping_relay(&topology, IoBackend::Uring, &rules) else { return };
    let first = attacher(daemon.pid()).expect("an attacher");
    sent(&topology, "10.1.0.2", 50);
    wait_until("the count", DEADLINE, || interface(&daemon, "eth0")["early_drops"] == 50);
    PidFd::open(first).unwrap().kill(Signal::KILL).unwrap();
    wait_for("another attacher", DEADLINE, || {
        attacher(daemon.pid()).filter(|other| *other != first).ok_or("none")
    });
    wait_for_early_drop(&daemon, "eth0", "on");
    sent(&topology, "10.1.0.2", 50);
    wait_until("counts that go on", DEADLINE, || interface(&daemon, "eth0")["early_drops"] == 100);
}

/// An interface that is renamed, or deleted and made anew.
#[test]
fn it_follows_interfaces() {
    let topology = Topology::sender_relay_receiver();
    let segment = topology.add_input(1);
    let group = "239.1.1.9";
    let rules = [rule(input_on(&segment.relay, group), [output("239.2.2.2")])];
    if is_in_user_namespace() {
        return;
    }
    let daemon = crate::scenario::relay(&topology, IoBackend::Uring, &rules);
    wait_for_early_drop(&daemon, &segment.relay, "on");
    topology.relay.setup(&segment.relay, |links| {
        links.set_up("in1", false)?;
        links.rename("in1", "other")?;
        links.set_up("other", true)
    });
    wait_until("no rule there", DEADLINE, || interface(&daemon, "other")["early_drop"].is_null());
    topology.relay.delete("other");
    let segment = topology.add_input(1);
    daemon.wait_until_active(1);
    wait_for_early_drop(&daemon, &segment.relay, "on");
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "--count 50");
    let _ = send(&topology.sender, "eth1", group, "--count 50 --size 100").finish();
    assert_received(&receiver.finish(), 50);
    wait_until("the count", DEADLINE, || interface(&daemon, &segment.relay)["early_drops"] == 50);
}

/// Destinations come and go 104 times under load, and the setting is switched both ways: nothing is lost or sent twice.
#[test]
fn rate_changes_under_load_cost_no_datagram() {
    let topology = Topology::sender_relay_receiver();
    let stream = || rule(input("239.1.1.1"), [output("239.2.2.2")]);
    let Some(daemon) = dropping_relay(&topology, IoBackend::Uring, &[stream()]) else { return };
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "--idle 1");
    let sender = send(&topology.sender, "eth0", "239.1.1.1", "--duration 60 --rate 5000 --size 100");
    let file = daemon.directory().join("next.json5");
    for round in 0..104_u8 {
        let other = with(input("239.1.1.2"), "port", 5100 + u16::from(round));
        let choice = if round % 26 == 25 { "off" } else { "auto" };
        let config = json!({"rules": [stream(), rule(other, [output("239.2.2.3")])], "settings": {"early_drop": choice}});
        std::fs::write(&file, config.to_string()).unwrap();
        let loaded = daemon.ctl(&["load", "--replace", file.to_str().unwrap()]);
        assert_eq!(loaded.code, 0, "{loaded:?}");
    }
    sender.interrupt();
    let sent = sender.finish()["sent"].as_u64().unwrap();
    assert_received(&receiver.finish(), sent);
    let state = wait_for_early_drop(&daemon, "eth0", "off");
    assert!(state["early_drops"].as_u64().unwrap() > 0, "{state:#}");
    stats_without_drops(&daemon);
}
