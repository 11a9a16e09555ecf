//! Rules with several inputs: each datagram leaves once, from whichever leg brings it first.

use std::net::UdpSocket;
use std::time::Duration;

use mcr_sys::poll::wait_readable;
use mcr_sys::process::{PidFd, Signal};
use mcr_testnet::{Daemon, IoBackend, Topology, assert_accounting, wait_for};
use serde_json::{Value, json};

use crate::scenario::{INPUT_PORT, input, output, recv, relay, rule, send};

const DEADLINE: Duration = Duration::from_secs(20);

fn leg(interface: &str, group: &str) -> Value {
    json!({"interface": interface, "group": group, "port": INPUT_PORT})
}

/// A rule with legs on `eth0` and `in1`.
fn merged(merge: Value) -> Value {
    let inputs = [leg("eth0", "239.1.1.1"), leg("in1", "239.1.1.2")];
    json!({"name": "feed", "inputs": inputs, "merge": merge, "outputs": [output("239.2.2.2")]})
}

fn two_legs(io: IoBackend, merge: Value) -> (Topology, Daemon) {
    let topology = Topology::sender_relay_receiver();
    topology.add_input(1);
    let daemon = relay(&topology, io, &[merged(merge)]);
    (topology, daemon)
}

/// Sends on both legs; `impaired` is what happens on the second one. Returns the reports of sender and receiver.
fn feed(topology: &Topology, options: &str, impaired: &str) -> (Value, Value) {
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "--idle 1.5");
    let options = format!("--size 200 {options} --legs 239.1.1.2:{INPUT_PORT}:eth1{impaired}");
    let sent = send(&topology.sender, "eth0", "239.1.1.1", &options).finish();
    (sent, receiver.finish())
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("no {name}: {value:#}"))
}

/// The counters of the rule, once nothing moves and the window is over for all.
fn settled(daemon: &Daemon, lost: u64) -> Value {
    let stats = wait_for("the window to be over", DEADLINE, || {
        let stats = daemon.settled_stats();
        if stats["rules"][0]["lost"] == lost { Ok(stats) } else { Err(stats) }
    });
    assert_accounting(&stats);
    stats["rules"][0].clone()
}

fn assert_once(report: &Value) {
    for nothing in ["duplicates", "corrupted", "unknown", "receiver_drops"] {
        assert_eq!(report[nothing], 0, "{report:#}");
    }
}

