//! `settings.sandbox` replaces the workers one by one, and is told.

use mcr_sys::process::Status;
use mcr_testnet::{Daemon, IoBackend, Topology, wait_for};
use serde_json::{Value, json};

use super::{DEADLINE, pid_of, worker_of};
use crate::lacking::has_landlock;
use crate::scenario::{input, output, rule};

fn load(daemon: &Daemon, choice: &str) {
    let rules = [rule(input("239.1.1.1"), [output("239.2.2.2")])];
    let config = json!({"rules": rules, "settings": {"sandbox": choice}});
    let file = daemon.directory().join("loaded.json5");
    std::fs::write(&file, config.to_string()).expect("write a file");
    let answer = daemon.ctl(&["load", "--replace", file.to_str().expect("an UTF-8 path")]);
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
        let rules = [rule(input("239.1.1.1"), [output("239.2.2.2")])];
        let daemon = Daemon::start(&topology.relay, io, &json!({"rules": rules}).to_string());
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
