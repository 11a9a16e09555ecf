//! `mcrctl trace`: what becomes of single datagrams, as records and as a capture file, beside the counters' account.

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use mcr_sys::process::{PidFd, Signal};
use mcr_testnet::{Daemon, IoBackend, Topology, assert_accounting, binary, wait_for};
use serde_json::{Value, json};

use crate::scenario::{input, output, output_on, relay, rule, send, with};

const DEADLINE: Duration = Duration::from_secs(20);
const GROUP: &str = "239.1.1.1";
const RELAYED: &str = "239.2.2.1";
/// The interface that it leaves on takes nothing: ENOBUFS.
const REFUSED: &str = "239.2.3.1";
const ENOBUFS: u64 = 105;
/// Records that a worker keeps (`mcr_link::trace::CAPACITY`).
const KEPT: u64 = 16_384;

/// A rule `traced` with an output that works and one that does not.
fn half_of_it_works(topology: &Topology, io: IoBackend) -> Daemon {
    topology.add_output(1);
    // A queue without room.
    let full = ["qdisc", "replace", "dev", "out1", "root", "pfifo", "limit", "0"];
    let shaped = topology.relay.output("tc", &full);
    assert!(shaped.status.success(), "{shaped:?}");
    let outputs = [output(RELAYED), output_on("out1", REFUSED)];
    relay(topology, io, &[with(rule(input(GROUP), outputs), "name", "traced")])
}

fn only_works(topology: &Topology) -> Daemon {
    relay(topology, IoBackend::Uring, &[with(rule(input(GROUP), [output(RELAYED)]), "name", "traced")])
}

fn enable(daemon: &Daemon, options: &str) {
    let line = format!("trace enable traced {options}");
    let enabled = daemon.ctl(&line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(enabled.code, 0, "{enabled:?}");
}

fn show(daemon: &Daemon) -> Value {
    daemon.ctl_json(&["trace", "show", "traced"])
}

/// Sends, and waits until the relay has matched `in_all` datagrams since its start.
fn offer(topology: &Topology, daemon: &Daemon, options: &str, in_all: u64) {
    let sent = send(&topology.sender, "eth0", GROUP, options).finish();
    assert!(sent["sent"].as_u64() > Some(0), "{sent}");
    wait_for("the datagrams", DEADLINE, || {
        let stats = daemon.ctl_json(&["stats"]);
        let matched = number(&stats["rules"][0], "packets");
        if matched >= in_all { Ok(()) } else { Err(matched) }
    });
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("no number {field} in {value:#}"))
}

fn records<'a>(reply: &'a Value, what: &str) -> Vec<&'a Value> {
    let all = reply["records"].as_array().unwrap_or_else(|| panic!("no records: {reply:#}"));
    all.iter().filter(|record| record["what"] == what).collect()
}

fn datagrams(records: &[&Value]) -> u64 {
    records.iter().map(|record| number(record, "datagrams")).sum()
}

/// The traffic has ceased, and the accounts add up.
fn settled(daemon: &Daemon) -> Value {
    let stats = daemon.settled_stats();
    assert_accounting(&stats);
    stats
}

fn wait_until_ended(daemon: &Daemon) -> Value {
    wait_for("the trace's end", DEADLINE, || {
        let reply = show(daemon);
        if reply["state"] == "ended" { Ok(reply) } else { Err(reply["state"].clone()) }
    })
}

