//! Workers that stall, die repeatedly or drift are detected, repaired and counted, without harm to the others.
//!
//! `MCR_FAULTS` sets how often a fault is repeated; times that a loaded machine can stretch have wide bounds here, and
//! the measured ones are printed.

use std::collections::BTreeMap;
use std::time::Duration;

use mcr_control::client::Client;
use mcr_sys::clock;
use mcr_sys::process::{PidFd, Signal, Status, pin_to_core};
use mcr_testnet::{Daemon, IoBackend, Topology, assert_accounting, wait_for, wait_within};
use serde_json::{Value, json};

use crate::lacking::has_two_cores;
use crate::scenario::{
    assert_received, input, input_on, is_in_user_namespace, limits_receive_buffer_to_less_than, nth, output,
    recv, relay, rule, send, stats_without_drops,
};

const DEADLINE: Duration = Duration::from_secs(20);
const GROUP: &str = "239.1.1.1";
const RELAYED: &str = "239.2.2.2";
/// A drift must be found, and repaired, within a second each; a loaded machine gets more.
const DRIFT_DEADLINE: Duration = Duration::from_secs(6);

/// How often a fault is repeated.
pub(crate) fn faults(default: u32) -> u32 {
    #[expect(clippy::disallowed_methods, reason = "a setting of the test")]
    let setting = std::env::var("MCR_FAULTS");
    setting.ok().map_or(default, |text| text.parse().expect("MCR_FAULTS is a number"))
}

/// A connection of its own: a look takes a fraction of what starting `mcrctl` takes.
struct Looker(Client);

impl Looker {
    fn new(daemon: &Daemon) -> Self {
        Self(Client::connect(&daemon.socket(), DEADLINE).expect("the daemon listens"))
    }

    fn ask(&mut self, method: &str, parameters: &Value) -> Value {
        let parameters = parameters.as_object().cloned().unwrap_or_default();
        let reply = self.0.call_raw(method, parameters);
        Value::Object(reply.unwrap_or_else(|error| panic!("{method}: {error}")).parameters)
    }

    /// The workers of an interface, by core.
    fn workers(&mut self, interface: &str) -> BTreeMap<u64, Value> {
        let reply = self.ask("io.mcr.Control.ListWorkers", &json!({}));
        let all = reply["workers"].as_array().into_iter().flatten();
        let of = all.filter(|worker| worker["interface"] == interface);
        of.map(|worker| (worker["core"].as_u64().expect("a core"), worker.clone())).collect()
    }

    /// The only worker of an interface.
    fn worker(&mut self, interface: &str) -> Value {
        let workers = self.workers(interface);
        assert_eq!(workers.len(), 1, "{workers:#?}");
        workers.into_values().next().expect("a worker")
    }

    fn inject(&mut self, fault: &str) {
        self.ask("io.mcr.Faults.Inject", &json!({"interface": "eth0", "fault": fault}));
    }
}

fn pid(worker: &Value) -> u32 {
    worker["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid")
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("no number {field} in {value:#}"))
}

/// Stops a worker's process and waits until it is killed for that. Returns how long that took.
fn stop(worker: &Value) -> Duration {
    let process = PidFd::open(pid(worker)).expect("the worker runs");
    let stopped = clock::monotonic();
    process.kill(Signal::STOP).expect("it can be stopped");
    wait_for("the stopped worker's end", DEADLINE, || match process.has_ended() {
        Ok(true) => Ok(()),
        other => Err(other),
    });
    clock::monotonic() - stopped
}

/// The accounts add up, and the kernel dropped nothing. What a worker had sent and not yet counted when it was killed
/// may stand among the drops, as `worker_died`.
fn assert_stats_of_replaced(daemon: &Daemon) {
    let stats = daemon.settled_stats();
    assert_accounting(&stats);
    for worker in stats["workers"].as_array().into_iter().flatten() {
        assert_eq!(worker["kernel_drops"], 0, "{stats:#}");
    }
}

fn wait_for_received(looker: &mut Looker, before: u64, datagrams: u64) {
    wait_for("traffic", DEADLINE, || {
        let stats = looker.ask("io.mcr.Control.GetStats", &json!({}));
        let received: u64 =
            stats["workers"].as_array().into_iter().flatten().map(|w| number(w, "received")).sum();
        if received >= before + datagrams { Ok(()) } else { Err(received) }
    });
}

