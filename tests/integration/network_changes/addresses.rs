//! R18: the address that is sent from goes and comes.

use std::time::Duration;

use mcr_sys::clock::monotonic;
use mcr_testnet::{Daemon, Topology, assert_accounting};
use serde_json::json;

use super::probe::{Listener, Sender};
use super::{assert_gapless, assert_within, faults, wait_for_output, wait_until_pending};
use crate::scenario::{input, output, output_on, relay, rule};

const PROMISED: Duration = Duration::from_millis(500);
const FAMILIES: [(&str, &str, [&str; 3]); 2] = [
    ("IPv4", "239.2.2.1", ["10.2.0.1/24", "10.2.0.1/24", "10.2.0.99/24"]),
    ("IPv6", "ff15::2:1", ["fd02::1/64", "fe80::2:1/64", "fd02::99/64"]),
];

on_both_backends! {
    fn an_outputs_address_goes_and_another_comes(io) {
        for (family, group, [first, second, new]) in FAMILIES {
            let topology = Topology::sender_relay_receiver();
            topology.add_output(1);
            let outputs = [output(group), output_on("out1", "239.2.2.2")];
            let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), outputs)]);
            let before = crate::network_changes::processes(&daemon);
            let listener = Listener::start(&topology.receiver, "eth0", group);
            let other = Listener::start(&topology.receiver, "eth1", "239.2.2.2");
            let sender = Sender::start(&topology.sender, &["10.1.0.1"], &["239.1.1.1"]);
            listener.first_after(monotonic());
            topology.relay.remove_address("eth1", first);
            if second != first {
                topology.relay.remove_address("eth1", second);
            }
            let mut times = Vec::new();
            for fault in 0..faults() {
                assert_eq!(wait_for_output(&daemon, 0, "pending"), format!("eth1 has no {family} address"));
                let address = if fault % 2 == 0 { new } else { first };
                topology.relay.add_address("eth1", address);
                let moment = monotonic();
                let arrival = listener.first_after(moment);
                times.push(arrival.at.saturating_sub(moment));
                let source = address.split_once('/').map(|(address, _)| address);
                assert_eq!(Some(arrival.from.ip().to_string().as_str()), source, "the source follows");
                topology.relay.remove_address("eth1", address);
            }
            assert_within(&format!("R18 {family} address of an output"), PROMISED, times);
            crate::network_changes::assert_untouched(&daemon, &before);
            sender.finish();
            assert_accounting(&daemon.settled_stats());
            assert_gapless("the other output", &other);
        }
    }

    fn a_daemon_starts_without_an_address(io) {
        for (family, group, [first, second, new]) in FAMILIES {
            let topology = Topology::sender_relay_receiver();
            topology.relay.remove_address("eth1", first);
            if second != first {
                topology.relay.remove_address("eth1", second);
            }
            let rules = [rule(input("239.1.1.1"), [output(group)])];
            let daemon = Daemon::start(&topology.relay, io, &json!({"rules": rules}).to_string());
            assert_eq!(wait_until_pending(&daemon, 0), format!("eth1 has no {family} address"));
            let listener = Listener::start(&topology.receiver, "eth0", group);
            let sender = Sender::start(&topology.sender, &["10.1.0.1"], &["239.1.1.1"]);
            topology.relay.add_address("eth1", new);
            let moment = monotonic();
            let what = format!("R18 first {family} address of an output");
            assert_within(&what, PROMISED, vec![listener.back_after(moment)]);
            sender.finish();
            assert_accounting(&daemon.settled_stats());
        }
    }
}
