//! R14: an interface is deleted and made anew under the same name, which is another interface to the kernel. It is a
//! macvlan here, so that the cable below it stays.

use std::time::Duration;

use mcr_sys::clock::monotonic;
use mcr_testnet::{Daemon, Host, Topology, assert_accounting, wait_for};
use serde_json::{Value, json};

use super::probe::{Listener, Sender};
use super::{
    DEADLINE, assert_gapless, assert_within, descriptors, faults, memory_kib, packet_sockets, processes,
    wait_for_output, wait_until_pending,
};
use crate::scenario::{input, input_on, output, output_on, relay, rule};

const PROMISED: Duration = Duration::from_millis(250);
/// More than an allocator's whims, less than 100 times anything that could be forgotten.
const MEMORY_SLACK_KIB: u64 = 2048;

fn make(host: &Host, name: &str, lower: &str, address: Option<&str>) {
    host.setup(name, |links| {
        links.create_macvlan(name, lower)?;
        links.disable_automatic_ipv6(name)
    });
    host.set_up(name, true);
    if let Some(address) = address {
        host.add_address(name, address);
    }
}

/// What must be the same after all as before.
#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    supervisor: usize,
    workers: Vec<usize>,
    packet_sockets: usize,
}

fn holdings(topology: &Topology, daemon: &Daemon) -> Holdings {
    Holdings {
        supervisor: descriptors(&json!(daemon.pid())),
        workers: processes(daemon).iter().map(|(_, pid, _)| descriptors(pid)).collect(),
        packet_sockets: packet_sockets(&topology.relay),
    }
}

/// Makes the interface anew many times and compares.
fn repeat(topology: &Topology, daemon: &Daemon, mut once: impl FnMut(u64) -> Duration) -> Vec<Duration> {
    let held = holdings(topology, daemon);
    // The first times fill what an allocator keeps.
    let mut times: Vec<Duration> = (0..2).map(&mut once).collect();
    let memory = memory_kib(daemon.pid());
    times.extend((0..faults()).map(once));
    wait_for("the same descriptors and sockets as before", DEADLINE, || {
        let now = holdings(topology, daemon);
        if now == held { Ok(()) } else { Err((now, holdings(topology, daemon))) }
    });
    let grown = memory_kib(daemon.pid()).saturating_sub(memory);
    println!("{held:?}, memory {memory} KiB grew by {grown} KiB");
    assert!(grown <= MEMORY_SLACK_KIB, "memory grew by {grown} KiB");
    times
}

on_both_backends! {
    fn an_input_is_deleted_and_made_anew(io) {
        let topology = Topology::sender_relay_receiver();
        make(&topology.relay, "mv", "eth0", None);
        let daemon = relay(&topology, io, &[rule(input_on("mv", "239.1.1.1"), [output("239.2.2.1")])]);
        let listener = Listener::start(&topology.receiver, "eth0", "239.2.2.1");
        let sender = Sender::start(&topology.sender, &["10.1.0.1"], &["239.1.1.1"]);
        listener.first_after(monotonic());
        let times = repeat(&topology, &daemon, |fault| {
            topology.relay.delete("mv");
            if fault % 2 == 0 {
                assert_eq!(wait_until_pending(&daemon, 0), "interface mv does not exist");
            }
            make(&topology.relay, "mv", "eth0", None);
            listener.back_after(monotonic())
        });
        assert_within("R14 input re-created", PROMISED, times);
        let sent = sender.finish();
        let stats = daemon.settled_stats();
        assert_accounting(&stats);
        let counted = stats["rules"][0]["packets"].as_u64().expect("a count");
        let arrived = listener.arrivals().len() as u64;
        assert!(arrived <= counted && counted <= sent, "{arrived} ≤ {counted} ≤ {sent}: {stats:#}");
    }

    fn an_output_is_deleted_and_made_anew(io) {
        let topology = Topology::sender_relay_receiver();
        topology.add_output(1);
        make(&topology.relay, "mv", "eth1", Some("10.2.0.77/24"));
        let outputs = [output_on("mv", "239.2.2.1"), output_on("out1", "239.2.2.2")];
        let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), outputs)]);
        let before: Vec<(Value, Value, Value)> = processes(&daemon);
        let listener = Listener::start(&topology.receiver, "eth0", "239.2.2.1");
        let other = Listener::start(&topology.receiver, "eth1", "239.2.2.2");
        let sender = Sender::start(&topology.sender, &["10.1.0.1"], &["239.1.1.1"]);
        listener.first_after(monotonic());
        let times = repeat(&topology, &daemon, |fault| {
            topology.relay.delete("mv");
            if fault % 2 == 0 {
                assert_eq!(wait_for_output(&daemon, 0, "pending"), "interface mv does not exist");
            }
            make(&topology.relay, "mv", "eth1", Some("10.2.0.77/24"));
            listener.back_after(monotonic())
        });
        assert_within("R14 output re-created", PROMISED, times);
        crate::network_changes::assert_untouched(&daemon, &before);
        sender.finish();
        assert_accounting(&daemon.settled_stats());
        assert_gapless("the other output", &other);
    }
}
