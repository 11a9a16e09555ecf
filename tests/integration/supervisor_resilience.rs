//! Workers die; the traffic does not.

use std::time::Duration;

use mcr_sys::process::{PidFd, Signal};
use mcr_testnet::{Daemon, IoBackend, Topology, assert_accounting, wait_for};
use serde_json::{Value, json};

use crate::scenario::{input, output, recv, relay, rule, send};

const DEADLINE: Duration = Duration::from_secs(10);
const KILLS: usize = 20;
const RATE_PPS: u64 = 10_000;
/// A worker that has worked for a second is replaced at once, so each one gets that long before its end.
const DATAGRAMS: u64 = RATE_PPS * 3 / 2;

fn only_worker(daemon: &Daemon) -> Value {
    let workers = daemon.ctl_json(&["workers"]);
    assert_eq!(workers["workers"].as_array().map(Vec::len), Some(1), "{workers:#}");
    workers["workers"][0].clone()
}

fn kill(worker: &Value) {
    let pid = worker["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
    PidFd::open(pid).expect("the worker runs").kill(Signal::KILL).expect("it can be killed");
}

fn received(daemon: &Daemon) -> u64 {
    daemon.ctl_json(&["stats"])["workers"][0]["received"].as_u64().expect("a counter")
}

/// Waits until another process than `before` has its rules, and returns it.
fn successor(daemon: &Daemon, before: &Value) -> Value {
    wait_for("a new worker with its rules", DEADLINE, || {
        let now = only_worker(daemon);
        if now["pid"] != before["pid"] && now["state"] == "running" { Ok(now) } else { Err(now) }
    })
}

/// One stream, in the middle of which the worker is killed. Gives how many datagrams were lost.
pub(crate) fn lost_in_one_kill(topology: &Topology, daemon: &Daemon) -> u64 {
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "--idle 1");
    let worker = only_worker(daemon);
    let before = received(daemon);
    let options = format!("--rate {RATE_PPS} --count {DATAGRAMS} --size 200");
    let sender = send(&topology.sender, "eth0", "239.1.1.1", &options);
    wait_for("two thirds of the stream", DEADLINE, || {
        let so_far = received(daemon) - before;
        if so_far >= DATAGRAMS * 2 / 3 { Ok(()) } else { Err(so_far) }
    });
    kill(&worker);
    let next = successor(daemon, &worker);
    assert_eq!(next["ruleset_hash"], worker["ruleset_hash"], "{next:#}");
    assert_eq!(next["restarts"].as_u64(), worker["restarts"].as_u64().map(|n| n + 1), "{next:#}");
    let sent = sender.finish();
    assert_eq!(sent["sent"], json!(DATAGRAMS), "{sent:#}");
    let report = receiver.finish();
    for nothing in ["duplicates", "corrupted", "unknown", "receiver_drops"] {
        assert_eq!(report[nothing], 0, "{report:#}");
    }
    report["lost"].as_u64().expect("a number")
}

on_both_backends! {
    fn rate_twenty_killed_workers_lose_nothing_in_the_median(io) {
        let topology = Topology::sender_relay_receiver();
        let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), [output("239.2.2.2")])]);
        let mut losses: Vec<u64> = (0..KILLS).map(|_| lost_in_one_kill(&topology, &daemon)).collect();
        losses.sort_unstable();
        println!("lost per kill, sorted: {losses:?}");
        assert_eq!(losses[KILLS / 2], 0, "median of {losses:?}");
        assert!(losses[KILLS - 1] <= 32, "worst of {losses:?}");

        let stats = daemon.settled_stats();
        assert_accounting(&stats);
        // What a worker had sent and not yet counted when it died is accounted for as `worker_died`.
        let delivered = KILLS as u64 * DATAGRAMS - losses.iter().sum::<u64>();
        let output = &stats["rules"][0]["outputs"][0];
        let counted = output["packets"].as_u64().expect("a counter");
        let in_doubt = output["drops"]["worker_died"].as_u64().unwrap_or_default();
        assert!(counted <= delivered && delivered <= counted + in_doubt, "{delivered} delivered: {stats:#}");
        assert_eq!(stats["workers"][0]["kernel_drops"], 0, "{stats:#}");
    }
}

/// A worker of one interface dies; the worker of the other does not notice, and no counter falls.
#[test]
fn a_death_is_the_matter_of_one_worker() {
    let topology = Topology::sender_relay_receiver();
    topology.add_input(1);
    let on_second = json!({"interface": "in1", "group": "239.1.1.1", "port": crate::scenario::INPUT_PORT});
    let rules = [rule(input("239.1.1.1"), [output("239.2.2.1")]), rule(on_second, [output("239.2.2.2")])];
    let daemon = relay(&topology, IoBackend::Uring, &rules);
    let workers = daemon.ctl_json(&["workers"])["workers"].clone();
    let of = |workers: &Value, interface: &str| {
        workers
            .as_array()
            .into_iter()
            .flatten()
            .find(|w| w["interface"] == interface)
            .expect("a worker")
            .clone()
    };
    let receivers = [("239.2.2.1"), ("239.2.2.2")].map(|group| recv(&topology.receiver, "eth0", group, ""));
    let _ = send(&topology.sender, "eth0", "239.1.1.1", "--count 500").finish();
    let before = daemon.settled_stats();

    kill(&of(&workers, "eth0"));
    let after = wait_for("a new worker", DEADLINE, || {
        let now = daemon.ctl_json(&["workers"])["workers"].clone();
        let (old, new) = (of(&workers, "eth0"), of(&now, "eth0"));
        if new["pid"] != old["pid"] && new["state"] == "running" { Ok(now) } else { Err(now) }
    });
    assert_eq!(of(&after, "in1")["pid"], of(&workers, "in1")["pid"]);
    assert_eq!(of(&after, "in1")["restarts"], 0);
    let later = daemon.settled_stats();
    assert_eq!(later["rules"][0]["packets"], before["rules"][0]["packets"]);
    for interface in ["eth0", "eth1"] {
        let _ = send(&topology.sender, interface, "239.1.1.1", "--count 500").finish();
    }
    let [first, second] = receivers.map(|receiver| receiver.finish());
    assert_eq!(
        (&first["received"], &second["received"]),
        (&json!(1000), &json!(500)),
        "{first:#} {second:#}"
    );
}
