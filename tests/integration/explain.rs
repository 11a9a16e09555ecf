//! `mcrctl explain` and `mcrctl doctor`: each fault is made in a network, and its finding is expected. A rule that is
//! well has none.

mod arrival;
mod host;
mod input;
mod output;
mod relay;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mcr_control::explanation::FindingId;
use mcr_testnet::{Daemon, Host, frames};
use mcr_testnet::{RawPrefix, RawSender};
use serde_json::Value;

use crate::scenario::is_in_user_namespace;

const DEADLINE: Duration = Duration::from_secs(20);

/// Long enough for a loaded machine to send and see something.
const LISTEN: &str = "1.5";

/// Sends frames again and again, each from its interface, while `work` is done.
fn while_sending<T>(host: &Host, frames_of: &[(&str, Vec<u8>)], work: impl FnOnce() -> T) -> T {
    let mut senders: BTreeMap<&str, RawSender> = BTreeMap::new();
    for (interface, _) in frames_of {
        senders.entry(interface).or_insert_with(|| frames::sender(host, interface, RawPrefix::None));
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (never, wait) = std::sync::mpsc::channel::<()>();
            while !done.load(Ordering::Relaxed) {
                for (interface, frame) in frames_of {
                    // An interface may be down on purpose.
                    let _ = senders[interface].send(frame);
                }
                let _ = wait.recv_timeout(Duration::from_millis(20));
            }
            drop(never);
        });
        // The sender must end with a failed assertion, too.
        let _ended = Ended(&done);
        work()
    })
}

/// Sets a flag when it goes out of scope.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What the doctor says of the host, and of every rule, by name.
fn examine(daemon: &Daemon) -> (Value, BTreeMap<String, Value>) {
    examine_for(daemon, LISTEN)
}

/// [`examine`] over `seconds`; "0" covers everything since the start.
fn examine_for(daemon: &Daemon, seconds: &str) -> (Value, BTreeMap<String, Value>) {
    let report = daemon.ctl_json(&["doctor", "--listen", seconds]);
    let rules = report["rules"].as_array().unwrap().iter();
    let by_name = rules.map(|rule| (rule["name"].as_str().unwrap().to_owned(), rule.clone())).collect();
    (report["host"].clone(), by_name)
}

/// The ids of what was found, notes left out.
fn ids(of: &Value) -> Vec<&str> {
    let findings = of["findings"].as_array().unwrap().iter();
    findings
        .filter(|finding| finding["severity"] != "note")
        .map(|finding| finding["id"].as_str().unwrap())
        .collect()
}

/// [`ids`] of the host, without what is true in a user namespace.
fn ids_of_host(host: &Value) -> Vec<&str> {
    let expected = is_in_user_namespace().then_some("buffer_clamped");
    ids(host).into_iter().filter(|id| Some(*id) != expected).collect()
}

fn finding<'a>(of: &'a Value, id: &str) -> &'a Value {
    let findings = of["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["id"] == id).unwrap_or_else(|| panic!("no {id} in {of:#}"))
}

fn step<'a>(rule: &'a Value, stage: &str) -> &'a Value {
    rule["path"].as_array().unwrap().iter().find(|step| step["stage"] == stage).unwrap()
}

/// The most memory that a socket's options may take; network namespaces of older kernels have it not.
const OPTMEM_MAX: &str = "net/core/optmem_max";

/// Sets a variable of a host's kernel (sysctl(8)), by its path below /proc/sys.
fn set(host: &Host, sysctl: &str, value: &str) {
    host.run(|| std::fs::write(format!("/proc/sys/{sysctl}"), value).unwrap());
}

fn run(host: &Host, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = host.output(words[0], &words[1..]);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// That each of these rules has this finding and no other, in words that name the evidence, with a hint.
fn assert_found(rules: &BTreeMap<String, Value>, expected: &[(&str, &str, &str)]) {
    for (name, verdict, id) in expected {
        let rule = &rules[*name];
        assert_eq!(ids(rule), [*id], "{name}: {rule:#}");
        assert_eq!(rule["verdict"], *verdict, "{name}: {rule:#}");
        assert!(finding(rule, id)["hint"].as_str().is_some_and(|hint| hint.len() > 10), "{name}: {rule:#}");
    }
}

#[test]
fn every_finding_is_made_by_a_test() {
    let tests = [
        include_str!("aggregation.rs"),
        include_str!("early_drop.rs"),
        include_str!("explain/arrival.rs"),
        include_str!("explain/host.rs"),
        include_str!("explain/input.rs"),
        include_str!("explain/output.rs"),
        include_str!("explain/relay.rs"),
        include_str!("merge.rs"),
        include_str!("origin.rs"),
        include_str!("sandbox/attempts.rs"),
        include_str!("sandbox/settings.rs"),
        include_str!("superframes.rs"),
    ];
    let is_named = |id: &FindingId| tests.iter().any(|test| test.contains(&format!("\"{}\"", id.name())));
    let missing: Vec<&str> = FindingId::ALL.iter().filter(|id| !is_named(id)).map(|id| id.name()).collect();
    assert_eq!(missing, [""; 0]);
}