on_both_backends! {
    /// What is lost is exactly what is lost on both, and the counters say so for each leg.
    fn what_is_lost_is_what_both_legs_lose(io) {
        let (topology, daemon) = two_legs(io, json!({"by": "rtp", "window_ms": 500}));
        let (sent, report) =
            feed(&topology, "--rtp --rate 20000 --count 20000 --seed 5 --loss 5", "/loss=5/delay=10/reorder=2");
        assert_once(&report);
        let lost = number(&sent, "lost_by_all");
        assert!(lost > 20, "{sent:#}");
        assert_eq!(number(&report, "lost"), lost, "{report:#}");
        let rule = settled(&daemon, lost);
        let legs = rule["legs"].as_array().cloned().unwrap_or_default();
        for (leg, sent) in legs.iter().zip(sent["legs"].as_array().into_iter().flatten()) {
            assert_eq!((&leg["packets"], &leg["lost"]), (&sent["sent"], &sent["left_out"]), "{rule:#}");
        }
        let unique: u64 = legs.iter().map(|leg| number(leg, "unique")).sum();
        assert_eq!(unique + number(&rule["skips"], "duplicate"), number(&rule, "packets"), "{rule:#}");
        // Less than the 10 ms where the first copy waited in its queue.
        assert!(number(&legs[1], "skew_us") >= 2_000, "{rule:#}");
    }

    fn other_methods_and_the_order_of_the_sequence(io) {
        for (merge, framing, ordered) in [
            (json!({"by": "moldudp64", "window_ms": 500}), "--mold", false),
            (json!({"by": "payload", "window_ms": 500}), "", false),
            (json!({"by": "rtp", "window_ms": 300, "order": "sequence"}), "--rtp", true),
            (json!({"by": "moldudp64", "window_ms": 300, "order": "sequence"}), "--mold", true),
        ] {
            let (topology, daemon) = two_legs(io, merge.clone());
            let options = format!("{framing} --rate 5000 --count 5000 --seed 7 --loss 4");
            let (sent, report) = feed(&topology, &options, "/loss=4/delay=5/reorder=2");
            assert_once(&report);
            assert_eq!(report["lost"], sent["lost_by_all"], "{merge}: {report:#}");
            assert!(!ordered || report["reordered"] == 0, "{merge}: {report:#}");
            assert_accounting(&daemon.settled_stats());
        }
    }

    /// The window decides between merging and `too_late`.
    fn legs_apart_by_less_and_by_more_than_the_window(io) {
        for (delay_ms, window_ms, is_late) in [(50, 400, false), (450, 1_500, false), (150, 20, true)] {
            let (topology, daemon) = two_legs(io, json!({"by": "rtp", "window_ms": window_ms}));
            let impaired = format!("/delay={delay_ms}");
            let (sent, report) = feed(&topology, "--rtp --rate 5000 --count 4000 --seed 3 --loss 2", &impaired);
            assert_once(&report);
            let left_out = number(&sent["legs"][0], "left_out");
            let lost = if is_late { left_out } else { 0 };
            assert_eq!(number(&report, "lost"), lost, "{delay_ms} ms, window {window_ms} ms: {report:#}");
            let stats = daemon.settled_stats();
            assert_accounting(&stats);
            let rule = &stats["rules"][0];
            assert_eq!(rule["skips"]["too_late"].as_u64().unwrap_or_default(), lost, "{rule:#}");
        }
    }

    /// Each leg goes down and up in turn; a worker is killed; the supervisor, too: no duplicate, and what one leg has is not lost.
    fn rate_legs_that_flap_cost_nothing(io) {
        let (topology, daemon) = two_legs(io, json!({"by": "rtp", "window_ms": 200}));
        let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "--idle 1.5");
        let options = format!("--size 200 --rtp --rate 20000 --duration 60 --legs 239.1.1.2:{INPUT_PORT}:eth1");
        let sender = send(&topology.sender, "eth0", "239.1.1.1", &options);
        wait_for("datagrams", DEADLINE, || {
            let packets = number(&daemon.ctl_json(&["stats"])["rules"][0], "packets");
            if packets > 0 { Ok(()) } else { Err(packets) }
        });
        let delivers = |leg: usize| {
            let packets = || number(&daemon.ctl_json(&["stats"])["rules"][0]["legs"][leg], "packets");
            let before = packets();
            wait_for("datagrams on the leg", DEADLINE, || {
                let now = packets();
                if now > before { Ok(()) } else { Err(now) }
            });
        };
        for _ in 0..20 {
            for (leg, interface) in ["eth0", "in1"].into_iter().enumerate() {
                topology.relay.set_up(interface, false);
                delivers(1 - leg);
                topology.relay.set_up(interface, true);
                delivers(leg);
            }
        }
        sender.interrupt();
        let sent = sender.finish();
        let report = receiver.finish();
        assert_once(&report);
        assert_eq!(number(&report, "lost"), 0, "{sent:#} {report:#}");
        assert_accounting(&daemon.settled_stats());
    }

    fn rate_a_killed_worker_makes_no_duplicate(io) {
        let (topology, daemon) = two_legs(io, json!({"by": "rtp", "window_ms": 200}));
        for _ in 0..3 {
            let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "--idle 1.5");
            let so_far = number(&daemon.ctl_json(&["stats"])["rules"][0], "packets");
            let legs = format!("--legs 239.1.1.2:{INPUT_PORT}:eth1/delay=20/loss=2");
            let options = format!("--size 200 --rtp --rate 20000 --count 24000 --loss 2 {legs}");
            let sender = send(&topology.sender, "eth0", "239.1.1.1", &options);
            wait_for("half of the stream", DEADLINE, || {
                let packets = number(&daemon.ctl_json(&["stats"])["rules"][0], "packets") - so_far;
                if packets > 12_000 { Ok(()) } else { Err(packets) }
            });
            let worker = &daemon.ctl_json(&["workers"])["workers"][0];
            let pid = u32::try_from(number(worker, "pid")).expect("a process id");
            PidFd::open(pid).expect("the worker").kill(Signal::KILL).expect("it can be killed");
            let sent = sender.finish();
            let report = receiver.finish();
            assert_once(&report);
            let lost = number(&report, "lost") - number(&sent, "lost_by_all");
            assert!(lost <= 32, "{lost} lost with the worker: {report:#}");
        }
        assert_accounting(&daemon.settled_stats());
    }

    /// Other rules come and go, the supervisor is killed, another program takes over: the merge goes on where it was.
    fn a_merge_continues_through_changes_and_a_killed_supervisor(io) {
        let (topology, mut daemon) = two_legs(io, json!({"by": "rtp", "window_ms": 500}));
        let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "--idle 1.5");
        let legs = format!("--legs 239.1.1.2:{INPUT_PORT}:eth1/delay=100/loss=3");
        let options = format!("--size 200 --rtp --rate 5000 --duration 4 --seed 9 --loss 3 {legs}");
        let sender = send(&topology.sender, "eth0", "239.1.1.1", &options);
        for port in 7_001..7_005 {
            let port = port.to_string();
            let input = ["--input-interface", "eth0", "--input-group", "239.1.1.9", "--input-port", &port];
            let leg = ["--leg", "239.1.1.8:7000:in1", "--merge", "rtp", "--outputs", "239.2.2.9:7000:eth1"];
            let add = [&["add"][..], &input, &leg].concat();
            let added = daemon.ctl(&add);
            assert_eq!(added.code, 0, "{added:?}");
        }
        daemon.kill_and_restart(&topology.relay, |_| ());
        let sent = sender.finish();
        let report = receiver.finish();
        assert_once(&report);
        assert_eq!(report["lost"], sent["lost_by_all"], "{report:#}");
        let worker = &daemon.ctl_json(&["workers"])["workers"][0];
        assert_eq!(worker["restarts"], 0, "{worker:#}");
        settled(&daemon, number(&sent, "lost_by_all"));
    }
}

