//! Daemon, rules and workers come and go; what stays is not disturbed.

use std::process::{Command, Stdio};
use std::time::Duration;

use mcr_sys::process::{PidFd, Signal};
use mcr_testnet::{Daemon, Host, IoBackend, Topology, binary, wait_for, wait_until};
use serde_json::{Value, json};

use crate::scenario::{
    INPUT_PORT, assert_received, input, input_on, output, packets_of, recv, relay, rule, send,
    stats_without_drops,
};

const DEADLINE: Duration = Duration::from_secs(10);

fn workers(daemon: &Daemon) -> Vec<Value> {
    daemon.ctl_json(&["workers"])["workers"].as_array().cloned().unwrap_or_default()
}

fn pids(daemon: &Daemon) -> Vec<u32> {
    workers(daemon)
        .iter()
        .filter_map(|w| w["pid"].as_u64())
        .filter_map(|pid| u32::try_from(pid).ok())
        .collect()
}

fn state_of_rule(daemon: &Daemon, place: usize) -> (Value, Value) {
    let rule = daemon.ctl_json(&["list"])["rules"][place].clone();
    (rule["state"].clone(), rule["reason"].clone())
}

fn wait_for_state(daemon: &Daemon, place: usize, state: &str) -> Value {
    wait_for(&format!("rule {place} to be {state}"), DEADLINE, || {
        let (now, reason) = state_of_rule(daemon, place);
        if now == state { Ok(reason) } else { Err((now, reason)) }
    })
}

/// A file of this host's network namespace.
fn proc_net(host: &Host, name: &str) -> String {
    host.run(|| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).expect("procfs"))
}

fn has_group(host: &Host, group: &str) -> bool {
    let octets = group.parse::<std::net::Ipv4Addr>().unwrap().octets();
    // The kernel prints the address as a number in host byte order.
    proc_net(host, "igmp").contains(&format!("{:08X}", u32::from_ne_bytes(octets)))
}

/// `mcrctl add` from one interface's group to another group on `eth1`.
fn add(daemon: &Daemon, interface: &str, group: &str, to: &str) -> String {
    let port = INPUT_PORT.to_string();
    let outputs = format!("{to}:{}:eth1", crate::scenario::OUTPUT_PORT);
    let rule = ["add", "--input-interface", interface, "--input-group", group, "--input-port", &port];
    let reply = daemon.ctl_json(&[&rule[..], &["--outputs", &outputs]].concat());
    reply["id"].as_str().expect("an id").to_owned()
}

fn remove(daemon: &Daemon, id: &str) {
    let done = daemon.ctl(&["remove", "--id", id]);
    assert_eq!(done.code, 0, "{}", done.stderr);
}