on_both_backends! {
    /// T1: each arrival, what it matched, and what came of it on each output, as the counters have it.
    fn every_step_of_every_datagram_is_reported(io) {
        let topology = Topology::sender_relay_receiver();
        let daemon = half_of_it_works(&topology, io);
        enable(&daemon, "");
        offer(&topology, &daemon, "--rate 200 --count 40 --size 300", 40);
        let stats = settled(&daemon);
        let reply = show(&daemon);
        println!("{}", daemon.ctl(&["trace", "show", "traced"]).stdout);
        assert_eq!((number(&reply, "arrivals"), number(&reply, "lost"), number(&reply, "untold")), (40, 0, 0));
        let (received, matched) = (records(&reply, "received"), records(&reply, "matched"));
        assert_eq!((datagrams(&received), datagrams(&matched)), (40, 40), "{reply:#}");
        let (sent, dropped) = (records(&reply, "sent"), records(&reply, "dropped"));
        let outputs = &stats["rules"][0]["outputs"];
        assert_eq!((datagrams(&sent), datagrams(&dropped)), (40, 40), "{reply:#}");
        assert_eq!((number(&outputs[0], "packets"), number(&outputs[1], "errors")), (40, 40), "{stats:#}");
        for record in &sent {
            assert_eq!(record["output"], json!({"interface": "eth1", "group": RELAYED, "port": 6001}));
        }
        for record in &dropped {
            assert_eq!(record["output"]["group"], REFUSED, "{record}");
            assert_eq!((&record["reason"], number(record, "errno")), (&json!("queue_full"), ENOBUFS));
        }
        for record in &received {
            assert_eq!(record["destination"], format!("{GROUP}:5000"), "{record}");
            let source = record["source"].as_str().and_then(|source| source.rsplit_once(':')).unwrap().0;
            assert_eq!(source, "10.1.0.1");
            assert_eq!((number(record, "bytes"), number(record, "frame_bytes")), (300, 342), "{record}");
            let frame = record["frame"].as_str().unwrap();
            let destination: IpAddr = GROUP.parse().unwrap();
            let IpAddr::V4(v4) = destination else { panic!() };
            let hexadecimal: String = v4.octets().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!((frame.len(), &frame[2 * 30..2 * 34]), (320, hexadecimal.as_str()));
        }
        let runs: Vec<u64> = matched.iter().map(|record| number(record, "run")).collect();
        assert!(dropped.iter().all(|record| runs.contains(&number(record, "run"))), "{reply:#}");
    }
}

#[test]
fn one_in_ten_and_only_drops() {
    let topology = Topology::sender_relay_receiver();
    let daemon = half_of_it_works(&topology, IoBackend::Uring);
    enable(&daemon, "--sample 1/10");
    offer(&topology, &daemon, "--rate 500 --count 100", 100);
    settled(&daemon);
    let reply = show(&daemon);
    assert_eq!((number(&reply, "arrivals"), number(&reply, "chosen")), (100, 10), "{reply:#}");
    assert_eq!((records(&reply, "received").len(), records(&reply, "matched").len()), (10, 10), "{reply:#}");

    enable(&daemon, "--drops-only");
    offer(&topology, &daemon, "--rate 500 --count 100", 200);
    settled(&daemon);
    let reply = show(&daemon);
    let dropped = records(&reply, "dropped");
    assert_eq!(datagrams(&dropped), 100, "{reply:#}");
    assert_eq!(number(&reply, "written"), dropped.len() as u64, "and nothing else: {reply:#}");
    assert!(dropped.iter().all(|record| record["frame"].is_string()), "{reply:#}");
}

