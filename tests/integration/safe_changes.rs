//! Promise: a change of the config is put in force as a whole or not at all, and an operator can't cut themselves off.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mcr_sys::clock;
use mcr_sys::process::{PidFd, Signal};
use mcr_testnet::{Daemon, IoBackend, Topology, wait_for, wait_until};
use serde_json::{Value, json};

use crate::scenario::{
    assert_received, input, input_on, output, recv, relay, rule, send, stats_without_drops, with,
};

const DEADLINE: Duration = Duration::from_secs(20);

fn first() -> Value {
    rule(input("239.1.1.1"), [output("239.2.2.1")])
}

fn second() -> Value {
    rule(input("239.1.1.2"), [output("239.2.2.2")])
}

/// A file with these rules.
fn file(daemon: &Daemon, name: &str, rules: &[Value]) -> String {
    let path = daemon.directory().join(name);
    fs::write(&path, json!({"rules": rules}).to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The groups that the rules take, in order.
fn groups(daemon: &Daemon) -> Vec<String> {
    let list = daemon.ctl_json(&["list"]);
    let rules = list["rules"].as_array().unwrap().iter();
    rules.map(|rule| rule["input"]["group"].as_str().unwrap().to_owned()).collect()
}

fn notices(daemon: &Daemon) -> String {
    let list = daemon.ctl(&["list"]);
    assert_eq!(list.code, 0, "{}", list.stderr);
    list.stderr
}

/// A number of datagrams goes through the first rule, and nothing is dropped.
fn assert_first_relays(topology: &Topology, daemon: &Daemon) {
    daemon.wait_until_active(1);
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.1", "");
    let _ = send(&topology.sender, "eth0", "239.1.1.1", "--count 500").finish();
    assert_received(&receiver.finish(), 500);
    stats_without_drops(daemon);
}

/// The daemon's workers on an interface, from /proc: also those that it does not know to be there yet.
fn worker_pids(daemon: &Daemon, interface: &str) -> Vec<u32> {
    let children = format!("/proc/{0}/task/{0}/children", daemon.pid());
    let children = fs::read_to_string(children).unwrap_or_default();
    let is_worker = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.nth(1) == Some(b"worker".as_slice()) && words.next() == Some(interface.as_bytes())
    };
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(is_worker).collect()
}

/// Runs `mcrctl` while every worker of the interface, also a new one, is stopped as soon as it is seen, until the
/// daemon says that it undoes the change.
fn ctl_with_stopped_workers(daemon: &Daemon, interface: &str, arguments: &[&str]) -> mcr_testnet::CtlOutput {
    let done = AtomicBool::new(false);
    let signal = |signal| {
        for worker in worker_pids(daemon, interface) {
            let _ = PidFd::open(worker).and_then(|worker| worker.kill(signal));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let began = clock::monotonic();
            while !done.load(Ordering::Relaxed) && clock::monotonic() - began < Duration::from_millis(5500) {
                signal(Signal::STOP);
                std::thread::yield_now();
            }
            signal(Signal::CONT);
        });
        let output = daemon.ctl(arguments);
        done.store(true, Ordering::Relaxed);
        output
    })
}

fn kill_worker(daemon: &Daemon, interface: &str) {
    let [worker] = worker_pids(daemon, interface)[..] else { panic!("one worker") };
    PidFd::open(worker).unwrap().kill(Signal::KILL).unwrap();
    wait_until("its replacement", DEADLINE, || {
        worker_pids(daemon, interface).iter().any(|pid| *pid != worker)
    });
    daemon.wait_until_active(1);
}

/// Lets the next worker have few descriptors: as many as the daemon has now, and 40.
fn limit_descriptors(daemon: &Daemon) -> usize {
    let open = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    let limit = format!("--nofile={0}:{0}", open + 40);
    let status = Command::new("prlimit").args(["--pid", &daemon.pid().to_string(), &limit]).status();
    assert!(status.expect("prlimit of util-linux").success());
    open + 40
}

