//! Promise: every reader of a config reports all errors at once, each with line, column, path and what to do, ends with
//! code 1, and applies nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use mcr_sys::process::Signal;
use mcr_testnet::{Daemon, Host, IoBackend, binary, wait_until};
use serde_json::Value;
use tempfile::TempDir;

/// A config with one mistake, where and what it is, and a part of the hint.
struct Mistake {
    text: &'static str,
    told: &'static str,
    hint: &'static str,
}

const MISTAKES: &[Mistake] = &[
    Mistake { text: "{\n  rules: [ }\n", told: "2:12: a value is expected here", hint: "need quotes" },
    Mistake {
        text: "{\n  rulez: [],\n}\n",
        told: "2:3: rulez: unknown key \"rulez\"",
        hint: "did you mean `rules`?",
    },
    Mistake {
        text: "{ rules: [\n  { input: { interface: 'eth0', group: '239.1.1.1', port: '5000' },\n    outputs: [{ interface: 'eth1', group: '239.2.2.2', port: 1 }] },\n] }\n",
        told: "2:59: rules[0].input.port: a number from 1 to 65535 is expected, not a string",
        hint: "write 5000 without quotes",
    },
    Mistake {
        text: "{ rules: [\n  { input: { interface: 'eth0', group: '239.1.1.1', port: 1 },\n    outputs: [{ interface: 'eth1', group: 'ff02::1%eth1', port: 1 }] },\n] }\n",
        told: "3:43: rules[0].outputs[0].group: \"ff02::1%eth1\" is not an IP address",
        hint: "the scope is the `interface`",
    },
    Mistake {
        text: "{ rules: [\n  { input: { interface: 'eth0', group: '239.1.1.1', port: 1 },\n    outputs: [{ interface: 'eth0', group: '239.1.1.1', port: 1 }] },\n] }\n",
        told: "3:15: rules[0].outputs[0]: the output eth0 239.1.1.1:1 equals the rule's input",
        hint: "send on another interface",
    },
    Mistake {
        text: "{ rules: [\n  { name: 'there', input: { interface: 'lo', group: '239.1.1.1', port: 1 },\n    outputs: [{ interface: 'lo', group: '239.1.1.1', port: 2 }] },\n  { input: { interface: 'lo', group: '239.1.1.1', port: 2 },\n    outputs: [{ interface: 'lo', group: '239.1.1.1', port: 1 }] },\n] }\n",
        told: "5:15: rules[1].outputs[0]: these rules form a loop through lo: rules[0] (there) → rules[1] → rules[0] (there)",
        hint: "what is sent on loopback is received again",
    },
];

/// Five mistakes of different kinds, with their places.
const SEVERAL: &str = "// é
{
  colour: 1,
  settings: { io: 'fast', ring_buffers: 300 },
  rules: [
    { input: { interface: 'eth0', group: '0.0.0.0', port: 70000 },
      outputs: [{ interface: 'eth1', group: '239.2.2.2', port: 1, ttl: 0 }] },
  ],
}
";
const SEVERAL_PLACES: &[&str] = &[
    "3:3: colour: ",
    "4:19: settings.io: ",
    "4:41: settings.ring_buffers: ",
    "6:42: rules[0].input.group: ",
    "6:59: rules[0].input.port: ",
    "7:72: rules[0].outputs[0].ttl: ",
];

const GOOD: &str = "{
  rules: [
    { name: 'there', input: { interface: 'eth0', group: '239.1.1.1', port: 5000 },
      outputs: [{ interface: 'eth1', group: '239.1.1.1', port: 5000 }] },
    { name: 'back', input: { interface: 'eth1', group: '239.1.1.1', port: 5000 },
      outputs: [{ interface: 'eth0', group: '239.1.1.1', port: 5000 }] },
  ],
}
";

fn file(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join("given.json5");
    fs::write(&path, text).unwrap();
    path
}

fn run(program: &str, arguments: &[&str], path: &Path) -> Output {
    Command::new(binary(program)).args(arguments).arg(path).stdin(Stdio::null()).output().unwrap()
}

/// The three readers of a file that apply nothing if it is wrong.
fn readers(daemon: &Daemon) -> Vec<(&'static str, Vec<String>)> {
    let socket = daemon.socket().to_str().unwrap().to_owned();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    vec![
        ("mcrd", words(&["--check", "--config"])),
        // It needs no daemon.
        ("mcrctl", words(&["--socket", "/nonexistent/mcrd.sock", "check"])),
        ("mcrctl", words(&["--socket", &socket, "load"])),
        ("mcrctl", words(&["--socket", &socket, "load", "--replace"])),
        ("mcrctl", words(&["--socket", &socket, "load", "--dry-run"])),
    ]
}

/// Runs every reader on a config, expects each to refuse it, and returns what each said.
fn refusals(daemon: &Daemon, directory: &Path, text: &str) -> Vec<(String, String)> {
    let path = file(directory, text);
    let mut said = Vec::new();
    for (program, arguments) in readers(daemon) {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = run(program, &arguments, &path);
        let what = format!("{program} {arguments:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{what}: {stderr}");
        assert!(output.stdout.is_empty(), "{what}: {}", String::from_utf8_lossy(&output.stdout));
        said.push((what, stderr.replace(path.to_str().unwrap(), "FILE")));
    }
    said
}