/// Legs on one interface, and super-frames on one leg against single datagrams on the other.
#[test]
fn legs_on_one_interface_and_super_frames() {
    let topology = Topology::sender_relay_receiver();
    let inputs = [leg("eth0", "239.1.1.1"), leg("eth0", "239.1.1.2")];
    let rule =
        json!({"inputs": inputs, "merge": {"by": "rtp", "window_ms": 500}, "outputs": [output("239.2.2.2")]});
    let daemon = relay(&topology, IoBackend::Uring, &[rule]);
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "--idle 1.5");
    let legs = format!("--legs 239.1.1.2:{INPUT_PORT}:eth0/loss=5/delay=20");
    let options =
        format!("--size 300 --rtp --rate 10000 --burst 16 --segment always --count 16000 --seed 4 {legs}");
    let sent = send(&topology.sender, "eth0", "239.1.1.1", &options).finish();
    let report = receiver.finish();
    assert_once(&report);
    assert_eq!((&report["lost"], &sent["lost_by_all"]), (&json!(0), &json!(0)), "{report:#}");
    let stats = daemon.settled_stats();
    assert_accounting(&stats);
    assert_eq!(stats["rules"][0]["packets"], 16_000, "{stats:#}");
    assert_eq!(daemon.ctl_json(&["workers"])["workers"].as_array().map(Vec::len), Some(1));
}