/// A rule with an output for each TTL, each with a socket of its own.
fn wide(group: &str, ttls: std::ops::Range<u8>) -> Value {
    let out = |ttl| with(output(format!("239.9.0.{ttl}")), "ttl", ttl);
    rule(input(group), ttls.map(out))
}

#[test]
fn a_load_that_a_stopped_worker_does_not_acknowledge_is_undone() {
    let topology = Topology::sender_relay_receiver();
    let daemon = relay(&topology, IoBackend::Recvmmsg, &[first()]);
    assert_first_relays(&topology, &daemon);
    let path = file(&daemon, "new.json5", &[second()]);
    let load = ctl_with_stopped_workers(&daemon, "eth0", &["load", "--replace", &path]);
    assert_eq!(load.code, 1, "{}{}", load.stdout, load.stderr);
    assert!(load.stderr.contains("the change is rolled back: "), "{}", load.stderr);
    assert!(load.stderr.contains("eth0") && load.stderr.contains("\nhint: "), "{}", load.stderr);
    assert_eq!(groups(&daemon), ["239.1.1.1"]);
    assert_first_relays(&topology, &daemon);
    let stats = daemon.settled_stats();
    assert_eq!(stats["rules"][0]["packets"], 1000, "the counters went on: {stats:#}");
}

/// The worker that the change needs does not come up; the one that was there relays on, without a loss.
#[test]
fn a_load_whose_new_worker_does_not_start_is_undone_and_others_do_not_notice() {
    let topology = Topology::sender_relay_receiver();
    topology.add_input(1);
    let daemon = relay(&topology, IoBackend::Recvmmsg, &[first()]);
    let before = worker_pids(&daemon, "eth0");
    let path = file(&daemon, "new.json5", &[rule(input_on("in1", "239.1.1.9"), [output("239.2.2.9")])]);
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.1", "");
    let sender = send(&topology.sender, "eth0", "239.1.1.1", "--rate 1000 --count 7000 --size 200");
    let load = ctl_with_stopped_workers(&daemon, "in1", &["load", &path]);
    assert_eq!(load.code, 1, "{}{}", load.stdout, load.stderr);
    assert!(
        load.stderr.contains("the change is rolled back: ") && load.stderr.contains("in1"),
        "{}",
        load.stderr
    );
    let _ = sender.finish();
    assert_received(&receiver.finish(), 7000);
    assert_eq!(groups(&daemon), ["239.1.1.1"]);
    assert_eq!(worker_pids(&daemon, "eth0"), before);
    stats_without_drops(&daemon);
}

#[test]
fn a_load_or_reload_that_a_worker_refuses_is_undone_at_once() {
    let topology = Topology::sender_relay_receiver();
    let daemon = relay(&topology, IoBackend::Recvmmsg, &[first()]);
    limit_descriptors(&daemon);
    kill_worker(&daemon, "eth0");
    let path = file(&daemon, "wide.json5", &[wide("239.1.1.4", 1..31)]);
    assert_eq!(daemon.ctl(&["load", &path]).code, 0);
    // Twice as many sockets are more than the worker may have.
    let path = file(&daemon, "wider.json5", &[wide("239.1.1.3", 31..91)]);
    let asked = clock::monotonic();
    let load = daemon.ctl(&["load", &path]);
    assert_eq!(load.code, 1, "{}{}", load.stdout, load.stderr);
    assert!(load.stderr.contains("refuses"), "{}", load.stderr);
    assert!(clock::monotonic() - asked < Duration::from_secs(4), "a refusal needs no deadline");
    assert_eq!(groups(&daemon), ["239.1.1.1", "239.1.1.4"]);

    // The same by SIGHUP: nobody waits for an answer, so it is told by the log and by `list`.
    let all = [first(), wide("239.1.1.4", 1..31), wide("239.1.1.3", 31..91)];
    fs::write(daemon.config(), json!({"rules": all}).to_string()).unwrap();
    daemon.signal(Signal::HUP);
    wait_until("the refusal", DEADLINE, || {
        notices(&daemon).contains("notice: the last reload of the startup file")
    });
    assert!(notices(&daemon).contains("refuses"), "{}", notices(&daemon));
    assert!(daemon.log().contains("undone: config loaded: 1 rules added"), "{}", daemon.log());
    assert_eq!(groups(&daemon), ["239.1.1.1", "239.1.1.4"]);
    daemon.wait_until_active(2);
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.1", "");
    let _ = send(&topology.sender, "eth0", "239.1.1.1", "--count 500").finish();
    assert_received(&receiver.finish(), 500);
    stats_without_drops(&daemon);

    // What fits is taken by the same worker, and then there is nothing to say any more.
    let worker = worker_pids(&daemon, "eth0");
    let fits = [first(), wide("239.1.1.4", 1..31), second()];
    fs::write(daemon.config(), json!({"rules": fits}).to_string()).unwrap();
    daemon.signal(Signal::HUP);
    wait_until("no notice", DEADLINE, || notices(&daemon).is_empty());
    assert_eq!(groups(&daemon), ["239.1.1.1", "239.1.1.4", "239.1.1.2"]);
    daemon.wait_until_active(3);
    assert_eq!(worker_pids(&daemon, "eth0"), worker);
}

