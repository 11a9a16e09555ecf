//! How one run is measured.
//!
//! - **Saturated:** the receiver's host has no listener, which would compete with the sender for its core, and the
//!   interface's counters tell what arrived ([`crate::topology::Count`]). Before each run `mcrgen recv` verifies what
//!   the relay delivers at a low rate, and that these counters say the same.
//! - **At a set rate:** `mcrgen recv` verifies every datagram, and tells latency from the times in them.
//!
//! The machine's time is that of all cores, whatever they did: it compares relays that work in different places.
//! CPU is the scheduler's account of the worker's time. The kernel's work for arriving frames is done on the sender's
//! core for everyone but steered smcroute; that for leaving ones is in the account.

use std::collections::BTreeMap;
use std::time::Duration;

use mcr_sys::clock;
use mcr_testnet::{Generator, wait_for};
use serde_json::Value;

use crate::cpu::CoreTime;
use crate::peers::{INPUT_GROUP, INPUT_PORT, Running};
use crate::scenarios::Scenario;
use crate::topology::{Lab, RELAY_CORE, let_flow, on_core};

/// What one run showed, by name: `pps`, `offered`, `cpu_ns`, `share`, `lost` and so on.
pub(crate) type Sample = BTreeMap<&'static str, f64>;

const WARM_UP: Duration = Duration::from_millis(400);
const READY_DEADLINE: Duration = Duration::from_secs(20);
const PROBE_PPS: u64 = 20_000;
const CHECKED_DATAGRAMS: u64 = 1_000;
const CHECK_PPS: u64 = 2_000;
/// Reports and solicitations of the hosts, which the counters take for datagrams.
const OTHER_PACKETS: f64 = 5.0;

/// Probes until all that is sent arrives, by the counters.
pub(crate) fn wait_until_it_relays(lab: &Lab, scenario: &Scenario) {
    let count = u64::from(scenario.work.rules) * 10;
    let expected = count * u64::from(scenario.work.outputs);
    wait_for("the relay to relay", READY_DEADLINE, || {
        let before = lab.delivered();
        let rate = format!("--rate {PROBE_PPS} --count {count}");
        let _ = send(lab, INPUT_GROUP, scenario.work.rules, scenario.payload_bytes, &rate).finish();
        let settled = clock::monotonic() + Duration::from_millis(20);
        loop {
            let arrived = lab.delivered().datagrams_since(before, scenario.payload_bytes);
            if arrived == expected {
                return Ok(());
            }
            if clock::monotonic() > settled {
                return Err(format!("{arrived} of {expected} arrived"));
            }
        }
    });
}

/// Rate and cost at the relay's limit.
pub(crate) fn saturated(
    lab: &Lab,
    scenario: &Scenario,
    running: &Running,
    seconds: u64,
    segment: &str,
) -> Sample {
    check_counters(lab, scenario, running);
    let duration = Duration::from_secs(seconds);
    let sender_seconds = (duration + WARM_UP * 2).as_secs_f64();
    let options = format!("--rate 0 --segment {segment} --duration {sender_seconds}");
    let sender = send(lab, INPUT_GROUP, scenario.work.rules, scenario.payload_bytes, &options);
    let_flow(WARM_UP);
    let before = Moment::now(lab, running);
    let_flow(duration);
    let after = Moment::now(lab, running);
    let mut sample = Sample::new();
    let elapsed = (after.at - before.at).as_secs_f64();
    let datagrams = number(after.delivered.datagrams_since(before.delivered, scenario.payload_bytes));
    let offered = number(after.offered.frames_since(before.offered));
    sample.insert("pps", datagrams / elapsed);
    sample.insert("offered", offered / elapsed);
    sample.insert("machine_ns", number(after.machine_ns - before.machine_ns) / datagrams.max(1.0));
    if let (Some(after_ns), Some(before_ns)) = (after.cpu_ns, before.cpu_ns) {
        let spent = number(after_ns - before_ns);
        sample.insert("cpu_ns", spent / datagrams.max(1.0));
        sample.insert("share", spent / 1e9 / elapsed);
    }
    if let (Some(spent), Some(before_ns)) = (after.cpu_ns, before.cpu_ns) {
        // Ticks of 10 ms: what is less than a few of them is nothing.
        let others =
            after.core.taken_ns.saturating_sub(before.core.taken_ns).saturating_sub(spent - before_ns);
        sample.insert("others", number(others) / 1e9 / elapsed);
    }
    let _ = sender.finish();
    sample
}

