//! `settings.sandbox` replaces the workers one by one, and is told.

use mcr_sys::process::Status;
use mcr_sys::test_env::deny_transmit_rings;
use mcr_testnet::{CtlOutput, Daemon, IoBackend, Topology, wait_for};
use serde_json::{Value, json};

use super::{DEADLINE, pid_of, worker_of};
use crate::lacking::has_landlock;
use crate::scenario::{input, is_in_user_namespace, output, recv, rule, send};

fn try_to_load(daemon: &Daemon, choice: &str) -> CtlOutput {
    let file = daemon.directory().join("loaded.json5");
    std::fs::write(&file, config(choice)).expect("write a file");
    daemon.ctl(&["load", "--replace", file.to_str().expect("an UTF-8 path")])
}

fn load(daemon: &Daemon, choice: &str) {
    let answer = try_to_load(daemon, choice);
    assert_eq!(answer.code, 0, "{choice}: {answer:?} {}", daemon.log());
}

fn seccomp_of(worker: &Value) -> String {
    Status::read(Some(pid_of(worker))).expect("a status").field("Seccomp").concat()
}

on_both_backends! {
    fn off_and_on_again(io) {
        // "on" refuses workers without it.
        if !has_landlock() {
            return;
        }
        let topology = Topology::sender_relay_receiver();
        let daemon = Daemon::start(&topology.relay, io, &config("auto"));
        daemon.wait_until_active(1);
        let mut before = worker_of(&daemon, "eth0");
        assert_eq!(seccomp_of(&before), "2", "confined by default");
        for (choice, mode) in [("off", "0"), ("on", "2"), ("off", "0"), ("auto", "2")] {
            load(&daemon, choice);
            let worker = wait_for("a worker with the other setting", DEADLINE, || {
                let worker = worker_of(&daemon, "eth0");
                if pid_of(&worker) == pid_of(&before) { Err(worker) } else { Ok(worker) }
            });
            assert_eq!(seccomp_of(&worker), mode, "{choice}");
            assert_eq!(worker["restarts"], 0, "a replacement is no failure");
            let layers = worker["sandbox"].as_array().expect("layers").len();
            // The capture socket's lock stays.
            let expected = match (mode, io) {
                ("0", _) => 1,
                (_, IoBackend::Uring) => 4,
                _ => 3,
            };
            assert_eq!(layers, expected, "{worker:#}");
            let doctor = daemon.ctl_json(&["doctor", "--listen", "0"])["host"].clone();
            let told = doctor["findings"].to_string().contains("sandbox_incomplete");
            assert_eq!(told, choice == "off", "{doctor:#}");
            before = worker;
        }
    }
}

fn config(choice: &str) -> String {
    let rules = [rule(input("239.1.1.1"), [output("239.2.2.2")])];
    json!({"rules": rules, "settings": {"sandbox": choice}}).to_string()
}

/// A daemon whose capture sockets can't be locked: the kernel refuses transmit rings.
fn without_lock(topology: &Topology, io: IoBackend, choice: &str) -> Daemon {
    Daemon::start_with(&topology.relay, &config(choice), |command| {
        command.env("MCRD_IO", io.as_str());
        deny_transmit_rings(command);
    })
}

fn is_locked(worker: &Value) -> bool {
    worker["sandbox"].to_string().contains("tx-locked")
}

on_both_backends! {
    /// `on` without the send lock: no worker, and the reason; `auto` goes without, and says so.
    fn on_is_refused_without_the_send_lock(io) {
        if is_in_user_namespace() {
            return println!("skipped: the daemon can't be kept from transmit rings in a user namespace");
        }
        if !has_landlock() {
            return;
        }
        let topology = Topology::sender_relay_receiver();
        let daemon = without_lock(&topology, io, "on");
        let rule = wait_for("a rule that waits, and why", DEADLINE, || {
            let rule = daemon.ctl_json(&["list"])["rules"][0].clone();
            if rule["reason"].to_string().contains("transmit ring") { Ok(rule) } else { Err(rule) }
        });
        assert_eq!(rule["state"], "pending", "{rule:#}");
        let workers = daemon.ctl_json(&["workers"])["workers"].clone();
        assert_eq!(workers[0]["pid"], 0, "{workers:#}");
        load(&daemon, "auto");
        daemon.wait_until_active(1);
        let worker = worker_of(&daemon, "eth0");
        assert!(!is_locked(&worker) && worker["notes"].to_string().contains("could send"), "{worker:#}");
        // Loading it is refused, and what was in force stays.
        let answer = try_to_load(&daemon, "on");
        assert_eq!(answer.code, 1, "{answer:?}");
        assert!(answer.stderr.contains("transmit ring"), "{answer:?}");
        daemon.wait_until_active(1);
        assert!(!is_locked(&worker_of(&daemon, "eth0")));
    }

    /// A socket without the lock, as an earlier version opened them, is adopted, and replaced once `on` is loaded: what is under
    /// way arrives or is counted.
    fn on_replaces_an_adopted_socket_without_the_send_lock(io) {
        if is_in_user_namespace() {
            return println!("skipped: the daemon can't be kept from transmit rings in a user namespace");
        }
        if !has_landlock() {
            return;
        }
        let topology = Topology::sender_relay_receiver();
        let mut daemon = without_lock(&topology, io, "auto");
        daemon.wait_until_active(1);
        let first = worker_of(&daemon, "eth0");
        assert!(!is_locked(&first), "{first:#}");
        daemon.kill_and_restart(&topology.relay, |command| {
            command.env("MCRD_IO", io.as_str());
        });
        let adopted = worker_of(&daemon, "eth0");
        assert!(adopted["pid"] == first["pid"] && !is_locked(&adopted), "{adopted:#}");

        let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "--idle 1");
        let sender = send(&topology.sender, "eth0", "239.1.1.1", "--rate 2000 --count 4000 --size 200");
        load(&daemon, "on");
        let worker = wait_for("a worker with a locked socket", DEADLINE, || {
            let worker = worker_of(&daemon, "eth0");
            if is_locked(&worker) { Ok(worker) } else { Err(worker) }
        });
        assert_ne!(worker["pid"], first["pid"], "{worker:#}");
        assert_eq!(worker["restarts"], 0, "a replacement is no failure: {worker:#}");
        let sent = sender.finish()["sent"].as_u64().expect("a number");
        let report = receiver.finish();
        let received = report["received"].as_u64().expect("a number");
        let stats = daemon.settled_stats();
        let dropped = stats["workers"][0]["kernel_drops"].as_u64().expect("a number");
        println!("of {sent} datagrams {received} arrived, {dropped} were counted as dropped");
        // Besides these, what the old socket got between the last look at it and its close: microseconds, unless the thread lost its core.
        assert!((sent - 8..=sent).contains(&(received + dropped)), "of {sent}: {report:#} {stats:#}");
        assert_eq!(report["duplicates"], 0, "{report:#}");
        // The next supervisor gets the locked socket.
        daemon.kill_and_restart(&topology.relay, |command| {
            command.env("MCRD_IO", io.as_str());
        });
        let adopted = worker_of(&daemon, "eth0");
        assert!(adopted["pid"] == worker["pid"] && is_locked(&adopted), "{adopted:#}");
    }
}