on_both_backends! {
    /// The interface of a rule does not exist, then it does; an interface of an output likewise.
    fn a_rule_waits_for_its_interfaces_and_starts_by_itself(io) {
        let topology = Topology::sender_relay_receiver();
        let rules = [
            rule(input_on("in1", "239.1.1.1"), [output("239.2.2.1")]),
            rule(input("239.1.1.2"), [crate::scenario::output_on("out1", "239.2.2.2")]),
        ];
        let daemon = Daemon::start(&topology.relay, io, &json!({"rules": rules}).to_string());
        assert_eq!(wait_for_state(&daemon, 0, "pending"), "interface in1 does not exist");
        assert_eq!(wait_for_state(&daemon, 1, "pending"), "interface out1 does not exist");
        topology.add_input(1);
        topology.add_output(1);
        daemon.wait_until_active(2);
        let receivers = [("eth0", "239.2.2.1"), ("eth1", "239.2.2.2")]
            .map(|(interface, group)| recv(&topology.receiver, interface, group, ""));
        let _ = send(&topology.sender, "eth1", "239.1.1.1", "--count 500").finish();
        let _ = send(&topology.sender, "eth0", "239.1.1.2", "--count 500").finish();
        let _ = receivers.map(|receiver| assert_received(&receiver.finish(), 500));
        stats_without_drops(&daemon);
    }

    /// Down and up, without address and with; then gone for good and made anew under the same name.
    fn a_rule_survives_what_happens_to_its_input_interface(io) {
        let topology = Topology::sender_relay_receiver();
        topology.add_input(1);
        let daemon = relay(&topology, io, &[rule(input_on("in1", "239.1.1.1"), [output("239.2.2.1")])]);
        let first = pids(&daemon);
        topology.relay.set_up("in1", false);
        assert_eq!(wait_for_state(&daemon, 0, "pending"), "interface in1 is down");
        topology.relay.set_up("in1", true);
        wait_for_state(&daemon, 0, "active");
        assert_eq!(pids(&daemon), first, "nobody was restarted");
        let receiver = recv(&topology.receiver, "eth0", "239.2.2.1", "");
        let _ = send(&topology.sender, "eth1", "239.1.1.1", "--count 500").finish();
        assert_received(&receiver.finish(), 500);

        topology.relay.delete("in1");
        assert_eq!(wait_for_state(&daemon, 0, "pending"), "interface in1 does not exist");
        topology.add_input(1);
        wait_for_state(&daemon, 0, "active");
        let receiver = recv(&topology.receiver, "eth0", "239.2.2.1", "");
        let _ = send(&topology.sender, "eth1", "239.1.1.1", "--count 500").finish();
        assert_received(&receiver.finish(), 500);
        let stats = stats_without_drops(&daemon);
        assert_eq!(packets_of(&stats, "239.2.2.1"), 1000, "counters outlive the interface");
    }

    /// Traffic on two interfaces, a rule that brings up a third worker, and one that goes: nothing is lost.
    fn rate_a_third_worker_comes_and_a_rule_goes_while_two_relay(io) {
        let topology = Topology::sender_relay_receiver();
        topology.add_input(1);
        topology.add_input(2);
        let daemon = relay(&topology, io, &[
            rule(input("239.1.1.1"), [output("239.2.2.1")]),
            rule(input_on("in1", "239.1.1.1"), [output("239.2.2.2")]),
        ]);
        let before = pids(&daemon);
        let receivers = ["239.2.2.1", "239.2.2.2"].map(|group| recv(&topology.receiver, "eth0", group, ""));
        let options = "--rate 5000 --count 20000 --size 400";
        let senders = ["eth0", "eth1"].map(|interface| send(&topology.sender, interface, "239.1.1.1", options));

        let third = add(&daemon, "in2", "239.1.1.3", "239.2.2.3");
        assert_eq!(state_of_rule(&daemon, 2).0, "active", "`add` returns when the rule relays");
        let receiver = recv(&topology.receiver, "eth0", "239.2.2.3", "");
        let _ = send(&topology.sender, "eth2", "239.1.1.3", "--count 500").finish();
        assert_received(&receiver.finish(), 500);
        let second = add(&daemon, "eth0", "239.1.1.4", "239.2.2.4");
        remove(&daemon, &third);
        remove(&daemon, &second);

        senders.into_iter().for_each(|sender| assert_eq!(sender.finish()["errors"], 0));
        let _ = receivers.map(|receiver| assert_received(&receiver.finish(), 20_000));
        assert!(before.iter().all(|pid| pids(&daemon).contains(pid)), "the two were not touched");
        stats_without_drops(&daemon);
    }

    /// Rules of the same worker come and go ten times a second; a rule that stays loses nothing.
    fn rate_changes_of_other_rules_disturb_nobody(io) {
        let topology = Topology::sender_relay_receiver();
        let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), [output("239.2.2.1")])]);
        let receiver = recv(&topology.receiver, "eth0", "239.2.2.1", "");
        let mut sender = send(&topology.sender, "eth0", "239.1.1.1", "--rate 10000 --count 40000 --size 400");
        let mut changes = 0;
        while sender.is_running() {
            let id = add(&daemon, "eth0", "239.1.1.9", "239.2.2.9");
            remove(&daemon, &id);
            changes += 2;
        }
        assert_eq!(sender.finish()["errors"], 0);
        assert_received(&receiver.finish(), 40_000);
        assert!(changes >= 20, "{changes} changes in 4 seconds");
        let stats = stats_without_drops(&daemon);
        assert_eq!(stats["rules"][0]["packets"], 40_000, "the counters went on: {stats:#}");
    }

    fn a_removed_rule_stops_and_the_others_go_on(io) {
        let topology = Topology::sender_relay_receiver();
        let rules = ["239.1.1.1", "239.1.1.2"].map(|group| rule(input(group), [output(group.replace("39.1", "39.2"))]));
        let daemon = relay(&topology, io, &rules);
        assert!(has_group(&topology.relay, "239.1.1.1") && has_group(&topology.relay, "239.1.1.2"));
        let gone = daemon.ctl_json(&["list"])["rules"][0]["id"].as_str().unwrap().to_owned();
        remove(&daemon, &gone);
        assert!(!has_group(&topology.relay, "239.1.1.1"), "the group is left");
        assert!(has_group(&topology.relay, "239.1.1.2"));
        let silent = recv(&topology.receiver, "eth0", "239.2.1.1", "--duration 2");
        let receiver = recv(&topology.receiver, "eth0", "239.2.1.2", "");
        let _ = send(&topology.sender, "eth0", "239.1.1.1", "--count 300").finish();
        let _ = send(&topology.sender, "eth0", "239.1.1.2", "--count 300").finish();
        assert_received(&receiver.finish(), 300);
        assert_eq!(silent.finish()["received"], 0);
        stats_without_drops(&daemon);
    }
}

