//! R13: an interface goes down and up.

use std::time::Duration;

use mcr_sys::clock::monotonic;
use mcr_testnet::{Topology, assert_accounting};

use super::probe::{Listener, Sender};
use super::{assert_gapless, assert_within, faults, processes, wait_for_output, wait_until_pending};
use crate::scenario::{input, output, output_on, relay, rule};

const PROMISED: Duration = Duration::from_millis(50);

on_both_backends! {
    fn an_input_goes_down_and_up_under_traffic(io) {
        let topology = Topology::sender_relay_receiver();
        let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), [output("239.2.2.1")])]);
        let before = processes(&daemon);
        let listener = Listener::start(&topology.receiver, "eth0", "239.2.2.1");
        let sender = Sender::start(&topology.sender, &["10.1.0.1"], &["239.1.1.1"]);
        let times = (0..faults()).map(|fault| {
            listener.first_after(monotonic());
            topology.relay.set_up("eth0", false);
            // Sometimes the daemon has noticed when it is over, sometimes not.
            if fault % 2 == 0 {
                assert_eq!(wait_until_pending(&daemon, 0), "interface eth0 is down");
            }
            topology.relay.set_up("eth0", true);
            listener.back_after(monotonic())
        });
        assert_within("R13 input down and up", PROMISED, times.collect());
        daemon.wait_until_active(1);
        crate::network_changes::assert_untouched(&daemon, &before);
        sender.finish();
        assert_accounting(&daemon.settled_stats());
    }

    /// The other output of the same rule does not notice.
    fn an_output_goes_down_and_up_under_traffic(io) {
        let topology = Topology::sender_relay_receiver();
        topology.add_output(1);
        let outputs = [output("239.2.2.1"), output_on("out1", "239.2.2.2")];
        let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), outputs)]);
        let before = processes(&daemon);
        let listener = Listener::start(&topology.receiver, "eth0", "239.2.2.1");
        let other = Listener::start(&topology.receiver, "eth1", "239.2.2.2");
        let sender = Sender::start(&topology.sender, &["10.1.0.1"], &["239.1.1.1"]);
        let times = (0..faults()).map(|fault| {
            listener.first_after(monotonic());
            topology.relay.set_up("eth1", false);
            if fault % 2 == 0 {
                assert_eq!(wait_for_output(&daemon, 0, "pending"), "interface eth1 is down");
            }
            topology.relay.set_up("eth1", true);
            listener.back_after(monotonic())
        });
        assert_within("R13 output down and up", PROMISED, times.collect());
        other.first_after(monotonic());
        crate::network_changes::assert_untouched(&daemon, &before);
        sender.finish();
        assert_accounting(&daemon.settled_stats());
        assert_gapless("the other output", &other);
        let log = daemon.log();
        let told = log.lines().filter(|line| line.contains("interface eth1 is down")).count() as u64;
        assert!((1..=faults()).contains(&told), "told {told} times, once per change: {log}");
    }

    /// The far end of the cable loses its carrier, not this one its administrative state.
    fn a_carrier_is_lost_and_returns_under_traffic(io) {
        let topology = Topology::sender_relay_receiver();
        let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), [output("239.2.2.1")])]);
        let before = processes(&daemon);
        let listener = Listener::start(&topology.receiver, "eth0", "239.2.2.1");
        let sender = Sender::start(&topology.sender, &["10.1.0.1"], &["239.1.1.1"]);
        let times = (0..faults()).map(|fault| {
            listener.first_after(monotonic());
            topology.sender.set_up("eth0", false);
            if fault % 2 == 0 {
                assert_eq!(wait_until_pending(&daemon, 0), "interface eth0 has no carrier");
            }
            topology.sender.set_up("eth0", true);
            listener.back_after(monotonic())
        });
        assert_within("R13 carrier of the input", PROMISED, times.collect());
        crate::network_changes::assert_untouched(&daemon, &before);
        sender.finish();
        assert_accounting(&daemon.settled_stats());
    }
}