on_both_backends! {
    /// R4: the receive buffer holds what arrives meanwhile. What a worker has in hand when it is stopped is lost with it: no more
    /// than its receive buffers hold. On a loaded machine, it may be stopped with all of them, so there are few.
    fn a_stopped_worker_is_noticed_and_replaced_and_nothing_is_lost(io) {
        const IN_HAND: u32 = 32;
        let topology = Topology::sender_relay_receiver();
        let config = json!({
            "rules": [rule(input(GROUP), [output(RELAYED)])],
            "settings": {"ring_buffers": IN_HAND},
        });
        let daemon = Daemon::start(&topology.relay, io, &config.to_string());
        daemon.wait_until_active(1);
        let mut looker = Looker::new(&daemon);
        let receiver = recv(&topology.receiver, "eth0", RELAYED, "--idle 4");
        let times = faults(2);
        let mut sender = send(&topology.sender, "eth0", GROUP, "--rate 2000 --duration 600 --size 1400");
        let mut noticed = Vec::new();
        for _ in 0..times {
            let worker = wait_for("a worker with its rules", DEADLINE, || {
                let worker = looker.worker("eth0");
                if worker["state"] == "running" { Ok(worker) } else { Err(worker) }
            });
            let stats = looker.ask("io.mcr.Control.GetStats", &json!({}));
            // Beyond what was queued meanwhile: it is taken in batches, and one that is stopped with a batch loses it.
            let queued = noticed.last().map_or(0, |time: &Duration| 4 * time.as_millis());
            let more = 600 + u64::try_from(queued).unwrap();
            wait_for_received(&mut looker, number(&stats["workers"][0], "received"), more);
            noticed.push(stop(&worker));
        }
        let worker = wait_for("a new worker", DEADLINE, || {
            let worker = looker.worker("eth0");
            if worker["state"] == "running" { Ok(worker) } else { Err(worker) }
        });
        assert!(sender.is_running());
        sender.interrupt();
        let sent = number(&sender.finish(), "sent");
        let report = receiver.finish();
        println!("{io:?}: noticed after {noticed:?}; {report:#}");
        let lost = number(&report, "lost");
        assert!(lost <= u64::from(IN_HAND * times), "{lost} lost: {report:#}");
        assert_eq!(number(&report, "received") + lost, sent, "{report:#}");
        assert_eq!((number(&report, "duplicates"), number(&report, "reordered")), (0, 0), "{report:#}");
        assert_eq!((number(&worker, "stalls"), number(&worker, "restarts")), (times.into(), times.into()));
        assert!(daemon.log().contains("stalled"), "it is logged");
        // 750 ms, and what a loaded machine adds to timers and to the end of a process.
        noticed.sort_unstable();
        assert!(noticed[0] <= Duration::from_millis(750 * 2), "{noticed:?}");
        assert_stats_of_replaced(&daemon);
    }
}

/// Two workers of one interface; the one that the traffic goes to stalls, with room for 70 ms of it. The other one
/// takes over, and what is queued is relayed when the stopped one is replaced.
#[test]
fn siblings_rescue_what_a_stopped_worker_has_no_room_for() {
    if !has_two_cores() {
        return;
    }
    let topology = Topology::sender_relay_receiver();
    let config = json!({
        "rules": [rule(input(GROUP), [output(RELAYED)])],
        "pinning": {"eth0": [0, 1]},
        "settings": {"receive_buffer_bytes": 1 << 20},
    });
    let daemon = Daemon::start(&topology.relay, IoBackend::Uring, &config.to_string());
    daemon.wait_until_active(1);
    let mut looker = Looker::new(&daemon);
    let receiver = recv(&topology.receiver, "eth0", RELAYED, "--idle 3");
    // The sender's core decides whose share its datagrams are.
    pin_to_core(0).expect("core 0");
    let mut sender = send(&topology.sender, "eth0", GROUP, "--rate 4000 --duration 600 --size 1400");
    wait_for_received(&mut looker, 0, 400);
    let stats = looker.ask("io.mcr.Control.GetStats", &json!({}));
    let busiest = stats["workers"].as_array().into_iter().flatten().max_by_key(|w| number(w, "received"));
    let core = number(busiest.expect("two workers"), "core");
    let noticed = stop(&looker.workers("eth0")[&core]);
    wait_for("a new worker", DEADLINE, || {
        let worker = looker.workers("eth0")[&core].clone();
        if worker["state"] == "running" { Ok(()) } else { Err(worker) }
    });
    assert!(sender.is_running());
    sender.interrupt();
    let sent = number(&sender.finish(), "sent");
    let report = receiver.finish();
    let workers = looker.workers("eth0");
    println!("noticed after {noticed:?}, rolled over {}: {report:#}", workers[&core]["rolled_over"]);
    for nothing in ["lost", "duplicates", "corrupted"] {
        assert_eq!(report[nothing], 0, "{report:#}");
    }
    assert_eq!(number(&report, "received"), sent);
    assert!(number(&workers[&core], "rolled_over") > 100, "{workers:#?}");
    assert_eq!(number(&workers[&(1 - core)], "rolled_over"), 0, "{workers:#?}");
    assert!(daemon.log().contains("does not keep up"), "it is logged");
    assert_stats_of_replaced(&daemon);
}

