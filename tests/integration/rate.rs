//! Real rates: nothing is lost at what this product promises for a machine of two cores.

use crate::scenario::{
    assert_received, input, input_on, nth, output, recv, relay, rule, send, stats_without_drops,
};
use mcr_testnet::Topology;
use serde_json::{Value, json};

/// Seconds that the traffic lasts.
fn seconds() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a setting of the test")]
    let setting = std::env::var("MCR_RATE_SECONDS");
    setting.ok().map_or(5, |text| text.parse().expect("MCR_RATE_SECONDS is a number"))
}

on_both_backends! {
    /// 50,000 datagrams/s of 1,400 B, half of them on each of two input interfaces, through four rules.
    fn rate_50000_pps_through_four_rules_loses_nothing(io) {
        let topology = Topology::sender_relay_receiver();
        topology.add_input(1);
        let rules: Vec<Value> = (0..4)
            .map(|index| {
                let group = nth("239.1.1.0", index);
                let input = if index < 2 { input(group) } else { input_on("in1", group) };
                rule(input, [output(nth("239.2.2.0", index))])
            })
            .collect();
        let daemon = relay(&topology, io, &rules);
        let each = 25_000 * seconds();
        let receivers = ["239.2.2.0", "239.2.2.2"]
            .map(|group| recv(&topology.receiver, "eth0", group, "--groups 2"));
        let options = format!("--groups 2 --rate 25000 --size 1400 --count {each}");
        let senders = [("eth0", "239.1.1.0"), ("eth1", "239.1.1.2")]
            .map(|(interface, group)| send(&topology.sender, interface, group, &options));
        let sent = senders.map(|sender| sender.finish());
        let reports = receivers.map(|receiver| receiver.finish());
        println!("{:#}", json!({"sent": sent, "received": reports, "stats": daemon.settled_stats()}));
        for report in &reports {
            assert_received(report, each);
        }
        for report in &sent {
            assert!(report["pps"].as_f64() > Some(24_900.0), "the sender could not keep up: {report}");
        }
        stats_without_drops(&daemon);
    }
}