/// `mcrgen recv` gets all of some datagrams, whole and once, and the counters say so too.
fn check_counters(lab: &Lab, scenario: &Scenario, running: &Running) {
    let expected = CHECKED_DATAGRAMS * u64::from(scenario.work.outputs);
    let receiver = receive(lab, running, scenario.work.pairs());
    let before = lab.delivered();
    let options = format!("--rate {CHECK_PPS} --count {CHECKED_DATAGRAMS}");
    let _ = send(lab, INPUT_GROUP, scenario.work.rules, scenario.payload_bytes, &options).finish();
    let report = receiver.finish();
    let counted = lab.delivered().datagrams_since(before, scenario.payload_bytes);
    let got = (field(&report, "received"), number(counted));
    assert!(
        got.0 == number(expected) && (got.1 - number(expected)).abs() <= OTHER_PACKETS,
        "of {expected} datagrams at {CHECK_PPS}/s the receiver and the counters saw {got:?}: {report}"
    );
}

/// Cost, loss and latency at a rate.
pub(crate) fn paced(lab: &Lab, scenario: &Scenario, running: &Running, seconds: u64, rate: u64) -> Sample {
    let receiver = receive(lab, running, scenario.work.pairs());
    let before = Moment::now(lab, running);
    let options = format!("--rate {rate} --count {}", rate * seconds);
    let sent = send(lab, INPUT_GROUP, scenario.work.rules, scenario.payload_bytes, &options).finish();
    let report = receiver.finish();
    let after = Moment::now(lab, running);
    let mut sample = verified(&sent, &report);
    add_cost(&mut sample, &before, &after, field(&sent, "seconds"), field(&report, "received"));
    sample
}

/// What traffic costs that matches no rule.
pub(crate) fn foreign(lab: &Lab, running: &Running, seconds: u64, rate: u64) -> Sample {
    let duration = Duration::from_secs(seconds);
    let options = format!(
        "--rate {rate} --segment always --burst 64 --duration {}",
        (duration + WARM_UP * 2).as_secs_f64()
    );
    let sender = send(lab, std::net::Ipv4Addr::new(239, 99, 99, 99), 1, 200, &options);
    let_flow(WARM_UP);
    let before = Moment::now(lab, running);
    let_flow(duration);
    let after = Moment::now(lab, running);
    let elapsed = (after.at - before.at).as_secs_f64();
    let mut sample = Sample::new();
    sample.insert("offered", number(after.offered.frames_since(before.offered)) / elapsed);
    if let (Some(after_ns), Some(before_ns)) = (after.cpu_ns, before.cpu_ns) {
        sample.insert("share", number(after_ns - before_ns) / 1e9 / elapsed);
    }
    let _ = sender.finish();
    sample
}

