//! The worker: whether it runs, takes what arrives, and has room.

use std::net::SocketAddr;

use mcr_sys::process::{PidFd, Signal};
use mcr_sys::test_env::{deny_submissions, kill_at_submissions};
use mcr_testnet::RawPrefix;
use mcr_testnet::frames::{self, UdpFrame};
use mcr_testnet::{Daemon, IoBackend, Topology, assert_accounting, wait_for};
use serde_json::{Value, json};

use super::{DEADLINE, examine_for, finding, ids, ids_of_host, while_sending};
use crate::scenario::{INPUT_PORT, input, nth, output, relay, rule, with};

const GROUP: &str = "239.1.1.1";

fn named(name: &str, outputs: impl IntoIterator<Item = Value>) -> Value {
    with(rule(input(GROUP), outputs), "name", name)
}

/// Datagrams of these payload sizes from the sender's `eth0`.
fn stream(sizes: impl IntoIterator<Item = usize>) -> Vec<(&'static str, Vec<u8>)> {
    let to: SocketAddr = format!("{GROUP}:{INPUT_PORT}").parse().unwrap();
    let from = "10.1.0.1:4000".parse().unwrap();
    sizes.into_iter().map(|size| ("eth0", UdpFrame::new(from, to, &vec![7; size]).bytes())).collect()
}

/// The process of the only worker, if it has one.
fn worker(daemon: &Daemon) -> Option<PidFd> {
    let workers = daemon.ctl_json(&["workers"]);
    let pid = workers["workers"][0]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    // It may have ended since.
    pid.filter(|pid| *pid != 0).and_then(|pid| PidFd::open(pid).ok())
}

fn signal(daemon: &Daemon, signal: Signal) {
    if let Some(worker) = worker(daemon) {
        let _ = worker.kill(signal);
    }
}

#[test]
fn a_worker_that_keeps_dying() {
    let topology = Topology::sender_relay_receiver();
    let daemon = relay(&topology, IoBackend::Uring, &[named("mourned", [output("239.2.2.1")])]);
    // Until it is tried again after a pause only.
    let (host, rule) = wait_for("a worker that is given up for a while", 3 * DEADLINE, || {
        signal(&daemon, Signal::KILL);
        let (host, mut found) = examine_for(&daemon, "0");
        let rule = found.remove("mourned").unwrap();
        // Before, it may be starting, which is told in other words.
        let down =
            rule["findings"].as_array().into_iter().flatten().find(|found| found["id"] == "worker_down");
        let pauses = down.is_some_and(|down| down.to_string().contains("keeps dying and is restarted"));
        let told = pauses && ids(&host).contains(&"worker_unwell");
        if told { Ok((host, rule)) } else { Err(rule) }
    });
    assert_eq!(rule["verdict"], "stopped", "{rule:#}");
    assert!(finding(&host, "worker_unwell")["evidence"]["restarts"].as_u64() > Some(1), "{host:#}");
    daemon.wait_until_active(1);
    let (host, found) = examine_for(&daemon, "0");
    assert_eq!(ids_of_host(&host), ["worker_unwell"], "it is not forgotten: {host:#}");
    assert_eq!(ids(&found["mourned"]), ["nothing_arrives"], "{found:#?}");
    assert_accounting(&daemon.settled_stats());
}

/// It is stopped, and not yet replaced.
#[test]
fn a_worker_that_takes_nothing() {
    let topology = Topology::sender_relay_receiver();
    let daemon = relay(&topology, IoBackend::Uring, &[named("idle", [output("239.2.2.1")])]);
    let rule = wait_for("frames that it does not take", 3 * DEADLINE, || {
        daemon.wait_until_active(1);
        signal(&daemon, Signal::STOP);
        let rule = while_sending(&topology.sender, &stream([200]), || {
            daemon.ctl_json(&["explain", "idle", "--listen", "0.2"])["rules"][0].clone()
        });
        if ids(&rule) == ["not_taken"] { Ok(rule) } else { Err(rule) }
    });
    assert_eq!(rule["verdict"], "stopped", "{rule:#}");
    assert!(finding(&rule, "not_taken")["evidence"]["frames"].as_u64() > Some(0), "{rule:#}");
    daemon.wait_until_active(1);
    assert_accounting(&daemon.settled_stats());
}

/// What it had taken and not yet sent is lost with it.
#[test]
fn a_worker_that_dies_at_work() {
    let topology = Topology::sender_relay_receiver();
    const OUTPUTS: u8 = 16;
    let outputs: Vec<Value> = (0..OUTPUTS).map(|n| output(nth("239.2.2.1", n))).collect();
    let config = json!({"rules": [named("mourned", outputs)]}).to_string();
    // The kernel kills it as it hands over what it is to send.
    let mut daemon = Daemon::start_with(&topology.relay, &config, |command| {
        kill_at_submissions(command, OUTPUTS.into());
    });
    daemon.expect_sandbox_kills();
    daemon.wait_until_active(1);
    assert_eq!(daemon.ctl_json(&["workers"])["workers"][0]["io"], "io_uring");
    let sender = frames::sender(&topology.sender, "eth0", RawPrefix::None);
    sender.send(&stream([100])[0].1).unwrap();
    let rule = wait_for("the death", DEADLINE, || {
        let rule = daemon.ctl_json(&["explain", "mourned", "--listen", "0"])["rules"][0].clone();
        if ids(&rule).contains(&"worker_died") { Ok(rule) } else { Err(rule) }
    });
    assert_eq!(finding(&rule, "worker_died")["evidence"]["dropped"], OUTPUTS, "{rule:#}");
    daemon.wait_until_active(1);
    assert_accounting(&daemon.settled_stats());
}

/// More sends at once than the ring has places, and the kernel takes none of them: those beyond are dropped, and the others are
/// lost with the worker, which gives up. A burst only: its replacements relay the rest.
#[test]
fn a_worker_without_room_for_sends() {
    let topology = Topology::sender_relay_receiver();
    let outputs: Vec<Value> = (0..128).map(|n| output(nth("239.2.2.1", n))).collect();
    let config = json!({"rules": [named("crowded", outputs)]}).to_string();
    let daemon = Daemon::start_with(&topology.relay, &config, |command| deny_submissions(command, 1_000));
    daemon.wait_until_active(1);
    assert_eq!(daemon.ctl_json(&["workers"])["workers"][0]["io"], "io_uring");
    let sender = frames::sender(&topology.sender, "eth0", RawPrefix::None);
    let burst = stream((0..40).map(|n| 100 + n % 2));
    let mut sent = 0;
    let rule = wait_for("sends without room", DEADLINE, || {
        // One burst is under way at a time: on a busy machine it may have come in small parts.
        if daemon.ctl_json(&["stats"])["rules"][0]["packets"] == sent {
            for (_, frame) in &burst {
                sender.send(frame).unwrap();
            }
            sent += burst.len();
        }
        let rule = daemon.ctl_json(&["explain", "crowded", "--listen", "0"])["rules"][0].clone();
        if ids(&rule).contains(&"no_buffer") { Ok(rule) } else { Err(rule) }
    });
    assert!(finding(&rule, "no_buffer")["evidence"]["dropped"].as_u64() > Some(0), "{rule:#}");
    assert_accounting(&daemon.settled_stats());
    wait_for("the worker's last words", DEADLINE, || {
        let log = daemon.log();
        if log.contains("io_uring_enter: Resource temporarily unavailable") { Ok(()) } else { Err(log) }
    });
}
