//! R15: interfaces are renamed, and two change their names with each other. Rules follow names.

use std::time::Duration;

use mcr_sys::clock::monotonic;
use mcr_testnet::{Host, Topology, assert_accounting};

use super::probe::{Listener, Sender};
use super::{assert_within, faults, wait_until_pending};
use crate::lacking::renames_while_up;
use crate::scenario::{input, input_on, output, output_on, relay, rule};

const PROMISED: Duration = Duration::from_millis(250);

fn rename(host: &Host, from: &str, to: &str) {
    host.setup(from, |links| links.rename(from, to));
}

fn swap(host: &Host, one: &str, other: &str) {
    rename(host, one, "swapping");
    rename(host, other, one);
    rename(host, "swapping", other);
}

/// Waits until the flow is where it belongs, then long enough to see whether something still comes where it does not.
/// Returns how long after `moment` the last stray came.
fn stray_time(moment: Duration, right: &Listener, wrong: &Listener) -> Duration {
    right.first_after(moment);
    right.first_after(monotonic() + PROMISED);
    wrong.last().saturating_sub(moment)
}

on_both_backends! {
    fn two_outputs_change_their_names(io) {
        let topology = Topology::sender_relay_receiver();
        if !renames_while_up(&topology.relay) {
            return;
        }
        let second = Host::new("second receiver");
        topology.relay.cable("out9", &second, "eth0");
        topology.relay.add_address("out9", "10.9.0.1/24");
        second.add_address("eth0", "10.9.0.2/24");
        let daemon = relay(&topology, io, &[
            rule(input("239.1.1.1"), [output("239.2.2.1")]),
            rule(input("239.1.1.2"), [output_on("out9", "239.2.2.2")]),
        ]);
        let [first_of_one, first_of_two] =
            ["239.2.2.1", "239.2.2.2"].map(|group| Listener::start(&topology.receiver, "eth0", group));
        let [second_of_one, second_of_two] =
            ["239.2.2.1", "239.2.2.2"].map(|group| Listener::start(&second, "eth0", group));
        let sender = Sender::start(&topology.sender, &["10.1.0.1"], &["239.1.1.1", "239.1.1.2"]);
        first_of_one.first_after(monotonic());
        second_of_two.first_after(monotonic());
        let mut strays = Vec::new();
        for fault in 0..faults() {
            swap(&topology.relay, "eth1", "out9");
            let moment = monotonic();
            let (right, wrong) = ([&second_of_one, &first_of_two], [&first_of_one, &second_of_two]);
            let (right, wrong) = if fault % 2 == 0 { (right, wrong) } else { (wrong, right) };
            strays.extend(right.iter().zip(wrong).map(|(right, wrong)| stray_time(moment, right, wrong)));
        }
        assert_within("R15 strays after two outputs swapped names", PROMISED, strays);
        sender.finish();
        assert_accounting(&daemon.settled_stats());
    }

    fn two_inputs_change_their_names(io) {
        let topology = Topology::sender_relay_receiver();
        if !renames_while_up(&topology.relay) {
            return;
        }
        topology.add_input(1);
        let daemon = relay(&topology, io, &[
            rule(input("239.1.1.1"), [output("239.2.2.1")]),
            rule(input_on("in1", "239.1.1.1"), [output("239.2.2.2")]),
        ]);
        let [one, two] =
            ["239.2.2.1", "239.2.2.2"].map(|group| Listener::start(&topology.receiver, "eth0", group));
        // On one of the two cables only.
        let sender = Sender::start(&topology.sender, &["10.1.0.1"], &["239.1.1.1"]);
        one.first_after(monotonic());
        let mut strays = Vec::new();
        for fault in 0..faults() {
            swap(&topology.relay, "eth0", "in1");
            let moment = monotonic();
            let (right, wrong) = if fault % 2 == 0 { (&two, &one) } else { (&one, &two) };
            strays.push(stray_time(moment, right, wrong));
        }
        assert_within("R15 strays after two inputs swapped names", PROMISED, strays);
        sender.finish();
        assert_accounting(&daemon.settled_stats());
    }

    fn an_interface_with_another_name_is_another_one(io) {
        let topology = Topology::sender_relay_receiver();
        if !renames_while_up(&topology.relay) {
            return;
        }
        let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), [output("239.2.2.1")])]);
        let listener = Listener::start(&topology.receiver, "eth0", "239.2.2.1");
        let sender = Sender::start(&topology.sender, &["10.1.0.1"], &["239.1.1.1"]);
        listener.first_after(monotonic());
        for interface in ["eth0", "eth1"] {
            rename(&topology.relay, interface, "other");
            let moment = monotonic();
            assert_eq!(wait_until_pending(&daemon, 0), format!("interface {interface} does not exist"));
            rename(&topology.relay, "other", interface);
            let back = monotonic();
            assert_within("R15 the name is back", PROMISED, vec![listener.back_after(back)]);
            let strays = listener.arrivals().iter().filter(|a| a.at < back).map(|a| a.at).max();
            let last_stray = strays.unwrap_or_default().saturating_sub(moment);
            assert_within("R15 strays under another name", PROMISED, vec![last_stray]);
        }
        sender.finish();
        assert_accounting(&daemon.settled_stats());
    }
}
