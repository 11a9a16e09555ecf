//! Interfaces and addresses come, go and change their names; the traffic follows within the time that is promised.
//! `MCR_FAULTS` says how often each fault is repeated (5 unless told otherwise), `MCR_QUIET=1` that the machine is quiet
//! and the promised times themselves are asserted.

mod addresses;
mod appearing;
mod legs;
mod links;
mod names;
mod probe;
mod recreation;
mod sizes;
mod storm;
mod switch;

use std::time::Duration;

use mcr_testnet::{Daemon, Host, wait_for};
use serde_json::Value;

use probe::Listener;

const DEADLINE: Duration = Duration::from_secs(10);

#[expect(clippy::disallowed_methods, reason = "a setting of the test")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// How often a fault is repeated.
fn faults() -> u64 {
    setting("MCR_FAULTS").unwrap_or(5)
}

/// Prints how long the flows took to return, and asserts the promise: as it is on a quiet machine, elsewhere with the
/// slack of one that runs other tests at the same time.
fn assert_within(what: &str, promised: Duration, mut times: Vec<Duration>) {
    times.sort_unstable();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{what}: {} times, median {median:?}, worst {worst:?}, promised {promised:?}", times.len());
    let quiet = setting("MCR_QUIET") == Some(1);
    let bound = if quiet { promised } else { promised + Duration::from_secs(2) };
    assert!(worst <= bound, "{what}: {times:?}, bound {bound:?}");
}

fn workers(daemon: &Daemon) -> Vec<Value> {
    daemon.ctl_json(&["workers"])["workers"].as_array().cloned().unwrap_or_default()
}

/// Interface, pid and restarts of each worker.
fn processes(daemon: &Daemon) -> Vec<(Value, Value, Value)> {
    workers(daemon)
        .into_iter()
        .map(|worker| (worker["interface"].clone(), worker["pid"].clone(), worker["restarts"].clone()))
        .collect()
}

/// No worker was restarted. One that the machine, busy with other tests, left without a core for half a second is
/// replaced by right; the log tells.
fn assert_untouched(daemon: &Daemon, before: &[(Value, Value, Value)]) {
    let after = processes(daemon);
    assert!(after == before || daemon.log().contains("stalled"), "restarted: {before:?}, now {after:?}");
}

/// Waits until a rule is pending, and returns the reason.
fn wait_until_pending(daemon: &Daemon, place: usize) -> Value {
    wait_for(&format!("rule {place} to be pending"), DEADLINE, || {
        let rule = daemon.ctl_json(&["list"])["rules"][place].clone();
        if rule["state"] == "pending" { Ok(rule["reason"].clone()) } else { Err(rule) }
    })
}

/// Waits until an output of the first rule is in this state, and returns the reason.
fn wait_for_output(daemon: &Daemon, output: usize, state: &str) -> Value {
    wait_for(&format!("output {output} to be {state}"), DEADLINE, || {
        let output = daemon.ctl_json(&["list"])["rules"][0]["outputs"][output].clone();
        if output["state"] == state { Ok(output["reason"].clone()) } else { Err(output) }
    })
}

/// The number of open descriptors of a process.
fn descriptors(pid: &Value) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count).unwrap_or_default()
}

/// A process's resident memory, KiB.
fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("procfs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// Packet sockets on a host.
fn packet_sockets(host: &Host) -> usize {
    let text = host.run(|| std::fs::read_to_string("/proc/thread-self/net/packet").expect("procfs"));
    text.lines().count() - 1
}

/// Nothing is missing between the first and the last datagram that came.
fn assert_gapless(what: &str, listener: &Listener) {
    let mut numbers: Vec<u64> = listener.arrivals().iter().map(|arrival| arrival.number).collect();
    numbers.sort_unstable();
    assert!(!numbers.is_empty(), "{what}: nothing came");
    let gaps: Vec<(u64, u64)> =
        numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).map(|pair| (pair[0], pair[1])).collect();
    assert!(gaps.is_empty(), "{what}: gaps (or duplicates) between {gaps:?} of {} datagrams", numbers.len());
}
