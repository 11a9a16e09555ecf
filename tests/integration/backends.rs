//! Both ways of receiving and sending: how one is chosen, that the choice is shown, and what must hold on either.

use std::process::Command;

use crate::scenario::{
    OUTPUT_PORT, assert_received, at_rate, input, kernel_loses_super_frames, output, recv, relay, rule, send,
    split_before_sending, stats_without_drops, with,
};
use mcr_sys::test_env::deny_io_uring;
use mcr_testnet::{Daemon, Topology, assert_accounting};
use serde_json::{Value, json};

const GROUP: &str = "239.1.1.1";
const RELAYED: &str = "239.2.2.2";

/// Starts a daemon with the setting, relays through it, and returns what it says of its one worker.
fn worker_of(setting: &str, configure: impl FnOnce(&mut Command)) -> Value {
    let topology = Topology::sender_relay_receiver();
    let config = json!({"rules": [rule(input(GROUP), [output(RELAYED)])], "settings": {"io": setting}});
    let daemon = Daemon::start_with(&topology.relay, &config.to_string(), configure);
    daemon.wait_until_active(1);
    let receiver = recv(&topology.receiver, "eth0", RELAYED, "");
    let _ = send(&topology.sender, "eth0", GROUP, "--count 500 --rate 5000").finish();
    assert_received(&receiver.finish(), 500);
    let _ = stats_without_drops(&daemon);
    let workers = daemon.ctl_json(&["workers"]);
    assert_eq!(workers["workers"].as_array().map(Vec::len), Some(1), "{workers:#}");
    workers["workers"][0].clone()
}

fn untouched(command: &mut Command) {
    command.env_remove("MCRD_IO");
}

#[test]
fn io_uring_is_chosen_where_it_is_allowed() {
    assert_eq!(worker_of("auto", untouched)["io"], "io_uring");
}

#[test]
fn a_setting_forces_the_fallback() {
    assert_eq!(worker_of("recvmmsg", untouched)["io"], "recvmmsg");
}

#[test]
fn the_environment_forces_the_fallback() {
    let worker = worker_of("auto", |command| {
        command.env("MCRD_IO", "recvmmsg");
    });
    assert_eq!(worker["io"], "recvmmsg");
}

/// As in a container whose runtime denies io_uring.
#[test]
fn where_io_uring_is_denied_the_fallback_runs_and_says_why() {
    for setting in ["auto", "io_uring"] {
        let worker = worker_of(setting, |command| {
            untouched(command);
            deny_io_uring(command);
        });
        assert_eq!(worker["io"], "recvmmsg", "{worker:#}");
        let note = worker["notes"][0].as_str().unwrap_or_default();
        assert!(note.contains("io_uring") && note.contains("not permitted"), "{worker:#}");
    }
}

on_both_backends! {
    /// The kernel tells a closed port on the next send through the socket, whoever that is for.
    fn a_closed_port_costs_the_output_beside_it_nothing(io) {
        let topology = Topology::sender_relay_receiver();
        // Nobody listens on the receiver's address; both outputs have one socket.
        let outputs = [output("10.2.0.2"), output(RELAYED)];
        let daemon = relay(&topology, io, &[rule(input(GROUP), outputs)]);
        let receiver = recv(&topology.receiver, "eth0", RELAYED, "");
        let options = format!("--count 2000 --size 100-300 {}", at_rate(4_000));
        let _ = send(&topology.sender, "eth0", GROUP, &options).finish();
        assert_received(&receiver.finish(), 2000);
        let stats = daemon.settled_stats();
        assert_accounting(&stats);
        let outputs = &stats["rules"][0]["outputs"];
        let good = outputs.as_array().into_iter().flatten().find(|output| output["group"] == RELAYED);
        assert_eq!(good.map(|output| &output["errors"]), Some(&json!(0)), "{stats:#}");
    }

    /// Larger than the output's MTU: the kernel makes fragments, and datagrams leave one by one instead of in segments.
    fn datagrams_larger_than_the_outputs_mtu_arrive(io) {
        let topology = Topology::sender_relay_receiver();
        topology.relay.set_mtu("eth1", 1280);
        if kernel_loses_super_frames(&topology.relay) {
            split_before_sending(&topology.sender, "eth0");
        }
        let daemon = relay(&topology, io, &[rule(input(GROUP), [output(RELAYED), output("ff15::2:2")])]);
        let receivers = [RELAYED, "ff15::2:2"].map(|group| recv(&topology.receiver, "eth0", group, ""));
        let _ = send(&topology.sender, "eth0", GROUP, "--count 2000 --rate 10000 --size 1400 --burst 20").finish();
        for receiver in receivers {
            assert_received(&receiver.finish(), 2000);
        }
        stats_without_drops(&daemon);
    }

    /// No datagram of one rule is lost or doubled while another comes and goes.
    fn rules_that_come_and_go_leave_the_others_alone(io) {
        let topology = Topology::sender_relay_receiver();
        let steady = with(rule(input(GROUP), [output(RELAYED)]), "name", "steady");
        let daemon = relay(&topology, io, &[steady]);
        let receiver = recv(&topology.receiver, "eth0", RELAYED, "");
        let mut sender = send(&topology.sender, "eth0", GROUP, &format!("--duration 600 --size 200 {}", at_rate(5_000)));
        for _ in 0..25 {
            let outputs = format!("239.3.3.3:{OUTPUT_PORT}:eth1");
            let add = ["add", "--input-interface", "eth0", "--input-group", "239.1.1.9", "--input-port", "5000",
                "--name", "passing", "--outputs", &outputs];
            assert_eq!(daemon.ctl(&add).code, 0);
            assert_eq!(daemon.ctl(&["remove", "--name", "passing"]).code, 0);
        }
        assert!(sender.is_running());
        sender.interrupt();
        let sent = sender.finish()["sent"].as_u64().unwrap();
        assert_received(&receiver.finish(), sent);
        stats_without_drops(&daemon);
    }
}