fn open_files(daemon: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("its descriptors").count()
}

fn resident_kib(daemon: &Daemon) -> u64 {
    let status = Status::read(Some(daemon.pid())).expect("its status");
    status.field("VmRSS").first().and_then(|kib| kib.parse().ok()).expect("a size")
}

/// R3: pauses double, the state is shown, the other worker's flow loses nothing, and the supervisor does not grow.
#[test]
fn a_worker_that_dies_at_start_is_tried_again_with_growing_pauses() {
    let topology = Topology::sender_relay_receiver();
    topology.add_input(1);
    let rules = [rule(input(GROUP), [output("239.2.2.1")]), rule(input_on("in1", GROUP), [output(RELAYED)])];
    let daemon = relay(&topology, IoBackend::Uring, &rules);
    let mut looker = Looker::new(&daemon);
    let receiver = recv(&topology.receiver, "eth0", RELAYED, "--idle 2");
    let mut sender = send(&topology.sender, "eth1", GROUP, "--rate 2000 --duration 600 --size 200");
    // For half a second: what had worked is replaced at once, and its death does not count as one at start.
    wait_for_received(&mut looker, 0, 1000);
    let (deaths, mut pauses, mut before) = (faults(8), Vec::new(), (0, 0));
    for death in 0..deaths {
        let ended = clock::monotonic();
        let worker = wait_for("the next process", DEADLINE, || {
            let worker = looker.worker("eth0");
            if pid(&worker) != 0 && number(&worker, "restarts") == u64::from(death) {
                Ok(worker)
            } else {
                Err(worker)
            }
        });
        pauses.push(clock::monotonic() - ended);
        let process = PidFd::open(pid(&worker)).expect("it runs");
        process.kill(Signal::KILL).expect("it can be killed");
        wait_for("its end", DEADLINE, || process.has_ended().ok().filter(|ended| *ended).ok_or(()));
        if death == 3 {
            before = (open_files(&daemon), resident_kib(&daemon));
        }
    }
    println!("pauses: {pauses:?}");
    let worker = wait_for("a pause", DEADLINE, || {
        let worker = looker.worker("eth0");
        if worker["state"] == "restarting" { Ok(worker) } else { Err(worker) }
    });
    let list = daemon.ctl_json(&["list"]);
    let reason = worker["reason"].as_str().unwrap_or_default();
    assert!(worker["degraded"] == true && reason.contains("next try in"), "{worker:#}");
    let of_eth0 = list["rules"].as_array().into_iter().flatten().find(|r| r["input"]["interface"] == "eth0");
    let of_eth0 = of_eth0.expect("the rule");
    assert_eq!(of_eth0["state"], "pending", "{of_eth0:#}");
    assert!(of_eth0["reason"].as_str().unwrap_or_default().contains("keeps dying"), "{of_eth0:#}");
    assert!(daemon.log().contains("degraded"), "it is logged");
    let after = (open_files(&daemon), resident_kib(&daemon));
    println!("descriptors and KiB after 4 deaths: {before:?}, after {deaths}: {after:?}");
    // While a process is awaited there are fewer descriptors; a look during its life may have seen two more.
    assert!(after.0 <= before.0 + 2, "descriptors: {before:?}, then {after:?}");
    assert!(after.1 <= before.1 + 1024, "memory: {before:?}, then {after:?}");

    wait_for("the end of the loop", DEADLINE, || {
        let worker = looker.worker("eth0");
        if worker["state"] == "running" { Ok(()) } else { Err(worker) }
    });
    assert_eq!(looker.worker("eth0")["degraded"], true, "not forgiven before a minute");
    assert!(sender.is_running());
    sender.interrupt();
    let sent = number(&sender.finish(), "sent");
    assert_received(&receiver.finish(), sent);
    assert_eq!(number(&looker.worker("in1"), "restarts"), 0);
    // The pause before process n+3 is 50 ms doubled n times; a look can only see it later, unless this test was slow to
    // kill the process before.
    let (doubling, at_once) = pauses.split_at(3).1.iter().zip(0..).fold((0, 0), |(long, all), (pause, n)| {
        let due = Duration::from_millis(50 * (1 << n.min(10))).min(Duration::from_secs(5));
        (long + u32::from(*pause + Duration::from_millis(45) >= due), all + 1)
    });
    assert!(doubling + 1 >= at_once, "{pauses:?}");
}

