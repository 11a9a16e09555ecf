//! Input interfaces merge received datagrams (`settings.aggregate`): set at load, restored, left to an operator who sets it
//! otherwise, and every datagram accounted for.

use std::time::Duration;

use mcr_sys::ethtool::{ReceiveOffload, receive_offload};
use mcr_sys::test_env::without_capability;
use mcr_testnet::{Daemon, Generator, Host, IoBackend, Topology, wait_for, wait_until};
use serde_json::{Value, json};

use crate::events::Events;
use crate::scenario::{
    INPUT_PORT, assert_received, input, kernel_loses_super_frames, output, packets_of, recv, rule, send,
    split_before_sending, stats_without_drops, with,
};

const DEADLINE: Duration = Duration::from_secs(20);
/// linux/capability.h.
const CAP_NET_ADMIN: u8 = 12;
const GROUP: &str = "239.1.1.1";
const RELAYED: &str = "239.2.2.2";
const ON: ReceiveOffload = ReceiveOffload { gro: true, udp_forwarding: true, lists: false };
const OFF: ReceiveOffload = ReceiveOffload { gro: false, udp_forwarding: false, lists: false };

fn config(aggregate: &str, rules: &[Value]) -> String {
    json!({ "rules": rules, "settings": { "aggregate": aggregate } }).to_string()
}

fn usual() -> Value {
    with(rule(input(GROUP), [output(RELAYED)]), "name", "video")
}

fn start(topology: &Topology, io: IoBackend, aggregate: &str, rules: &[Value]) -> Daemon {
    let daemon = Daemon::start(&topology.relay, io, &config(aggregate, rules));
    daemon.wait_until_active(rules.len());
    daemon
}

fn load(daemon: &Daemon, aggregate: &str, rules: &[Value]) {
    let file = daemon.directory().join("loaded.json5");
    std::fs::write(&file, config(aggregate, rules)).expect("write a file");
    let answer = daemon.ctl(&["load", "--replace", file.to_str().expect("an UTF-8 path")]);
    assert_eq!(answer.code, 0, "{answer:?} {}", daemon.log());
}

fn offload(host: &Host, interface: &str) -> ReceiveOffload {
    host.run(|| receive_offload(interface)).expect("the features of the interface")
}

fn await_offload(host: &Host, expected: ReceiveOffload) {
    wait_for("the features of eth0", DEADLINE, || match offload(host, "eth0") {
        found if found == expected => Ok(()),
        found => Err(found),
    });
}

