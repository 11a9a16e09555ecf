//! Promise R34: the wall clock may jump by a day in either direction, and nothing happens.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mcr_sys::clock;
use mcr_testnet::{Daemon, Topology, wait_until};
use serde_json::json;

use crate::scenario::{assert_received, input, output, recv, rule, send, stats_without_drops};

const DEADLINE: Duration = Duration::from_secs(20);

/// libfaketime, which answers a process's questions for the wall clock with another time.
fn library() -> Option<PathBuf> {
    let multiarch = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path().join("faketime"));
    let found = multiarch.map(|directory| directory.join("libfaketime.so.1")).find(|path| path.exists());
    if found.is_none() {
        println!("skipped: libfaketime is not installed");
    }
    found
}

fn jump(clock: &Path, by: &str) {
    // Replaced at once: the library reads it again at each question.
    let next = clock.with_extension("next");
    fs::write(&next, by).unwrap();
    fs::rename(next, clock).unwrap();
}

/// Dates at the beginning of the daemon's own lines, without repetition.
fn dates(daemon: &Daemon) -> Vec<String> {
    let log = daemon.log();
    let supervisor = log.lines().filter(|line| !line.contains("worker{"));
    let mut dates: Vec<String> = supervisor.filter_map(|line| line.get(..10)).map(str::to_owned).collect();
    dates.dedup();
    dates
}

#[test]
fn a_jump_of_a_day_forth_and_back_changes_nothing() {
    let Some(library) = library() else { return };
    let topology = Topology::sender_relay_receiver();
    let directory = tempfile::tempdir().unwrap();
    let clock = directory.path().join("clock");
    jump(&clock, "+0");
    let config = json!({
        "settings": {"worker_grace_s": 30},
        "rules": [rule(input("239.1.1.1"), [output("239.2.2.1")])],
    });
    let daemon = Daemon::start_with(&topology.relay, &config.to_string(), |command| {
        command
            .env("LD_PRELOAD", &library)
            .env("FAKETIME_TIMESTAMP_FILE", &clock)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("FAKETIME_DONT_RESET", "1");
    });
    daemon.wait_until_active(1);
    let workers = || daemon.ctl_json(&["workers"])["workers"].clone();
    let before = workers();
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.1", "");
    let sender = send(&topology.sender, "eth0", "239.1.1.1", "--rate 1000 --count 6000 --size 200");

    let path = daemon.directory().join("new.json5");
    let with_another = json!({"rules": [rule(input("239.1.1.2"), [output("239.2.2.2")])]});
    fs::write(&path, with_another.to_string()).unwrap();
    let rules = || daemon.ctl_json(&["list"])["rules"].as_array().unwrap().len();
    for by in ["+86400", "-86400"] {
        let began = clock::monotonic();
        let load = daemon.ctl(&["load", "--confirm", "2", path.to_str().unwrap()]);
        assert_eq!(load.code, 0, "{}", load.stderr);
        jump(&clock, by);
        assert_eq!(rules(), 2, "the deadline of the trial is not of the wall clock");
        wait_until("the trial's end", DEADLINE, || rules() == 1);
        let lasted = clock::monotonic() - began;
        assert!(lasted >= Duration::from_secs(2), "{by}: the trial lasted {lasted:?}");
        let stats = daemon.ctl_json(&["stats"]);
        let rate = stats["rules"][0]["pps"].as_f64().unwrap();
        assert!((500.0..2000.0).contains(&rate), "{by}: 1,000 a second are shown as {rate}");
    }
    let _ = sender.finish();
    assert_received(&receiver.finish(), 6000);
    let after = workers();
    assert_eq!((&after[0]["pid"], &after[0]["restarts"]), (&before[0]["pid"], &before[0]["restarts"]));
    assert!(after[0]["uptime_s"].as_u64().unwrap() < 3600, "{after:#}");
    assert!(dates(&daemon).len() >= 3, "the clock did not jump: {:?}", dates(&daemon));
    stats_without_drops(&daemon);
}
