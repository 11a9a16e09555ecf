//! Frames of every kind: super-frames, fragments, tags; a socket of the host.

use mcr_testnet::{Topology, assert_accounting};

use super::{kernel_relay, sent};
use crate::early_drop::listener;
use crate::scenario::{assert_received, input, output, recv, rule, send, stats_without_drops};

/// A sender on another host whose super-frames arrive as such, and are split by the receiver's side.
#[test]
fn super_frames_stay_what_they_are() {
    let topology = Topology::sender_relay_receiver();
    let rules = [rule(input("239.1.1.1"), [output("239.2.2.2"), output("239.2.2.3")])];
    let Some(daemon) = kernel_relay(&topology, &rules) else { return };
    let receivers =
        ["239.2.2.2", "239.2.2.3"].map(|group| recv(&topology.receiver, "eth0", group, "--count 640"));
    if crate::scenario::kernel_loses_super_frames(&topology.relay) {
        return;
    }
    let line = "--count 640 --size 500 --burst 32 --rate 200000 --segment always";
    let _ = send(&topology.sender, "eth0", "239.1.1.1", line).finish();
    receivers.into_iter().for_each(|receiver| assert_received(&receiver.finish(), 640));
    let stats = stats_without_drops(&daemon);
    assert_eq!(stats["kernel"]["matched"], 640, "{stats:#}");
    assert!(stats["kernel"]["frames"].as_u64().unwrap() < 640, "{stats:#}");
    assert_eq!(stats["rules"][0]["bytes"], 640 * 500, "{stats:#}");
}

/// What comes in fragments is put together by a worker.
#[test]
fn fragments_go_to_a_worker() {
    let topology = Topology::sender_relay_receiver();
    let Some(daemon) = kernel_relay(&topology, &[rule(input("239.1.1.1"), [output("239.2.2.2")])]) else {
        return;
    };
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "--count 40");
    let _ = send(&topology.sender, "eth0", "239.1.1.1", "--count 20 --size 3000").finish();
    sent(&topology, "239.1.1.1", 20);
    let report = receiver.finish();
    assert_eq!(report["received"], 40, "{report:#}");
    let stats = daemon.settled_stats();
    assert_accounting(&stats);
    assert_eq!(stats["workers"][0]["reassembled"], 20, "{stats:#}");
    assert_eq!(stats["kernel"]["matched"], 20, "{stats:#}");
}

/// A program of the host gets all that arrives, unchanged, and the IP layer nothing without one.
#[test]
fn a_listener_of_the_host_gets_what_arrives() {
    let topology = Topology::sender_relay_receiver();
    let rules = [rule(input("239.1.1.1"), [output("239.2.2.2"), output("239.2.2.3")])];
    let Some(_daemon) = kernel_relay(&topology, &rules) else { return };
    let listener = listener(&topology.relay, "0.0.0.0", "239.1.1.1", false);
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.3", "--count 100");
    sent(&topology, "239.1.1.1", 50);
    (0..50).for_each(|_| assert_eq!(listener.recv(&mut [0; 200]).unwrap(), 100));
    drop(listener);
    sent(&topology, "239.1.1.1", 50);
    assert_received(&crate::scenario::with(receiver.finish(), "unknown", 0), 100);
}