/// An operator's command.
fn operate(host: &Host, features: &str) {
    let arguments: Vec<&str> = ["-K", "eth0"].into_iter().chain(features.split_whitespace()).collect();
    let output = host.output("ethtool", &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What `interfaces` says of eth0.
fn told(daemon: &Daemon) -> Value {
    let reply = daemon.ctl_json(&["interfaces"]);
    let interfaces = reply["interfaces"].as_array().cloned().unwrap_or_default();
    let eth0 = interfaces.into_iter().find(|interface| interface["name"] == "eth0");
    eth0.map(|interface| interface["aggregation"].clone()).unwrap_or_default()
}

fn await_told(daemon: &Daemon, on: bool, reason: &str) {
    wait_for("what interfaces says of eth0", DEADLINE, || match told(daemon) {
        status if status["on"] == on && status["reason"] == reason => Ok(()),
        status => Err(status),
    });
}

fn has_finding(daemon: &Daemon, id: &str, words: &[&str]) {
    let report = daemon.ctl_json(&["doctor", "--listen", "0"]);
    let findings = report["host"]["findings"].as_array().cloned().unwrap_or_default();
    let found = findings.iter().find(|finding| finding["id"] == id);
    let text = found.unwrap_or_else(|| panic!("no {id}: {findings:#?}")).to_string();
    words.iter().for_each(|words| assert!(text.contains(words), "no {words}: {text}"));
}

/// Whether the kernel is too old for all but one test here.
fn is_too_old(topology: &Topology) -> bool {
    let too_old = kernel_loses_super_frames(&topology.relay);
    if too_old {
        println!("skipped: this kernel gives no UDP super-frames to packet sockets");
    }
    too_old
}

/// A network whose sender makes separate frames, which arrive together.
fn separate_frames() -> Topology {
    let topology = Topology::sender_relay_receiver();
    split_before_sending(&topology.sender, "eth0");
    topology
}

#[test]
fn interfaces_merge_from_load_to_removal_and_stop() {
    let topology = Topology::sender_relay_receiver();
    if is_too_old(&topology) {
        return;
    }
    let relay = &topology.relay;
    assert_eq!(offload(relay, "eth0"), OFF);
    let mut daemon = start(&topology, IoBackend::Uring, "on", &[usual()]);
    await_offload(relay, ON);
    await_told(&daemon, true, "setting");
    assert_eq!(offload(relay, "eth1"), OFF, "an output");
    load(&daemon, "on", &[]);
    await_offload(relay, OFF);
    assert_eq!(told(&daemon), Value::Null);
    load(&daemon, "on", &[usual()]);
    await_offload(relay, ON);
    load(&daemon, "off", &[usual()]);
    await_offload(relay, OFF);
    await_told(&daemon, false, "setting");
    load(&daemon, "on", &[usual()]);
    await_offload(relay, ON);
    assert!(daemon.terminate().success());
    assert_eq!(offload(relay, "eth0"), OFF, "restored by the stop");
}

#[test]
fn an_operator_who_sets_it_otherwise_is_left_alone_and_told() {
    let topology = Topology::sender_relay_receiver();
    if is_too_old(&topology) {
        return;
    }
    let relay = &topology.relay;
    let mut daemon = start(&topology, IoBackend::Uring, "on", &[usual()]);
    await_offload(relay, ON);
    let events = Events::of(&daemon);
    operate(relay, "gro off rx-udp-gro-forwarding off");
    let event = events.next_of("aggregation", "off");
    assert_eq!((event["interface"].as_str(), event["reason"].as_str()), (Some("eth0"), Some("operator")));
    await_told(&daemon, false, "operator");
    has_finding(&daemon, "aggregation_overridden", &["ethtool -K eth0 gro on rx-udp-gro-forwarding on"]);
    // A link event, and another rule, give it occasion to fight.
    relay.set_up("eth0", false);
    relay.set_up("eth0", true);
    load(&daemon, "on", &[usual(), rule(input("239.1.1.2"), [output("239.2.2.3")])]);
    daemon.wait_until_active(2);
    assert_eq!(offload(relay, "eth0"), OFF);
    await_told(&daemon, false, "operator");
    assert!(daemon.log().contains("switched off by somebody else"), "{}", daemon.log());
    daemon.kill();
    daemon.start_again(relay, |_| ());
    await_told(&daemon, false, "operator");
    operate(relay, "gro on");
    assert!(daemon.terminate().success());
    assert_eq!(offload(relay, "eth0"), ReceiveOffload { gro: true, ..OFF }, "as the operator left it");
}

#[test]
fn what_an_operator_has_switched_on_stays_on() {
    let topology = Topology::sender_relay_receiver();
    let relay = &topology.relay;
    operate(relay, "gro on rx-udp-gro-forwarding on");
    let mut daemon = start(&topology, IoBackend::Uring, "auto", &[usual()]);
    await_told(&daemon, true, "operator");
    load(&daemon, "off", &[usual()]);
    await_told(&daemon, true, "operator");
    load(&daemon, "off", &[]);
    assert!(daemon.terminate().success());
    assert_eq!(offload(relay, "eth0"), ON);
}

#[test]
fn an_interface_that_is_made_anew_merges_again() {
    let topology = Topology::sender_relay_receiver();
    if is_too_old(&topology) {
        return;
    }
    let daemon = start(&topology, IoBackend::Uring, "on", &[usual()]);
    await_offload(&topology.relay, ON);
    topology.relay.delete("eth0");
    topology.add_input(0);
    await_offload(&topology.relay, ON);
    daemon.wait_until_active(1);
    await_told(&daemon, true, "setting");
}

#[test]
fn a_successor_restores_what_a_killed_supervisor_has_set() {
    let topology = Topology::sender_relay_receiver();
    if is_too_old(&topology) {
        return;
    }
    let relay = &topology.relay;
    let mut daemon = start(&topology, IoBackend::Uring, "on", &[usual()]);
    await_offload(relay, ON);
    daemon.kill();
    assert_eq!(offload(relay, "eth0"), ON, "it stays while workers relay alone");
    daemon.start_again(relay, |_| ());
    await_told(&daemon, true, "setting");
    load(&daemon, "on", &[]);
    await_offload(relay, OFF);
    load(&daemon, "on", &[usual()]);
    await_offload(relay, ON);
    daemon.kill();
    operate(relay, "rx-udp-gro-forwarding off");
    daemon.start_again(relay, |_| ());
    await_told(&daemon, false, "operator");
    assert!(daemon.terminate().success());
    assert_eq!(offload(relay, "eth0"), ReceiveOffload { gro: true, ..OFF });
}

#[test]
fn an_upgrade_keeps_and_then_restores_it() {
    let topology = Topology::sender_relay_receiver();
    if is_too_old(&topology) {
        return;
    }
    let relay = &topology.relay;
    let mut daemon = start(&topology, IoBackend::Uring, "on", &[usual()]);
    await_offload(relay, ON);
    daemon.upgrade();
    await_told(&daemon, true, "setting");
    assert_eq!(offload(relay, "eth0"), ON);
    load(&daemon, "on", &[]);
    await_offload(relay, OFF);
}

#[test]
fn without_the_right_doctor_has_the_command() {
    let topology = Topology::sender_relay_receiver();
    if is_too_old(&topology) {
        return;
    }
    let daemon = Daemon::start_with(&topology.relay, &config("on", &[usual()]), |command| {
        without_capability(command, CAP_NET_ADMIN);
    });
    daemon.wait_until_active(1);
    await_told(&daemon, false, "not_permitted");
    assert_eq!(offload(&topology.relay, "eth0"), OFF);
    let command = "ethtool -K eth0 gro on rx-udp-gro-forwarding on";
    has_finding(&daemon, "aggregation_not_permitted", &[command, "CAP_NET_ADMIN"]);
    operate(&topology.relay, "gro on rx-udp-gro-forwarding on");
    await_told(&daemon, true, "operator");
}

#[test]
fn a_kernel_that_loses_super_frames_never_merges() {
    let topology = Topology::sender_relay_receiver();
    if !kernel_loses_super_frames(&topology.relay) {
        println!("skipped: this kernel gives UDP super-frames to packet sockets");
        return;
    }
    let daemon = start(&topology, IoBackend::Uring, "on", &[usual()]);
    await_told(&daemon, false, "kernel_too_old");
    assert_eq!(offload(&topology.relay, "eth0"), OFF);
    has_finding(&daemon, "aggregation_unsupported", &["6.2"]);
}

/// The datagrams and frames of a rule.
fn merged(stats: &Value, rule: usize) -> (u64, u64) {
    let number = |name: &str| stats["rules"][rule][name].as_u64().unwrap_or_default();
    (number("packets"), number("frames"))
}

on_both_backends! {
    /// Under 20,000 datagrams/s it is switched on and off again and again; nothing is lost, doubled or out of order.
    fn rate_switching_costs_at_most_what_is_in_the_ring(io) {
        const SECONDS: u64 = 6;
        let topology = separate_frames();
        if is_too_old(&topology) {
            return;
        }
        let daemon = start(&topology, io, "on", &[usual()]);
        await_offload(&topology.relay, ON);
        let receiver = recv(&topology.receiver, "eth0", RELAYED, "--idle 3");
        let options = format!("--rate 20000 --size 1000 --burst 16 --segment always --count {}", 20_000 * SECONDS);
        let mut sender = send(&topology.sender, "eth0", GROUP, &options);
        let mut switched = 0;
        while sender.is_running() {
            for (aggregate, expected) in [("off", OFF), ("on", ON)] {
                load(&daemon, aggregate, &[usual()]);
                await_offload(&topology.relay, expected);
                switched += 1;
            }
        }
        assert!(switched >= 8, "{switched} times only");
        let _ = sender.finish();
        let report = receiver.finish();
        let lost = report["lost"].as_u64().expect("a number");
        // When the operator switches it off, a veth frees its ring with what is in it: at most a burst. No card does.
        assert!(lost <= switched / 2 * 16, "{lost} lost, switched {switched} times: {report:#}");
        assert_eq!((&report["duplicates"], &report["reordered"]), (&json!(0), &json!(0)), "{report:#}");
        let stats = stats_without_drops(&daemon);
        assert_eq!(packets_of(&stats, RELAYED), 20_000 * SECONDS - lost);
        let (packets, frames) = merged(&stats, 0);
        assert!(frames < packets, "nothing was merged: {stats:#}");
    }

    /// Sources, limits, flows and traces are of datagrams, not of frames; statistics and metrics have both.
    fn merged_datagrams_are_accounted_for_one_by_one(io) {
        const SENT: u64 = 12_800;
        let topology = separate_frames();
        if is_too_old(&topology) {
            return;
        }
        let rules = [
            with(usual(), "max_pps", 1_000_000),
            rule(with(input(GROUP), "sources", json!(["10.9.9.9"])), [output("239.2.2.3")]),
            with(rule(input("239.1.1.2"), [output("239.2.2.4")]), "max_pps", 100),
        ];
        let daemon = start(&topology, io, "on", &rules);
        await_offload(&topology.relay, ON);
        let receiver = recv(&topology.receiver, "eth0", RELAYED, "");
        assert_eq!(daemon.ctl(&["trace", "enable", "video", "--records", "100000"]).code, 0);
        let options = format!("--rate 10000 --size 700 --burst 32 --segment always --count {SENT}");
        for group in [GROUP, "239.1.1.2"] {
            let _ = send(&topology.sender, "eth0", group, &options).finish();
        }
        assert_received(&receiver.finish(), SENT);
        let stats = daemon.settled_stats();
        assert_eq!(stats["rules"][0]["packets"], SENT, "{stats:#}");
        assert_eq!(stats["rules"][1]["packets"], 0, "another source: {stats:#}");
        assert_eq!(stats["rules"][2]["packets"], SENT, "{stats:#}");
        let limited = stats["drops"]["rate_limited"].as_u64().unwrap_or_default();
        assert_eq!(limited + packets_of(&stats, "239.2.2.4"), SENT, "{stats:#}");
        assert!(limited > SENT / 2, "{stats:#}");
        let (packets, frames) = merged(&stats, 0);
        assert!(frames * 4 < packets, "{frames} frames: {stats:#}");
        let per_frame = stats["rules"][0]["per_frame"].as_f64().unwrap_or_default();
        assert!(per_frame > 4.0, "{stats:#}");
        let flows = daemon.ctl_json(&["flows", "video"]);
        assert_eq!(flows["flows"][0]["packets"], SENT, "{flows:#}");
        let trace = daemon.ctl_json(&["trace", "show", "video"]);
        let traced = |what: &str| {
            let records = trace["records"].as_array().into_iter().flatten();
            let sent = records.filter(|record| record["what"] == what);
            sent.filter_map(|record| record["datagrams"].as_u64()).sum::<u64>()
        };
        assert_eq!((traced("matched"), traced("sent")), (SENT, SENT), "{trace:#}");
        assert!(daemon.ctl(&["stats"]).stdout.contains("PER FRAME"));
        assert!(daemon.ctl(&["interfaces"]).stdout.contains("on (setting)"));
    }
}

/// `auto` keeps it where datagrams come together. The policy does not know the backend; each of these two tests has another.
#[test]
fn rate_auto_switches_on_where_it_pays() {
    let topology = separate_frames();
    if is_too_old(&topology) {
        return;
    }
    let daemon = start(&topology, IoBackend::Uring, "auto", &[usual()]);
    let receiver = recv(&topology.receiver, "eth0", RELAYED, "--idle 3");
    assert_eq!(offload(&topology.relay, "eth0"), OFF);
    let options = "--rate 30000 --size 200 --burst 30 --segment always --duration 30";
    let mut sender = send(&topology.sender, "eth0", GROUP, options);
    await_told(&daemon, true, "trial");
    await_told(&daemon, true, "pays");
    assert_eq!(offload(&topology.relay, "eth0"), ON);
    assert!(sender.is_running(), "it took as long as the stream");
    sender.interrupt();
    let sent = sender.finish()["sent"].as_u64().unwrap_or_default();
    assert_received(&receiver.finish(), sent);
    stats_without_drops(&daemon);
}

/// And takes it back where they come one by one, without loss.
#[test]
fn rate_auto_takes_it_back_where_it_does_not_pay() {
    let topology = separate_frames();
    if is_too_old(&topology) {
        return;
    }
    let daemon = start(&topology, IoBackend::Recvmmsg, "auto", &[usual()]);
    let receiver = recv(&topology.receiver, "eth0", RELAYED, "--idle 3");
    let line = format!(
        "--interface eth0 --group {GROUP} --port {INPUT_PORT} --rate 25000 --size 200 --segment never --duration 30"
    );
    let mut sender = Generator::send(&topology.sender, &line.split_whitespace().collect::<Vec<_>>());
    await_told(&daemon, true, "trial");
    await_told(&daemon, false, "does_not_pay");
    assert!(!offload(&topology.relay, "eth0").udp_forwarding);
    assert!(sender.is_running(), "it took as long as the stream");
    sender.interrupt();
    let sent = sender.finish()["sent"].as_u64().unwrap_or_default();
    assert_received(&receiver.finish(), sent);
    stats_without_drops(&daemon);
    load(&daemon, "auto", &[]);
    wait_until("the features as before", DEADLINE, || offload(&topology.relay, "eth0") == OFF);
}
