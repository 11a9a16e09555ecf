//! What a worker does in its life, in one of them, inside the sandbox: at the end it is the same process. (Every other test runs
//! inside it, too, and a death by SIGSYS fails it: `mcr_testnet::Daemon`.)

use std::net::UdpSocket;
use std::time::Duration;

use mcr_sys::process::{PidFd, Signal};
use mcr_testnet::{Daemon, Topology, assert_accounting, wait_for, wait_until};
use serde_json::{Value, json};

use super::{DEADLINE, pid_of, worker_of};
use crate::scenario::{input, output, packets_of, recv, rule, send, with};

/// Enough for a rule set of several pages.
const MANY_RULES: u16 = 2_000;
/// Shorter than what counts as a stall.
const STOPPED: Duration = Duration::from_millis(300);

/// One output of each kind of socket, and one whose destination refuses.
fn first_rule() -> Value {
    let outputs = [
        output("239.2.2.2"),
        output("ff15::2"),
        with(output("239.2.2.3"), "ttl", "decrement"),
        with(output("239.2.2.4"), "source", "keep"),
        with(with(output("239.2.2.5"), "source", "keep"), "source_port", "keep"),
        with(output("10.2.0.2"), "port", 9),
    ];
    with(rule(input("239.1.1.1"), outputs), "name", "first")
}

fn load(daemon: &Daemon, others: u16) {
    let other = |number: u16| {
        let group = format!("239.3.{}.{}", number / 250, number % 250);
        rule(input(&group), [output(&group)])
    };
    let rules: Vec<Value> = [first_rule()].into_iter().chain((0..others).map(other)).collect();
    let file = daemon.directory().join("many.json5");
    std::fs::write(&file, json!({"rules": rules}).to_string()).expect("write a file");
    let answer = daemon.ctl(&["load", "--replace", file.to_str().expect("an UTF-8 path")]);
    assert_eq!(answer.code, 0, "{answer:?} {}", daemon.log());
}

fn relays(topology: &Topology, datagrams: u64) {
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", &format!("--count {datagrams}"));
    let sent =
        send(&topology.sender, "eth0", "239.1.1.1", &format!("--rate 2000 --count {datagrams}")).finish();
    assert_eq!(sent["sent"], datagrams, "{sent:#}");
    assert_eq!(receiver.finish()["lost"], 0);
}

/// Answers a datagram of the relay to the port that it came from, which counts as a reply there.
fn reply(topology: &Topology) {
    let socket = topology.receiver.run(|| {
        let socket = UdpSocket::bind(("0.0.0.0", crate::scenario::OUTPUT_PORT)).expect("a socket");
        let index = std::net::Ipv4Addr::new(10, 2, 0, 2);
        socket.join_multicast_v4(&"239.2.2.2".parse().expect("a group"), &index).expect("join");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        socket
    });
    let _ = send(&topology.sender, "eth0", "239.1.1.1", "--count 1").finish();
    let (_, from) = socket.recv_from(&mut [0; 2_000]).expect("a datagram");
    socket.send_to(b"answer", from).expect("an answer");
}

on_both_backends! {
    fn a_worker_does_all_that_it_does(io) {
        let topology = Topology::sender_relay_receiver();
        let daemon = Daemon::start(&topology.relay, io, &json!({"rules": [first_rule()]}).to_string());
        daemon.wait_until_active(1);
        let pid = pid_of(&worker_of(&daemon, "eth0"));
        for level in ["trace", "info"] {
            daemon.ctl_json(&["log-level", "set", level]);
            let enabled = daemon.ctl(&["trace", "enable", "first"]);
            assert_eq!(enabled.code, 0, "{enabled:?}");
            relays(&topology, 500);
            load(&daemon, MANY_RULES);
            relays(&topology, 500);
            load(&daemon, 0);
            daemon.wait_until_active(1);
            let disabled = daemon.ctl(&["trace", "disable", "first"]);
            assert_eq!(disabled.code, 0, "{disabled:?}");
        }

        let process = PidFd::open(pid).expect("the worker");
        process.kill(Signal::STOP).expect("stop it");
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| relays(&topology, 500));
            wait_until("it was away", DEADLINE, {
                let since = mcr_sys::clock::monotonic();
                move || mcr_sys::clock::monotonic() - since > STOPPED
            });
            process.kill(Signal::CONT).expect("continue it");
            sending.join().expect("all of them arrive");
        });

        // ICMP errors in the error queue, and a datagram that comes back.
        reply(&topology);
        wait_for("a reply, and refusals", DEADLINE, || {
            relays(&topology, 10);
            let stats = daemon.ctl_json(&["stats"]);
            let output = |group: &str| {
                let outputs = stats["rules"][0]["outputs"].as_array().into_iter().flatten();
                outputs.into_iter().find(|output| output["group"] == group).cloned().unwrap_or_default()
            };
            let refused = stats["drops"]["refused"].as_u64() > Some(0);
            let replied = output("239.2.2.2")["replies"].as_u64() > Some(0);
            if refused && replied { Ok(()) } else { Err(stats["rules"][0].clone()) }
        });
        let stats = daemon.settled_stats();
        assert_accounting(&stats);
        assert!(packets_of(&stats, "ff15::2") > 2_000, "{stats:#}");
        let worker = worker_of(&daemon, "eth0");
        assert_eq!((pid_of(&worker), worker["restarts"].as_u64()), (pid, Some(0)), "{worker:#}");
    }
}