/// A rule that is not merged has its own worker beside.
#[test]
fn other_rules_of_the_interfaces_have_workers_of_their_own() {
    let topology = Topology::sender_relay_receiver();
    topology.add_input(1);
    let rules = [merged(json!({"by": "rtp"})), rule(input("239.1.1.1"), [output("239.2.2.7")])];
    let daemon = relay(&topology, IoBackend::Uring, &rules);
    let receivers =
        ["239.2.2.2", "239.2.2.7"].map(|group| recv(&topology.receiver, "eth0", group, "--idle 1.5"));
    let _ = send(&topology.sender, "eth0", "239.1.1.1", "--rtp --count 500 --rate 2000").finish();
    for receiver in receivers {
        assert_eq!(receiver.finish()["received"], 500);
    }
    assert_accounting(&daemon.settled_stats());
    let workers = daemon.ctl_json(&["workers"])["workers"].clone();
    let interfaces: Vec<&Value> =
        workers.as_array().into_iter().flatten().map(|w| &w["interfaces"]).collect();
    assert_eq!(interfaces, [&json!(["eth0"]), &json!(["eth0", "in1"])]);
}

/// `list`, `stats`, `explain`, events and metrics name the legs, and what is wrong with them.
#[test]
fn what_is_wrong_with_legs_is_told() {
    let (topology, daemon) = two_legs(IoBackend::Uring, json!({"by": "rtp", "window_ms": 20}));
    let listed = daemon.ctl_json(&["list"])["rules"][0].clone();
    assert_eq!(listed["inputs"][1]["interface"], "in1", "{listed:#}");
    assert_eq!(listed["merge"], json!({"by": "rtp", "window_ms": 20, "order": "arrival"}), "{listed:#}");
    let findings = |expected: &[&str]| {
        let explained = daemon.ctl_json(&["explain", "feed", "--listen", "0"]);
        let rule = &explained["rules"][0];
        let found: Vec<&str> =
            rule["findings"].as_array().into_iter().flatten().filter_map(|f| f["id"].as_str()).collect();
        expected.iter().all(|id| found.contains(id)).then_some(()).ok_or(explained.clone())
    };
    let reason = || daemon.ctl_json(&["list"])["rules"][0]["reason"].as_str().unwrap_or_default().to_owned();
    let until = |words: &str| {
        wait_for(words, DEADLINE, || {
            let reason = reason();
            if reason.contains(words) { Ok(()) } else { Err(reason) }
        });
    };
    let legs = format!("--legs 239.1.1.2:{INPUT_PORT}:eth1/delay=100/loss=10");
    let options = format!("--rtp --rate 2000 --duration 30 --loss 10 {legs}");
    let late = send(&topology.sender, "eth0", "239.1.1.1", &options);
    until("leg 2 is later than the window");
    until("lost on all legs");
    wait_for("the findings", DEADLINE, || findings(&["leg_late", "legs_lost"]));
    late.interrupt();
    let _ = late.outcome();
    // One leg alone, and then another stream under the same numbers on each leg.
    let one = send(&topology.sender, "eth0", "239.1.1.1", "--rtp --rate 2000 --duration 30");
    until("leg 2 is silent");
    one.interrupt();
    let _ = one.outcome();
    send_different_legs(&topology);
    until("copies have different payloads");
    wait_for("the finding", DEADLINE, || {
        send_different_legs(&topology);
        findings(&["legs_differ"])
    });
    topology.relay.set_up("in1", false);
    until("leg 2: interface in1 is down");
}

/// RTP packets with the same numbers and other payloads on each leg, for some tenths of a second.
fn send_different_legs(topology: &Topology) {
    topology.sender.run(|| {
        let legs = [("10.1.0.1", "239.1.1.1"), ("10.1.1.1", "239.1.1.2")].map(|(source, group)| {
            (UdpSocket::bind((source, 0)).expect("a socket"), format!("{group}:{INPUT_PORT}"))
        });
        for number in 0..320_u16 {
            for (content, (socket, to)) in legs.iter().enumerate() {
                let mut packet = vec![0x80, 96];
                packet.extend(number.to_be_bytes());
                packet.extend((90 * u32::from(number)).to_be_bytes());
                packet.extend(*b"same");
                packet.push(u8::try_from(content).expect("a leg"));
                socket.send_to(&packet, to).expect("a datagram");
            }
            wait_readable([], Some(Duration::from_millis(1))).expect("a pause");
        }
    });
}