#[test]
fn an_idle_worker_leaves_after_the_grace_period_and_a_pinned_one_stays() {
    let topology = Topology::sender_relay_receiver();
    topology.add_input(1);
    let rules = [
        rule(input("239.1.1.1"), [output("239.2.2.1")]),
        rule(input_on("in1", "239.1.1.1"), [output("239.2.2.2")]),
    ];
    let config = json!({"settings": {"worker_grace_s": 1}, "pinning": {"in1": [0]}, "rules": rules});
    let daemon = Daemon::start(&topology.relay, IoBackend::Uring, &config.to_string());
    daemon.wait_until_active(2);
    assert_eq!(workers(&daemon).len(), 2);
    let _ = send(&topology.sender, "eth0", "239.1.1.1", "--count 100").finish();
    let before = daemon.settled_stats();

    for rule in daemon.ctl_json(&["list"])["rules"].as_array().unwrap() {
        remove(&daemon, rule["id"].as_str().unwrap());
    }
    let idle = workers(&daemon);
    assert!(idle.iter().all(|worker| worker["state"] == "idle"), "{idle:#?}");
    let left = wait_for("one worker to leave", DEADLINE, || {
        let now = workers(&daemon);
        if now.len() == 1 { Ok(now) } else { Err(now) }
    });
    assert_eq!((&left[0]["interface"], &left[0]["state"]), (&json!("in1"), &json!("idle")));
    let after = daemon.settled_stats();
    assert_eq!(after["skips"], before["skips"], "what a worker counted outlives it");
}

#[test]
fn a_pinned_interface_has_a_worker_on_each_core() {
    let cores = mcr_sys::process::online_cores().unwrap();
    let topology = Topology::sender_relay_receiver();
    let rules = [rule(input("239.1.1.1"), [output("239.2.2.1")])];
    let config = json!({"pinning": {"eth0": cores}, "rules": rules});
    let daemon = Daemon::start(&topology.relay, IoBackend::Uring, &config.to_string());
    daemon.wait_until_active(1);
    let seen: Vec<u64> = workers(&daemon).iter().filter_map(|worker| worker["core"].as_u64()).collect();
    assert_eq!(seen, cores.iter().map(|core| u64::from(*core)).collect::<Vec<_>>());
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.1", "");
    let _ = send(&topology.sender, "eth0", "239.1.1.1", "--count 2000").finish();
    let report = receiver.finish();
    // Not their order: the sender may change cores, and with it the worker.
    assert_eq!(
        [&report["received"], &report["lost"], &report["duplicates"], &report["corrupted"]],
        [2000, 0, 0, 0],
        "{report:#}"
    );
    let stats = stats_without_drops(&daemon);
    assert_eq!(stats["rules"][0]["packets"], 2000, "each datagram is taken by one worker: {stats:#}");
}

