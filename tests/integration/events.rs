//! `mcrctl events`: what happens, as lines of JSON, in order, while it happens.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use mcr_sys::process::{PidFd, Signal};
use mcr_testnet::{Daemon, IoBackend, Topology, assert_accounting, binary};
use serde_json::{Value, json};

use crate::scenario::{input, output, recv, relay, rule, send};

const DEADLINE: Duration = Duration::from_secs(30);

/// A running `mcrctl events`.
pub(crate) struct Events {
    child: Child,
    lines: Receiver<Value>,
}

impl Events {
    pub(crate) fn of(daemon: &Daemon) -> Self {
        let mut command = Command::new(binary("mcrctl"));
        command.arg("--socket").arg(daemon.socket()).arg("events");
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}")));
            }
        });
        let events = Self { child, lines };
        let first = events.next(|_| true);
        assert_eq!(first["kind"], "subscribed", "{first}");
        events
    }

    /// The next event that fits; the others are dropped.
    fn next(&self, fits: impl Fn(&Value) -> bool) -> Value {
        let mut others = Vec::new();
        loop {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(event) if fits(&event) => return event,
                Ok(event) => others.push(event),
                Err(error) => panic!("{error}: only {others:#?}"),
            }
        }
    }

    pub(crate) fn next_of(&self, kind: &str, state: &str) -> Value {
        self.next(|event| event["kind"] == kind && event["state"] == state)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_happens_is_reported_in_order() {
    let topology = Topology::sender_relay_receiver();
    let daemon = relay(&topology, IoBackend::Uring, &[rule(input("239.1.1.1"), [output("239.2.2.1")])]);
    let id = daemon.ctl_json(&["list"])["rules"][0]["id"].clone();
    let events = Events::of(&daemon);
    // Another client sees the same.
    let others = Events::of(&daemon);
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.1", "");
    let sent = send(&topology.sender, "eth0", "239.1.1.1", "--rate 100 --count 50").finish();
    assert_eq!(sent["sent"], 50);
    let flow = events.next_of("flow", "started");
    assert_eq!((&flow["rule"], &flow["group"]), (&id, &json!("239.1.1.1")), "{flow}");
    assert!(flow["at_ms"].as_u64() > Some(1_700_000_000_000), "{flow}");

    topology.sender.set_up("eth0", false);
    let link = events.next_of("link", "no_carrier");
    assert_eq!(link["interface"], "eth0", "{link}");
    let pending = events.next_of("rule", "pending");
    assert_eq!(
        (&pending["rule"], &pending["reason"]),
        (&id, &json!("interface eth0 has no carrier")),
        "{pending}"
    );
    topology.sender.set_up("eth0", true);
    events.next_of("link", "up");
    events.next_of("rule", "active");

    let pid = daemon.ctl_json(&["workers"])["workers"][0]["pid"].as_u64().unwrap();
    PidFd::open(u32::try_from(pid).unwrap()).unwrap().kill(Signal::KILL).unwrap();
    let started =
        events.next(|event| event["kind"] == "worker" && event["state"] == "running" && event["pid"] != pid);
    assert_eq!((&started["interface"], &started["core"]), (&json!("eth0"), &json!(0)), "{started}");

    let added = json!(rule(input("239.1.1.2"), [output("239.2.2.2")]));
    let arguments =
        ["add", "--input-interface", "eth0", "--input-group", "239.1.1.2", "--input-port", "5000"];
    let output = daemon.ctl(&[arguments.as_slice(), &["--outputs", "239.2.2.2:6001:eth1"]].concat());
    assert_eq!(output.code, 0, "{added}: {output:?}");
    let joined = events.next_of("membership", "joined");
    assert_eq!((&joined["group"], &joined["interface"]), (&json!("239.1.1.2"), &json!("eth0")), "{joined}");
    let stopped = events.next_of("flow", "stopped");
    assert_eq!(stopped["rule"], id, "{stopped}");
    assert_eq!(others.next_of("flow", "stopped"), stopped);
    drop((events, others, receiver));
    assert_accounting(&daemon.settled_stats());
}

#[test]
fn people_get_lines_and_a_daemon_that_ends_ends_them() {
    let topology = Topology::sender_relay_receiver();
    let mut daemon =
        relay(&topology, IoBackend::Recvmmsg, &[rule(input("239.1.1.1"), [output("239.2.2.1")])]);
    let mut command = Command::new(binary("mcrctl"));
    command.arg("--socket").arg(daemon.socket()).args(["events", "--text"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line = || lines.next().unwrap().unwrap();
    assert!(line().ends_with("Z  events from now on"));
    topology.sender.set_up("eth0", false);
    assert!(line().ends_with("Z  interface eth0 is up, without carrier"));
    assert!(line().ends_with(" rule is pending: interface eth0 has no carrier"));
    assert!(daemon.terminate().success());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(3), "{ended:?}");
}
