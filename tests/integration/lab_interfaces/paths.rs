//! Networks that lose, repeat, delay and reorder (tc-netem(8)): the relay passes on what it gets, and counts it.

use mcr_testnet::{Generator, Topology, assert_accounting};

use super::creates;
use crate::scenario::{
    INPUT_PORT, assert_received, input, output, output_on, packets_of, recv, relay, rule, send,
};

const SENT: u64 = 1000;

/// A program on the relay's host that receives what the daemon captures.
fn listener(topology: &Topology) -> Generator {
    let port = INPUT_PORT.to_string();
    let arguments = ["--interface", "eth0", "--group", "239.1.1.1", "--port", &port, "--wait", "2"];
    Generator::recv(&topology.relay, &arguments)
}

on_both_backends! {
    /// A network before the relay that loses, repeats and reorders: what the relay receives, the receiver does, in the
    /// same order.
    fn a_bad_network_before_the_relay(io) {
        let topology = Topology::sender_relay_receiver();
        let netem = "netem delay 5ms reorder 75% loss 10% duplicate 5%";
        if !creates(&topology.sender, &format!("tc qdisc add dev eth0 root {netem}")) {
            return;
        }
        let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), [output("239.2.2.1")])]);
        let before = listener(&topology);
        let receiver = recv(&topology.receiver, "eth0", "239.2.2.1", "--wait 2");
        let sent = send(&topology.sender, "eth0", "239.1.1.1", &format!("--count {SENT} --rate 1000")).finish();
        assert_eq!(sent["sent"], SENT, "{sent}");
        let (before, after) = (before.outcome().json, receiver.outcome().json);
        for field in ["received", "lost", "duplicates", "reordered", "corrupted"] {
            assert_eq!(before[field], after[field], "{field}: before {before:#}, after {after:#}");
        }
        for field in ["lost", "duplicates", "reordered"] {
            assert!(after[field].as_u64() > Some(0), "the network did no harm: {field} of {after:#}");
        }
        let stats = daemon.settled_stats();
        assert_accounting(&stats);
        let arrived = after["received"].as_u64().unwrap() + after["duplicates"].as_u64().unwrap();
        assert_eq!(packets_of(&stats, "239.2.2.1"), arrived, "{stats:#}");
    }

    /// A network behind the relay that loses: the relay has sent all, and another output loses nothing.
    fn a_bad_network_behind_the_relay(io) {
        let topology = Topology::sender_relay_receiver();
        topology.add_output(1);
        if !creates(&topology.relay, "tc qdisc add dev eth1 root netem loss 20% delay 2ms") {
            return;
        }
        let other = output_on("out1", "239.2.2.2");
        let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), [output("239.2.2.1"), other])]);
        let bad = recv(&topology.receiver, "eth0", "239.2.2.1", "--wait 2");
        let good = recv(&topology.receiver, "eth1", "239.2.2.2", &format!("--count {SENT}"));
        let _ = send(&topology.sender, "eth0", "239.1.1.1", &format!("--count {SENT} --rate 1000")).finish();
        assert_received(&good.finish(), SENT);
        let bad = bad.outcome().json;
        let (received, lost) = (bad["received"].as_u64().unwrap(), bad["lost"].as_u64().unwrap());
        assert!(lost > 0 && received + lost <= SENT, "{bad:#}");
        let stats = daemon.settled_stats();
        assert_accounting(&stats);
        assert_eq!(packets_of(&stats, "239.2.2.1"), SENT, "{stats:#}");
    }
}
