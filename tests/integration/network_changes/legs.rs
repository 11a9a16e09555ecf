//! R21: the same stream on two legs, as SMPTE ST 2022-7 has it. Whatever fails on leg A, leg B loses nothing.

use std::collections::BTreeSet;

use mcr_sys::clock::monotonic;
use mcr_sys::process::{PidFd, Signal};
use mcr_testnet::{Topology, assert_accounting, wait_for};

use super::probe::{Listener, Sender};
use super::{DEADLINE, assert_gapless, faults, workers};
use crate::scenario::{input_on, output_on, relay, rule};

on_both_backends! {
    fn leg_b_loses_nothing_whatever_fails_on_leg_a(io) {
        let topology = Topology::sender_relay_receiver();
        for leg in [1, 2] {
            topology.add_input(leg);
            topology.add_output(leg);
        }
        let daemon = relay(&topology, io, &[
            rule(input_on("in1", "239.1.1.1"), [output_on("out1", "239.2.2.1")]),
            rule(input_on("in2", "239.1.1.1"), [output_on("out2", "239.2.2.2")]),
        ]);
        let leg_a = Listener::start(&topology.receiver, "eth1", "239.2.2.1");
        let leg_b = Listener::start(&topology.receiver, "eth2", "239.2.2.2");
        let sender = Sender::start(&topology.sender, &["10.1.1.1", "10.1.2.1"], &["239.1.1.1"]);
        let of_b = |now: &[serde_json::Value]| now.iter().find(|w| w["interface"] == "in2").cloned().expect("leg B");
        let before = of_b(&workers(&daemon));
        for _ in 0..faults().div_ceil(2) {
            leg_a.first_after(monotonic());
            let of_a = workers(&daemon).into_iter().find(|worker| worker["interface"] == "in1").expect("leg A");
            let pid = of_a["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
            PidFd::open(pid).unwrap().kill(Signal::KILL).unwrap();
            wait_for("another worker on leg A", DEADLINE, || {
                let now = workers(&daemon);
                let other = now.iter().any(|w| w["interface"] == "in1" && w["pid"] != of_a["pid"] && w["state"] == "running");
                if other { Ok(()) } else { Err(now) }
            });
            for interface in ["in1", "out1"] {
                leg_a.first_after(monotonic());
                topology.relay.set_up(interface, false);
                leg_b.first_after(monotonic());
                topology.relay.set_up(interface, true);
            }
            leg_a.first_after(monotonic());
            topology.relay.remove_address("out1", "10.2.1.1/24");
            leg_b.first_after(monotonic());
            topology.relay.add_address("out1", "10.2.1.1/24");
        }
        leg_a.first_after(monotonic());
        leg_b.first_after(monotonic());
        sender.finish();
        assert_accounting(&daemon.settled_stats());
        assert_gapless("leg B", &leg_b);
        let numbers = |leg: &Listener| leg.arrivals().iter().map(|arrival| arrival.number).collect::<BTreeSet<_>>();
        let union: BTreeSet<u64> = &numbers(&leg_a) | &numbers(&leg_b);
        let (first, last) = (union.first().expect("some"), union.last().expect("some"));
        assert_eq!(union.len() as u64, last - first + 1, "the union has a gap");
        let after = of_b(&workers(&daemon));
        assert!(after["pid"] == before["pid"] || daemon.log().contains("stalled"), "{before}, now {after}");
    }
}
