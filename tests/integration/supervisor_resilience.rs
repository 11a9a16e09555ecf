//! Workers die; the traffic does not. `MCR_FAULTS` sets how often they are killed.

use std::time::Duration;

use mcr_sys::process::{PidFd, Signal};
use mcr_testnet::{Daemon, IoBackend, Topology, assert_accounting, wait_for};
use serde_json::{Value, json};

use crate::scenario::{input, output, recv, relay, rule, send};
use crate::worker_health::faults;

const DEADLINE: Duration = Duration::from_secs(10);
const KILLS: u32 = 20;
/// Kills of all workers at once.
const MASSACRES: u32 = 5;
const RATE_PPS: u64 = 10_000;
/// The longest time from a worker's death until its replacement has its rules is 50 ms; a loaded machine gets more.
const RECOVERY_MS: u64 = 250;
/// A worker that has worked for a quarter of a second is replaced at once, so each one gets that long before its end.
const DATAGRAMS: u64 = RATE_PPS * 4 / 5;

fn workers(daemon: &Daemon, count: usize) -> Vec<Value> {
    let reply = daemon.ctl_json(&["workers"]);
    let workers = reply["workers"].as_array().cloned().unwrap_or_default();
    assert_eq!(workers.len(), count, "{reply:#}");
    workers
}

fn kill(worker: &Value) {
    let pid = worker["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
    PidFd::open(pid).expect("the worker runs").kill(Signal::KILL).expect("it can be killed");
}

fn received(daemon: &Daemon) -> u64 {
    let stats = daemon.ctl_json(&["stats"]);
    let workers = stats["workers"].as_array().into_iter().flatten();
    workers.map(|worker| worker["received"].as_u64().expect("a counter")).sum()
}

/// Waits until each worker has another process than `before`, with its rules, and returns them.
fn replacements(daemon: &Daemon, before: &[Value]) -> Vec<Value> {
    wait_for("new workers with their rules", DEADLINE, || {
        let now = workers(daemon, before.len());
        let replaced = |(old, new): (&Value, &Value)| new["pid"] != old["pid"] && new["state"] == "running";
        if before.iter().zip(&now).all(replaced) { Ok(now) } else { Err(now) }
    })
}

/// One stream, in the middle of which all workers are killed. Returns how many datagrams were lost, and how long the
/// slowest replacement took to have its rules.
pub(crate) fn lost_in_one_kill(topology: &Topology, daemon: &Daemon, count: usize) -> (u64, u64) {
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "--idle 1");
    let before = workers(daemon, count);
    let so_far = received(daemon);
    let options = format!("--rate {RATE_PPS} --count {DATAGRAMS} --size 200");
    let sender = send(&topology.sender, "eth0", "239.1.1.1", &options);
    wait_for("half of the stream", DEADLINE, || {
        let more = received(daemon) - so_far;
        if more >= DATAGRAMS / 2 { Ok(()) } else { Err(more) }
    });
    before.iter().for_each(kill);
    let after = replacements(daemon, &before);
    for (worker, next) in before.iter().zip(&after) {
        assert_eq!(next["ruleset_hash"], worker["ruleset_hash"], "{next:#}");
        assert_eq!(next["restarts"].as_u64(), worker["restarts"].as_u64().map(|n| n + 1), "{next:#}");
    }
    let sent = sender.finish();
    assert_eq!(sent["sent"], json!(DATAGRAMS), "{sent:#}");
    let report = receiver.finish();
    for nothing in ["duplicates", "corrupted", "unknown", "receiver_drops"] {
        assert_eq!(report[nothing], 0, "{report:#}");
    }
    let recoveries = after.iter().map(|worker| worker["recovery_ms"].as_u64().expect("a time"));
    (report["lost"].as_u64().expect("a number"), recoveries.max().expect("a worker"))
}

/// Kills all workers again and again, and checks what that cost.
fn kill_and_count(topology: &Topology, daemon: &Daemon, count: usize, kills: u32) {
    let (mut losses, mut recoveries): (Vec<u64>, Vec<u64>) =
        (0..kills).map(|_| lost_in_one_kill(topology, daemon, count)).unzip();
    losses.sort_unstable();
    recoveries.sort_unstable();
    println!("lost per kill: {losses:?}; rules after, ms: {recoveries:?}");
    let median = losses.len() / 2;
    assert_eq!(losses[median], 0, "median of {losses:?}");
    assert!(losses.iter().all(|lost| *lost <= 32 * count as u64), "worst of {losses:?}");
    assert!(recoveries[median] <= RECOVERY_MS, "median of {recoveries:?} ms");

    let stats = daemon.settled_stats();
    assert_accounting(&stats);
    // What a worker had sent and not yet counted when it died is accounted for as `worker_died`.
    let delivered = u64::from(kills) * DATAGRAMS - losses.iter().sum::<u64>();
    let output = &stats["rules"][0]["outputs"][0];
    let counted = output["packets"].as_u64().expect("a counter");
    let in_doubt = output["drops"]["worker_died"].as_u64().unwrap_or_default();
    assert!(counted <= delivered && delivered <= counted + in_doubt, "{delivered} delivered: {stats:#}");
    for worker in stats["workers"].as_array().into_iter().flatten() {
        assert_eq!(worker["kernel_drops"], 0, "{stats:#}");
    }
}

on_both_backends! {
    fn rate_twenty_killed_workers_lose_nothing_in_the_median(io) {
        let topology = Topology::sender_relay_receiver();
        let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), [output("239.2.2.2")])]);
        kill_and_count(&topology, &daemon, 1, faults(KILLS));
    }

    fn rate_all_workers_killed_at_once_lose_nothing_in_the_median(io) {
        let topology = Topology::sender_relay_receiver();
        let rules = [rule(input("239.1.1.1"), [output("239.2.2.2")])];
        let config = json!({"rules": rules, "pinning": {"eth0": [0, 1]}});
        let daemon = Daemon::start(&topology.relay, io, &config.to_string());
        daemon.wait_until_active(1);
        kill_and_count(&topology, &daemon, 2, faults(MASSACRES));
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
    let receivers = [("239.2.2.1", 1000), ("239.2.2.2", 500)]
        .map(|(group, count)| recv(&topology.receiver, "eth0", group, &format!("--count {count} --idle 30")));
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
