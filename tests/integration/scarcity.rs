//! Promise R32: without descriptors or lockable memory, what relays goes on, and messages say what is missing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use mcr_sys::process::{PidFd, Signal};
use mcr_testnet::{Daemon, IoBackend, Topology, wait_until};
use serde_json::Value;

use crate::scenario::{assert_received, input, output, recv, relay, rule, send, stats_without_drops};

const DEADLINE: Duration = Duration::from_secs(20);

/// Sets a limit of the daemon, as `prlimit` of util-linux has it.
fn limit(daemon: &Daemon, limit: &str) {
    let status = Command::new("prlimit").args(["--pid", &daemon.pid().to_string(), limit]).status();
    assert!(status.expect("prlimit of util-linux").success(), "{limit}");
}

/// What starting a process takes for a moment, beyond what a worker that is running does.
const FOR_A_START: usize = 8;

/// A limit just above the workers' descriptors: `RLIMIT_NOFILE` bounds numbers, not how many there are, and descriptors
/// that the daemon has inherited may have any. Of a worker's, that of its process is opened last.
fn limit_above_the_workers(daemon: &Daemon) -> u32 {
    let directory = format!("/proc/{}/fd", daemon.pid());
    let mut open = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
        open.insert(number, fs::read_link(entry.path()).unwrap_or_default());
    }
    let process = open.iter().rfind(|(_, target)| target.to_string_lossy().contains("pidfd"));
    let process = *process.expect("a worker's pidfd").0;
    (process..).filter(|number| !open.contains_key(number)).nth(FOR_A_START).unwrap()
}

/// Processor time of the daemon so far, in hundredths of a second (proc_pid_stat(5), utime and stime).
fn processor_time(daemon: &Daemon) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn worker(daemon: &Daemon) -> Value {
    daemon.ctl_json(&["workers"])["workers"][0].clone()
}

#[test]
fn without_descriptors_the_relay_goes_on_clients_get_an_error_and_nothing_spins() {
    let topology = Topology::sender_relay_receiver();
    let daemon = relay(&topology, IoBackend::Recvmmsg, &[rule(input("239.1.1.1"), [output("239.2.2.1")])]);
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.1", "");
    let sender = send(&topology.sender, "eth0", "239.1.1.1", "--rate 1000 --count 4000 --size 200");
    limit(&daemon, &format!("--nofile={}:", limit_above_the_workers(&daemon)));
    let before = processor_time(&daemon);
    let waiting: Vec<UnixStream> = (0..20).map(|_| UnixStream::connect(daemon.socket()).unwrap()).collect();
    let refused = daemon.ctl(&["ping"]);
    assert_ne!(refused.code, 0);
    assert!(
        refused.stderr.contains("out of file descriptors") && refused.stderr.contains("hint: "),
        "{}",
        refused.stderr
    );
    drop(waiting);
    let _ = sender.finish();
    assert_received(&receiver.finish(), 4000);
    let used = processor_time(&daemon) - before;
    assert!(used < 100, "{used} hundredths of a second of processor time in 4 seconds");
    let log = daemon.log();
    assert!(log.contains("Too many open files") && log.contains("LimitNOFILE"), "{log}");

    // A worker that dies now leaves descriptors for its replacement.
    let pid = worker_pid_without_asking(&daemon);
    PidFd::open(pid).unwrap().kill(Signal::KILL).unwrap();
    wait_until("its replacement", DEADLINE, || daemon.log().matches(": ready worker=").count() == 2);
    limit(&daemon, "--nofile=512:");
    daemon.wait_until_active(1);
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.1", "");
    let _ = send(&topology.sender, "eth0", "239.1.1.1", "--count 500").finish();
    assert_received(&receiver.finish(), 500);
    stats_without_drops(&daemon);
}

/// No client can ask now.
fn worker_pid_without_asking(daemon: &Daemon) -> u32 {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", daemon.pid())).unwrap();
    let is_worker = |pid: &&str| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split('\0').nth(1) == Some("worker")
    };
    children.split_whitespace().find(is_worker).expect("a worker").parse().unwrap()
}

#[test]
fn without_lockable_memory_a_worker_starts_and_relays_and_says_what_it_does_without() {
    let topology = Topology::sender_relay_receiver();
    let config = serde_json::json!({"rules": [rule(input("239.1.1.1"), [output("239.2.2.1")])]});
    let daemon = Daemon::start_with(&topology.relay, &config.to_string(), |_| {});
    daemon.wait_until_active(1);
    let first = worker(&daemon);
    limit(&daemon, "--memlock=0:0");
    let pid = u32::try_from(first["pid"].as_u64().unwrap()).unwrap();
    PidFd::open(pid).unwrap().kill(Signal::KILL).unwrap();
    wait_until("its replacement", DEADLINE, || {
        let now = worker(&daemon);
        now["pid"] != first["pid"] && now["state"] == "running"
    });
    let now = worker(&daemon);
    println!("{now:#}");
    let told = !now["notes"].as_array().unwrap().is_empty();
    assert!(now["io"] == first["io"] || told, "another way without a word: {now:#}");
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.1", "");
    let _ = send(&topology.sender, "eth0", "239.1.1.1", "--count 500").finish();
    assert_received(&receiver.finish(), 500);
    stats_without_drops(&daemon);
}
