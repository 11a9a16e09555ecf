//! Promise: whatever a client does on the control socket, other clients and the daemon go on; only who may gets an
//! answer.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use mcr_sys::channel::Channel;
use mcr_sys::clock;
use mcr_testnet::{Daemon, Host, IoBackend, Topology, binary, wait_for, wait_until};
use serde_json::{Value, json};

use crate::scenario::{input, output, rule, send, stats_without_drops, with};

const PATIENT: Duration = Duration::from_secs(30);
const PING: &[u8] = b"{\"method\":\"io.mcr.Control.Ping\"}\0";
/// Neither root nor a member of any group of ours.
const NOBODY: u32 = 65_534;

fn daemon(host: &Host) -> Daemon {
    Daemon::start(host, IoBackend::Recvmmsg, "{}")
}

fn connect(daemon: &Daemon) -> UnixStream {
    let stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENT)).unwrap();
    stream.set_write_timeout(Some(PATIENT)).unwrap();
    stream
}

/// The next reply.
fn reply(stream: &mut UnixStream) -> Value {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).unwrap() == 1 && byte[0] != 0 {
        bytes.push(byte[0]);
    }
    serde_json::from_slice(&bytes)
        .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&bytes)))
}

fn ping(stream: &mut UnixStream) {
    stream.write_all(PING).unwrap();
    assert_eq!(reply(stream), serde_json::json!({ "parameters": {} }));
}

/// Sends bytes that are no request and returns what the daemon says before it hangs up.
fn refusal(daemon: &Daemon, chunks: impl Iterator<Item = Vec<u8>>) -> Value {
    let mut stream = connect(daemon);
    for chunk in chunks {
        // The daemon hangs up as soon as it has seen enough.
        if stream.write_all(&chunk).is_err() {
            break;
        }
    }
    let refusal = reply(&mut stream);
    let rest = stream.read(&mut [0]);
    assert!(matches!(rest, Ok(0) | Err(_)), "the connection goes on: {rest:?}");
    refusal
}

fn memory_kib(daemon: &Daemon, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
}

#[test]
fn an_oversize_message_is_refused_and_not_kept() {
    let host = Host::new("relay");
    let daemon = daemon(&host);
    let before = memory_kib(&daemon, "VmHWM:");
    let text =
        std::iter::once(b"{\"method\":\"".to_vec()).chain(std::iter::repeat_n(vec![b'x'; 1 << 20], 200));
    let refusal = refusal(&daemon, text);
    assert_eq!(refusal["error"], "io.mcr.Control.BadRequest", "{refusal}");
    assert!(refusal["parameters"]["message"].as_str().unwrap().contains("longer than"), "{refusal}");
    let growth = memory_kib(&daemon, "VmHWM:") - before;
    println!("{growth} KiB more at the peak");
    assert!(growth <= 4 * 1024, "{growth} KiB more at the peak");
    ping(&mut connect(&daemon));
}

#[test]
fn nonsense_is_refused() {
    let host = Host::new("relay");
    let daemon = daemon(&host);
    let deep =
        [b"{\"method\":\"io.mcr.Control.Ping\",\"parameters\":{\"a\":".as_slice(), &[b'['; 200_000]].concat();
    for (bytes, told) in [
        (deep, "nests deeper"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "not a JSON object"),
        (b"\0".to_vec(), "not a call"),
        (b"{}\0".to_vec(), "not a call"),
        (b"{\"method\":\"a\",\"method\":\"b\"}\0".to_vec(), "occurs twice"),
        (b"{\"method\":\"io.mcr.Control.Ping\"\0".to_vec(), "not a call"),
        (b"{\"method\":\"\xff\"}\0".to_vec(), "not a call"),
    ] {
        let refusal = refusal(&daemon, std::iter::once(bytes));
        assert_eq!(refusal["error"], "io.mcr.Control.BadRequest", "{refusal}");
        assert!(refusal["parameters"]["message"].as_str().unwrap().contains(told), "{told:?}: {refusal}");
    }
    let mut stream = connect(&daemon);
    for (request, error) in [
        ("{\"method\":\"io.mcr.Control.Pong\"}\0", "org.varlink.service.MethodNotFound"),
        ("{\"method\":\"io.mcr.Other.Ping\"}\0", "org.varlink.service.InterfaceNotFound"),
        (
            "{\"method\":\"io.mcr.Control.Ping\",\"parameters\":{\"x\":1}}\0",
            "org.varlink.service.InvalidParameter",
        ),
        (
            "{\"method\":\"io.mcr.Control.GetVersion\",\"parameters\":{\"protocol\":\"2.0\"}}\0",
            "io.mcr.Control.VersionMismatch",
        ),
    ] {
        stream.write_all(request.as_bytes()).unwrap();
        assert_eq!(reply(&mut stream)["error"], error, "{request}");
    }
    ping(&mut stream);
}

