//! A standard error that nobody reads blocks neither the supervisor nor the keeper nor a worker.

use std::io::{PipeReader, Read};
use std::process::Stdio;
use std::time::Duration;

use mcr_control::client::Client;
use mcr_sys::process::{PidFd, Signal};
use mcr_testnet::{Daemon, IoBackend, Topology, wait_for};
use serde_json::{Value, json};

use crate::scenario::{assert_received, input, output, recv, rule, send, stats_without_drops};

const DEADLINE: Duration = Duration::from_secs(20);
const GROUP: &str = "239.1.1.1";
const RELAYED: &str = "239.2.2.2";
/// A pipe holds 64 KiB (pipe(7)), the log's queue 512 KiB: each change logs some 600 bytes at level trace.
const CHANGES: usize = 2_000;

/// A daemon that logs every step into a pipe.
fn relay_with_unread_log(topology: &Topology, io: IoBackend) -> (Daemon, PipeReader) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let config = json!({"rules": [rule(input(GROUP), [output(RELAYED)])]}).to_string();
    let daemon = Daemon::start_with(&topology.relay, &config, |command| {
        command.env("MCRD_IO", io.as_str()).args(["--log", "trace"]).stderr(Stdio::from(writer));
    });
    daemon.wait_until_active(1);
    (daemon, reader)
}

fn worker_pid(daemon: &Daemon) -> Option<u32> {
    let workers = daemon.ctl_json(&["workers"]);
    let worker = workers["workers"].get(0).filter(|worker| worker["state"] == "running")?;
    worker["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok())
}

/// Adds and removes a rule until far more was logged than a pipe holds.
fn change_rules(daemon: &Daemon) {
    let mut client = Client::connect(&daemon.socket(), DEADLINE).expect("the daemon listens");
    let mut call = |method: &str, parameters: Value| {
        let reply = client.call_raw(
            &format!("io.mcr.Control.{method}"),
            parameters.as_object().cloned().unwrap_or_default(),
        );
        reply.unwrap_or_else(|error| panic!("{method}: {error}"));
    };
    for _ in 0..CHANGES / 2 {
        let mut added = rule(input("239.1.1.9"), [output("239.2.2.9")]);
        added["name"] = json!("added");
        call("AddRule", json!({"rule": added}));
        call("RemoveRule", json!({"name": "added"}));
    }
}

#[test]
fn an_unread_log_stops_neither_changes_nor_the_replacement_of_a_worker() {
    for io in IoBackend::ALL {
        let topology = Topology::sender_relay_receiver();
        let (daemon, mut reader) = relay_with_unread_log(&topology, io);
        change_rules(&daemon);
        let killed = worker_pid(&daemon).expect("a running worker");
        PidFd::open(killed).and_then(|worker| worker.kill(Signal::KILL)).expect("kill a worker");
        wait_for("a new worker", DEADLINE, || {
            let now = worker_pid(&daemon);
            if now.is_some_and(|pid| pid != killed) { Ok(()) } else { Err(format!("{now:?}")) }
        });
        daemon.wait_until_active(1);
        let receiver = recv(&topology.receiver, "eth0", RELAYED, "--count 1000");
        let sent = send(&topology.sender, "eth0", GROUP, "--rate 2000 --count 1000").finish();
        assert_eq!(sent["sent"], 1000, "{sent}");
        assert_received(&receiver.finish(), 1000);
        stats_without_drops(&daemon);

        // Once it is read again, the log continues and reports the dropped lines.
        let log = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        change_rules(&daemon);
        drop(daemon);
        let log = log.join().expect("a reader").expect("text");
        assert!(log.contains("the log was not read fast enough: lines were dropped"), "{} bytes", log.len());
    }
}

#[test]
fn a_daemon_whose_log_is_not_read_ends_on_sigterm() {
    let topology = Topology::sender_relay_receiver();
    let (daemon, reader) = relay_with_unread_log(&topology, IoBackend::Uring);
    change_rules(&daemon);
    // Sends SIGTERM and waits for the end, with a deadline.
    drop(daemon);
    drop(reader);
}
