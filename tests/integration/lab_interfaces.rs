//! Types of interfaces that the kernel of a test machine may lack; where it does, the test says so and ends.
//! `cargo xtask lab` runs these tests on kernels that have all of them.

use mcr_testnet::{Daemon, Host, IoBackend, Topology, assert_accounting};
use serde_json::{Value, json};

use crate::scenario::{
    assert_received, input, input_on, output, output_on, packets_of, recv, relay, rule, send,
    stats_without_drops, with,
};

mod paths;
mod tunnels;

const GROUPS: [(&str, &str); 2] = [("239.1.1.1", "239.2.2.1"), ("ff15::1:1", "ff15::2:1")];
/// Of each stream.
const DATAGRAMS: u64 = 200;
/// So that a slow machine loses nothing, and tunnels don't make fragments.
const RATE: &str = "--rate 1000 --size 1000";

/// Runs `ip` with these arguments.
pub(crate) fn ip(host: &Host, line: &str) {
    run(host, &format!("ip {line}"));
}

/// Runs a program with these arguments.
pub(crate) fn run(host: &Host, line: &str) {
    let mut words = line.split_whitespace();
    let output = host.output(words.next().unwrap_or_default(), &words.collect::<Vec<_>>());
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `ip` or `tc` to create what a kernel may not have. If it does not have it, prints that and returns false.
pub(crate) fn creates(host: &Host, line: &str) -> bool {
    let mut words = line.split_whitespace();
    let output = host.output(words.next().unwrap_or_default(), &words.collect::<Vec<_>>());
    let error = String::from_utf8_lossy(&output.stderr);
    let lacking = ["Unknown device type", "Operation not supported", "qdisc kind is unknown"];
    if lacking.iter().any(|words| error.contains(words)) {
        println!("skipped: this kernel can't do `{line}`: {}", error.trim());
        return false;
    }
    assert!(output.status.success(), "{line}: {error}");
    true
}

/// Sends a stream of [`DATAGRAMS`] to a group on an interface of the sender.
fn stream(topology: &Topology, interface: &str, group: &str) {
    let report = send(&topology.sender, interface, group, &format!("--count {DATAGRAMS} {RATE}")).finish();
    assert_eq!(report["sent"], DATAGRAMS, "{report:#}");
}

/// Relays a stream of each family from an interface of the sender to one of the receiver. All of it arrives.
fn passes(topology: &Topology, io: IoBackend, from: (&str, &str), to: (&str, &str)) -> Value {
    let ((sender, input), (output, receiver)) = (from, to);
    let rules = GROUPS.map(|(group, relayed)| rule(input_on(input, group), [output_on(output, relayed)]));
    let daemon = relay(topology, io, &rules);
    for (group, relayed) in GROUPS {
        let arriving = recv(&topology.receiver, receiver, relayed, &format!("--count {DATAGRAMS}"));
        stream(topology, sender, group);
        assert_received(&arriving.finish(), DATAGRAMS);
    }
    stats_without_drops(&daemon)
}

/// An interface on top of `eth0` of the sender and the relay, `line` with `HOST` for the number of the host, up and with
/// addresses of 10.`network`.0.0/24.
fn on_both(topology: &Topology, name: &str, network: u8, line: &str) -> bool {
    for (host, number) in [(&topology.sender, 1), (&topology.relay, 2)] {
        if !creates(host, line) {
            return false;
        }
        ready(host, name, network, number);
    }
    true
}

/// Sets an interface up, with an address of each family.
fn ready(host: &Host, name: &str, network: u8, number: u8) {
    host.setup(name, |links| links.disable_automatic_ipv6(name));
    host.add_address(name, &format!("10.{network}.0.{number}/24"));
    host.add_address(name, &format!("fd{network:02x}::{number}/64"));
    host.add_address(name, &format!("fe80::{network:x}:{number}/64"));
    host.set_up(name, true);
}

on_both_backends! {
    /// Each VLAN is an interface of its own; what is tagged is not taken for what is not, nor for another VLAN.
    fn vlans_are_kept_apart(io) {
        let topology = Topology::sender_relay_receiver();
        for (name, id, network) in [("eth0.7", 7, 67), ("eth0.8", 8, 68)] {
            if !on_both(&topology, name, network, &format!("ip link add {name} link eth0 type vlan id {id}")) {
                return;
            }
        }
        for (host, lower, number) in [(&topology.relay, "eth1", 1), (&topology.receiver, "eth0", 2)] {
            ip(host, &format!("link add link {lower} name {lower}.9 type vlan id 9"));
            ready(host, &format!("{lower}.9"), 69, number);
        }
        let daemon = relay(&topology, io, &[
            rule(input("239.1.1.1"), [output_on("eth1.9", "239.2.2.1")]),
            rule(input_on("eth0.7", "239.1.1.1"), [output_on("eth1.9", "239.2.2.7")]),
            rule(input_on("eth0.7", "ff15::1"), [output_on("eth1.9", "ff15::7")]),
        ]);
        let receivers = ["239.2.2.1", "239.2.2.7", "ff15::7"]
            .map(|group| recv(&topology.receiver, "eth0.9", group, &format!("--count {DATAGRAMS}")));
        for (interface, group) in [("eth0.8", "239.1.1.1"), ("eth0", "239.1.1.1"), ("eth0.7", "239.1.1.1"), ("eth0.7", "ff15::1")] {
            stream(&topology, interface, group);
        }
        for receiver in receivers {
            assert_received(&receiver.finish(), DATAGRAMS);
        }
        let stats = stats_without_drops(&daemon);
        for group in ["239.2.2.1", "239.2.2.7", "ff15::7"] {
            assert_eq!(packets_of(&stats, group), DATAGRAMS, "{group}: {stats:#}");
        }
    }

    /// A bond is an input and an output; when its active port loses carrier, the other takes over, and the rule goes on.
    fn a_bond_goes_on_with_its_other_port(io) {
        let topology = Topology::sender_relay_receiver();
        topology.add_input(1);
        for (host, second, number) in [(&topology.sender, "eth1", 1), (&topology.relay, "in1", 2)] {
            if !creates(host, "ip link add bond0 type bond mode active-backup miimon 20") {
                return;
            }
            for port in ["eth0", second] {
                host.set_up(port, false);
                ip(host, &format!("link set {port} master bond0"));
            }
            // Else it is the one whose carrier is seen first, which may be another one at each end.
            ip(host, "link set bond0 type bond primary eth0");
            ready(host, "bond0", 70, number);
        }
        let daemon = relay(&topology, io, &[rule(input_on("bond0", "239.1.1.1"), [output("239.2.2.1")])]);
        let active = |host: &Host| {
            let shown = host.output("ip", &["-d", "link", "show", "bond0"]);
            let words = String::from_utf8_lossy(&shown.stdout).into_owned();
            words.split_whitespace().skip_while(|word| *word != "active_slave").nth(1).map(str::to_owned)
        };
        for port in ["eth0", "in1"] {
            mcr_testnet::wait_for("the active port", std::time::Duration::from_secs(20), || {
                let relay = active(&topology.relay);
                let far = active(&topology.sender);
                let is_up = |number: &str| (relay.as_deref() == Some(port)) && far.as_deref() == Some(number);
                if is_up(if port == "eth0" { "eth0" } else { "eth1" }) { Ok(()) } else { Err((relay, far)) }
            });
            daemon.wait_until_active(1);
            let receiver = recv(&topology.receiver, "eth0", "239.2.2.1", &format!("--count {DATAGRAMS}"));
            stream(&topology, "bond0", "239.1.1.1");
            assert_received(&receiver.finish(), DATAGRAMS);
            // Its carrier goes at both ends.
            topology.relay.set_up("eth0", false);
        }
        assert_eq!(packets_of(&stats_without_drops(&daemon), "239.2.2.1"), 2 * DATAGRAMS);
    }

    /// Input and output are in VRFs, each with a routing table of its own.
    fn interfaces_in_vrfs(io) {
        let topology = Topology::sender_relay_receiver();
        let relay_host = &topology.relay;
        for (vrf, table, port) in [("red", 10, "eth0"), ("blue", 20, "eth1")] {
            if !creates(relay_host, &format!("ip link add {vrf} type vrf table {table}")) {
                return;
            }
            relay_host.set_up(vrf, true);
            ip(relay_host, &format!("link set {port} master {vrf}"));
        }
        // The kernel removed them when the interfaces changed their table.
        for (port, address) in [("eth0", "fd01::2/64"), ("eth1", "fd02::1/64"), ("eth0", "fe80::1:0:99/64"), ("eth1", "fe80::2:0:99/64")] {
            ip(relay_host, &format!("address replace {address} dev {port} nodad"));
        }
        passes(&topology, io, ("eth0", "eth0"), ("eth1", "eth0"));
    }

    /// ipvlan in L2 mode takes multicast by the groups joined on it.
    fn an_ipvlan_in_l2_mode_is_an_input(io) {
        let topology = Topology::sender_relay_receiver();
        if !creates(&topology.relay, "ip link add iv0 link eth0 type ipvlan mode l2") {
            return;
        }
        ready(&topology.relay, "iv0", 71, 2);
        passes(&topology, io, ("eth0", "iv0"), ("eth1", "eth0"));
    }

    /// ipvlan in L3 mode carries no multicast: `explain` says so, and what is unicast leaves.
    fn an_ipvlan_in_l3_mode_is_an_output_for_unicast_only(io) {
        let topology = Topology::sender_relay_receiver();
        if !creates(&topology.relay, "ip link add iv1 link eth1 type ipvlan mode l3") {
            return;
        }
        topology.relay.set_up("iv1", true);
        topology.relay.add_address("iv1", "10.2.0.99/24");
        // The answer to an ARP request would reach the ipvlan, which does not use ARP.
        let receiver = topology.receiver.output("ip", &["-o", "link", "show", "eth0"]).stdout;
        let receiver = String::from_utf8_lossy(&receiver).into_owned();
        let mac = receiver.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).expect("a MAC address");
        ip(&topology.relay, &format!("neighbor replace 10.2.0.2 lladdr {mac} dev eth1"));
        let unicast = with(rule(input("239.1.1.1"), [output_on("iv1", "10.2.0.2")]), "name", "unicast");
        let multicast = with(rule(input("239.1.1.2"), [output_on("iv1", "239.2.2.2")]), "name", "multicast");
        let daemon = Daemon::start(&topology.relay, io, &json!({"rules": [unicast, multicast]}).to_string());
        daemon.wait_until_active(1);
        let receiver = recv(&topology.receiver, "eth0", "10.2.0.2", &format!("--count {DATAGRAMS}"));
        stream(&topology, "eth0", "239.1.1.1");
        assert_received(&receiver.finish(), DATAGRAMS);
        let explained = daemon.ctl_json(&["explain", "multicast"]).to_string();
        assert!(explained.contains("output_no_multicast"), "{explained}");
        assert_accounting(&daemon.settled_stats());
    }

    /// What goes to a dummy is sent; what the host sends there is an input by `local`.
    fn a_dummy_is_output_and_local_input(io) {
        let topology = Topology::sender_relay_receiver();
        let host = &topology.relay;
        if !creates(host, "ip link add dummy0 type dummy") {
            return;
        }
        ready(host, "dummy0", 72, 1);
        let local = with(input_on("dummy0", "239.1.1.2"), "local", true);
        let rules =
            [rule(input("239.1.1.1"), [output_on("dummy0", "239.3.3.3")]), rule(local, [output("239.2.2.2")])];
        let daemon = relay(&topology, io, &rules);
        let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", &format!("--count {DATAGRAMS}"));
        stream(&topology, "eth0", "239.1.1.1");
        let _ = send(host, "dummy0", "239.1.1.2", &format!("--count {DATAGRAMS} {RATE}")).finish();
        assert_received(&receiver.finish(), DATAGRAMS);
        let stats = stats_without_drops(&daemon);
        assert_eq!((packets_of(&stats, "239.3.3.3"), packets_of(&stats, "239.2.2.2")), (DATAGRAMS, DATAGRAMS));
    }
}
