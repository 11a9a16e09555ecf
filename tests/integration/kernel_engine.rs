//! The kernel relays rules (decisions 034–036): what arrives leaves as from a worker, is counted exactly, and nothing is lost or
//! sent twice while engines are switched.

mod accounts;
mod frames;
mod lifetime;

use std::time::Duration;

use mcr_testnet::{Daemon, IoBackend, Topology, assert_accounting, wait_for};
use serde_json::{Value, json};

use crate::scenario::{
    assert_received, input, is_in_user_namespace, output, recv, relay, rule, send, stats_without_drops, with,
};

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// The rule for the kernel.
pub(crate) fn kernel(rule: Value) -> Value {
    with(rule, "engine", "kernel")
}

pub(crate) fn rules(daemon: &Daemon) -> Vec<Value> {
    daemon.ctl_json(&["list"])["rules"].as_array().unwrap().clone()
}

/// Waits until all rules have this engine, with this reason.
pub(crate) fn wait_for_engine(daemon: &Daemon, engine: &str, reason: Option<&str>) {
    wait_for("the engine", DEADLINE, || {
        let rules = rules(daemon);
        let is = |rule: &Value| rule["engine"] == engine && rule["engine_reason"].as_str() == reason;
        if rules.iter().all(is) { Ok(()) } else { Err(format!("{rules:#?}")) }
    });
}

/// A relay whose rules are relayed by the kernel; `None` where the kernel permits no programs.
pub(crate) fn kernel_relay(topology: &Topology, rules: &[Value]) -> Option<Daemon> {
    let rules: Vec<Value> = rules.iter().cloned().map(kernel).collect();
    let daemon = relay(topology, IoBackend::Uring, &rules);
    if is_in_user_namespace() {
        wait_for_engine(&daemon, "worker", Some("no_permission"));
        return None;
    }
    wait_for_engine(&daemon, "kernel", None);
    Some(daemon)
}

pub(crate) fn sent(topology: &Topology, to: &str, count: u64) {
    let sent =
        send(&topology.sender, "eth0", to, &format!("--count {count} --size 100 --rate 20000")).finish();
    assert_eq!(sent["sent"], count, "{sent:#}");
}

/// Groups of both families and a unicast input, to one and several outputs.
#[test]
fn what_the_kernel_relays_is_what_a_worker_would() {
    for (to, groups) in [
        ("239.1.1.1", vec!["239.2.2.2"]),
        ("10.1.0.2", vec!["239.2.2.2", "239.2.2.3", "239.2.2.4"]),
        ("ff15::1", vec!["ff15::2"]),
        ("fd01::2", vec!["ff15::2", "ff15::3"]),
    ] {
        let topology = Topology::sender_relay_receiver();
        let outputs: Vec<Value> = groups.iter().map(output).collect();
        let Some(daemon) = kernel_relay(&topology, &[rule(input(to), outputs)]) else { return };
        let receivers: Vec<_> =
            groups.iter().map(|group| recv(&topology.receiver, "eth0", group, "--count 300")).collect();
        sent(&topology, to, 300);
        receivers.into_iter().for_each(|receiver| assert_received(&receiver.finish(), 300));
        let stats = stats_without_drops(&daemon);
        assert_eq!(stats["kernel"]["matched"], 300, "{stats:#}");
        assert_eq!(stats["rules"][0]["packets"], 300, "{stats:#}");
        assert_eq!(stats["workers"][0]["matched"], 0, "{stats:#}");
        assert_eq!(stats["rules"][0]["outputs"][0]["engine"], "kernel", "{stats:#}");
    }
}

