//! What remains to a worker that was taken over: datagrams from its egress sockets. A firewall rule limits them to the outputs'
//! ports (SECURITY.md).

use std::io::Write;
use std::process::Stdio;

use mcr_sys::test_env::tracer::{Outcome, Traced};
use mcr_testnet::{Host, Topology};

use super::attempts::egress_socket;
use super::{pid_of, worker_of};
use crate::lacking::has_firewall;
use crate::scenario::{OUTPUT_PORT, assert_received, input, output, recv, relay, rule, send};

const SENDMMSG: i64 = 307;
const EPERM: i64 = 1;

/// As in SECURITY.md: sockets belong to the user that opened them, which is the supervisor's.
fn rules() -> String {
    format!(
        "table inet mcr {{\nchain output {{\ntype filter hook output priority 0;\n\
         meta skuid 0 meta l4proto udp udp dport != {{ {OUTPUT_PORT} }} drop\n}}\n}}\n"
    )
}

fn load_rules(host: &Host) {
    let mut command = host.command("nft");
    let mut nft = command.args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft");
    nft.stdin.take().expect("its input").write_all(rules().as_bytes()).expect("write");
    assert!(nft.wait().expect("its end").success());
}

/// Sends a datagram to a port from the worker's egress socket, as its own code could.
fn send_from_inside(pid: u32, port: u16) -> Outcome {
    let mut traced = Traced::attach(pid).expect("attach");
    let at = traced.scratch();
    traced.write(at, b"payload").expect("write");
    let vector = [at.to_ne_bytes(), 7_u64.to_ne_bytes()].concat();
    traced.write(at + 64, &vector).expect("write");
    // `struct sockaddr_in`.
    let address = [&2_u16.to_ne_bytes()[..], &port.to_be_bytes(), &[239, 2, 2, 2], &[0; 8]].concat();
    traced.write(at + 128, &address).expect("write");
    let header = [at + 128, 16, at + 64, 1, 0, 0, 0, 0].map(u64::to_ne_bytes).concat();
    traced.write(at + 256, &header).expect("write");
    traced.call(SENDMMSG, [egress_socket(pid), at + 256, 1, 0, 0, 0]).expect("a call")
}

on_both_backends! {
    fn a_firewall_rule_limits_what_remains(io) {
        let topology = Topology::sender_relay_receiver();
        if !has_firewall(&topology.relay, "inet") {
            return;
        }
        let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), [output("239.2.2.2")])]);
        let pid = pid_of(&worker_of(&daemon, "eth0"));
        assert_eq!(send_from_inside(pid, 7_777), Outcome::Returned(1), "this is what remains");
        load_rules(&topology.relay);
        assert_eq!(send_from_inside(pid, 7_777), Outcome::Returned(-EPERM), "no other port any more");
        let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "--idle 1");
        let sent = send(&topology.sender, "eth0", "239.1.1.1", "--count 100 --rate 1000").finish();
        assert_eq!(sent["sent"], 100, "{sent:#}");
        assert_received(&receiver.finish(), 100);
        assert_eq!(pid_of(&worker_of(&daemon, "eth0")), pid, "the worker goes on");
    }
}