/// One fault: the set is sent again. The same once more: the worker is replaced. Traffic passes after each.
fn drift_is_repaired(io: IoBackend, fault: &str) {
    let topology = Topology::sender_relay_receiver();
    let daemon = relay(&topology, io, &[rule(input(GROUP), [output(RELAYED)])]);
    let mut looker = Looker::new(&daemon);
    let first = looker.worker("eth0");
    for round in 1..=2_u64 {
        let begun = clock::monotonic();
        looker.inject(fault);
        let mut flow = (GROUP.to_owned(), RELAYED.to_owned());
        if fault == "lose_update" {
            let offset = u8::try_from(round).unwrap();
            flow = (nth(GROUP, offset), nth(RELAYED, offset));
            let added = rule(input(&flow.0), [output(&flow.1)]);
            looker.ask("io.mcr.Control.AddRule", &json!({"rule": added}));
        }
        wait_within("the drift to be found", DRIFT_DEADLINE, || {
            let worker = looker.worker("eth0");
            if number(&worker, "drifts") == round { Ok(()) } else { Err(worker) }
        });
        let found = clock::monotonic();
        let repaired = usize::try_from(round).unwrap();
        wait_within("its repair", DRIFT_DEADLINE, || {
            let log = daemon.log();
            if log.matches("table drift repaired").count() == repaired { Ok(()) } else { Err(log) }
        });
        println!(
            "{fault} {round}: found after {:?}, known as repaired after {:?}",
            found - begun,
            clock::monotonic() - found
        );
        let worker = looker.worker("eth0");
        assert_eq!(worker["pid"] == first["pid"], round == 1, "{worker:#}");
        assert_eq!(number(&worker, "restarts"), round - 1, "{worker:#}");
        assert_eq!(number(&worker, "drifts"), round, "{worker:#}");
        let receiver = recv(&topology.receiver, "eth0", &flow.1, "");
        let _ = send(&topology.sender, "eth0", &flow.0, "--count 200 --rate 2000").finish();
        assert_received(&receiver.finish(), 200);
    }
    assert!(daemon.log().contains("the rule set is sent again") && daemon.log().contains("drift again"));
    assert_accounting(&daemon.settled_stats());
}

#[test]
fn drift_a_forgotten_rule_is_restored() {
    drift_is_repaired(IoBackend::Uring, "forget_rule");
}

#[test]
fn drift_an_altered_output_is_restored() {
    drift_is_repaired(IoBackend::Recvmmsg, "alter_output");
}

#[test]
fn drift_a_lost_update_is_made_good() {
    drift_is_repaired(IoBackend::Uring, "lose_update");
}

