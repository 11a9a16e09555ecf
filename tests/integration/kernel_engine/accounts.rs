//! Every datagram is accounted for, whatever happens to the output.

use mcr_testnet::{Topology, assert_accounting, wait_for};
use serde_json::Value;

use super::{DEADLINE, kernel_relay, sent, wait_for_engine};
use crate::scenario::{input, output, rule, stats_without_drops};

fn drops(stats: &Value) -> Value {
    stats["rules"][0]["outputs"][0]["drops"].clone()
}

/// A queue that is full: what leaves and what does not add up to what was due.
#[test]
fn a_full_queue_is_counted_exactly() {
    let topology = Topology::sender_relay_receiver();
    let rules = [rule(input("239.1.1.1"), [output("239.2.2.2"), output("239.2.2.3")])];
    let Some(daemon) = kernel_relay(&topology, &rules) else { return };
    let tc = |arguments: &str| {
        let output = topology.relay.output("tc", &arguments.split(' ').collect::<Vec<_>>());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    tc("qdisc add dev eth1 root tbf rate 1mbit burst 2000 limit 3000");
    sent(&topology, "239.1.1.1", 500);
    let stats = wait_for("drops", DEADLINE, || {
        let stats = daemon.settled_stats();
        if drops(&stats)["queue_full"].as_u64() > Some(0) { Ok(stats) } else { Err(stats) }
    });
    assert_accounting(&stats);
    assert_eq!(stats["kernel"]["matched"], 500, "{stats:#}");
    assert_eq!(stats["kernel"]["due"], 1000, "{stats:#}");
    let rule = &stats["rules"][0];
    assert_eq!((&rule["packets"], &rule["due"]), (&Value::from(500), &Value::from(1000)), "{stats:#}");
}

/// An output that is down or deleted is a worker's, which counts what it can't send, until it is back.
#[test]
fn an_output_that_is_down_deleted_or_made_anew() {
    let topology = Topology::sender_relay_receiver();
    let Some(daemon) = kernel_relay(&topology, &[rule(input("239.1.1.1"), [output("239.2.2.2")])]) else {
        return;
    };
    topology.relay.setup("eth1", |links| links.set_up("eth1", false));
    wait_for_engine(&daemon, "worker", Some("output_down"));
    sent(&topology, "239.1.1.1", 100);
    let stats = daemon.settled_stats();
    assert_accounting(&stats);
    assert_eq!(drops(&stats)["output_down"], 100, "{stats:#}");
    topology.relay.setup("eth1", |links| links.set_up("eth1", true));
    wait_for_engine(&daemon, "kernel", None);
    sent(&topology, "239.1.1.1", 100);
    let stats = daemon.settled_stats();
    assert_accounting(&stats);
    assert_eq!(stats["rules"][0]["packets"], 200, "{stats:#}");
    topology.relay.delete("eth1");
    wait_for_engine(&daemon, "worker", Some("output_down"));
    sent(&topology, "239.1.1.1", 100);
    let stats = daemon.settled_stats();
    assert_accounting(&stats);
    assert_eq!(stats["rules"][0]["packets"], 300, "{stats:#}");
}

/// What does not fit the output goes to a worker, which sends it in fragments.
#[test]
fn what_is_too_large_for_an_output_goes_to_a_worker() {
    let topology = Topology::sender_relay_receiver();
    let Some(daemon) = kernel_relay(&topology, &[rule(input("239.1.1.1"), [output("239.2.2.2")])]) else {
        return;
    };
    let output = topology.relay.output("ip", &["link", "set", "eth1", "mtu", "1000"]);
    assert!(output.status.success());
    wait_for_engine(&daemon, "kernel", None);
    let receiver = crate::scenario::recv(&topology.receiver, "eth0", "239.2.2.2", "--count 20");
    let _ = crate::scenario::send(&topology.sender, "eth0", "239.1.1.1", "--count 20 --size 1200").finish();
    crate::scenario::assert_received(&receiver.finish(), 20);
    let stats = stats_without_drops(&daemon);
    assert_eq!(stats["workers"][0]["matched"], 20, "{stats:#}");
    assert_eq!(stats["rules"][0]["packets"], 20, "{stats:#}");
}