#[test]
fn silent_and_trickling_clients_delay_nobody() {
    let host = Host::new("relay");
    let daemon = daemon(&host);
    let mut client = connect(&daemon);
    ping(&mut client);
    let idle: Vec<UnixStream> = (0..100).map(|_| connect(&daemon)).collect();
    let trickling: Vec<UnixStream> = (0..20)
        .map(|_| {
            let mut stream = connect(&daemon);
            stream.write_all(b"{").unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            stream
        })
        .collect();
    // One byte each second, the wait for an answer being the clock, until the daemon has had enough.
    let started = clock::monotonic();
    let ended: Vec<_> = trickling
        .into_iter()
        .map(|mut stream| {
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read(&mut byte).is_err() {
                    if stream.write_all(b" ").is_err() {
                        break;
                    }
                }
                clock::monotonic()
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    while !ended.iter().all(std::thread::JoinHandle::is_finished) {
        let asked = clock::monotonic();
        ping(&mut client);
        slowest = slowest.max(clock::monotonic() - asked);
        assert!(clock::monotonic() - started < PATIENT, "a trickling client is still connected");
    }
    assert!(slowest < Duration::from_secs(1), "an answer took {slowest:?}");
    for end in ended {
        let lasted = end.join().unwrap() - started;
        assert!(lasted > Duration::from_secs(5), "ended after {lasted:?}");
    }
    for mut stream in idle {
        ping(&mut stream);
    }
}

#[test]
fn forgotten_connections_lock_nobody_out() {
    let host = Host::new("relay");
    let daemon = daemon(&host);
    let forgotten: Vec<UnixStream> = (0..600).map(|_| connect(&daemon)).collect();
    assert_eq!(daemon.ctl(&["ping"]).code, 0);
    drop(forgotten);
    assert_eq!(daemon.ctl(&["ping"]).code, 0);
}

/// Runs `mcrctl` as another user. `None` where this user namespace has no such user.
fn ctl_as(daemon: &Daemon, uid: u32, gid: u32, arguments: &[&str]) -> Option<Output> {
    // Neither the directory of the socket nor that of the programs need be open to others.
    fs::set_permissions(daemon.directory(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = daemon.directory().join("mcrctl");
    if !program.exists() {
        fs::copy(binary("mcrctl"), &program).unwrap();
    }
    let mut command = Command::new(program);
    command.arg("--socket").arg(daemon.socket()).args(arguments).stdin(Stdio::null());
    match command.uid(uid).gid(gid).output() {
        Ok(output) => Some(output),
        Err(error) => {
            println!("skipped: user {uid} can't be had here: {error}");
            None
        }
    }
}

#[test]
fn another_user_is_refused_and_named_in_the_log() {
    let host = Host::new("relay");
    let daemon = daemon(&host);
    for command in ["list", "ping", "save"] {
        let Some(output) = ctl_as(&daemon, NOBODY, NOBODY, &[command]) else { return };
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("may not") && told.contains("hint: "), "{told}");
        assert!(output.stdout.is_empty());
    }
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("refused")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains(&NOBODY.to_string()) && line.contains("pid"), "{line}");
    assert_eq!(daemon.ctl(&["ping"]).code, 0);
}

/// A group of this system that grants nothing to its members here: not root's, `mcr` or one of users.
fn foreign_group() -> Option<(String, u32)> {
    let groups = fs::read_to_string("/etc/group").unwrap();
    let group = |line: &str| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.nth(1)?.parse::<u32>().ok()?))
    };
    let fits = |(name, gid): &(String, u32)| *gid != 0 && *gid < 1000 && name != "mcr";
    let found = groups.lines().filter_map(group).find(fits);
    if found.is_none() {
        println!("skipped: no group in /etc/group");
    }
    found
}

#[test]
fn an_observer_reads_and_changes_nothing() {
    let Some((name, gid)) = foreign_group() else { return };
    let host = Host::new("relay");
    let daemon = Daemon::start_with(&host, "{}", |command| {
        command.args(["--observers", &name]);
    });
    let Some(output) = ctl_as(&daemon, NOBODY, gid, &["list"]) else { return };
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    for change in [["log-level", "set", "debug"].as_slice(), &["save"], &["remove", "--name", "a"]] {
        let output = ctl_as(&daemon, NOBODY, gid, change).unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{change:?}: {told}");
        assert!(told.contains("may not"), "{change:?}: {told}");
    }
}

