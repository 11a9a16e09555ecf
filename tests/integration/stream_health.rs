//! Stream health: what is lost, late or double before us is told from what is lost in us.

use std::net::UdpSocket;
use std::time::Duration;

use mcr_sys::clock;
use mcr_testnet::{Daemon, IoBackend, Topology, assert_accounting, wait_for};
use serde_json::{Value, json};

use crate::scenario::{INPUT_PORT, input, output, recv, relay, rule, with};

/// A sender of made-up packets on the sender's network.
struct Sender(UdpSocket);

impl Sender {
    fn new(topology: &Topology) -> Self {
        Self(topology.sender.run(|| UdpSocket::bind("10.1.0.1:0").unwrap()))
    }

    fn send(&self, group: &str, packet: &[u8]) {
        self.0.send_to(packet, (group, INPUT_PORT)).unwrap();
    }

    fn rtp(&self, group: &str, sequence: u16) {
        self.rtp_of(group, sequence, u32::from(sequence) * 90);
    }

    fn rtp_of(&self, group: &str, sequence: u16, timestamp: u32) {
        let mut packet = vec![0x80, 96];
        packet.extend(sequence.to_be_bytes());
        packet.extend(timestamp.to_be_bytes());
        packet.extend([1, 2, 3, 4, 5, 6, 7, 8]);
        self.send(group, &packet);
    }

    /// A datagram of one packet for each counter, behind an RTP header if there is a sequence number.
    fn mpegts(&self, group: &str, rtp: Option<u16>, counters: &[u8]) {
        let mut packet = Vec::new();
        if let Some(sequence) = rtp {
            packet.extend([0x80, 33]);
            packet.extend(sequence.to_be_bytes());
            packet.extend([0; 8]);
        }
        for counter in counters {
            packet.extend([0x47, 1, 0, 0x10 | counter]);
            packet.resize(packet.len() + 184, 0);
        }
        self.send(group, &packet);
    }
}

fn found(stats: &Value, rule: usize, expected: &Value) {
    let health = &stats["rules"][rule]["health"];
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&health[key], value, "{key} of rule {rule}: {health}");
    }
}

fn checked(group: &str, to: &str, kind: &str) -> Value {
    with(rule(input(group), [output(to)]), "stream", kind)
}

fn start(io: IoBackend) -> (Topology, Daemon) {
    let topology = Topology::sender_relay_receiver();
    let rules = [
        checked("239.1.1.1", "239.2.2.1", "rtp"),
        checked("239.1.1.2", "239.2.2.2", "mpegts"),
        rule(input("239.1.1.3"), [output("239.2.2.3")]),
    ];
    let daemon = relay(&topology, io, &rules);
    (topology, daemon)
}

on_both_backends! {
    /// Gaps, late and double packets are put into the stream itself, so none of them is ours: nothing is dropped, and every
    /// datagram is relayed whatever was found in it.
    fn what_a_stream_lost_before_us_is_counted_and_none_of_it_is_ours(io) {
        let (topology, daemon) = start(io);
        let receiver = recv(&topology.receiver, "eth0", "239.2.2.1", "");
        let (sender, other) = (Sender::new(&topology), Sender::new(&topology));
        // 100 to 199 without 110 to 114; 150 comes after 152, and 160 twice. Another sender of the same rule is complete.
        for sequence in (100..200).filter(|n| !(110..115).contains(n) && *n != 150) {
            sender.rtp("239.1.1.1", sequence);
            other.rtp("239.1.1.1", sequence.wrapping_add(65_400));
            if sequence == 152 {
                sender.rtp("239.1.1.1", 150);
            }
            if sequence == 160 {
                sender.rtp("239.1.1.1", 160);
            }
        }
        sender.send("239.1.1.1", b"no RTP");
        // PID 256 without 7 to 9, once behind RTP; a repetition is none.
        sender.mpegts("239.1.1.2", None, &[0, 1, 2, 3, 4, 5, 6]);
        sender.mpegts("239.1.1.2", None, &[10, 11, 11, 12]);
        sender.mpegts("239.1.1.2", Some(1), &[13, 14, 15, 0]);
        sender.mpegts("239.1.1.2", Some(2), &[3]);
        sender.send("239.1.1.2", &[0x47; 187]);
        sender.rtp("239.1.1.3", 1);
        sender.rtp("239.1.1.3", 9);
        let stats = daemon.settled_stats();
        assert_accounting(&stats);
        // The other sender leaves out 150 and 110 to 114 as well.
        found(&stats, 0, &json!({
            "checked": 191, "lost": 11, "reordered": 1, "duplicates": 1, "malformed": 1, "continuity_errors": 0,
        }));
        found(&stats, 1, &json!({ "checked": 5, "continuity_errors": 2, "malformed": 1, "lost": 0 }));
        assert_eq!(stats["rules"][2]["health"], Value::Null, "it does not ask");
        for (rule, packets) in [(0, 191), (1, 5), (2, 2)] {
            assert_eq!(stats["rules"][rule]["outputs"][0]["packets"], packets, "all are relayed: {stats:#}");
        }
        let flows = daemon.ctl_json(&["flows"]);
        let lost: Vec<_> = flows["flows"].as_array().unwrap().iter()
            .filter(|flow| flow["rule"] == stats["rules"][0]["id"])
            .map(|flow| flow["health"]["lost"].as_u64().unwrap())
            .collect();
        assert!(lost == [5, 6] || lost == [6, 5], "each source by itself: {flows:#}");
        drop(receiver);
    }
}