/// A removal is never undone: who does not answer is replaced.
#[test]
fn a_removal_is_in_force_when_the_answer_comes_even_if_a_worker_does_not_answer() {
    let topology = Topology::sender_relay_receiver();
    let daemon = relay(&topology, IoBackend::Recvmmsg, &[first(), second()]);
    let [worker] = worker_pids(&daemon, "eth0")[..] else { panic!("one worker") };
    let gone = daemon.ctl_json(&["list"])["rules"][0]["id"].as_str().unwrap().to_owned();
    PidFd::open(worker).unwrap().kill(Signal::STOP).unwrap();
    let removed = daemon.ctl(&["remove", "--id", &gone]);
    assert_eq!(removed.code, 0, "{}", removed.stderr);
    assert_eq!(groups(&daemon), ["239.1.1.2"]);
    daemon.wait_until_active(1);
    assert_ne!(worker_pids(&daemon, "eth0"), [worker], "it was replaced");
    let silent = recv(&topology.receiver, "eth0", "239.2.2.1", "--duration 1");
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "");
    for group in ["239.1.1.1", "239.1.1.2"] {
        let _ = send(&topology.sender, "eth0", group, "--count 100").finish();
    }
    assert_received(&receiver.finish(), 100);
    assert_eq!(silent.finish()["received"], 0);
    stats_without_drops(&daemon);
}

