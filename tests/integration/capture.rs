//! What is wanted is captured, up to the largest datagram and while filters are exchanged; what is not, and what the
//! host sends itself, costs the worker nothing.

use mcr_testnet::{Daemon, Topology};
use serde_json::Value;

use crate::scenario::{
    assert_received, at_rate, input, input_on, output, output_on, recv, relay, rule, send,
    stats_without_drops, with,
};

/// The sum of a counter over all workers.
fn of_workers(stats: &Value, counter: &str) -> u64 {
    let workers = stats["workers"].as_array().into_iter().flatten();
    workers.map(|worker| worker[counter].as_u64().unwrap_or_else(|| panic!("{counter}: {stats:#}"))).sum()
}

fn skips(stats: &Value) -> u64 {
    stats["skips"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum()
}

fn one_rule(topology: &Topology, io: mcr_testnet::IoBackend) -> Daemon {
    relay(topology, io, &[rule(input("239.1.1.1"), [output("239.2.2.2")])])
}

on_both_backends! {
    /// The largest datagrams that UDP has, through an output whose MTU is the ordinary one.
    fn datagrams_of_64_kib_pass(io) {
        let topology = Topology::sender_relay_receiver();
        for (host, interface) in [(&topology.sender, "eth0"), (&topology.relay, "eth0")] {
            host.set_mtu(interface, 65_535);
        }
        let daemon = one_rule(&topology, io);
        let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "--count 50");
        let _ = send(&topology.sender, "eth0", "239.1.1.1", "--count 50 --rate 200 --size 65507").finish();
        let report = receiver.finish();
        assert_received(&report, 50);
        assert_eq!(report["bytes"], 50 * 65_507);
        stats_without_drops(&daemon);
    }

    /// Other groups, other addresses, and the host's own traffic end in the kernel; other ports are counted while they are few.
    fn unwanted_traffic_does_not_reach_the_worker(io) {
        let topology = Topology::sender_relay_receiver();
        let daemon = one_rule(&topology, io);
        let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "--count 100");
        for stranger in ["239.1.1.2", "224.129.1.1", "10.1.0.2", "ff15::1"] {
            let _ = send(&topology.sender, "eth0", stranger, "--count 2000 --rate 20000").outcome();
        }
        let other_port = ["--interface", "eth0", "--group", "239.1.1.1", "--port", "5001", "--count", "50"];
        let _ = mcr_testnet::Generator::send(&topology.sender, &other_port).finish();
        let _ = send(&topology.relay, "eth0", "239.1.1.1", "--count 2000 --rate 20000").finish();
        let _ = send(&topology.sender, "eth0", "239.1.1.1", "--count 100").finish();
        assert_received(&receiver.finish(), 100);
        let stats = stats_without_drops(&daemon);
        assert_eq!((of_workers(&stats, "received"), skips(&stats)), (150, 50), "{stats:#}");
        assert_eq!(stats["skips"]["no_rule"], 50, "{stats:#}");
    }

    /// Two opposite rules are a two-way relay: what one sends, the other does not take for input.
    fn opposite_rules_do_not_echo(io) {
        let topology = Topology::sender_relay_receiver();
        let same_port = |output: Value| with(output, "port", crate::scenario::INPUT_PORT);
        let daemon = relay(&topology, io, &[
            rule(input("239.1.1.1"), [same_port(output("239.1.1.1"))]),
            rule(input_on("eth1", "239.1.1.1"), [same_port(output_on("eth0", "239.1.1.1"))]),
        ]);
        let listen = |host| {
            let arguments = ["--interface", "eth0", "--group", "239.1.1.1", "--port", "5000", "--count", "1000"];
            mcr_testnet::Generator::recv(host, &arguments)
        };
        for (from, to) in [(&topology.sender, &topology.receiver), (&topology.receiver, &topology.sender)] {
            let receiver = listen(to);
            let _ = send(from, "eth0", "239.1.1.1", "--count 1000 --rate 5000").finish();
            assert_received(&receiver.finish(), 1000);
        }
        let stats = stats_without_drops(&daemon);
        assert_eq!((of_workers(&stats, "received"), skips(&stats)), (2000, 0), "{stats:#}");
    }

    /// The filter is exchanged while it works; what passes both, the old and the new, never notices.
    fn rules_come_and_go_beside_a_stream_that_loses_nothing(io) {
        let topology = Topology::sender_relay_receiver();
        let daemon = one_rule(&topology, io);
        let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "");
        let mut stream = send(&topology.sender, "eth0", "239.1.1.1", &format!("--duration 600 --size 200 {}", at_rate(10_000)));
        for _ in 0..10 {
            for group in ["239.1.1.7", "ff15::7"] {
                let outputs = if group.starts_with('f') { "[ff15::8]:6001:eth1" } else { "239.2.2.8:6001:eth1" };
                let added = daemon.ctl(&[
                    "add", "--name", "guest", "--input-interface", "eth0", "--input-group", group,
                    "--input-port", "5000", "--outputs", outputs,
                ]);
                assert_eq!(added.code, 0, "{added:?}");
                assert_eq!(daemon.ctl(&["remove", "--name", "guest"]).code, 0);
            }
        }
        assert!(stream.is_running());
        stream.interrupt();
        let sent = stream.finish()["sent"].as_u64().unwrap();
        assert_received(&receiver.finish(), sent);
        let stats = stats_without_drops(&daemon);
        assert_eq!((of_workers(&stats, "received"), skips(&stats)), (sent, 0), "{stats:#}");
    }
}