/// Audio, whose clock its packets don't tell: taken for video's, it would have a jitter of nearly half the time between
/// packets.
#[test]
fn jitter_is_by_the_clock_of_the_stream() {
    const AUDIO_HZ: u128 = 48_000;
    let (topology, daemon) = start(IoBackend::Uring);
    let (sender, began) = (Sender::new(&topology), clock::monotonic());
    let (mut sent, mut told) = (0_u16, 0);
    let jitter_us = wait_for("a jitter that has been told for a while", Duration::from_secs(30), || {
        let ticks = (clock::monotonic() - began).as_micros() * AUDIO_HZ / 1_000_000;
        sender.rtp_of("239.1.1.1", sent, u32::try_from(ticks).unwrap());
        sent += 1;
        let health = daemon.ctl_json(&["stats"])["rules"][0]["health"].clone();
        let jitter_us = health["jitter_us"].as_u64().filter(|us| *us > 0);
        told += u32::from(jitter_us.is_some());
        jitter_us.filter(|_| told > 64).ok_or(health)
    });
    let elapsed = clock::monotonic() - began;
    let apart = elapsed / u32::from(sent);
    println!("{jitter_us} µs of packets {apart:?} apart, told of the last {told} of {sent}");
    assert!(Duration::from_micros(jitter_us) < apart / 4, "{jitter_us} µs of packets {apart:?} apart");
    assert!(elapsed >= Duration::from_secs(5), "it is measured first: {elapsed:?}");
    assert_accounting(&daemon.settled_stats());
}

/// The check is switched on and off in the running config; the rule's counters go on, and no datagram is lost by it.
#[test]
fn a_stream_format_given_by_its_former_name_takes_effect_at_once() {
    let topology = Topology::sender_relay_receiver();
    let daemon = relay(&topology, IoBackend::Uring, &[rule(input("239.1.1.1"), [output("239.2.2.1")])]);
    let sender = Sender::new(&topology);
    let load = |stream: Option<&str>| {
        let plain = rule(input("239.1.1.1"), [output("239.2.2.1")]);
        let rule = match stream {
            Some(kind) => with(plain, "health", kind),
            None => plain,
        };
        let file = daemon.directory().join("next.json5");
        std::fs::write(&file, json!({ "rules": [rule] }).to_string()).unwrap();
        let loaded = daemon.ctl(&["load", "--replace", file.to_str().unwrap()]);
        assert_eq!(loaded.code, 0, "{loaded:?}");
    };
    sender.rtp("239.1.1.1", 1);
    load(Some("rtp"));
    assert!(daemon.ctl(&["show"]).stdout.contains("stream: \"rtp\""));
    let listed = daemon.ctl_json(&["list"]);
    assert_eq!(
        (&listed["rules"][0]["stream"], &listed["rules"][0]["health"]),
        (&json!("rtp"), &json!("rtp"))
    );
    [10, 12].iter().for_each(|sequence| sender.rtp("239.1.1.1", *sequence));
    let stats = daemon.settled_stats();
    assert_eq!(stats["rules"][0]["packets"], 3);
    found(&stats, 0, &json!({ "checked": 2, "lost": 1 }));
    load(None);
    sender.rtp("239.1.1.1", 50);
    let stats = daemon.settled_stats();
    assert_eq!((&stats["rules"][0]["packets"], &stats["rules"][0]["health"]), (&json!(4), &Value::Null));
    assert_accounting(&stats);
}