/// A sender on each core, and a worker on each: loss, duplicates, and how they share the load.
pub(crate) fn two_workers(
    lab: &Lab,
    scenario: &Scenario,
    running: &Running,
    seconds: u64,
    rate: u64,
) -> Sample {
    let groups = [INPUT_GROUP, std::net::Ipv4Addr::from_bits(INPUT_GROUP.to_bits() + 1)];
    let (destination, port) = running.destination;
    let receivers: Vec<Generator> = [0, 1]
        .map(|offset| std::net::Ipv4Addr::from_bits(destination.to_bits() + offset))
        .map(|group| receive_from(lab, group, port, 1))
        .into();
    let before = Moment::now(lab, running);
    let options = format!("--rate {rate} --count {}", rate * seconds);
    let first = send(lab, groups[0], 1, scenario.payload_bytes, &options);
    let second = on_core(RELAY_CORE, || send(lab, groups[1], 1, scenario.payload_bytes, &options));
    let sent = [first.finish(), second.finish()];
    let reports: Vec<Value> = receivers.into_iter().map(Generator::finish).collect();
    let after = Moment::now(lab, running);
    let mut sample = Sample::new();
    for (sent, report) in sent.iter().zip(&reports) {
        for (name, value) in verified(sent, report) {
            let sum = sample.entry(name).or_default();
            *sum = if name.starts_with('p') && name != "pps" { sum.max(value) } else { *sum + value };
        }
    }
    let received = reports.iter().map(|report| field(report, "received")).sum();
    add_cost(&mut sample, &before, &after, field(&sent[0], "seconds"), received);
    let stats = running.daemon().map(|daemon| daemon.ctl_json(&["stats"])).unwrap_or_default();
    let shares: Vec<f64> =
        stats["workers"].as_array().into_iter().flatten().map(|worker| field(worker, "received")).collect();
    let (least, all) = (shares.iter().copied().fold(f64::MAX, f64::min), shares.iter().sum::<f64>());
    sample.insert("least_worker", least / all.max(1.0));
    sample
}

/// What the receiver says of what the sender sent.
fn verified(sent: &Value, report: &Value) -> Sample {
    let mut sample = Sample::new();
    let dropped_by_receiver = field(report, "receiver_drops");
    sample.insert("offered", field(sent, "pps"));
    sample.insert("pps", field(report, "pps"));
    sample.insert("lost", (field(sent, "sent") - field(report, "received") - dropped_by_receiver).max(0.0));
    sample.insert("receiver_drops", dropped_by_receiver);
    sample.insert("duplicates", field(report, "duplicates") + field(report, "corrupted"));
    for (name, percentile) in [("p50_us", "p50"), ("p99_us", "p99"), ("p999_us", "p999")] {
        sample.insert(name, field(&report["latency_ns"], percentile) / 1e3);
    }
    sample
}

fn add_cost(sample: &mut Sample, before: &Moment, after: &Moment, seconds: f64, datagrams: f64) {
    sample.insert("machine_ns", number(after.machine_ns - before.machine_ns) / datagrams.max(1.0));
    if let (Some(after_ns), Some(before_ns)) = (after.cpu_ns, before.cpu_ns) {
        let spent = number(after_ns - before_ns);
        sample.insert("share", spent / 1e9 / seconds.max(1e-9));
        sample.insert("cpu_ns", spent / datagrams.max(1.0));
    }
}

/// The counters at one time.
struct Moment {
    at: Duration,
    delivered: crate::topology::Count,
    offered: crate::topology::Count,
    cpu_ns: Option<u64>,
    core: CoreTime,
    /// Of all cores, for whatever they did: the sender, softirqs, the relay.
    machine_ns: u64,
}

impl Moment {
    fn now(lab: &Lab, running: &Running) -> Self {
        let (delivered, offered) = (lab.delivered(), lab.offered());
        Self {
            at: clock::monotonic(),
            delivered,
            offered,
            cpu_ns: running.cpu_ns(),
            core: CoreTime::read(RELAY_CORE),
            machine_ns: CoreTime::read_all().busy_ns,
        }
    }
}

fn send(lab: &Lab, group: std::net::Ipv4Addr, groups: u8, payload_bytes: u64, options: &str) -> Generator {
    let line = format!(
        "--interface eth0 --group {group} --groups {groups} --port {INPUT_PORT} --size {payload_bytes} {options}"
    );
    Generator::send(&lab.network.sender, &line.split_whitespace().collect::<Vec<_>>())
}

fn receive(lab: &Lab, running: &Running, groups: u16) -> Generator {
    let (group, port) = running.destination;
    receive_from(lab, group, port, groups)
}

fn receive_from(lab: &Lab, group: std::net::Ipv4Addr, port: u16, groups: u16) -> Generator {
    let line = format!("--interface eth0 --group {group} --groups {groups} --port {port} --idle 0.5");
    Generator::recv(&lab.network.receiver, &line.split_whitespace().collect::<Vec<_>>())
}

fn field(report: &Value, name: &str) -> f64 {
    report[name].as_f64().unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn number(count: u64) -> f64 {
    count as f64
}
