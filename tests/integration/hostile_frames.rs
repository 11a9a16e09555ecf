//! Malformed, unrelated and unusual frames: each frame of the table is relayed as documented, or increments exactly the
//! documented counter, or is dropped by the kernel filter. On both I/O backends.

mod rows;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use mcr_sys::clock::monotonic;
use mcr_sys::process::{online_cores, pin_to_core};
use mcr_testnet::frames::{self, UdpFrame};
use mcr_testnet::{Daemon, IoBackend, Topology};
use mcr_testnet::{RawPrefix, RawSender};
use serde_json::Value;

use crate::scenario::kernel_loses_super_frames;
use rows::{Interface, Outcome, Row, rows};

/// The rules that the frames are addressed to, by the interface of their input and output here.
const CONFIG: &str = r#"{
  rules: [
    { input: { interface: "eth0", group: "239.1.1.1", port: 5000 },
      outputs: [{ interface: "eth1", group: "239.2.2.2", port: 6000 }] },
    { input: { interface: "eth0", group: "232.1.1.1", port: 5000, sources: ["10.1.0.1"] },
      outputs: [{ interface: "eth1", group: "239.2.2.2", port: 6001 }] },
    { input: { interface: "eth0", group: "ff15::1", port: 5000 },
      outputs: [{ interface: "eth1", group: "ff15::2", port: 6002 }] },
    { input: { interface: "tun0", group: "239.1.1.1", port: 5000 },
      outputs: [{ interface: "eth1", group: "239.2.2.2", port: 6003 }] },
    { input: { interface: "lo", group: "239.1.1.1", port: 5000 },
      outputs: [{ interface: "eth1", group: "239.2.2.2", port: 6004 }] },
  ],
}"#;
const RULES: usize = 5;
const INPUTS: [(&str, &str); RULES] = [
    ("10.1.0.1:7000", "239.1.1.1:5000"),
    ("10.1.0.1:7000", "232.1.1.1:5000"),
    ("[fd01::1]:7000", "[ff15::1]:5000"),
    ("10.9.0.7:7000", "239.1.1.1:5000"),
    ("10.9.9.9:7000", "239.1.1.1:5000"),
];
/// Where the datagrams of each rule arrive.
const INTERFACES: [Interface; RULES] =
    [Interface::Ethernet, Interface::Ethernet, Interface::Ethernet, Interface::Tun, Interface::Loopback];
const OUTPUTS: [&str; RULES] =
    ["239.2.2.2:6000", "239.2.2.2:6001", "[ff15::2]:6002", "239.2.2.2:6003", "239.2.2.2:6004"];

/// The receiver's address on the segment of the outputs.
const RECEIVER: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);

/// How long a relayed datagram may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(10);

on_both_backends! {
    fn each_frame_of_the_table_has_its_documented_outcome(io) {
        run(io, false);
    }
}

/// The same where the kernel relays what it can. It does not verify UDP checksums: the receiver does.
#[test]
fn each_frame_has_the_same_outcome_with_the_kernel_engine() {
    if !crate::scenario::is_in_user_namespace() {
        run(IoBackend::Uring, true);
    }
}