fn running() -> (Host, Daemon, TempDir, String) {
    let host = Host::new("relay");
    let daemon = Daemon::start(&host, IoBackend::Recvmmsg, GOOD);
    let shown = daemon.ctl(&["show"]);
    assert!(shown.code == 0 && shown.stdout.contains("there"), "{}{}", shown.stdout, shown.stderr);
    (host, daemon, tempfile::tempdir().unwrap(), shown.stdout)
}

#[test]
fn each_mistake_has_line_column_path_and_hint() {
    let (_host, daemon, directory, before) = running();
    for mistake in MISTAKES {
        for (what, said) in refusals(&daemon, directory.path(), mistake.text) {
            let told = format!("FILE:{}", mistake.told);
            assert!(said.lines().any(|line| line == told), "{what} does not say {told}:\n{said}");
            let hint = |line: &str| line.trim_start().starts_with("hint: ") && line.contains(mistake.hint);
            assert!(said.lines().any(hint), "{what} does not hint {:?}:\n{said}", mistake.hint);
        }
    }
    assert_eq!(daemon.ctl(&["show"]).stdout, before, "something was applied");
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_the_file() {
    let (_host, daemon, directory, before) = running();
    for (what, said) in refusals(&daemon, directory.path(), SEVERAL) {
        let told: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("FILE:")).collect();
        assert_eq!(told.len(), SEVERAL_PLACES.len(), "{what}:\n{said}");
        for (line, place) in told.iter().zip(SEVERAL_PLACES) {
            assert!(line.starts_with(place), "{what}: {line} is not at {place}");
        }
    }
    assert_eq!(daemon.ctl(&["show"]).stdout, before, "something was applied");
}

#[test]
fn checks_speak_json() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), SEVERAL);
    let output = run("mcrctl", &["--json", "check"], &path);
    assert_eq!(output.status.code(), Some(1));
    let checked: Value = serde_json::from_slice(&output.stdout).unwrap();
    let errors = checked["errors"].as_array().unwrap();
    assert_eq!(errors.len(), SEVERAL_PLACES.len(), "{checked}");
    for (error, place) in errors.iter().zip(SEVERAL_PLACES) {
        let found = format!("{}:{}: {}: ", error["line"], error["column"], error["path"].as_str().unwrap());
        assert_eq!(found, *place, "{checked}");
    }
    assert_eq!(errors[0]["hint"], "known keys: pinning, rules, settings", "{checked}");
}

/// What would crash a careless parser is refused like any other mistake.
#[test]
fn hostile_files_are_refused_before_they_are_parsed() {
    let (_host, daemon, directory, before) = running();
    let deep = "[".repeat(200_000);
    for (what, said) in refusals(&daemon, directory.path(), &deep) {
        assert!(said.contains("FILE:1:33: nested deeper than 32 levels"), "{what}: {said}");
    }
    let path = file(directory.path(), &" ".repeat(25 * 1024 * 1024));
    for (program, arguments) in [("mcrd", ["--check", "--config"].as_slice()), ("mcrctl", &["check"])] {
        let output = run(program, arguments, &path);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("at most 25165824 are allowed"), "{program}: {said}");
    }
    fs::write(&path, b"{ rules: [] } // \xff\n").unwrap();
    for (program, arguments) in [("mcrd", ["--check", "--config"].as_slice()), ("mcrctl", &["check"])] {
        let output = run(program, arguments, &path);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("UTF-8"), "{program}");
    }
    assert_eq!(daemon.ctl(&["show"]).stdout, before, "something was applied");
}

#[test]
fn a_good_file_is_called_good_by_every_reader() {
    let (_host, daemon, directory, before) = running();
    let path = file(directory.path(), GOOD);
    for (program, arguments) in readers(&daemon) {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = run(program, &arguments, &path);
        assert_eq!(output.status.code(), Some(0), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(daemon.ctl(&["show"]).stdout, before);
}

#[test]
fn a_daemon_does_not_start_from_a_wrong_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), SEVERAL);
    let socket = directory.path().join("mcrd.sock");
    let output = run("mcrd", &["--socket", socket.to_str().unwrap(), "--config"], &path);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for place in SEVERAL_PLACES {
        assert!(said.contains(&format!("given.json5:{place}")), "{place} is not told:\n{said}");
    }
    assert!(!socket.exists(), "it opened its socket");
}

#[test]
fn a_reload_of_a_wrong_file_changes_nothing_and_says_why() {
    let (_host, daemon, _directory, before) = running();
    fs::write(daemon.config(), SEVERAL).unwrap();
    daemon.signal(Signal::HUP);
    wait_until("the refusal in the log", Duration::from_secs(10), || {
        SEVERAL_PLACES.iter().all(|place| daemon.log().contains(&format!("mcr.json5:{place}")))
    });
    assert_eq!(daemon.ctl(&["show"]).stdout, before, "something was applied");
}
