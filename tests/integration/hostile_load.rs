//! Hostile frames mixed with load (R35): none is relayed, none kills a worker, the load loses nothing, and each frame that
//! reaches a worker is in exactly one counter.

use std::time::Duration;

use mcr_sys::clock::monotonic;
use mcr_testnet::RawPrefix;
use mcr_testnet::frames::mutation::Mutations;
use mcr_testnet::{Generator, Topology, assert_accounting, frames, wait_for};
use serde_json::{Value, json};

use crate::scenario::{assert_received, input, input_on, nth, output, recv, relay, rule, send};

/// Frames per second: with the load, as many as a worker of this machine takes while others share it.
const HOSTILE_PPS: u64 = 25_000;
const LOAD_PPS: u64 = 20_000;

/// How many hostile frames.
fn frames_wanted() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a setting of the test")]
    let setting = std::env::var("MCR_HOSTILE_FRAMES");
    setting.ok().map_or(60_000, |text| text.parse().expect("MCR_HOSTILE_FRAMES is a number"))
}

/// Sends `count` mutated frames to the first two rules, at an even pace.
fn bombard(topology: &Topology, seed: u64, count: u64) {
    let targets =
        ["239.1.1.0", "239.1.1.1"].map(|group| (address("10.1.0.1:7000"), address(&format!("{group}:5000"))));
    let mut mutations = Mutations::new(seed, targets.to_vec(), vec![address("10.1.0.2:7000")]);
    let sender = frames::sender(&topology.sender, "eth0", RawPrefix::None);
    let begin = monotonic();
    let mut sent = 0;
    while sent < count {
        let due = u64::try_from((monotonic() - begin).as_micros()).unwrap() * HOSTILE_PPS / 1_000_000;
        while sent < due.min(count) {
            sender.send(&mutations.frame()).unwrap();
            sent += 1;
        }
        std::thread::yield_now();
    }
}

fn address(text: &str) -> std::net::SocketAddr {
    text.parse().unwrap()
}

fn of_workers(stats: &Value, counter: &str) -> u64 {
    stats["workers"].as_array().into_iter().flatten().filter_map(|worker| worker[counter].as_u64()).sum()
}

on_both_backends! {
    fn rate_mutated_frames_beside_the_load_harm_nobody(io) {
        let topology = Topology::sender_relay_receiver();
        topology.add_input(1);
        let rules: Vec<Value> = (0..4)
            .map(|index| {
                let group = nth("239.1.1.0", index);
                let input = if index < 2 { input(group) } else { input_on("in1", group) };
                rule(input, [output(nth("239.2.2.0", index))])
            })
            .collect();
        let daemon = relay(&topology, io, &rules);
        let hostile = frames_wanted();
        let each = LOAD_PPS / 2 * hostile.div_ceil(HOSTILE_PPS);
        let receivers =
            ["239.2.2.0", "239.2.2.2"].map(|group| recv(&topology.receiver, "eth0", group, "--groups 2"));
        let options = format!("--groups 2 --rate {} --size 1400 --count {each}", LOAD_PPS / 2);
        let senders = [("eth0", "239.1.1.0"), ("eth1", "239.1.1.2")]
            .map(|(interface, group)| send(&topology.sender, interface, group, &options));
        let seed = 35;
        bombard(&topology, seed, hostile);
        for sender in senders {
            assert_eq!(sender.finish()["sent"], each);
        }
        // `unknown` is 0: no hostile payload came out.
        for report in receivers.map(Generator::finish) {
            assert_received(&report, each);
        }
        let stats = daemon.settled_stats();
        assert_accounting(&stats);
        let skips = stats["skips"].as_object().unwrap();
        let skipped: u64 = skips.values().filter_map(Value::as_u64).sum();
        println!("{hostile} hostile frames, seed {seed}: {skipped} reached the worker: {:#}", stats["skips"]);
        assert_eq!((of_workers(&stats, "matched"), of_workers(&stats, "kernel_drops")), (2 * each, 0), "{stats:#}");
        // Each that reached a worker is one frame, and one skip or a fragment of a datagram that is one; the others were kept out by
        // the kernel's filter.
        let fragments = of_workers(&stats, "fragments");
        let given_up: u64 = ["fragment_incomplete", "fragment_overlap", "fragment_evicted"]
            .iter().map(|reason| skips[*reason].as_u64().unwrap()).sum();
        assert!(given_up > 0 && given_up <= fragments, "{stats:#}");
        let skipped = skipped - given_up + fragments;
        assert_eq!(of_workers(&stats, "frames"), 2 * each + skipped, "{stats:#}");
        assert!(skipped > hostile / 3 && skipped <= hostile, "{stats:#}");
        let kinds = skips.values().filter(|count| **count != 0).count();
        assert!(kinds >= 6, "the lies were of few kinds: {skips:?}");
        let workers = wait_for("the workers", Duration::from_secs(10), || {
            let workers = daemon.ctl_json(&["workers"]);
            if workers["workers"].as_array().map(Vec::len) == Some(2) { Ok(workers) } else { Err(workers) }
        });
        for worker in workers["workers"].as_array().unwrap() {
            assert_eq!(worker["restarts"], json!(0), "{workers:#}");
        }
    }
}