fn run(io: IoBackend, kernel: bool) {
    let network = Topology::sender_relay_receiver();
    let Some(tun) = network.relay.tun("tun0") else { return };
    network.relay.setup("tun0", |links| links.disable_automatic_ipv6("tun0"));
    network.relay.add_address("tun0", "10.9.0.1/24");
    network.relay.set_up("tun0", true);
    let config = if kernel {
        CONFIG.replacen('{', "{ settings: { engine: \"kernel\" },", 1)
    } else {
        CONFIG.to_owned()
    };
    let daemon = Daemon::start(&network.relay, io, &config);
    daemon.wait_until_active(RULES);
    if kernel {
        wait_until(DEADLINE, || {
            let rules = crate::kernel_engine::rules(&daemon);
            let by_kernel = rules.iter().filter(|rule| rule["engine"] == "kernel").count();
            if by_kernel == 3 { Ok(by_kernel) } else { Err(by_kernel) }
        });
    }
    let bench = Bench {
        plain: frames::sender(&network.sender, "eth0", RawPrefix::None),
        super_frames: frames::sender(&network.sender, "eth0", RawPrefix::VnetHeader),
        loopback: frames::sender(&network.relay, "lo", RawPrefix::None),
        tun,
        receivers: OUTPUTS.map(|address| receiver(&network, address)),
        core: online_cores().expect("the cores of this process")[0],
    };
    let mut rows = rows();
    if kernel_loses_super_frames(&network.relay) {
        println!(
            "skipped: the table's super-frames: this kernel can neither send nor receive them by packet sockets"
        );
        rows.retain(|row| !row.vnet_header);
    }
    if kernel {
        rows.retain(|row| !row.what.contains("wrong UDP checksum"));
    }
    assert!(rows.len() >= 60, "only {} rows", rows.len());
    let mut before = Counters::of(&daemon.settled_stats());
    for (number, row) in rows.iter().enumerate() {
        let expected = expected_counters(&row.outcome);
        // What the kernel relays overtakes what a worker does.
        let between = || {
            if kernel {
                let awaited = expected.received - RULES as u64;
                wait_until(Duration::from_secs(2), || {
                    let after = Counters::of(&daemon.settled_stats()).since(&before);
                    if after.received >= awaited { Ok(()) } else { Err(()) }
                });
            }
        };
        let seen = bench.send(row, format!("marker {number}").as_bytes(), between);
        // What is given up is counted when its time is over.
        let after = wait_until(DEADLINE, || {
            let after = Counters::of(&daemon.settled_stats());
            if after.since(&before) == expected { Ok(after) } else { Err(after) }
        });
        assert_eq!((seen, after.since(&before)), (row.outcome.payloads(), expected), "{}", row.what);
        before = after;
    }
    let workers = daemon.ctl_json(&["workers"]);
    for worker in workers["workers"].as_array().expect("a list of workers") {
        assert_eq!(worker["io"], io.as_str(), "the other backend ran: {workers:#}");
        assert_eq!(worker["restarts"], 0, "the worker died of a frame: {workers:#}");
    }
}

/// Tries until it succeeds, for at most this time; the last result.
fn wait_until<T>(time: Duration, mut attempt: impl FnMut() -> Result<T, T>) -> T {
    let begin = monotonic();
    loop {
        match attempt() {
            Err(_) if monotonic() - begin < time => thread::yield_now(),
            Ok(result) | Err(result) => return result,
        }
    }
}

/// The networks on both sides of the relay.
struct Bench {
    plain: RawSender,
    super_frames: RawSender,
    loopback: RawSender,
    tun: OwnedFd,
    receivers: [UdpSocket; RULES],
    core: u16,
}

impl Bench {
    /// Sends the frames of a row, then one well-formed frame to each rule. Returns what was sent on each output before
    /// that one.
    fn send(&self, row: &Row, marker: &[u8], between: impl Fn() + Sync) -> [Vec<Vec<u8>>; RULES] {
        let markers = std::array::from_fn::<_, RULES, _>(|rule| {
            let (source, destination) = INPUTS[rule];
            let frame = UdpFrame::new(address(source), address(destination), marker);
            let macs = frame.macs.filter(|_| INTERFACES[rule] != Interface::Tun);
            (INTERFACES[rule], UdpFrame { macs, ..frame }.bytes())
        });
        let send = || {
            // The kernel keeps the order of frames sent by one core.
            pin_to_core(self.core).expect("pin the sending thread");
            for frame in &row.frames {
                self.inject(row.interface, row.vnet_header, frame, row.what);
            }
            between();
            for (interface, marker) in &markers {
                self.inject(*interface, false, marker, "a marker");
            }
        };
        thread::scope(|scope| scope.spawn(send).join()).expect("the sending thread");
        self.receivers.each_ref().map(|receiver| received_before(receiver, marker, row.what))
    }
}

