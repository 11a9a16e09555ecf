//! Datagrams come out where the rules say, whole, once and in order: every kind of address on both sides, fan-out,
//! sources.

use crate::scenario::{
    OUTPUT_PORT, assert_received, input, nth, output, output_on, packets_of, recv, relay, rule, send,
    stats_without_drops, with,
};
use mcr_testnet::{IoBackend, Topology};
use serde_json::json;

const MULTICAST_V4: (&str, &str) = ("239.1.1.1", "239.2.2.2");
const MULTICAST_V6: (&str, &str) = ("ff15::1:1", "ff15::2:2");
/// Addresses of the relay and of the receiver.
const UNICAST_V4: (&str, &str) = ("10.1.0.2", "10.2.0.2");
const UNICAST_V6: (&str, &str) = ("fd01::2", "fd02::2");

/// One rule from one group to another, and a stream through it.
fn one_relay(io: IoBackend, input_group: &str, output_group: &str) {
    let topology = Topology::sender_relay_receiver();
    let daemon = relay(&topology, io, &[rule(input(input_group), [output(output_group)])]);
    let receiver = recv(&topology.receiver, "eth0", output_group, "");
    let sent = send(&topology.sender, "eth0", input_group, "--count 1000 --rate 5000 --size 200").finish();
    assert_eq!((&sent["sent"], &sent["errors"]), (&json!(1000), &json!(0)), "{sent}");
    assert_received(&receiver.finish(), 1000);
    let stats = stats_without_drops(&daemon);
    assert_eq!(stats["rules"][0]["packets"], 1000, "{stats:#}");
    assert_eq!(stats["rules"][0]["bytes"], 200_000, "{stats:#}");
    assert_eq!(packets_of(&stats, output_group), 1000);
}

