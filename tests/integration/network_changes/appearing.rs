//! Interfaces of every kind that appear after the daemon: their rules start by themselves.

use mcr_sys::clock::monotonic;
use mcr_testnet::{Daemon, Topology, assert_accounting, wait_for};
use serde_json::json;

use super::DEADLINE;
use super::probe::{Listener, Sender};
use crate::scenario::{INPUT_PORT, input, input_on, output, output_on, rule};

fn reasons(daemon: &Daemon) -> Vec<String> {
    let list = daemon.ctl_json(&["list"]);
    let rules = list["rules"].as_array().into_iter().flatten();
    rules.map(|rule| rule["reason"].as_str().unwrap_or("none").to_owned()).collect()
}

on_both_backends! {
    fn rules_start_when_their_interfaces_appear(io) {
        let topology = Topology::sender_relay_receiver();
        let relay = &topology.relay;
        relay.set_up("lo", false);
        let rules = [
            rule(input_on("in1", "239.1.1.1"), [output("239.2.2.1")]),
            rule(input_on("mv", "239.1.1.2"), [output("239.2.2.2")]),
            rule(input_on("bridge", "239.1.1.3"), [output("239.2.2.3")]),
            rule(input("239.1.1.4"), [output_on("tun", "239.2.2.4")]),
            rule(input_on("lo", "239.1.1.5"), [output("239.2.2.5")]),
        ];
        let daemon = Daemon::start(relay, io, &json!({"rules": rules}).to_string());
        let missing = ["in1", "mv", "bridge", "tun"].map(|name| format!("interface {name} does not exist"));
        assert_eq!(reasons(&daemon), [&missing[..], &["interface lo is down".to_owned()]].concat());

        topology.add_input(1);
        relay.setup("mv", |links| links.create_macvlan("mv", "eth0"));
        relay.set_up("mv", true);
        relay.setup("bridge", |links| links.create_bridge("bridge", false));
        relay.cable("port", &topology.sender, "to_bridge");
        relay.setup("port", |links| links.set_master("port", Some("bridge")));
        topology.sender.add_address("to_bridge", "10.7.0.1/24");
        relay.set_up("bridge", true);
        let Some(tun) = relay.tun("tun") else { return };
        relay.set_up("tun", true);
        relay.add_address("tun", "10.8.0.1/24");
        relay.set_up("lo", true);
        daemon.wait_until_active(5);

        for (from, number) in [("10.1.1.1", 1), ("10.1.0.1", 2), ("10.7.0.1", 3)] {
            let listener = Listener::start(&topology.receiver, "eth0", &format!("239.2.2.{number}"));
            let sender = Sender::start(&topology.sender, &[from], &[&format!("239.1.1.{number}")]);
            listener.first_after(monotonic());
            sender.finish();
        }
        let sender = Sender::start(&topology.sender, &["10.1.0.1"], &["239.1.1.4"]);
        let group = [239, 2, 2, 4];
        wait_for("a packet from the tun interface", DEADLINE, || {
            let mut packet = [0; 2048];
            match rustix::io::read(&tun, &mut packet) {
                Ok(bytes) if bytes > 28 && packet[16..20] == group => Ok(()),
                other => Err(other),
            }
        });
        sender.finish();
        let listener = Listener::start(&topology.receiver, "eth0", "239.2.2.5");
        let sender = Sender::start(relay, &["127.0.0.1"], &["239.1.1.5"]);
        listener.first_after(monotonic());
        sender.finish();
        assert_eq!(INPUT_PORT, 5000);
        assert_accounting(&daemon.settled_stats());
    }
}
