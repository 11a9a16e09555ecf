//! A worker has no privilege at all, and says so where it could not change its user.

use std::time::Duration;

use mcr_sys::privileges::NOBODY;
use mcr_sys::process::Status;
use mcr_testnet::{Daemon, Topology, wait_for};
use serde_json::Value;

use crate::lacking::has_landlock;

const CONFIG: &str = r#"{ rules: [{
    input: { interface: "eth0", group: "239.1.1.1", port: 5000 },
    outputs: [{ interface: "eth1", group: "239.2.2.2", port: 5001 }],
}] }"#;

const START: Duration = Duration::from_secs(10);

/// Whether this user namespace has the user `nobody`; without it nobody can become it (user_namespaces(7)).
fn nobody_exists() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
        (numbers[0]..numbers[0] + numbers[2]).contains(&u64::from(NOBODY))
    })
}

/// The only worker, once it relays.
fn running_worker(daemon: &Daemon) -> Value {
    wait_for("a running worker", START, || {
        let workers = daemon.ctl_json(&["workers"]);
        let all = workers["workers"].as_array().unwrap();
        match all.as_slice() {
            [worker] if worker["state"] == "running" => Ok(worker.clone()),
            _ => Err(workers),
        }
    })
}

fn assert_no_privileges(status: &Status) {
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status.field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!(status.field("NoNewPrivs"), ["1"]);
    if nobody_exists() {
        assert_eq!(status.field("Uid"), ["65534"; 4]);
        assert_eq!(status.field("Gid"), ["65534"; 4]);
        assert!(status.field("Groups").is_empty(), "{:?}", status.field("Groups"));
    }
}

on_both_backends! {
    fn a_worker_has_none(io) {
        let topology = Topology::sender_relay_receiver();
        let daemon = Daemon::start(&topology.relay, io, CONFIG);
        let worker = running_worker(&daemon);
        let pid = u32::try_from(worker["pid"].as_u64().unwrap()).unwrap();
        assert_ne!(pid, daemon.pid());
        assert_no_privileges(&Status::read(Some(pid)).unwrap());

        let notes = worker["notes"].to_string();
        if nobody_exists() {
            assert_eq!(worker["uid"], NOBODY);
            if has_landlock() {
                assert_eq!(notes, "[]");
            }
        } else {
            assert_ne!(worker["uid"], NOBODY);
            assert!(notes.contains("the user stays"), "{notes}");
        }
    }
}