on_both_backends! {
    fn multicast_to_multicast_v4(io) { one_relay(io, MULTICAST_V4.0, MULTICAST_V4.1); }
    fn multicast_to_unicast_v4(io) { one_relay(io, MULTICAST_V4.0, UNICAST_V4.1); }
    fn unicast_to_multicast_v4(io) { one_relay(io, UNICAST_V4.0, MULTICAST_V4.1); }
    fn unicast_to_unicast_v4(io) { one_relay(io, UNICAST_V4.0, UNICAST_V4.1); }

    fn multicast_to_multicast_v6(io) { one_relay(io, MULTICAST_V6.0, MULTICAST_V6.1); }
    fn multicast_to_unicast_v6(io) { one_relay(io, MULTICAST_V6.0, UNICAST_V6.1); }
    fn unicast_to_multicast_v6(io) { one_relay(io, UNICAST_V6.0, MULTICAST_V6.1); }
    fn unicast_to_unicast_v6(io) { one_relay(io, UNICAST_V6.0, UNICAST_V6.1); }

    fn v4_multicast_to_v6_multicast(io) { one_relay(io, MULTICAST_V4.0, MULTICAST_V6.1); }
    fn v6_multicast_to_v4_multicast(io) { one_relay(io, MULTICAST_V6.0, MULTICAST_V4.1); }
    fn v4_multicast_to_v6_unicast(io) { one_relay(io, MULTICAST_V4.0, UNICAST_V6.1); }
    fn v6_unicast_to_v4_multicast(io) { one_relay(io, UNICAST_V6.0, MULTICAST_V4.1); }

    /// The same group and port on both sides, on different interfaces.
    fn nothing_is_translated_that_need_not_be(io) {
        let topology = Topology::sender_relay_receiver();
        let same = with(output("239.1.1.1"), "port", 5000);
        let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), [same])]);
        let arguments = ["--interface", "eth0", "--group", "239.1.1.1", "--port", "5000"];
        let receiver = mcr_testnet::Generator::recv(&topology.receiver, &arguments);
        let _ = send(&topology.sender, "eth0", "239.1.1.1", "--count 500").finish();
        assert_received(&receiver.finish(), 500);
        stats_without_drops(&daemon);
    }

    fn fan_out_to_eight_outputs(io) {
        let topology = Topology::sender_relay_receiver();
        topology.add_output(1);
        let mut outputs: Vec<_> = (0..4).map(|index| output(nth("239.2.2.0", index))).collect();
        outputs.extend((0..2).map(|index| output(nth("ff15::2:0", index))));
        outputs.push(output_on("out1", "239.2.3.0"));
        outputs.push(output_on("out1", "10.2.1.2"));
        let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), outputs)]);
        let receivers = [
            (recv(&topology.receiver, "eth0", "239.2.2.0", "--groups 4"), 4),
            (recv(&topology.receiver, "eth0", "ff15::2:0", "--groups 2"), 2),
            (recv(&topology.receiver, "eth1", "239.2.3.0", ""), 1),
            (recv(&topology.receiver, "eth1", "10.2.1.2", ""), 1),
        ];
        let _ = send(&topology.sender, "eth0", "239.1.1.1", "--count 1000 --rate 2000").finish();
        for (receiver, groups) in receivers {
            assert_received(&receiver.finish(), groups * 1000);
        }
        let stats = stats_without_drops(&daemon);
        assert_eq!(stats["rules"][0]["packets"], 1000, "{stats:#}");
        assert_eq!(stats["rules"][0]["due"], 8000, "{stats:#}");
        assert_eq!(stats["rules"][0]["outputs"].as_array().map(Vec::len), Some(8), "{stats:#}");
    }

    /// SSM: the second source sends to the same group and port, and nothing of it passes.
    fn a_source_that_was_not_asked_for_does_not_pass(io) {
        for (first, second, group, output_group) in [
            ("10.1.0.1", "10.1.0.9/24", "232.1.1.1", "239.2.2.2"),
            ("fd01::1", "fd01::9/64", "ff3e::1:1", "ff15::2:2"),
        ] {
            let topology = Topology::sender_relay_receiver();
            topology.sender.add_address("eth0", second);
            let second = second.split('/').next().unwrap_or_default();
            let daemon = relay(&topology, io, &[rule(with(input(group), "sources", [first]), [output(output_group)])]);
            let receiver = recv(&topology.receiver, "eth0", output_group, "");
            let source = |address: &str| format!("--count 500 --rate 5000 --source {address}");
            let refused = send(&topology.sender, "eth0", group, &source(second)).finish();
            assert_eq!(refused["sent"], 500);
            let _ = send(&topology.sender, "eth0", group, &source(first)).finish();
            let report = receiver.finish();
            assert_received(&report, 500);
            assert_eq!(report["sessions"], 1, "{report:#}");
            let stats = stats_without_drops(&daemon);
            assert_eq!(stats["rules"][0]["packets"], 500, "{stats:#}");
        }
    }

    /// Rules on one group and port whose sources differ: each relays what it asks for, and all that fit relay.
    fn rules_share_a_group_when_their_sources_differ(io) {
        let topology = Topology::sender_relay_receiver();
        topology.sender.add_address("eth0", "10.1.0.9/24");
        let from = |sources: &[&str]| with(input("232.1.1.1"), "sources", sources);
        let daemon = relay(&topology, io, &[
            rule(from(&["10.1.0.1"]), [output("239.2.2.0")]),
            rule(from(&["10.1.0.9"]), [output("239.2.2.1")]),
            rule(from(&["10.1.0.1", "10.1.0.9"]), [output("239.2.2.2")]),
            rule(input("232.1.1.1"), [output("239.2.2.3")]),
        ]);
        let receiver = recv(&topology.receiver, "eth0", "239.2.2.0", "--groups 4");
        let senders = [("10.1.0.1", 300), ("10.1.0.9", 200)].map(|(source, count)| {
            send(&topology.sender, "eth0", "232.1.1.1", &format!("--source {source} --count {count}"))
        });
        senders.into_iter().for_each(|sender| assert_eq!(sender.finish()["errors"], 0));
        let report = receiver.finish();
        assert_received(&report, 300 + 200 + 500 + 500);
        let of_group = |group: &str| {
            report["per_stream"].as_array().into_iter().flatten().find(|stream| stream["group"] == group)
                .map(|stream| stream["received"].clone())
        };
        let expected = [("239.2.2.0", 300), ("239.2.2.1", 200), ("239.2.2.2", 500), ("239.2.2.3", 500)];
        for (group, datagrams) in expected {
            assert_eq!(of_group(group), Some(json!(datagrams)), "{group}: {report:#}");
        }
        stats_without_drops(&daemon);
    }

    /// Rules differ in nothing but the port of the input.
    fn ports_of_one_group_are_distinguished(io) {
        let topology = Topology::sender_relay_receiver();
        let daemon = relay(&topology, io, &[
            rule(input("239.1.1.1"), [output("239.2.2.0")]),
            rule(with(input("239.1.1.1"), "port", 5001), [output("239.2.2.1")]),
        ]);
        let receiver = recv(&topology.receiver, "eth0", "239.2.2.0", "");
        let other = recv(&topology.receiver, "eth0", "239.2.2.1", "--wait 1");
        let _ = send(&topology.sender, "eth0", "239.1.1.1", "--count 300").finish();
        assert_received(&receiver.finish(), 300);
        assert_eq!(other.finish()["received"], 0, "port {OUTPUT_PORT} of the other rule");
        stats_without_drops(&daemon);
    }

    /// `mcrgen recv` checks every byte of every datagram.
    fn rate_payload_is_identical_over_50000_datagrams_of_random_size(io) {
        let topology = Topology::sender_relay_receiver();
        let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), [output("239.2.2.2")])]);
        let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "");
        let options = "--count 50000 --rate 25000 --size 48-1472 --seed 20";
        let sent = send(&topology.sender, "eth0", "239.1.1.1", options).finish();
        let report = receiver.finish();
        assert_received(&report, 50_000);
        assert_eq!(report["bytes"], sent["bytes"]);
        let stats = stats_without_drops(&daemon);
        assert_eq!(stats["rules"][0]["bytes"], sent["bytes"], "{stats:#}");
    }
}
