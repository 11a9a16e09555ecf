//! What remains to a worker that was taken over: datagrams from its egress sockets. A firewall rule limits them to the outputs:
//! by the user or by the mark of the sockets (SECURITY.md).

use std::io::Write;
use std::process::Stdio;

use mcr_sys::test_env::tracer::{Outcome, RingMemory, Traced};
use mcr_sys::test_env::without_capability;
use mcr_testnet::{Daemon, Host, IoBackend, Topology};
use serde_json::json;

use super::attempts::egress_socket;
use super::{SIGSYS, pid_of, worker_of};
use crate::lacking::has_firewall;
use crate::scenario::{OUTPUT_PORT, assert_received, input, output, recv, relay, rule, send, with};

const SENDMMSG: i64 = 307;
const SETSOCKOPT: i64 = 54;
const SOL_SOCKET: u64 = 1;
const SO_MARK: u64 = 36;
const EPERM: i64 = 1;
const CAP_NET_ADMIN: u8 = 12;
const MARK: u32 = 0x4d43;
/// The relay's output, and an address of no output.
const ALLOWED: [u8; 4] = [239, 2, 2, 2];
const OTHER: [u8; 4] = [239, 9, 9, 9];

/// As in SECURITY.md: rules for what has the user or the mark of egress sockets.
fn load_rules(host: &Host, rules: &[&str]) {
    let text = format!(
        "table inet mcr {{\nchain output {{\ntype filter hook output priority 0;\n{}\n}}\n}}\n",
        rules.join("\n")
    );
    let mut command = host.command("nft");
    let mut nft = command.args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft");
    nft.stdin.take().expect("its input").write_all(text.as_bytes()).expect("write");
    assert!(nft.wait().expect("its end").success(), "{text}");
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Ancillary data (`struct cmsghdr`): length, level and type, and up to two words.
fn control(level: u64, kind: u64, bytes: u64, content: &[u64]) -> Vec<u8> {
    [words(&[16 + bytes, level | kind << 32]), words(content)].concat()
}

/// No mark for this datagram.
fn no_mark() -> Vec<u8> {
    control(SOL_SOCKET, SO_MARK, 4, &[0])
}

/// Through another interface (`IP_PKTINFO`), which overrides the socket's.
fn through(ifindex: u32) -> Vec<u8> {
    const IP_PKTINFO: u64 = 8;
    control(0, IP_PKTINFO, 12, &[ifindex.into(), 0])
}

/// A message from inside to this destination, with ancillary data, in scratch memory. Returns the place of its header.
fn write_message(traced: &Traced, (address, port): ([u8; 4], u16), control: &[u8]) -> u64 {
    let at = traced.scratch();
    traced.write(at, b"payload").expect("write");
    traced.write(at + 64, &words(&[at, 7])).expect("write");
    // `struct sockaddr_in`.
    let name = [&2_u16.to_ne_bytes()[..], &port.to_be_bytes(), &address, &[0; 8]].concat();
    traced.write(at + 128, &name).expect("write");
    traced.write(at + 192, control).expect("write");
    let length = control.len() as u64;
    let pointer = if control.is_empty() { 0 } else { at + 192 };
    // `struct mmsghdr`.
    traced.write(at + 256, &words(&[at + 128, 16, at + 64, 1, pointer, length, 0, 0])).expect("write");
    at + 256
}

/// Sends a datagram from the worker's egress socket, as its own code could.
fn send_from_inside(pid: u32, to: ([u8; 4], u16), control: &[u8]) -> Outcome {
    let mut traced = Traced::attach(pid).expect("attach");
    let header = write_message(&traced, to, control);
    traced.call(SENDMMSG, [egress_socket(pid), header, 1, 0, 0, 0]).expect("a call")
}

fn assert_the_stream_passes(topology: &Topology) {
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "--idle 1");
    let sent = send(&topology.sender, "eth0", "239.1.1.1", "--count 100 --rate 1000").finish();
    assert_eq!(sent["sent"], 100, "{sent:#}");
    assert_received(&receiver.finish(), 100);
}

