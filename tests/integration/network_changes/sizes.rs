//! R16: the largest packet changes under the traffic. Buffers hold the largest datagrams that UDP has, whatever the MTU
//! is, so nothing needs to be done; what arrives in fragments is put together, and what does not fit leaves in fragments.

use mcr_testnet::{Topology, assert_accounting};
use serde_json::Value;

use crate::scenario::{input, output, recv, relay, rule, send};

const DATAGRAMS: u64 = 200;

fn counted(stats: &Value, kind: &str, reason: &str) -> u64 {
    stats[kind][reason].as_u64().unwrap_or_else(|| panic!("no {kind} by {reason}: {stats:#}"))
}

on_both_backends! {
    fn the_mtu_grows_and_shrinks_under_large_datagrams(io) {
        for (from, to) in [("239.1.1.1", "239.2.2.1"), ("ff15::1", "ff15::2")] {
            let topology = Topology::sender_relay_receiver();
            let set = |cable: [(&mcr_testnet::Host, &str); 2], mtu: u32| {
                cable.iter().for_each(|(host, interface)| host.set_mtu(interface, mtu));
            };
            let inputs = |mtu| set([(&topology.sender, "eth0"), (&topology.relay, "eth0")], mtu);
            let outputs = |mtu| set([(&topology.relay, "eth1"), (&topology.receiver, "eth0")], mtu);
            inputs(9000);
            let daemon = relay(&topology, io, &[rule(input(from), [output(to)])]);
            let before = crate::network_changes::processes(&daemon);
            let mut arrived = 0;
            for (input, output) in
                [(9000, 1500), (9000, 9000), (1500, 9000), (1500, 1500), (9000, 9000), (9000, 1500)]
            {
                inputs(input);
                outputs(output);
                daemon.wait_until_active(1);
                let last = daemon.settled_stats();
                let receiver = recv(&topology.receiver, "eth0", to, "");
                let options = format!("--count {DATAGRAMS} --size 8192 --rate 2000");
                let sent = send(&topology.sender, "eth0", from, &options).outcome().json;
                assert_eq!(sent["errors"], 0, "{sent}");
                let report = receiver.outcome().json;
                let stats = daemon.settled_stats();
                assert_accounting(&stats);
                let now = |kind: &str, reason: &str| counted(&stats, kind, reason) - counted(&last, kind, reason);
                let sizes = format!("input {input}, output {output}: {report:#} {stats:#}");
                assert_eq!(now("skips", "truncated"), 0, "{sizes}");
                let received = report["received"].as_u64().expect("a count");
                assert_eq!(report["bytes"], received * 8192, "whole datagrams: {sizes}");
                assert_eq!(received + now("drops", "too_big"), DATAGRAMS, "{sizes}");
                assert_eq!(report["corrupted"], 0, "{sizes}");
                let reassembled = |stats: &Value| stats["workers"][0]["reassembled"].as_u64().expect("a count");
                let expected = if input < 8192 { DATAGRAMS } else { 0 };
                assert_eq!(reassembled(&stats) - reassembled(&last), expected, "{sizes}");
                arrived += received;
            }
            assert_eq!(arrived, 6 * DATAGRAMS, "all sizes left, in fragments where they had to");
            crate::network_changes::assert_untouched(&daemon, &before);
        }
    }
}
