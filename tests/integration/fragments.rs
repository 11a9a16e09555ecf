//! Datagrams larger than the MTU: fragments are put together, relayed, and leave as the output's MTU wants. What is lost is counted
//! by reason, and a flood of fragments costs other rules nothing.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use mcr_sys::clock::monotonic;
use mcr_testnet::frames::{self, UdpFrame};
use mcr_testnet::{Daemon, Generator, Host, RawPrefix, Topology, assert_accounting, wait_for};
use serde_json::{Value, json};

use crate::lacking::has_two_cores;
use crate::scenario::{
    INPUT_PORT, assert_received, input, output, output_on, recv, relay, rule, send, stats_without_drops, with,
};

const GROUPS: [(&str, &str); 2] = [("239.1.1.1", "239.2.2.1"), ("ff15::1", "ff15::2:1")];
const DEADLINE: Duration = Duration::from_secs(20);

/// A sum over the workers.
fn of_workers(stats: &Value, counter: &str) -> u64 {
    stats["workers"].as_array().into_iter().flatten().filter_map(|worker| worker[counter].as_u64()).sum()
}

/// The packets that an interface has sent.
fn sent_packets(host: &Host, interface: &str) -> u64 {
    let text = host.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").expect("procfs"));
    let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{interface}:")));
    let fields: Vec<u64> = line
        .expect("the interface")
        .split_whitespace()
        .map(|field| field.parse().expect("a number"))
        .collect();
    fields[9]
}

/// Sends datagrams of this size to a rule with these outputs, and returns the statistics: all have arrived, whole.
fn relay_large(
    topology: &Topology,
    daemon: &Daemon,
    (from, to): (&str, &str),
    (size, count): (u64, u64),
) -> Value {
    let receivers = ["eth0", "eth1"].map(|interface| recv(&topology.receiver, interface, to, ""));
    let options = format!("--count {count} --size {size} --rate {}", 4_000_000 / size);
    assert_eq!(send(&topology.sender, "eth0", from, &options).finish()["errors"], 0);
    for report in receivers.map(Generator::finish) {
        assert_received(&report, count);
        assert_eq!(report["bytes"], count * size, "{report:#}");
    }
    stats_without_drops(daemon)
}