#[test]
fn a_dry_run_and_a_diff_show_what_is_added_removed_and_changed_and_change_nothing() {
    let topology = Topology::sender_relay_receiver();
    let third = rule(input("239.1.1.3"), [output("239.2.2.3")]);
    let daemon = relay(&topology, IoBackend::Recvmmsg, &[first(), second()]);
    let changed = rule(input("239.1.1.2"), [output("239.2.2.2"), output("239.2.2.4")]);
    let missing = rule(input_on("nowhere0", "239.1.1.4"), [output("239.2.2.5")]);
    let path = file(&daemon, "new.json5", &[changed, third, missing]);
    for command in [["diff", &path].as_slice(), &["load", "--dry-run", "--replace", &path]] {
        let told = daemon.ctl(command);
        let lines = |sign: char| told.stdout.lines().filter(|line| line.starts_with(sign)).count();
        assert_eq!([lines('-'), lines('<'), lines('>'), lines('+')], [1, 1, 1, 2], "{}", told.stdout);
        let reply = daemon.ctl_json(command);
        let diff = reply.get("diff").unwrap_or(&reply);
        let count = |field: &str| diff[field].as_array().unwrap().len();
        assert_eq!([count("removed"), count("changed"), count("added")], [1, 1, 2], "{reply:#}");
        assert_eq!(diff["changed"][0]["new"]["outputs"].as_array().unwrap().len(), 2, "{reply:#}");
    }
    assert_eq!(groups(&daemon), ["239.1.1.1", "239.1.1.2"]);
    // An interface that is not there is no failure: the rule waits for it.
    assert_eq!(daemon.ctl_json(&["load", "--replace", &path])["applied"], true);
    let list = daemon.ctl_json(&["list"]);
    let states: Vec<&str> =
        list["rules"].as_array().unwrap().iter().map(|rule| rule["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["active", "active", "pending"], "{list:#}");
}

#[test]
fn a_load_that_is_not_confirmed_returns_by_itself_and_nothing_else_changes_meanwhile() {
    let topology = Topology::sender_relay_receiver();
    let daemon = relay(&topology, IoBackend::Recvmmsg, &[first()]);
    assert_first_relays(&topology, &daemon);
    let startup_file = fs::read_to_string(daemon.config()).unwrap();
    let path = file(&daemon, "new.json5", &[second()]);
    let load = daemon.ctl_json(&["load", "--replace", "--confirm", "6", &path]);
    assert_eq!((&load["applied"], &load["confirm_within_s"]), (&json!(true), &json!(6)));
    let began = clock::monotonic();
    assert_eq!(groups(&daemon), ["239.1.1.2"]);
    let list = daemon.ctl_json(&["list"]);
    assert!((1..=6).contains(&list["confirm_within_s"].as_u64().unwrap()), "{list:#}");
    for command in ["list", "show", "version"] {
        let told = daemon.ctl(&[command]).stderr;
        assert!(told.contains("notice: the last load returns in"), "{command}: {told}");
    }
    for change in [
        ["load", path.as_str()].as_slice(),
        &["load", "--confirm", "9", &path],
        &["save"],
        &["remove", "--id", list["rules"][0]["id"].as_str().unwrap()],
    ] {
        let refused = daemon.ctl(change);
        assert_eq!(refused.code, 1, "{change:?}: {}", refused.stderr);
        assert!(refused.stderr.contains("waits to be confirmed"), "{change:?}: {}", refused.stderr);
        assert!(refused.stderr.contains("hint: `mcrctl confirm`"), "{change:?}: {}", refused.stderr);
    }
    assert_eq!(daemon.ctl(&["load", "--dry-run", &path]).code, 0, "what changes nothing is answered");
    daemon.signal(Signal::HUP);
    wait_until("the reload's refusal", DEADLINE, || daemon.log().contains("reload refused"));

    wait_for("the config before", DEADLINE, || match groups(&daemon) {
        groups if groups == ["239.1.1.1"] => Ok(()),
        groups => Err(groups),
    });
    let lasted = clock::monotonic() - began;
    assert!(lasted > Duration::from_millis(5500), "it returned after {lasted:?}");
    assert!(daemon.log().contains("was not confirmed in time"), "{}", daemon.log());
    assert_first_relays(&topology, &daemon);
    let stats = daemon.settled_stats();
    assert_eq!(stats["rules"][0]["packets"], 1000, "with the counters of before: {stats:#}");
    let late = daemon.ctl(&["confirm"]);
    assert_eq!(late.code, 1);
    assert!(late.stderr.contains("no load waits") && late.stderr.contains("hint: "), "{}", late.stderr);
    assert_eq!(fs::read_to_string(daemon.config()).unwrap(), startup_file);
}

#[test]
fn a_confirmed_load_stays_and_a_reverted_one_returns_at_once() {
    let topology = Topology::sender_relay_receiver();
    let daemon = relay(&topology, IoBackend::Recvmmsg, &[first()]);
    let path = file(&daemon, "new.json5", &[second()]);
    assert_eq!(daemon.ctl(&["load", "--replace", "--confirm", "86400", &path]).code, 0);
    assert_eq!(daemon.ctl_json(&["confirm", "--revert"])["kept"], false);
    assert_eq!(groups(&daemon), ["239.1.1.1"]);
    assert_first_relays(&topology, &daemon);

    assert_eq!(daemon.ctl(&["load", "--replace", "--confirm", "2", &path]).code, 0);
    assert_eq!(daemon.ctl_json(&["confirm"])["kept"], true);
    let confirmed = clock::monotonic();
    assert_eq!(daemon.ctl_json(&["list"])["confirm_within_s"], Value::Null);
    wait_until("the deadline that is none any more", DEADLINE, || {
        clock::monotonic() - confirmed > Duration::from_millis(2500)
    });
    assert_eq!(groups(&daemon), ["239.1.1.2"]);
    assert_eq!(daemon.ctl(&["load", "--confirm", "0", &path]).code, 2);
    // What changes nothing has nothing to return to.
    assert_eq!(daemon.ctl_json(&["load", "--confirm", "9", &path])["confirm_within_s"], Value::Null);
    assert_eq!(daemon.ctl(&["save"]).code, 0);
}

#[test]
fn with_last_good_a_broken_startup_file_is_replaced_by_the_last_one_that_loaded() {
    let topology = Topology::sender_relay_receiver();
    let mut daemon = relay(&topology, IoBackend::Recvmmsg, &[first()]);
    let directory = daemon.directory().join("state/mcr");
    let copy = directory.join("last-good.json5");
    let option = format!("--last-good={}", copy.display());
    // An orderly end: after a crash the config that ran goes on, and no file is read.
    let restart = |daemon: &mut Daemon| {
        daemon.terminate();
        daemon.start_again(&topology.relay, |command| {
            command.arg(&option).env("MCRD_IO", "recvmmsg");
        });
    };
    let keeps = |what: &str| {
        wait_until("the copy", DEADLINE, || fs::read_to_string(&copy).is_ok_and(|text| text.contains(what)));
    };
    restart(&mut daemon);
    keeps("239.1.1.1");
    assert!(notices(&daemon).is_empty());

    // Cut in the middle, as a crash of the machine may leave it.
    let good = fs::read_to_string(daemon.config()).unwrap();
    fs::write(daemon.config(), &good[..good.len() / 2]).unwrap();
    restart(&mut daemon);
    assert_eq!(groups(&daemon), ["239.1.1.1"]);
    assert_first_relays(&topology, &daemon);
    for command in ["list", "version"] {
        let told = daemon.ctl(&[command]).stderr;
        assert!(told.contains("notice: started from the last good file"), "{command}: {told}");
        assert!(told.contains("mcr.json5:1:"), "{command} says what is wrong: {told}");
    }
    assert!(daemon.log().contains("the startup file can't be used"), "{}", daemon.log());

    // A reload of what is still broken changes nothing; a corrected file ends the notice and becomes the copy.
    daemon.signal(Signal::HUP);
    wait_until("the refusal", DEADLINE, || {
        notices(&daemon).contains("the last reload of the startup file was refused")
    });
    fs::write(daemon.config(), json!({"rules": [second()]}).to_string()).unwrap();
    daemon.signal(Signal::HUP);
    wait_until("no notice", DEADLINE, || notices(&daemon).is_empty());
    keeps("239.1.1.2");
    // So does a saved one; a load alone does not touch it.
    let path = file(&daemon, "new.json5", &[first()]);
    assert_eq!(daemon.ctl(&["load", "--replace", &path]).code, 0);
    assert!(fs::read_to_string(&copy).unwrap().contains("239.1.1.2"));
    assert_eq!(daemon.ctl(&["save"]).code, 0);
    keeps("239.1.1.1");

    // Without a copy, it says what is wrong with both.
    fs::write(daemon.config(), "{").unwrap();
    fs::remove_file(&copy).unwrap();
    let socket = daemon.directory().join("other.sock");
    let [config, socket] = [daemon.config(), socket].map(|path| path.to_str().unwrap().to_owned());
    let refused = topology
        .relay
        .output(mcr_testnet::binary("mcrd"), &["--config", &config, "--socket", &socket, &option]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(
        told.contains("mcr.json5:1:") && told.contains("last-good.json5: there is no such file"),
        "{told}"
    );
    assert!(told.contains("hint: "), "{told}");
}
