//! R17: behind a switch that snoops. It forgets who wants a group when the port loses its carrier, and the kernel tells
//! it nothing when the carrier returns: up to 125 s of silence unless the relay joins again.

use std::time::Duration;

use mcr_sys::clock::monotonic;
use mcr_testnet::{Host, IoBackend, Topology, assert_accounting, wait_for};

use super::probe::{Listener, Sender};
use super::{DEADLINE, assert_within, faults, processes};
use crate::scenario::{input_on, output, relay, rule};

const PROMISED: Duration = Duration::from_millis(1500);

#[test]
fn groups_are_reported_again_when_the_carrier_is_back() {
    let topology = Topology::sender_relay_receiver();
    let (switch, bystander) = (Host::new("switch"), Host::new("bystander"));
    switch.setup("bridge", |links| {
        links.create_bridge("bridge", true)?;
        // It floods until its first query must have been answered; the default is ten seconds.
        links.set_bridge_query_response("bridge", Duration::from_millis(200))
    });
    for (host, name, address) in [
        (&topology.sender, "to_sender", "10.5.0.1/24"),
        (&topology.relay, "to_relay", "10.5.0.2/24"),
        (&bystander, "to_bystander", "10.5.0.3/24"),
    ] {
        switch.cable(name, host, "port");
        switch.setup(name, |links| links.set_master(name, Some("bridge")));
        host.add_address("port", address);
    }
    switch.set_up("bridge", true);
    let daemon =
        relay(&topology, IoBackend::Uring, &[rule(input_on("port", "239.1.1.1"), [output("239.2.2.1")])]);
    let before = processes(&daemon);
    let listener = Listener::start(&topology.receiver, "eth0", "239.2.2.1");
    let sender = Sender::start(&topology.sender, &["10.5.0.1"], &["239.1.1.1"]);
    listener.first_after(monotonic());
    let received = || {
        let text = bystander.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").expect("procfs"));
        let line =
            text.lines().find(|line| line.trim_start().starts_with("port:")).expect("the port").to_owned();
        line.split_whitespace().nth(2).and_then(|count| count.parse::<u64>().ok()).expect("a count")
    };
    wait_for("a switch that snoops", 2 * DEADLINE, || {
        let seen = received();
        let start = listener.arrivals().len();
        wait_for("some of the stream", DEADLINE, || {
            if listener.arrivals().len() > start + 50 { Ok(()) } else { Err(()) }
        });
        if received() - seen < 25 { Ok(()) } else { Err("the bystander gets the stream") }
    });
    // From now on the switch's own query could bring the stream back no sooner than after many seconds, on average.
    switch.setup("bridge", |links| links.set_bridge_query_response("bridge", Duration::from_secs(25)));
    let times = (0..faults().min(10)).map(|_| {
        listener.first_after(monotonic());
        switch.set_up("to_relay", false);
        wait_for("the carrier loss to be noticed", DEADLINE, || {
            let rule = daemon.ctl_json(&["list"])["rules"][0].clone();
            if rule["reason"] == "interface port has no carrier" { Ok(()) } else { Err(rule) }
        });
        switch.set_up("to_relay", true);
        listener.back_after(monotonic())
    });
    assert_within("R17 carrier flap behind a snooping switch", PROMISED, times.collect());
    crate::network_changes::assert_untouched(&daemon, &before);
    sender.finish();
    assert_accounting(&daemon.settled_stats());
}