impl Bench {
    /// Sends one frame to an interface.
    fn inject(&self, interface: Interface, vnet_header: bool, frame: &[u8], what: &str) {
        let sender = match interface {
            Interface::Ethernet if vnet_header => &self.super_frames,
            Interface::Ethernet => &self.plain,
            Interface::Loopback => &self.loopback,
            Interface::Tun => {
                let written = rustix::io::write(&self.tun, frame);
                assert_eq!(written.ok(), Some(frame.len()), "{what}: write to the tun interface");
                return;
            }
        };
        sender.send(frame).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

/// An address and port, as the table writes them.
fn address(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn receiver(network: &Topology, output: &str) -> UdpSocket {
    let index = network.receiver.index("eth0").to_raw();
    let socket = network.receiver.run(|| match address(output) {
        SocketAddr::V4(group) => {
            let socket = UdpSocket::bind(("0.0.0.0", group.port()))?;
            socket.join_multicast_v4(group.ip(), &RECEIVER).map(|()| socket)
        }
        SocketAddr::V6(group) => {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, group.port()))?;
            socket.join_multicast_v6(group.ip(), index).map(|()| socket)
        }
    });
    let socket = socket.unwrap_or_else(|error| panic!("receive on {output}: {error}"));
    socket.set_read_timeout(Some(DEADLINE)).expect("set a timeout");
    socket
}

fn received_before(socket: &UdpSocket, marker: &[u8], what: &str) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    loop {
        let mut buffer = vec![0; 65_536];
        let bytes = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{what}: no marker: {error}"));
        buffer.truncate(bytes);
        if buffer == marker {
            return payloads;
        }
        payloads.push(buffer);
    }
}

/// The counters that a row moves; reasons that are 0 are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counters {
    received: u64,
    matched: u64,
    sent: u64,
    kernel_drops: u64,
    skips: BTreeMap<String, u64>,
    drops: BTreeMap<String, u64>,
}

impl Counters {
    fn of(stats: &Value) -> Self {
        let total = |name: &str| {
            let workers = stats["workers"].as_array().expect("a list of workers");
            let workers: u64 = workers.iter().map(|worker| worker[name].as_u64().expect("a number")).sum();
            workers + stats["kernel"][name].as_u64().unwrap_or_default()
        };
        let reasons = |name: &str| {
            let reasons = stats[name].as_object().expect("an object of reasons");
            reasons.iter().map(|(name, count)| (name.clone(), count.as_u64().expect("a number"))).collect()
        };
        Self {
            received: total("received"),
            matched: total("matched"),
            sent: total("sent"),
            kernel_drops: total("kernel_drops"),
            skips: reasons("skips"),
            drops: reasons("drops"),
        }
    }

    fn since(&self, before: &Self) -> Self {
        let moved = |now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>| {
            let moved = |(name, count): (&String, &u64)| {
                let by = count - before.get(name).copied().unwrap_or(0);
                (by > 0).then(|| (name.clone(), by))
            };
            now.iter().filter_map(moved).collect()
        };
        Self {
            received: self.received - before.received,
            matched: self.matched - before.matched,
            sent: self.sent - before.sent,
            kernel_drops: self.kernel_drops - before.kernel_drops,
            skips: moved(&self.skips, &before.skips),
            drops: moved(&self.drops, &before.drops),
        }
    }
}

/// What a row and the markers behind it move.
fn expected_counters(outcome: &Outcome) -> Counters {
    let relayed = outcome.payloads().iter().map(Vec::len).sum::<usize>() as u64 + RULES as u64;
    let skips: BTreeMap<String, u64> = match outcome {
        Outcome::Skipped { reason, count } => [((*reason).to_owned(), *count)].into(),
        Outcome::Relayed { .. } | Outcome::Filtered => BTreeMap::new(),
    };
    Counters {
        received: relayed + skips.values().sum::<u64>(),
        matched: relayed,
        sent: relayed,
        skips,
        ..Counters::default()
    }
}

/// The table is a document, too; `cargo xtask manuals` writes it.
mod manual {
    use super::rows::rows;

    const HEAD: &str = "# Hostile and unusual frames

Malformed, unrelated and unusual frames, and how they are handled. This file is the table of
`tests/integration/hostile_frames`, which sends each of these frames on both I/O backends, and checks that no other datagram is
sent and no other counter changes. [Counters](../user_docs/COUNTERS.md) explains the counters; frames that the kernel filter
drops are in none.

| interface | frame | outcome | counter |
|---|---|---|---|
";

    #[test]
    fn the_document_of_the_table_is_current() {
        let mut text = HEAD.to_owned();
        for row in rows() {
            let (outcome, counter) = row.outcome.columns();
            text.push_str(&format!("| {} | {} | {outcome} | {counter} |\n", row.interface.name(), row.what));
        }
        mcr_manual::Committed::file("developer_docs/HOSTILE_FRAMES.md", text).assert_current();
    }
}