on_both_backends! {
    fn a_firewall_rule_limits_what_remains(io) {
        let topology = Topology::sender_relay_receiver();
        if !has_firewall(&topology.relay, "inet") {
            return;
        }
        let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), [output("239.2.2.2")])]);
        let pid = pid_of(&worker_of(&daemon, "eth0"));
        let forge = || send_from_inside(pid, (ALLOWED, 7_777), &[]);
        assert_eq!(forge(), Outcome::Returned(1), "this is what remains");
        // Sockets belong to the user that opened them, which is the supervisor's.
        let port = format!("meta skuid 0 meta l4proto udp udp dport != {{ {OUTPUT_PORT} }} drop");
        load_rules(&topology.relay, &[&port]);
        assert_eq!(forge(), Outcome::Returned(-EPERM), "no other port any more");
        assert_the_stream_passes(&topology);
        assert_eq!(pid_of(&worker_of(&daemon, "eth0")), pid, "the worker goes on");
        daemon.settled_stats();
    }

    /// `settings.egress_mark`: set and changed while the worker runs, and by nobody else.
    fn a_mark_pins_what_remains(io) {
        let topology = Topology::sender_relay_receiver();
        if !has_firewall(&topology.relay, "inet") {
            return;
        }
        let rules = [rule(input("239.1.1.1"), [output("239.2.2.2")])];
        // CAP_NET_RAW is enough.
        let config = json!({"rules": rules}).to_string();
        let mut daemon = Daemon::start_with(&topology.relay, &config, |command| {
            command.env("MCRD_IO", io.as_str());
            without_capability(command, CAP_NET_ADMIN);
        });
        daemon.wait_until_active(1);
        daemon.expect_sandbox_kills();
        let pid = pid_of(&worker_of(&daemon, "eth0"));
        let of_mark = format!("meta mark {MARK}");
        load_rules(&topology.relay, &[
            &format!("{of_mark} oifname != {{ \"eth1\" }} drop"),
            &format!("{of_mark} ip daddr != {{ 239.2.2.2 }} drop"),
            &format!("{of_mark} udp dport != {{ {OUTPUT_PORT} }} drop"),
        ]);
        assert_eq!(send_from_inside(pid, (OTHER, OUTPUT_PORT), &[]), Outcome::Returned(1), "no mark yet");
        let elsewhere = &through(topology.relay.index("eth0").to_raw());
        let leave = || send_from_inside(pid, (ALLOWED, OUTPUT_PORT), elsewhere);
        assert_eq!(leave(), Outcome::Returned(1), "through another interface");

        load_mark(&daemon, &rules, MARK);
        assert_eq!(pid_of(&worker_of(&daemon, "eth0")), pid, "new sockets, the same worker");
        assert_eq!(send_from_inside(pid, (OTHER, OUTPUT_PORT), &[]), Outcome::Returned(-EPERM), "address");
        assert_eq!(send_from_inside(pid, (ALLOWED, 7_777), &[]), Outcome::Returned(-EPERM), "port");
        assert_eq!(leave(), Outcome::Returned(-EPERM), "interface");
        assert_the_stream_passes(&topology);

        // It can't be taken off: not for a datagram, which would pass the firewall, and not from the socket.
        let without = &no_mark();
        assert_eq!(send_from_inside(pid, (ALLOWED, OUTPUT_PORT), without), Outcome::Returned(-EPERM));
        if io == IoBackend::Uring {
            assert_eq!(submit_from_inside(pid, (ALLOWED, OUTPUT_PORT), without), -EPERM);
            // The same message without ancillary data shows that the egress socket was asked.
            assert_eq!(submit_from_inside(pid, (ALLOWED, OUTPUT_PORT), &[]), 7);
        }
        let mut traced = Traced::attach(pid).expect("attach");
        let zero = traced.scratch();
        traced.write(zero, &[0; 4]).expect("write");
        let outcome = traced.call(SETSOCKOPT, [egress_socket(pid), SOL_SOCKET, SO_MARK, zero, 4, 0]);
        assert_eq!(outcome.expect("a call"), Outcome::Killed(SIGSYS));
        drop(traced);
        daemon.wait_until_active(1);
        assert_the_stream_passes(&topology);
        daemon.settled_stats();
    }
}

fn load_mark(daemon: &Daemon, rules: &[serde_json::Value], mark: u32) {
    let config = with(json!({"rules": rules}), "settings", json!({"egress_mark": mark}));
    let file = daemon.directory().join("marked.json5");
    std::fs::write(&file, config.to_string()).expect("write a file");
    let answer = daemon.ctl(&["load", "--replace", file.to_str().expect("an UTF-8 path")]);
    assert_eq!(answer.code, 0, "{answer:?} {}", daemon.log());
}

/// Sends a datagram through the worker's ring, on the egress socket that it registered last.
fn submit_from_inside(pid: u32, to: ([u8; 4], u16), control: &[u8]) -> i64 {
    const SENDMSG: u8 = 9;
    const FIXED_FILE: u8 = 1;
    let ring = RingMemory::of(pid).expect("a ring");
    let mut traced = Traced::attach(pid).expect("attach");
    let header = write_message(&traced, to, control);
    // Places 0 and 1 are the capture socket and the channel; the socket without a mark was the third, and is gone.
    let place = 3_u32;
    let mut entry = [0_u8; 64];
    (entry[0], entry[1]) = (SENDMSG, FIXED_FILE);
    entry[4..8].copy_from_slice(&place.to_ne_bytes());
    entry[16..24].copy_from_slice(&header.to_ne_bytes());
    entry[24..28].copy_from_slice(&1_u32.to_ne_bytes());
    traced.submit(&ring, &entry).expect("a result").into()
}
