//! How long relaying takes is measured by each worker, in its statistics and for Prometheus.

use serde_json::Value;

use crate::scenario::{assert_received, input, output, recv, relay, rule, send, stats_without_drops};

const RATE: u64 = 1_000;
const DATAGRAMS: u64 = 1_500;
/// Measurements per second, at most.
const PER_SECOND: u64 = 10;

on_both_backends! {
    fn some_frames_a_second_are_measured(io) {
        let topology = mcr_testnet::Topology::sender_relay_receiver();
        let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), [output("239.2.2.1")])]);
        let nothing = daemon.ctl_json(&["stats"])["workers"][0]["latency"].clone();
        assert_eq!((&nothing["samples"], &nothing["p50_us"]), (&Value::from(0), &Value::Null), "{nothing:#}");
        let receiver = recv(&topology.receiver, "eth0", "239.2.2.1", "");
        let _ = send(&topology.sender, "eth0", "239.1.1.1", &format!("--rate {RATE} --count {DATAGRAMS}")).finish();
        let report = receiver.finish();
        assert_received(&report, DATAGRAMS);
        let stats = stats_without_drops(&daemon);
        let latency = &stats["workers"][0]["latency"];
        let number = |field: &str| latency[field].as_u64().unwrap_or_else(|| panic!("{field}: {latency:#}"));
        let samples = number("samples");
        assert!((3..=PER_SECOND * DATAGRAMS / RATE + 2).contains(&samples), "{latency:#}");
        let counts = latency["buckets"].as_array().into_iter().flatten().filter_map(|bucket| bucket["count"].as_u64());
        assert_eq!(counts.sum::<u64>(), samples, "{latency:#}");
        assert!(number("p50_us") <= number("p99_us"), "{latency:#}");
        // A part of the way that the receiver measures, and longer than nothing; half of all within the longest of it.
        let longest_us = report["latency_ns"]["max"].as_u64().expect("nanoseconds") / 1000;
        let average_us = number("sum_us") / samples;
        assert!((1..=longest_us).contains(&average_us), "average {average_us} µs, at most {longest_us}: {latency:#}");
    }
}
