//! Several cores for one interface, and what a worker needs of memory.

use std::time::Duration;

use mcr_sys::process::{online_cores, pin_to_core};
use mcr_testnet::{Daemon, IoBackend, Topology, assert_accounting, wait_for};
use serde_json::{Value, json};

use crate::scenario::{assert_received, input, nth, output, recv, rule, send, stats_without_drops};

const DATAGRAMS: u64 = 20_000;

fn workers(daemon: &Daemon) -> Vec<Value> {
    daemon.ctl_json(&["workers"])["workers"].as_array().cloned().unwrap_or_default()
}

on_both_backends! {
    /// What each core sends goes to its own worker: nothing twice, nothing lost.
    fn rate_two_workers_share_an_interface_by_core(io) {
        let cores: Vec<u16> = online_cores().expect("cores").into_iter().take(2).collect();
        assert_eq!(cores.len(), 2, "this test needs two cores");
        let topology = Topology::sender_relay_receiver();
        let groups = ["239.1.1.1", "239.1.1.2"];
        let rules: Vec<Value> =
            (1..=2).map(|n| rule(input(nth("239.1.1.0", n)), [output(nth("239.2.2.0", n))])).collect();
        let config = json!({"rules": rules, "pinning": {"eth0": cores}});
        let daemon = Daemon::start(&topology.relay, io, &config.to_string());
        daemon.wait_until_active(2);
        wait_for("two workers", Duration::from_secs(10), || {
            let workers = workers(&daemon);
            let running = workers.iter().filter(|worker| worker["state"] == "running").count();
            if running == 2 { Ok(()) } else { Err(workers) }
        });
        let receivers = ["239.2.2.1", "239.2.2.2"].map(|group| recv(&topology.receiver, "eth0", group, ""));
        std::thread::scope(|scope| {
            let senders = cores.iter().zip(groups).map(|(core, group)| {
                let topology = &topology;
                scope.spawn(move || {
                    // A process stays on the core of the thread that starts it.
                    pin_to_core(*core).expect("a core");
                    let options = format!("--count {DATAGRAMS} --rate 10000 --size 200");
                    send(&topology.sender, "eth0", group, &options).finish()
                })
            });
            for sender in senders.collect::<Vec<_>>() {
                assert_eq!(sender.join().expect("a sender")["sent"], DATAGRAMS);
            }
        });
        for receiver in receivers {
            assert_received(&receiver.finish(), DATAGRAMS);
        }
        let stats = stats_without_drops(&daemon);
        assert_accounting(&stats);
        let received: Vec<u64> = stats["workers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|worker| worker["received"].as_u64())
            .collect();
        // The sender's interrupts, and with them some datagrams, may run on the other core.
        assert_eq!(received.iter().sum::<u64>(), 2 * DATAGRAMS, "{stats:#}");
        assert!(received.iter().all(|count| *count > DATAGRAMS / 2), "{stats:#}");
    }
}

/// The resident memory of a process in KiB.
fn resident_kib(pid: &Value) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn ten_thousand_rules_fit_into_64_mib() {
    for io in [IoBackend::Uring, IoBackend::Recvmmsg] {
        let topology = Topology::sender_relay_receiver();
        let rules: Vec<Value> = (0..10_000_u32)
            .map(|n| {
                let group = std::net::Ipv4Addr::from_bits(0xef01_0000 + n).to_string();
                let relayed = std::net::Ipv4Addr::from_bits(0xef02_0000 + n).to_string();
                rule(input(group), [output(relayed)])
            })
            .collect();
        let daemon = Daemon::start(&topology.relay, io, &json!({ "rules": rules }).to_string());
        wait_for("a worker with all rules", Duration::from_secs(60), || {
            let workers = workers(&daemon);
            let running = workers.first().is_some_and(|worker| worker["state"] == "running");
            if running && !workers[0]["ruleset_hash"].is_null() { Ok(()) } else { Err(workers) }
        });
        // Every counter is touched, and many buffers.
        let _ = send(
            &topology.sender,
            "eth0",
            "239.1.0.0",
            "--groups 200 --count 20000 --rate 20000 --size 1400",
        )
        .finish();
        let stats = daemon.settled_stats();
        assert_accounting(&stats);
        let kib = resident_kib(&workers(&daemon)[0]["pid"]);
        println!("{io:?}: {kib} KiB");
        assert!(kib < 64 * 1024, "{io:?}: {kib} KiB");
    }
}