on_both_backends! {
    /// R10: ten changes a second beside two flows that have nothing to do with them; no change is taken for drift.
    fn rate_ten_changes_a_second_cost_other_flows_nothing(io) {
        let topology = Topology::sender_relay_receiver();
        let untouched = [rule(input(GROUP), [output(RELAYED)]), rule(input("239.1.1.2"), [output("239.2.2.3")])];
        let daemon = relay(&topology, io, &untouched);
        let mut looker = Looker::new(&daemon);
        let seconds = u64::from(faults(5));
        let receiver = recv(&topology.receiver, "eth0", RELAYED, "--groups 2 --idle 2");
        let options = format!("--groups 2 --rate 10000 --duration {seconds} --size 1400");
        let mut sender = send(&topology.sender, "eth0", GROUP, &options);
        let begun = clock::monotonic();
        let (mut in_force, mut changes) = (Vec::new(), 0_u32);
        while sender.is_running() {
            let passing = rule(input("239.1.1.9"), [output("239.3.3.3")]);
            let asked = clock::monotonic();
            if changes % 2 == 0 {
                looker.ask("io.mcr.Control.AddRule", &json!({"rule": passing}));
                in_force.push(clock::monotonic() - asked);
            } else {
                let rules = looker.ask("io.mcr.Control.ListRules", &json!({}));
                let of_group = |rule: &&Value| rule["input"]["group"] == "239.1.1.9";
                let id = rules["rules"].as_array().into_iter().flatten().find(of_group).expect("it")["id"].clone();
                looker.ask("io.mcr.Control.RemoveRule", &json!({"id": id}));
            }
            changes += 1;
            let due = begun + Duration::from_millis(100) * changes;
            wait_for("the time of the next change", DEADLINE, || if clock::monotonic() >= due { Ok(()) } else { Err(()) });
        }
        in_force.sort_unstable();
        println!("{io:?}: {changes} changes; in force after {:?} in the median, {:?} at most", in_force[in_force.len() / 2], in_force.last());
        assert!(u64::from(changes) > seconds * 5, "{changes} changes");
        let sent = number(&sender.finish(), "sent");
        assert_received(&receiver.finish(), sent);
        let worker = looker.worker("eth0");
        for nothing in ["drifts", "stalls", "restarts"] {
            assert_eq!(number(&worker, nothing), 0, "{worker:#}");
        }
        let stats = stats_without_drops(&daemon);
        let counted = stats["rules"].as_array().into_iter().flatten().take(2).map(|rule| number(rule, "packets"));
        assert_eq!(counted.sum::<u64>(), sent, "counters are kept: {stats:#}");
        // 50 ms on a machine of its own.
        assert!(in_force[in_force.len() / 2] <= Duration::from_millis(200), "{in_force:?}");
    }
}

/// What a worker had counted stays in the sums when it has left.
#[test]
fn a_worker_that_left_stays_in_the_accounts() {
    let topology = Topology::sender_relay_receiver();
    let config = json!({
        "rules": [rule(input(GROUP), [output(RELAYED)])],
        "settings": {"worker_grace_s": 0},
    });
    let daemon = Daemon::start(&topology.relay, IoBackend::Uring, &config.to_string());
    daemon.wait_until_active(1);
    let _ = send(&topology.sender, "eth0", GROUP, "--count 300 --rate 3000").finish();
    let before = daemon.settled_stats();
    let id = before["rules"][0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(daemon.ctl(&["remove", "--id", &id]).code, 0);
    let after = wait_for("no worker", DEADLINE, || {
        let stats = daemon.ctl_json(&["stats"]);
        if stats["workers"] == json!([]) { Ok(stats) } else { Err(stats) }
    });
    for field in ["received", "frames", "matched", "due", "sent", "kernel_drops"] {
        assert_eq!(after["past_workers"][field], before["workers"][0][field], "{field}: {after:#}");
    }
    assert_accounting(&after);
}

/// Without CAP_NET_ADMIN, `net.core.rmem_max` bounds the receive buffer: the log and `workers` say so.
#[test]
fn a_clamped_receive_buffer_is_reported() {
    const CAP_NET_ADMIN: u8 = 12;
    const WANTED_BYTES: u64 = 1 << 29;
    let topology = Topology::sender_relay_receiver();
    let config = json!({
        "rules": [rule(input(GROUP), [output(RELAYED)])],
        "settings": {"receive_buffer_bytes": WANTED_BYTES},
    });
    let limited = limits_receive_buffer_to_less_than(WANTED_BYTES);
    // In a user namespace the capability does not count.
    for (without, told) in [(false, limited && is_in_user_namespace()), (true, limited)] {
        let daemon = Daemon::start_with(&topology.relay, &config.to_string(), |command| {
            if without {
                mcr_sys::test_env::without_capability(command, CAP_NET_ADMIN);
            }
        });
        daemon.wait_until_active(1);
        let worker = daemon.ctl_json(&["workers"])["workers"][0].clone();
        let of_buffer = |note: &&Value| note.as_str().is_some_and(|note| note.contains("receive buffer"));
        let notes: Vec<&Value> = worker["notes"].as_array().into_iter().flatten().filter(of_buffer).collect();
        assert_eq!(notes.len(), usize::from(told), "{worker:#}");
        let log = daemon.log();
        assert_eq!(log.contains("net.core.rmem_max"), told, "{log}");
        if told {
            assert!(notes[0].as_str().unwrap().contains("instead of 536870912 bytes"), "{worker:#}");
        }
    }
}
