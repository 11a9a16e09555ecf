//! A loaded setting applies to what runs: workers with other settings are replaced one by one, each on the capture socket
//! of the one before, and queues are resized. No datagram is lost.

use std::time::Duration;

use mcr_testnet::{Daemon, Topology, wait_for, wait_until};
use serde_json::{Value, json};

use crate::adoption::{Load, load_rules, pids};
use crate::scenario::{limits_receive_buffer_to_less_than, stats_without_drops};

const DEADLINE: Duration = Duration::from_secs(20);
/// Longer than all loads take together.
const SECONDS: u64 = 8;

fn config(settings: &Value) -> String {
    json!({ "rules": load_rules(), "settings": settings }).to_string()
}

fn load(daemon: &Daemon, settings: &Value) {
    let file = daemon.directory().join("loaded.json5");
    std::fs::write(&file, config(settings)).expect("write a file");
    let answer = daemon.ctl(&["load", "--replace", file.to_str().expect("an UTF-8 path")]);
    assert_eq!(answer.code, 0, "{settings}: {answer:?} {}", daemon.log());
}

/// Waits until each worker runs with these settings.
fn await_settings(daemon: &Daemon, expected: &Value) {
    wait_for("workers with the new settings", DEADLINE, || {
        let reply = daemon.ctl_json(&["workers"]);
        let workers = reply["workers"].as_array().cloned().unwrap_or_default();
        let has = |worker: &Value| {
            let fields = expected.as_object().expect("an object");
            worker["state"] == "running" && fields.iter().all(|(name, value)| worker[name] == *value)
        };
        if workers.len() == 2 && workers.iter().all(has) { Ok(()) } else { Err(reply) }
    });
}

/// 20,000 datagrams/s pass through two workers while their settings change, there and back.
#[test]
fn rate_settings_loaded_under_traffic_cost_no_datagram() {
    let topology = Topology::sender_relay_receiver();
    topology.add_input(1);
    let daemon = Daemon::start_with(&topology.relay, &config(&json!({ "io": "io_uring" })), |command| {
        command.env_remove("MCRD_IO");
    });
    daemon.wait_until_active(4);
    let load_under_test = Load { topology, daemon };
    let daemon = &load_under_test.daemon;
    await_settings(daemon, &json!({ "io": "io_uring", "ring_buffers": 256, "latency_budget_us": 50 }));
    let mut traffic = load_under_test.begin(SECONDS);
    wait_until("traffic", DEADLINE, || load_under_test.received() > 1_000);

    let mut settings = json!({ "io": "io_uring" });
    for (key, value) in [
        ("io", json!("recvmmsg")),
        ("ring_buffers", json!(512)),
        ("latency_budget_us", json!(200)),
        ("io", json!("io_uring")),
        ("ring_buffers", json!(128)),
    ] {
        let before = pids(daemon);
        settings[key] = value.clone();
        load(daemon, &settings);
        await_settings(daemon, &json!({ key: value }));
        let after = pids(daemon);
        assert_eq!(after.len(), 2);
        assert!(after.iter().all(|pid| !before.contains(pid)), "{key}: {before:?} {after:?}");
    }
    // A queue is resized under its worker.
    let before = pids(daemon);
    settings["receive_buffer_bytes"] = json!(12 << 20);
    load(daemon, &settings);
    let host = daemon.ctl_json(&["doctor", "--listen", "0"])["host"].clone();
    let checks = host["checks"].as_array().cloned().unwrap_or_default();
    let buffers = checks.iter().find(|check| check["topic"] == "buffers").expect("a check of the buffers");
    let words = buffers["words"].as_str().unwrap_or_default();
    assert!(
        words.starts_with("receive buffers of 12 MiB") || limits_receive_buffer_to_less_than(12 << 20),
        "{words}"
    );
    assert_eq!(pids(daemon), before);

    assert!(traffic.is_running(), "the traffic ended too early");
    traffic.finish();
    let stats = stats_without_drops(daemon);
    let workers = daemon.ctl_json(&["workers"]);
    for worker in workers["workers"].as_array().into_iter().flatten() {
        assert_eq!(worker["restarts"], 0, "a replacement is no failure: {workers:#}");
    }
    let relayed: u64 =
        stats["rules"].as_array().into_iter().flatten().filter_map(|r| r["packets"].as_u64()).sum();
    assert_eq!(relayed, 20_000 * SECONDS, "{stats:#}");
}