/// Payload is for clients that may change the config, and so could send it elsewhere anyway.
#[test]
fn an_observer_gets_a_trace_without_payload() {
    let Some((name, gid)) = foreign_group() else { return };
    let topology = Topology::sender_relay_receiver();
    let config = json!({"rules": [with(rule(input("239.1.1.1"), [output("239.2.2.2")]), "name", "traced")]});
    let daemon = Daemon::start_with(&topology.relay, &config.to_string(), |command| {
        command.args(["--observers", &name]);
    });
    daemon.wait_until_active(1);
    assert_eq!(daemon.ctl(&["trace", "enable", "traced"]).code, 0);
    let sent = send(&topology.sender, "eth0", "239.1.1.1", "--count 1").finish();
    assert_eq!(sent["sent"], 1, "{sent}");
    let received = |reply: &Value| {
        let records = reply["records"].as_array().into_iter().flatten();
        records.filter(|record| record["what"] == "received").map(|record| record["frame"].clone()).collect()
    };
    let frames: Vec<Value> = wait_for("a record", PATIENT, || {
        let frames: Vec<Value> = received(&daemon.ctl_json(&["trace", "show", "traced"]));
        if frames.is_empty() { Err("none") } else { Ok(frames) }
    });
    assert!(frames.iter().all(Value::is_string), "{frames:?}");
    let Some(output) = ctl_as(&daemon, NOBODY, gid, &["--json", "trace", "show", "traced"]) else { return };
    let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
    let seen: Vec<Value> = received(&reply);
    assert!(seen.len() == frames.len() && seen.iter().all(Value::is_null), "{reply:#}");
    stats_without_drops(&daemon);
}

/// Runs a daemon that is expected to refuse.
fn refused_start(host: &Host, config: &Path, socket: &Path) -> Output {
    let program = binary("mcrd");
    let [config, socket] = [config, socket].map(|path| path.to_str().unwrap());
    host.output(program, &["--config", config, "--socket", socket])
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let host = Host::new("relay");
    let daemon = daemon(&host);
    let output = refused_start(&host, &daemon.config(), &daemon.socket());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{told}");
    assert!(told.contains("another mcrd is running on"), "{told}");
    assert_eq!(daemon.ctl(&["ping"]).code, 0);
}

#[test]
fn a_socket_file_left_by_a_dead_daemon_is_replaced_and_an_orderly_end_removes_it() {
    let host = Host::new("relay");
    let mut daemon = daemon(&host);
    daemon.kill_and_restart(&host, |_| {});
    assert_eq!(daemon.ctl(&["ping"]).code, 0);
    let socket = daemon.socket();
    assert!(daemon.terminate().success());
    assert!(!socket.exists());
    let output = daemon.ctl(&["ping"]);
    assert_eq!(output.code, 3, "{}", output.stderr);
    assert!(output.stderr.contains("hint: check that mcrd is running"), "{}", output.stderr);
}

#[test]
fn a_descriptor_sent_by_a_client_is_closed_and_the_client_refused() {
    let host = Host::new("relay");
    let daemon = daemon(&host);
    let stream = connect(&daemon);
    let (sent, kept) = UnixStream::pair().unwrap();
    let channel = Channel::from(OwnedFd::from(stream.try_clone().unwrap()));
    channel.send(PING, &[sent.as_fd()]).unwrap();
    drop(sent);
    let mut stream = stream;
    let refusal = reply(&mut stream);
    assert_eq!(refusal["error"], "io.mcr.Control.BadRequest", "{refusal}");
    assert!(refusal["parameters"]["message"].as_str().unwrap().contains("descriptors"), "{refusal}");
    kept.set_nonblocking(true).unwrap();
    let mut kept = kept;
    // The other end is open as long as anybody holds it.
    wait_until("the descriptor to be closed", PATIENT, || matches!(kept.read(&mut [0]), Ok(0)));
    let log = daemon.log();
    let line = log
        .lines()
        .find(|line| line.contains("descriptors are not taken"))
        .unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains(&format!("pid={}", std::process::id())) && line.contains("uid="), "{line}");
    ping(&mut connect(&daemon));
}

/// What may stand in a startup file may be loaded through the socket: more than 8 MB of it.
#[test]
fn a_config_as_large_as_a_startup_file_can_be_is_loaded() {
    let host = Host::new("relay");
    let daemon = daemon(&host);
    let path = daemon.directory().join("large.json5");
    let line = format!("// {}\n", "é\\\"".repeat(400));
    let mut text = line.repeat(19 * 1024 * 1024 / line.len());
    text.push_str(
        r#"{ rules: [ { input: { interface: "lo", group: "239.1.1.1", port: 5000 },
        outputs: [ { interface: "lo", group: "239.2.2.2", port: 5001 } ] } ] }"#,
    );
    fs::write(&path, text).unwrap();
    assert_eq!(daemon.ctl_json(&["load", path.to_str().unwrap()])["applied"], true);
    assert_eq!(daemon.ctl_json(&["list"])["rules"].as_array().unwrap().len(), 1);
}