on_both_backends! {
    fn large_datagrams_arrive_whole_in_fragments_of_the_outputs_mtu(io) {
        for groups in GROUPS {
            let topology = Topology::sender_relay_receiver();
            topology.add_output(1);
            topology.relay.set_mtu("out1", 9_000);
            topology.receiver.set_mtu("eth1", 9_000);
            let daemon = relay(&topology, io, &[rule(input(groups.0), [output(groups.1), output_on("out1", groups.1)])]);
            let mut before = daemon.settled_stats();
            // Packets of a datagram, whose UDP header is in the first: behind the headers of IP, and of fragments in IPv6.
            let headers = if groups.0.contains(':') { 48 } else { 20 };
            let packets_of = |size: u64, mtu: u64| (size + 8).div_ceil((mtu - headers) / 8 * 8);
            for (size, count) in [(8_000, 200), (60_000, 60)] {
                let parts = [1_500, 9_000].map(|mtu| packets_of(size, mtu));
                let packets = ["eth1", "out1"].map(|interface| sent_packets(&topology.relay, interface));
                let stats = relay_large(&topology, &daemon, groups, (size, count));
                let moved = |counter: &str| of_workers(&stats, counter) - of_workers(&before, counter);
                assert_eq!(moved("received"), count, "{stats:#}");
                assert_eq!((moved("matched"), moved("reassembled")), (count, count), "{stats:#}");
                let fragments = moved("fragments");
                assert!(fragments >= count * parts[0] && moved("frames") == fragments, "{stats:#}");
                for (place, interface) in ["eth1", "out1"].into_iter().enumerate() {
                    let sent = sent_packets(&topology.relay, interface) - packets[place];
                    let expected = count * parts[place];
                    // Several whole ones may leave in one super-frame. Others are reports and neighbor discovery.
                    let least = if parts[place] > 1 { expected } else { 1 };
                    assert!((least..=expected + 20).contains(&sent), "{interface}: {sent} packets");
                }
                before = stats;
            }
            assert!(before["skips"].as_object().unwrap().values().all(|count| *count == json!(0)), "{before:#}");
        }
    }

    /// Also where the relay writes UDP headers itself, and from the sender's address.
    fn outputs_that_keep_the_sender_fragment_as_others_do(io) {
        for (from, to) in GROUPS {
            let topology = Topology::sender_relay_receiver();
            topology.receiver.run(|| {
                for interface in ["all", "eth0"] {
                    std::fs::write(format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter"), "0").unwrap();
                }
            });
            let outputs = [
                with(with(output(to), "source", "keep"), "source_port", "keep"),
                with(with(output(to), "source", "keep"), "port", 6002),
                with(with(output(to), "source_port", 5353), "port", 6003),
            ];
            let daemon = relay(&topology, io, &[rule(input(from), outputs)]);
            for (size, count) in [(8_000, 100), (60_000, 30)] {
                let receivers = [6001, 6002, 6003].map(|port| {
                    let port = port.to_string();
                    Generator::recv(&topology.receiver, &["--interface", "eth0", "--group", to, "--port", &port])
                });
                let options = format!("--count {count} --size {size} --rate {}", 2_000_000 / size);
                assert_eq!(send(&topology.sender, "eth0", from, &options).finish()["errors"], 0);
                for report in receivers.map(Generator::finish) {
                    assert_received(&report, count);
                }
            }
            stats_without_drops(&daemon);
        }
    }

    /// All fragments between two addresses come through one queue, so that they reach one worker.
    fn with_several_workers_fragments_meet(io) {
        if !has_two_cores() {
            return;
        }
        let topology = Topology::sender_relay_receiver();
        let rules = GROUPS.map(|(from, to)| rule(input(from), [output(to)]));
        let config = json!({"rules": rules, "pinning": {"eth0": [0, 1]}});
        let daemon = Daemon::start(&topology.relay, io, &config.to_string());
        daemon.wait_until_active(2);
        for (from, to) in GROUPS {
            let receiver = recv(&topology.receiver, "eth0", to, "");
            let _ = send(&topology.sender, "eth0", from, "--count 300 --size 8000 --rate 500").finish();
            // Not in order: the sender may be moved to the other core, and so to the other worker.
            let report = receiver.finish();
            for (field, value) in [("received", 300), ("lost", 0), ("duplicates", 0), ("corrupted", 0)] {
                assert_eq!(report[field], value, "{field} of {report:#}");
            }
        }
        let stats = stats_without_drops(&daemon);
        assert_eq!(stats["workers"].as_array().map(Vec::len), Some(2), "{stats:#}");
        assert_eq!(of_workers(&stats, "reassembled"), 600, "{stats:#}");
    }

    /// What programs of this host send in fragments.
    fn local_inputs_put_fragments_together(io) {
        let topology = Topology::sender_relay_receiver();
        let rules = GROUPS.map(|(from, to)| rule(with(input(from), "local", true), [output(to)]));
        let daemon = relay(&topology, io, &rules);
        for (from, to) in GROUPS {
            let receiver = recv(&topology.receiver, "eth0", to, "");
            let _ = send(&topology.relay, "eth0", from, "--count 100 --size 8000 --rate 500").finish();
            assert_received(&receiver.finish(), 100);
        }
        let stats = stats_without_drops(&daemon);
        assert_eq!(of_workers(&stats, "reassembled"), 200, "{stats:#}");
    }

    fn without_reassembly_each_fragment_is_counted(io) {
        let topology = Topology::sender_relay_receiver();
        let off = GROUPS.map(|(from, to)| rule(with(input(from), "reassemble", false), [output(to)]));
        let daemon = relay(&topology, io, &off);
        assert!(daemon.ctl(&["show"]).stdout.contains("reassemble: false"));
        for (from, to) in GROUPS {
            let last = daemon.settled_stats();
            let receiver = recv(&topology.receiver, "eth0", to, "--wait 1");
            let _ = send(&topology.sender, "eth0", from, "--count 50 --size 8000 --rate 500").outcome();
            assert_eq!(receiver.outcome().json["received"].as_u64().unwrap_or_default(), 0);
            let stats = stats_without_drops(&daemon);
            let fragments = stats["skips"]["fragment"].as_u64().unwrap() - last["skips"]["fragment"].as_u64().unwrap();
            assert_eq!((fragments, of_workers(&stats, "fragments")), (300, 0), "{stats:#}");
        }
        // It is not part of the rule's id, and can be changed while the rule relays.
        let on = json!({"rules": GROUPS.map(|(from, to)| rule(input(from), [output(to)]))});
        let file = daemon.directory().join("on.json5");
        std::fs::write(&file, on.to_string()).unwrap();
        assert_eq!(daemon.ctl(&["load", "--replace", file.to_str().unwrap()]).code, 0);
        let receiver = recv(&topology.receiver, "eth0", GROUPS[0].1, "");
        let _ = send(&topology.sender, "eth0", GROUPS[0].0, "--count 50 --size 8000 --rate 500").finish();
        assert_received(&receiver.finish(), 50);
        stats_without_drops(&daemon);
    }

    /// A datagram that was put together is traced, checked as part of its stream, and limited as any other.
    fn what_was_put_together_is_a_datagram_like_others(io) {
        let topology = Topology::sender_relay_receiver();
        let (from, to) = GROUPS[0];
        let named = with(with(rule(input(from), [output(to)]), "name", "large"), "stream", "rtp");
        let daemon = relay(&topology, io, &[named]);
        assert_eq!(daemon.ctl(&["trace", "enable", "large"]).code, 0);
        let index = topology.sender.index("eth0").to_raw();
        topology.sender.run(|| {
            let socket = UdpSocket::bind("10.1.0.1:0").unwrap();
            rustix::net::sockopt::set_ip_multicast_if_with_ifindex(
                &socket, &std::net::Ipv4Addr::UNSPECIFIED, &std::net::Ipv4Addr::UNSPECIFIED, index).unwrap();
            for sequence in (100_u16..140).filter(|sequence| *sequence != 117) {
                let mut packet = vec![0x80, 96];
                packet.extend(sequence.to_be_bytes());
                packet.resize(8_000, 7);
                socket.send_to(&packet, format!("{from}:{INPUT_PORT}")).unwrap();
            }
        });
        let stats = wait_for("the datagrams", DEADLINE, || {
            let stats = daemon.ctl_json(&["stats"]);
            if stats["rules"][0]["packets"] == 39 { Ok(stats) } else { Err(stats) }
        });
        assert_eq!(stats["rules"][0]["health"]["lost"], 1, "{stats:#}");
        assert_eq!(stats["rules"][0]["health"]["checked"], 39, "{stats:#}");
        let trace = daemon.ctl_json(&["trace", "show", "large"]);
        let records = trace["records"].as_array().expect("records");
        for what in ["received", "matched", "sent"] {
            let sizes: Vec<&Value> =
                records.iter().filter(|record| record["what"] == what).map(|record| &record["bytes"]).collect();
            assert!(!sizes.is_empty(), "{trace:#}");
            assert!(sizes.iter().all(|bytes| bytes.as_u64().unwrap() % 8_000 == 0), "{what}: {trace:#}");
        }
        assert_accounting(&daemon.settled_stats());
    }

    /// Fragments of datagrams that never become whole, to one rule: another rule's datagrams, whole and in fragments, are all
    /// relayed, and each datagram of the flood is in one counter. The worker's memory is bounded.
    fn rate_a_flood_of_fragments_costs_other_rules_nothing(io) {
        const FLOOD_PPS: u64 = 20_000;
        const SECONDS: u64 = 4;
        let topology = Topology::sender_relay_receiver();
        let rules = [
            rule(input("239.1.1.1"), [output("239.2.2.1")]),
            rule(input("239.1.1.2"), [output("239.2.2.2")]),
            rule(input("239.1.1.3"), [output("239.2.2.3")]),
        ];
        let daemon = relay(&topology, io, &rules);
        let before = worker_memory(&daemon);
        let whole = recv(&topology.receiver, "eth0", "239.2.2.2", "");
        let in_fragments = recv(&topology.receiver, "eth0", "239.2.2.3", "");
        let senders = [("239.1.1.2", "--rate 5000 --size 1400"), ("239.1.1.3", "--rate 200 --size 8000")]
            .map(|(group, options)| send(&topology.sender, "eth0", group, &format!("{options} --duration {SECONDS}")));
        let flood = frames::sender(&topology.sender, "eth0", RawPrefix::None);
        let begin = monotonic();
        let mut sent = 0_u32;
        while monotonic() - begin < Duration::from_secs(SECONDS) {
            let due = u64::try_from((monotonic() - begin).as_micros()).unwrap() * FLOOD_PPS / 1_000_000;
            while u64::from(sent) < due {
                flood.send(&flood_fragment(sent)).unwrap();
                sent += 1;
            }
            std::thread::yield_now();
        }
        let counts = senders.map(|sender| sender.finish()["sent"].as_u64().unwrap());
        for (receiver, count) in [whole, in_fragments].into_iter().zip(counts) {
            assert_received(&receiver.finish(), count);
        }
        let stats = wait_for("the last datagrams to be given up", DEADLINE, || {
            let stats = stats_without_drops(&daemon);
            let lost: u64 = ["fragment_evicted", "fragment_incomplete"]
                .iter().map(|reason| stats["rules"][0]["skips"][reason].as_u64().unwrap_or_default()).sum();
            if lost == u64::from(sent) { Ok(stats) } else { Err(stats) }
        });
        assert_eq!(of_workers(&stats, "matched"), counts.iter().sum::<u64>(), "{stats:#}");
        assert!(stats["skips"]["fragment_evicted"].as_u64() > Some(u64::from(sent) / 2), "{stats:#}");
        let grown = worker_memory(&daemon).saturating_sub(before);
        println!("{sent} fragments of a flood; the worker grew by {grown} KiB");
        // 8 MiB of data at most, and buffers that large datagrams were written to.
        assert!(grown < 16 * 1024, "{grown} KiB");
    }
}

/// Resident memory of the workers in KiB.
fn worker_memory(daemon: &Daemon) -> u64 {
    let workers = daemon.ctl_json(&["workers"]);
    let pids = workers["workers"].as_array().into_iter().flatten().map(|worker| worker["pid"].clone());
    pids.map(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the worker's status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number")
    })
    .sum()
}

/// One fragment of a datagram to the first rule, each of another datagram: first, middle or last ones, of one sender or of many.
fn flood_fragment(number: u32) -> Vec<u8> {
    let source = if number.is_multiple_of(2) { 9 } else { number % 200 + 20 };
    let source: SocketAddr = format!("10.1.0.{source}:7000").parse().unwrap();
    let destination = format!("239.1.1.1:{INPUT_PORT}").parse().unwrap();
    #[expect(clippy::cast_possible_truncation, reason = "the lower bits of a number")]
    let identification = number as u16;
    let frame = UdpFrame { identification, ..UdpFrame::new(source, destination, &[7; 2_900]) };
    let mut all = frames::fragments(&frame, 1_000 / 8 * 8);
    all.swap_remove(number as usize % 3)
}