/// Of the sources, TTL and DSCP; what a rule asks that only workers do.
#[test]
fn rules_that_need_a_worker_have_one_and_say_why() {
    let topology = Topology::sender_relay_receiver();
    let plain = |n: u8| rule(input(format!("239.1.1.{n}")), [output("239.2.2.2")]);
    let with_output = |n: u8, field: &str, value: Value| {
        rule(input(format!("239.1.1.{n}")), [with(output("239.2.2.2"), field, value)])
    };
    let many: Vec<Value> = (0..4).map(|n| output(format!("239.2.3.{n}"))).collect();
    let expected = [
        (kernel(plain(1)), "kernel", None),
        (plain(2), "worker", None),
        (with(plain(3), "engine", "worker"), "worker", None),
        (kernel(with(plain(4), "max_pps", 1000)), "worker", Some("max_pps")),
        (kernel(with(plain(5), "stream", "rtp")), "worker", Some("health")),
        (kernel(with_output(6, "source", json!("keep"))), "worker", Some("kept_source")),
        (kernel(with_output(7, "loop", json!(true))), "worker", Some("loop")),
        (kernel(rule(input("239.1.1.8"), [output("10.2.0.2")])), "worker", Some("neighbour_unknown")),
        (kernel(rule(input("239.1.1.9"), [output("ff15::2")])), "worker", Some("family")),
        (with(rule(input("239.1.1.10"), many), "engine", "auto"), "worker", Some("too_many_outputs")),
        (kernel(with_output(11, "ttl", json!("decrement"))), "kernel", None),
    ];
    let all: Vec<Value> = expected.iter().map(|(rule, ..)| rule.clone()).collect();
    let daemon = relay(&topology, IoBackend::Uring, &all);
    if is_in_user_namespace() {
        return;
    }
    wait_for("the engines", DEADLINE, || {
        let found: Vec<(Value, Value)> = rules(&daemon)
            .into_iter()
            .map(|rule| (rule["engine"].clone(), rule["engine_reason"].clone()))
            .collect();
        let wanted: Vec<(Value, Value)> =
            expected.iter().map(|(_, engine, reason)| (json!(engine), json!(reason))).collect();
        if found == wanted { Ok(()) } else { Err(format!("{found:#?}")) }
    });
}

/// Under 20,000/s: added, switched both ways, its outputs changed; nothing is lost, nothing is sent twice.
#[test]
fn rate_engines_are_switched_under_load() {
    const SECONDS: u64 = 4;
    const RATE: u64 = 20_000;
    let topology = Topology::sender_relay_receiver();
    let stream = || rule(input("239.1.1.1"), [output("239.2.2.2")]);
    let Some(daemon) = kernel_relay(&topology, &[stream()]) else { return };
    let count = SECONDS * RATE;
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", &format!("--count {count}"));
    let sender =
        send(&topology.sender, "eth0", "239.1.1.1", &format!("--count {count} --rate {RATE} --size 100"));
    let file = daemon.directory().join("next.json5");
    for round in 0..24_u8 {
        let other = with(input("239.1.1.2"), "port", 5100 + u16::from(round));
        let other = kernel(rule(other, [output("239.2.2.3")]));
        let engine = ["kernel", "worker", "kernel", "kernel"][usize::from(round) % 4];
        let mut stream = with(stream(), "engine", engine);
        if round % 3 == 1 {
            stream = rule(input("239.1.1.1"), [output("239.2.2.2"), output("239.2.2.4")]);
            stream = kernel(stream);
        }
        std::fs::write(&file, json!({"rules": [stream, other]}).to_string()).unwrap();
        let loaded = daemon.ctl(&["load", "--replace", file.to_str().unwrap()]);
        assert_eq!(loaded.code, 0, "{loaded:?}");
        // Sometimes the next change comes before the engine is switched.
        if round % 5 > 1 {
            let wanted = if round % 3 == 1 { "kernel" } else { engine };
            wait_for("the switch", DEADLINE, || {
                let found = rules(&daemon)[0]["engine"].clone();
                if found == wanted { Ok(()) } else { Err(found) }
            });
        }
    }
    let _ = sender.finish();
    let report = receiver.finish();
    // Kernel and worker may be apart by what waits for the worker.
    let fields = with(report, "reordered", 0);
    assert_received(&fields, count);
    let stats = stats_without_drops(&daemon);
    assert_accounting(&stats);
    assert_eq!(stats["rules"][0]["packets"], count, "{stats:#}");
    assert!(stats["kernel"]["matched"].as_u64().unwrap() > 0, "{stats:#}");
    assert!(stats["workers"][0]["matched"].as_u64().unwrap() > 0, "{stats:#}");
}

/// `explain` finds nothing wrong with a rule that the kernel relays, and names the engine.
#[test]
fn explain_works_the_same() {
    let topology = Topology::sender_relay_receiver();
    let Some(daemon) = kernel_relay(&topology, &[rule(input("239.1.1.1"), [output("239.2.2.2")])]) else {
        return;
    };
    let _receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "");
    let _sender = send(&topology.sender, "eth0", "239.1.1.1", "--rate 200 --duration 6");
    wait_for("datagrams", DEADLINE, || {
        let stats = daemon.ctl_json(&["stats"]);
        if stats["rules"][0]["packets"].as_u64() > Some(20) { Ok(()) } else { Err(stats) }
    });
    let list = rules(&daemon);
    let id = list[0]["id"].as_str().unwrap();
    let reply = daemon.ctl_json(&["explain", id]);
    let rule = &reply["rules"][0];
    assert_eq!((&rule["verdict"], &rule["findings"]), (&json!("relaying"), &json!([])), "{reply:#}");
    assert!(rule.to_string().contains("the kernel, with worker eth0"), "{reply:#}");
}
