//! Many rules at once: each stream comes out of its own rule, and no other.

use crate::scenario::{assert_received, input, nth, output, recv, relay, rule, send, stats_without_drops};
use mcr_testnet::{IoBackend, Topology};
use serde_json::Value;

/// Relays a stream through each of `count` rules on consecutive groups.
fn streams(io: IoBackend, count: u8, from: &str, to: &str) {
    let topology = Topology::sender_relay_receiver();
    let rules: Vec<Value> =
        (0..count).map(|index| rule(input(nth(from, index)), [output(nth(to, index))])).collect();
    let daemon = relay(&topology, io, &rules);
    let groups = format!("--groups {count}");
    let receiver = recv(&topology.receiver, "eth0", to, &groups);
    let each = 40;
    let datagrams = u64::from(count) * each;
    let options = format!("{groups} --count {datagrams} --rate 5000 --size 100-1400");
    let sent = send(&topology.sender, "eth0", from, &options).finish();
    assert_eq!(sent["sent"], datagrams, "{sent}");
    let report = receiver.finish();
    assert_received(&report, datagrams);
    let per_stream = report["per_stream"].as_array().expect("an account of each stream");
    assert_eq!(per_stream.len(), usize::from(count));
    for (index, stream) in (0..count).zip(per_stream) {
        assert_eq!(stream["group"], nth(to, index), "{stream}");
        assert_eq!(stream["stream"], index, "the stream of another group came: {stream}");
        assert_eq!(stream["received"], each, "{stream}");
    }
    let stats = stats_without_drops(&daemon);
    for rule in stats["rules"].as_array().into_iter().flatten() {
        assert_eq!(rule["packets"], each, "{rule:#}");
    }
}

on_both_backends! {
    fn fifty_streams_v4(io) { streams(io, 50, "239.1.1.0", "239.2.2.0"); }
    fn fifty_streams_v6(io) { streams(io, 50, "ff15::1:0", "ff15::2:0"); }

    /// Ten times as many groups as one socket may join.
    fn two_hundred_streams(io) { streams(io, 200, "239.1.1.0", "239.2.2.0"); }

    /// Streams of many groups that one output group brings together.
    fn streams_merge_into_one_output(io) {
        let topology = Topology::sender_relay_receiver();
        let rules: Vec<Value> =
            (0..20).map(|index| rule(input(nth("239.1.1.0", index)), [output("239.2.2.2")])).collect();
        let daemon = relay(&topology, io, &rules);
        let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "--per-stream");
        let _ = send(&topology.sender, "eth0", "239.1.1.0", "--groups 20 --count 1000 --rate 5000").finish();
        let report = receiver.finish();
        assert_received(&report, 1000);
        assert_eq!(report["per_stream"].as_array().map(Vec::len), Some(20), "{report:#}");
        stats_without_drops(&daemon);
    }
}