#[test]
fn a_trace_ends_by_itself_and_its_records_stay() {
    let topology = Topology::sender_relay_receiver();
    let daemon = only_works(&topology);
    let refused = daemon.ctl(&["trace", "show", "traced"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("hint: `mcrctl trace enable traced`"), "{refused:?}");

    enable(&daemon, "--records 25");
    offer(&topology, &daemon, "--rate 500 --count 100", 100);
    let reply = wait_until_ended(&daemon);
    assert_eq!(reply["ended"], "limit of records reached", "{reply:#}");
    assert_eq!(reply["records"].as_array().map(Vec::len), Some(25), "{reply:#}");

    enable(&daemon, "--seconds 1");
    offer(&topology, &daemon, "--rate 500 --count 5", 105);
    let reply = wait_until_ended(&daemon);
    assert_eq!(reply["ended"], "limit of seconds reached", "{reply:#}");
    assert_eq!(records(&reply, "received").len(), 5, "{reply:#}");

    enable(&daemon, "");
    let disabled = daemon.ctl(&["trace", "disable", "traced"]);
    assert_eq!(disabled.code, 0, "{disabled:?}");
    offer(&topology, &daemon, "--rate 500 --count 5", 110);
    settled(&daemon);
    let reply = show(&daemon);
    assert_eq!((&reply["ended"], number(&reply, "arrivals")), (&json!("disabled"), 0), "{reply:#}");
    let removed = daemon.ctl(&["remove", "--name", "traced"]);
    assert_eq!(removed.code, 0, "{removed:?}");
    assert_eq!(daemon.ctl(&["trace", "show", "traced"]).code, 1, "it went with its rule");
}

/// A reader that comes late does not hold the worker up, and is told what it missed.
#[test]
fn what_was_overwritten_is_counted() {
    let topology = Topology::sender_relay_receiver();
    let daemon = only_works(&topology);
    enable(&daemon, "--records 1000000");
    offer(&topology, &daemon, "--rate 6000 --count 12000", 12000);
    let stats = settled(&daemon);
    let reply = show(&daemon);
    let shown = reply["records"].as_array().unwrap().len() as u64;
    assert_eq!((number(&reply, "arrivals"), shown), (12_000, KEPT));
    assert_eq!(number(&reply, "lost"), number(&reply, "written") - KEPT);
    assert!(number(&reply, "lost") > 5_000);
    assert_eq!(number(&stats["rules"][0]["outputs"][0], "packets"), 12_000, "{stats:#}");
    let table = daemon.ctl(&["trace", "show", "traced"]);
    assert!(table.stderr.contains("were overwritten before they were read"), "{}", table.stderr);
}

/// T2: tcpdump reads the capture file; the comments say what became of each.
#[test]
fn tcpdump_reads_the_capture_file_and_drops_are_comments() {
    let topology = Topology::sender_relay_receiver();
    let daemon = half_of_it_works(&topology, IoBackend::Uring);
    enable(&daemon, "");
    offer(&topology, &daemon, "--rate 500 --count 30 --size 700", 30);
    settled(&daemon);
    let path = daemon.directory().join("trace.pcapng");
    let file = path.to_str().unwrap();
    let shown = daemon.ctl(&["trace", "show", "--pcap", file, "traced"]);
    assert_eq!((shown.code, shown.stdout.as_str()), (0, ""), "{shown:?}");
    let read = tcpdump(file).output().expect("unshare of util-linux");
    assert!(read.status.success(), "{read:?}");
    let packets = String::from_utf8(read.stdout).unwrap();
    let expected = format!("> {GROUP}.5000: UDP, length 700");
    assert_eq!(packets.lines().filter(|line| line.contains(&expected)).count(), 30, "{packets}");
    assert_eq!(packets.lines().count(), 30, "{packets}");

    let comments = comments(&std::fs::read(&path).unwrap());
    assert_eq!(comments.len(), 30, "{comments:?}");
    for comment in &comments {
        assert!(comment.starts_with("matched; "), "{comment}");
        assert!(comment.contains(&format!("sent on eth1 {RELAYED}:6001")), "{comment}");
        let dropped =
            format!("dropped on out1 {REFUSED}:6001: queue_full (No buffer space available (os error 105))");
        assert!(comment.contains(&dropped), "{comment}");
    }

    // The same through a pipe.
    let mut mcrctl = Command::new(binary("mcrctl"));
    mcrctl.arg("--socket").arg(daemon.socket()).args(["trace", "show", "--pcap", "-", "traced"]);
    let mut mcrctl = mcrctl.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let stdout = mcrctl.stdout.take().unwrap();
    let piped = tcpdump("-").stdin(stdout).output().unwrap();
    assert!(mcrctl.wait().unwrap().success());
    assert_eq!(String::from_utf8(piped.stdout).unwrap(), packets);
}

/// tcpdump that reads a file. Started by root it would become another user, which not each user namespace has; in one of its
/// own it is nobody already.
fn tcpdump(file: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "tcpdump", "-nttr", file]);
    command
}

