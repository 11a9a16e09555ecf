//! It survives what workers survive, and ends with the relay.

use mcr_sys::process::{PidFd, Signal};
use mcr_testnet::{Topology, assert_accounting, wait_for};
use serde_json::json;

use super::{DEADLINE, kernel, kernel_relay, sent, wait_for_engine};
use crate::scenario::{assert_received, input, output, recv, rule, send, with};

/// Frames that the relay has sent on eth1.
fn transmitted(topology: &Topology) -> u64 {
    let table = topology.relay.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap());
    let line = table.lines().find_map(|line| line.trim().strip_prefix("eth1:")).expect("a line");
    line.split_whitespace().nth(9).unwrap().parse().unwrap()
}

/// Waits until the relay has sent this many more.
fn wait_for_more(topology: &Topology, frames: u64) {
    let before = transmitted(topology);
    wait_for("traffic", DEADLINE, || {
        let more = transmitted(topology) - before;
        if more >= frames { Ok(()) } else { Err(more) }
    });
}

/// The supervisor is killed under load, another one takes over, then an upgrade: nothing is lost, nothing is sent twice, and
/// all of it is counted.
#[test]
fn rate_a_crash_and_an_upgrade_cost_no_datagram() {
    const COUNT: u64 = 60_000;
    let topology = Topology::sender_relay_receiver();
    let Some(mut daemon) = kernel_relay(&topology, &[rule(input("239.1.1.1"), [output("239.2.2.2")])]) else {
        return;
    };
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", &format!("--count {COUNT}"));
    let sender =
        send(&topology.sender, "eth0", "239.1.1.1", &format!("--count {COUNT} --rate 10000 --size 100"));
    wait_for_more(&topology, 5_000);
    daemon.kill();
    wait_for_more(&topology, 5_000);
    daemon.start_again(&topology.relay, |_| {});
    daemon.wait_until_active(1);
    wait_for_engine(&daemon, "kernel", None);
    daemon.upgrade();
    daemon.wait_until_active(1);
    wait_for_engine(&daemon, "kernel", None);
    let _ = sender.finish();
    assert_received(&with(receiver.finish(), "reordered", 0), COUNT);
    let stats = daemon.settled_stats();
    assert_accounting(&stats);
    assert_eq!(stats["rules"][0]["packets"], COUNT, "{stats:#}");
}

/// The attacher is killed: workers relay at once, and its counters stay; another one is started.
#[test]
fn workers_take_over_from_a_killed_attacher() {
    let topology = Topology::sender_relay_receiver();
    let Some(daemon) = kernel_relay(&topology, &[rule(input("239.1.1.1"), [output("239.2.2.2")])]) else {
        return;
    };
    sent(&topology, "239.1.1.1", 100);
    let attacher = crate::early_drop::attacher(daemon.pid()).expect("an attacher");
    PidFd::open(attacher).unwrap().kill(Signal::KILL).unwrap();
    wait_for("another attacher", DEADLINE, || {
        crate::early_drop::attacher(daemon.pid()).filter(|other| *other != attacher).ok_or("none")
    });
    wait_for_engine(&daemon, "kernel", None);
    sent(&topology, "239.1.1.1", 100);
    let stats = daemon.settled_stats();
    assert_accounting(&stats);
    assert_eq!(stats["rules"][0]["packets"], 200, "{stats:#}");
}

/// Without permission, workers relay, and the reason is said; without supervisor it ends with the keeper.
#[test]
fn without_permission_workers_relay() {
    let topology = Topology::sender_relay_receiver();
    let rules = json!([kernel(rule(input("239.1.1.1"), [output("239.2.2.2")]))]);
    let daemon =
        mcr_testnet::Daemon::start_with(&topology.relay, &json!({"rules": rules}).to_string(), |command| {
            mcr_sys::test_env::without_capability(command, 39);
        });
    daemon.wait_until_active(1);
    wait_for_engine(&daemon, "worker", Some("no_permission"));
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "--count 100");
    sent(&topology, "239.1.1.1", 100);
    assert_received(&receiver.finish(), 100);
}

/// A traced rule is a worker's, and the kernel's again afterwards.
#[test]
fn a_traced_rule_is_relayed_by_a_worker() {
    let topology = Topology::sender_relay_receiver();
    let Some(daemon) = kernel_relay(&topology, &[rule(input("239.1.1.1"), [output("239.2.2.2")])]) else {
        return;
    };
    let list = super::rules(&daemon);
    let id = list[0]["id"].as_str().unwrap();
    assert_eq!(daemon.ctl(&["trace", "enable", id]).code, 0);
    wait_for_engine(&daemon, "worker", Some("traced"));
    sent(&topology, "239.1.1.1", 20);
    let trace = daemon.ctl_json(&["trace", "show", id]);
    assert!(trace.to_string().contains("10.1.0.1"), "{trace:#}");
    assert_eq!(daemon.ctl(&["trace", "disable", id]).code, 0);
    wait_for_engine(&daemon, "kernel", None);
}