#[test]
fn sigterm_leaves_nothing_behind() {
    let topology = Topology::sender_relay_receiver();
    let rules = [
        rule(input("239.1.1.1"), [output("239.2.2.1")]),
        rule(input("10.1.0.2"), [output("239.2.2.2")]),
        rule(input("ff15::1:1"), [output("239.2.2.3")]),
    ];
    let mut daemon = relay(&topology, IoBackend::Uring, &rules);
    let processes: Vec<PidFd> = pids(&daemon).into_iter().map(|pid| PidFd::open(pid).unwrap()).collect();
    assert!(!processes.is_empty());
    assert!(has_group(&topology.relay, "239.1.1.1"));
    let group_v6 = "ff150000000000000000000000010001";
    assert!(proc_net(&topology.relay, "igmp6").contains(group_v6));
    let sockets = |host: &Host| proc_net(host, "packet").lines().count() - 1;
    assert!(sockets(&topology.relay) > 0);

    let status = daemon.terminate();
    assert!(status.success(), "{status}: {}", daemon.log());
    assert!(!daemon.socket().exists(), "the socket file is gone");
    for process in processes {
        assert!(process.has_ended().unwrap(), "a worker outlived the daemon");
    }
    assert!(!has_group(&topology.relay, "239.1.1.1"), "the group is left");
    assert!(!proc_net(&topology.relay, "igmp6").contains(group_v6));
    // A ring lets go of its socket a moment after its process has ended.
    wait_for("capture sockets to close", DEADLINE, || match sockets(&topology.relay) {
        0 => Ok(()),
        _ => Err(proc_net(&topology.relay, "packet")),
    });
}

#[test]
fn sighup_reloads_a_valid_file_and_refuses_one_with_errors() {
    let topology = Topology::sender_relay_receiver();
    let first = rule(input("239.1.1.1"), [output("239.2.2.1")]);
    let second = rule(input("239.1.1.2"), [output("239.2.2.2")]);
    let daemon = relay(&topology, IoBackend::Uring, std::slice::from_ref(&first));
    let worker = pids(&daemon);
    let groups = |daemon: &Daemon| -> Vec<Value> {
        let rules = daemon.ctl_json(&["list"])["rules"].as_array().cloned().unwrap_or_default();
        rules.iter().map(|rule| rule["input"]["group"].clone()).collect()
    };
    let reload = |text: &str| {
        std::fs::write(daemon.config(), text).unwrap();
        daemon.signal(Signal::HUP);
    };
    reload(&json!({"rules": [second]}).to_string());
    wait_for("the new rule", DEADLINE, || {
        let now = groups(&daemon);
        if now == [json!("239.1.1.2")] { Ok(()) } else { Err(now) }
    });
    daemon.wait_until_active(1);
    assert_eq!(pids(&daemon), worker, "the worker stayed");

    reload("{\n  rules: [{ input: 5 }],\n}");
    wait_until("the refusal in the log", DEADLINE, || daemon.log().contains("reload refused"));
    assert!(daemon.log().contains("mcr.json5:2:"), "with its line: {}", daemon.log());
    assert_eq!(groups(&daemon), [json!("239.1.1.2")]);
    assert_eq!(state_of_rule(&daemon, 0).0, "active");
}

#[test]
fn a_daemon_without_a_startup_file_starts_empty_and_one_whose_file_is_missing_does_not() {
    let topology = Topology::sender_relay_receiver();
    let daemon = Daemon::start(&topology.relay, IoBackend::Uring, "{}");
    assert_eq!(daemon.ctl_json(&["list"])["rules"], json!([]));
    let run = |arguments: &[&str]| {
        let mut command: Command = topology.relay.command(binary("mcrd"));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let socket = daemon.directory().join("second.sock");
    let socket = socket.to_str().unwrap();
    let missing = daemon.directory().join("missing.json5");
    let refused = run(&["--socket", socket, "--config", missing.to_str().unwrap()]).output().unwrap();
    let talk = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{talk}");
    assert!(talk.contains("there is no such file") && talk.contains("hint: "), "{talk}");

    if std::path::Path::new("/etc/mcr/mcr.json5").exists() {
        println!("skipped: this machine has a startup file of its own");
        return;
    }
    let mut second = run(&["--socket", socket]).stderr(Stdio::null()).spawn().unwrap();
    let list = || {
        let mut command = Command::new(binary("mcrctl"));
        command.args(["--socket", socket, "--json", "list"]).output().unwrap()
    };
    wait_until("the second daemon", DEADLINE, || list().status.success());
    let listed: Value = serde_json::from_slice(&list().stdout).unwrap();
    assert_eq!(listed["rules"], json!([]));
    PidFd::open(second.id()).unwrap().kill(Signal::TERM).unwrap();
    assert!(second.wait().unwrap().success());
}