/// The comments of the packets in a capture file (pcapng, little endian).
fn comments(mut file: &[u8]) -> Vec<String> {
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let short =
        |bytes: &[u8], at: usize| usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()));
    let mut comments = Vec::new();
    while !file.is_empty() {
        let (block, rest) = file.split_at(word(file, 4));
        if word(block, 0) == 6 {
            let mut options = &block[28 + word(block, 20).next_multiple_of(4)..block.len() - 4];
            while short(options, 0) != 0 {
                let length = short(options, 2);
                if short(options, 0) == 1 {
                    comments.push(String::from_utf8(options[4..4 + length].to_vec()).unwrap());
                }
                options = &options[4 + length.next_multiple_of(4)..];
            }
        }
        file = rest;
    }
    comments
}

/// A replacement goes on where the killed worker ended, in the same ring.
#[test]
fn a_trace_outlives_its_worker() {
    let topology = Topology::sender_relay_receiver();
    let daemon = only_works(&topology);
    let worker = || daemon.ctl_json(&["workers"])["workers"][0].clone();
    enable(&daemon, "");
    offer(&topology, &daemon, "--rate 500 --count 20", 20);
    settled(&daemon);
    let pid = worker()["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap();
    PidFd::open(pid).unwrap().kill(Signal::KILL).unwrap();
    wait_for("a replacement with its rules", DEADLINE, || {
        let worker = worker();
        if worker["state"] == "running" && worker["pid"] != pid { Ok(()) } else { Err(worker) }
    });
    offer(&topology, &daemon, "--rate 500 --count 20", 40);
    settled(&daemon);
    let reply = show(&daemon);
    assert_eq!((&reply["state"], number(&reply, "arrivals")), (&json!("running"), 40), "{reply:#}");
    let arrivals: Vec<u64> =
        records(&reply, "received").iter().map(|record| number(record, "arrival")).collect();
    assert_eq!(arrivals, (1..=40).collect::<Vec<u64>>());
    assert_eq!(datagrams(&records(&reply, "sent")), 40, "{reply:#}");
}

/// What a dead supervisor had asked for is over; its worker is traced by the next one as if for the first time.
#[test]
fn a_trace_ends_with_the_supervisor() {
    let topology = Topology::sender_relay_receiver();
    let mut daemon = only_works(&topology);
    enable(&daemon, "");
    offer(&topology, &daemon, "--rate 500 --count 20", 20);
    settled(&daemon);
    let before = daemon.ctl_json(&["workers"])["workers"][0]["pid"].clone();
    daemon.kill_and_restart(&topology.relay, |_| {});
    daemon.wait_until_active(1);
    assert_eq!(daemon.ctl_json(&["workers"])["workers"][0]["pid"], before, "the worker goes on");
    assert_eq!(daemon.ctl(&["trace", "show", "traced"]).code, 1, "nothing is known of it");
    enable(&daemon, "");
    offer(&topology, &daemon, "--rate 500 --count 20", 40);
    settled(&daemon);
    let reply = show(&daemon);
    assert_eq!((number(&reply, "arrivals"), records(&reply, "received").len()), (20, 20), "{reply:#}");
}

#[test]
fn follow_shows_records_until_the_trace_ends() {
    let topology = Topology::sender_relay_receiver();
    let daemon = only_works(&topology);
    enable(&daemon, "--records 2000");
    let mut follow = Command::new(binary("mcrctl"));
    follow.arg("--socket").arg(daemon.socket()).args(["--json", "trace", "show", "--follow", "traced"]);
    let follow = follow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    offer(&topology, &daemon, "--rate 1000 --count 1200", 1200);
    let ended = follow.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let text = String::from_utf8(ended.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2_000, "{}", String::from_utf8_lossy(&ended.stderr));
    let received: Vec<u64> = lines
        .iter()
        .filter(|record| record["what"] == "received")
        .map(|record| number(record, "arrival"))
        .collect();
    assert_eq!(received, (1..=received.len() as u64).collect::<Vec<u64>>());
    settled(&daemon);
}
