//! Groups are joined where rules want them, whatever their number, and left when the last rule goes. What is joined is
//! read from the kernel's own lists in the relay's namespace.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use mcr_sys::filter::{FilterDestination, FilterProgram};
use mcr_sys::membership::{Membership, MembershipPool};
use mcr_sys::packet::{Capture, CaptureOptions, Fanout};
use mcr_testnet::{Daemon, Generator, Host, IoBackend, Topology, wait_for};
use serde_json::{Value, json};

use crate::scenario::{
    INPUT_PORT, assert_received, input, input_on, nth, output, recv, relay, rule, send, with,
};

const DEADLINE: Duration = Duration::from_secs(10);

type Groups = BTreeSet<IpAddr>;

fn groups_of<'a>(names: impl IntoIterator<Item = &'a str>) -> Groups {
    names.into_iter().map(|name| name.parse().unwrap()).collect()
}

/// A file of /proc/net as it is on a host.
fn proc_net(host: &Host, file: &str) -> String {
    host.run(|| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap())
}

/// The groups that programs joined on an interface; those of link scope are the kernel's own.
fn joined(host: &Host, interface: &str) -> Groups {
    let index = host.index(interface).to_raw();
    let mut groups = Groups::new();
    let mut current = 0;
    for line in proc_net(host, "igmp").lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if line.starts_with(|first: char| first.is_ascii_digit()) {
            current = fields[0].parse().unwrap();
        } else if current == index {
            groups.insert(u32::from_str_radix(fields[0], 16).unwrap().to_ne_bytes().into());
        }
    }
    for line in proc_net(host, "igmp6").lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields[0].parse() == Ok(index) {
            groups.insert(u128::from_str_radix(fields[2], 16).unwrap().to_be_bytes().into());
        }
    }
    groups.retain(|group| match group {
        IpAddr::V4(group) => group.octets()[..3] != [224, 0, 0],
        IpAddr::V6(group) => !matches!(group.segments()[0], 0xff01 | 0xff02),
    });
    groups
}

/// The pairs of group and source that the kernel asks for on an interface.
fn sources(host: &Host, interface: &str) -> BTreeSet<(IpAddr, IpAddr)> {
    let ifindex = host.index(interface);
    let index = ifindex.to_raw();
    // The kernel lists nothing of an interface whose latest group has no source (`igmp_mcf_get_first`), so the latest gets one.
    let latest = [("232.255.0.1", "192.0.2.1"), ("ff35::ffff", "2001:db8::1")].map(|(group, source)| {
        Membership { ifindex, group: group.parse().unwrap(), source: Some(source.parse().unwrap()) }
    });
    let mut pool = MembershipPool::default();
    host.run(|| latest.iter().for_each(|membership| pool.join(*membership).unwrap()));
    let four =
        |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).unwrap().to_be_bytes().into();
    let six = |text: &str| u128::from_str_radix(text, 16).unwrap().to_be_bytes().into();
    let read = |file: &str, address: &dyn Fn(&str) -> IpAddr| -> Vec<(IpAddr, IpAddr)> {
        let text = proc_net(host, file);
        let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        // The interface, its name, the group, the source, how many include and exclude it.
        let ours = lines.filter(|fields| fields[0].parse() == Ok(index) && fields[4] != "0");
        ours.map(|fields| (address(fields[2]), address(fields[3]))).collect()
    };
    let all = read("mcfilter", &four).into_iter().chain(read("mcfilter6", &six));
    all.filter(|(group, _)| latest.iter().all(|membership| membership.group != *group)).collect()
}

fn wait_until_joined(host: &Host, interface: &str, expected: &Groups) {
    wait_for("the memberships", DEADLINE, || {
        let groups = joined(host, interface);
        if groups == *expected { Ok(()) } else { Err(groups) }
    });
}

fn id_of_rule(daemon: &Daemon, place: usize) -> String {
    daemon.ctl_json(&["list"])["rules"][place]["id"].as_str().unwrap().to_owned()
}

fn remove(daemon: &Daemon, place: usize) {
    let id = id_of_rule(daemon, place);
    let output = daemon.ctl(&["remove", "--id", &id]);
    assert_eq!(output.code, 0, "{output:?}");
}

/// Fact 21: ten times as many as one socket takes, with the system as it is.
#[test]
fn two_hundred_groups_on_one_interface() {
    for (first_input, first_output) in [("239.1.1.1", "239.2.2.1"), ("ff15::1:1", "ff15::2:1")] {
        let topology = Topology::sender_relay_receiver();
        let limit = "/proc/sys/net/ipv4/igmp_max_memberships";
        let before = topology.relay.run(|| std::fs::read_to_string(limit).unwrap());
        assert_eq!(before.trim(), "20", "a system with another default proves less");
        let numbers = 0..200;
        let rules: Vec<Value> = numbers
            .clone()
            .map(|number| rule(input(nth(first_input, number)), [output(nth(first_output, number))]))
            .collect();
        let mut daemon = relay(&topology, IoBackend::Recvmmsg, &rules);
        let all: Groups = numbers.map(|number| nth(first_input, number).parse().unwrap()).collect();
        assert_eq!(joined(&topology.relay, "eth0"), all);
        let memberships = daemon.ctl_json(&["memberships"]);
        let listed = memberships["memberships"].as_array().unwrap();
        assert_eq!(listed.len(), 200);
        assert!(listed.iter().all(|one| one["joined"] == json!(true)), "{memberships:#}");
        assert_eq!(topology.relay.run(|| std::fs::read_to_string(limit).unwrap()), before, "a sysctl");
        assert!(daemon.terminate().success());
        assert_eq!(joined(&topology.relay, "eth0"), Groups::new());
    }
}

#[test]
fn a_group_is_left_with_its_last_rule_and_the_others_stay() {
    let topology = Topology::sender_relay_receiver();
    let other_port = with(input("239.1.1.1"), "port", 5001);
    let daemon = relay(
        &topology,
        IoBackend::Recvmmsg,
        &[
            rule(input("239.1.1.1"), [output("239.2.2.1")]),
            rule(other_port, [output("239.2.2.2")]),
            rule(input("239.1.1.3"), [output("239.2.2.3")]),
            rule(input("ff15::1"), [output("ff15::2")]),
        ],
    );
    let relay = &topology.relay;
    assert_eq!(joined(relay, "eth0"), groups_of(["239.1.1.1", "239.1.1.3", "ff15::1"]));
    remove(&daemon, 3);
    wait_until_joined(relay, "eth0", &groups_of(["239.1.1.1", "239.1.1.3"]));
    remove(&daemon, 0);
    remove(&daemon, 1);
    wait_until_joined(relay, "eth0", &groups_of(["239.1.1.1"]));
    remove(&daemon, 0);
    wait_until_joined(relay, "eth0", &Groups::new());
}

#[test]
fn all_groups_are_left_at_an_orderly_end() {
    let topology = Topology::sender_relay_receiver();
    let mut daemon = relay(
        &topology,
        IoBackend::Recvmmsg,
        &[
            rule(input("239.1.1.1"), [output("239.2.2.1")]),
            rule(with(input("232.1.1.1"), "sources", json!(["10.1.0.1"])), [output("239.2.2.2")]),
            rule(input("ff15::1"), [output("ff15::2")]),
        ],
    );
    assert_eq!(joined(&topology.relay, "eth0").len(), 3);
    assert!(daemon.terminate().success());
    assert_eq!(joined(&topology.relay, "eth0"), Groups::new());
    assert_eq!(sources(&topology.relay, "eth0"), BTreeSet::new());
}

/// The kernel joins the groups that neighbours ask in (RFC 4861 §2.3) some time after an address is given. Its list of
/// sources has nothing of an interface whose newest group has none, so these must be there before ours.
fn wait_for_solicited_node_groups(host: &Host, interface: &str, count: usize) {
    let index = host.index(interface).to_raw().to_string();
    wait_for("the kernel's own groups", DEADLINE, || {
        let text = proc_net(host, "igmp6");
        let ours = text.lines().filter(|line| line.split_whitespace().next() == Some(&index));
        let found = ours.filter(|line| line.contains("ff0200000000000000000001ff")).count();
        if found == count { Ok(()) } else { Err(text) }
    });
}

/// More sources than one socket takes, one group with and without sources in two rules, both families.
#[test]
fn sources_are_asked_for() {
    let topology = Topology::sender_relay_receiver();
    wait_for_solicited_node_groups(&topology.relay, "eth0", 2);
    let many: Vec<String> = (1..=25).map(|number| nth("10.1.0.0", number)).collect();
    let many_v6: Vec<String> = (1..=25).map(|number| nth("fd01::", number)).collect();
    let some = |group: &str, sources: &[String]| with(input(group), "sources", sources.to_vec());
    let daemon = relay(
        &topology,
        IoBackend::Recvmmsg,
        &[
            rule(some("232.1.1.1", &many), [output("239.2.2.1")]),
            rule(some("ff35::8000:1", &many_v6), [output("ff15::1")]),
            rule(some("232.1.1.2", &many[..1]), [output("239.2.2.2")]),
            rule(some("232.1.1.2", &many[1..2]), [output("239.2.2.3")]),
        ],
    );
    let pairs = |group: &str, sources: &[String]| -> BTreeSet<(IpAddr, IpAddr)> {
        sources.iter().map(|source| (group.parse().unwrap(), source.parse().unwrap())).collect()
    };
    let second = pairs("232.1.1.2", &many[..2]);
    let all = [pairs("232.1.1.1", &many), pairs("ff35::8000:1", &many_v6), second.clone()];
    assert_eq!(sources(&topology.relay, "eth0"), all.into_iter().flatten().collect());
    remove(&daemon, 0);
    remove(&daemon, 0);
    wait_for("the rest of the sources", DEADLINE, || {
        let left = sources(&topology.relay, "eth0");
        if left == second { Ok(()) } else { Err(left) }
    });
    remove(&daemon, 0);
    wait_for("one source", DEADLINE, || {
        let left = sources(&topology.relay, "eth0");
        if left == pairs("232.1.1.2", &many[1..2]) { Ok(()) } else { Err(left) }
    });
}

/// Fact 24: a new interface of the same name is another one for the kernel.
#[test]
fn a_re_created_interface_is_joined_again() {
    let topology = Topology::sender_relay_receiver();
    let segment = topology.add_input(1);
    let with_sources = with(input_on("in1", "232.1.1.1"), "sources", json!(["10.1.1.1"]));
    let daemon = relay(
        &topology,
        IoBackend::Recvmmsg,
        &[
            rule(input_on("in1", "239.1.1.1"), [output("239.2.2.1")]),
            rule(with_sources, [output("239.2.2.2")]),
            rule(input_on("in1", "ff15::1"), [output("ff15::2")]),
        ],
    );
    let expected = groups_of(["239.1.1.1", "232.1.1.1", "ff15::1"]);
    assert_eq!(joined(&topology.relay, "in1"), expected);
    let old = topology.relay.index("in1");
    topology.relay.delete("in1");
    assert_eq!(topology.add_input(1), segment);
    assert_ne!(topology.relay.index("in1"), old);
    wait_until_joined(&topology.relay, "in1", &expected);
    daemon.wait_until_active(3);
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.1", "--count 200");
    let _ = send(&topology.sender, "eth1", "239.1.1.1", "--count 200").finish();
    assert_received(&receiver.finish(), 200);
}

/// Sends until the kernel at the other end says that nobody is at the port.
fn wait_until_refused(sender: &UdpSocket) {
    wait_for("an ICMP port unreachable", DEADLINE, || match sender.send(b"x") {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

on_both_backends! {
    /// Fact 25: the kernel delivers to the port as well, and needs a listener there.
    fn a_unicast_input_is_not_answered_by_icmp(io) {
        let topology = Topology::sender_relay_receiver();
        for (source, address, group) in [("10.1.0.1", "10.1.0.2", "239.2.2.2"), ("fd01::1", "fd01::2", "ff15::2")] {
            let source: IpAddr = source.parse().unwrap();
            let to = |port: u16| {
                let address: IpAddr = address.parse().unwrap();
                topology.sender.run(|| {
                    let socket = UdpSocket::bind((source, 0)).unwrap();
                    socket.connect((address, port)).unwrap();
                    socket
                })
            };
            let daemon = relay(&topology, io, &[rule(input(address), [output(group)])]);
            let receiver = recv(&topology.receiver, "eth0", group, "--count 500");
            let sent = send(&topology.sender, "eth0", address, "--count 500").finish();
            assert_eq!(sent["errors"], 0, "{sent}");
            assert_received(&receiver.finish(), 500);
            let (wanted, closed) = (to(INPUT_PORT), to(INPUT_PORT + 7));
            wanted.send(b"one that nobody answers").unwrap();
            wait_until_refused(&closed);
            assert!(wanted.take_error().unwrap().is_none(), "{address}: the kernel answered");
            remove(&daemon, 0);
            wait_until_refused(&wanted);
        }
    }
}

/// An application on the relay that has the input's port keeps it, and the rule works beside it.
#[test]
fn a_program_that_owns_the_port_is_no_obstacle() {
    let topology = Topology::sender_relay_receiver();
    let owner = topology.relay.run(|| UdpSocket::bind(("10.1.0.2", INPUT_PORT)).unwrap());
    owner.set_read_timeout(Some(DEADLINE)).unwrap();
    let _daemon = relay(&topology, IoBackend::Recvmmsg, &[rule(input("10.1.0.2"), [output("239.2.2.2")])]);
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "--count 100");
    let _ = send(&topology.sender, "eth0", "10.1.0.2", "--count 100").finish();
    assert_received(&receiver.finish(), 100);
    assert!(owner.recv(&mut [0; 2000]).is_ok(), "the owner gets them too");
}

/// Fact 20: a switch that snoops sends a group only to ports that asked for it, and a capture socket does not ask.
#[test]
fn behind_a_snooping_switch_the_traffic_comes_because_of_the_join() {
    let topology = Topology::sender_relay_receiver();
    let (switch, bystander) = (Host::new("switch"), Host::new("bystander"));
    switch.setup("bridge", |links| links.create_bridge("bridge", true));
    for (host, name, address) in [
        (&topology.sender, "to_sender", "10.5.0.1/24"),
        (&topology.relay, "to_relay", "10.5.0.2/24"),
        (&bystander, "to_bystander", "10.5.0.3/24"),
    ] {
        switch.cable(name, host, "port");
        switch.setup(name, |links| links.set_master(name, Some("bridge")));
        host.add_address("port", address);
    }
    switch.set_up("bridge", true);
    let rules = [rule(input_on("port", "239.1.1.1"), [output("239.2.2.2")])];
    let daemon = relay(&topology, IoBackend::Recvmmsg, &rules);
    wait_until_switch_snoops(&topology.sender, &bystander);
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "--count 200");
    let _ = send(&topology.sender, "port", "239.1.1.1", "--count 200").finish();
    assert_received(&receiver.finish(), 200);
    drop(daemon);
}

/// Sends to the group until the host that did not join sees none of it, though it sees what is for all.
fn wait_until_switch_snoops(sender: &Host, bystander: &Host) {
    let destinations = ["239.1.1.1", "10.5.0.255"].map(|address| FilterDestination {
        address: address.parse().unwrap(),
        port: INPUT_PORT,
        promiscuous: false,
    });
    let ifindex = bystander.index("port");
    let [group, everybody] = destinations.map(|wanted| {
        let filter = &FilterProgram::for_destinations(&[wanted]);
        let options = CaptureOptions { ifindex, filter, receive_buffer_bytes: 1 << 20, fanout: Fanout::New };
        bystander.run(|| Capture::open(&options).unwrap().0)
    });
    let socket = sender.run(|| UdpSocket::bind(("10.5.0.1", 0)).unwrap());
    socket.set_broadcast(true).unwrap();
    // A switch floods until its querier has been there for the longest time an answer may take, 10 s by default.
    wait_for("a switch that snoops", 3 * DEADLINE, || {
        for FilterDestination { address, port, .. } in destinations {
            socket.send_to(b"x", (address, port)).unwrap();
        }
        wait_for("the broadcast", DEADLINE, || match everybody.statistics().unwrap().packets {
            0 => Err(()),
            _ => Ok(()),
        });
        match group.statistics().unwrap().packets {
            0 => Ok(()),
            flooded => Err(flooded),
        }
    });
}

/// Receivers on the relay itself are not the relay's business: their memberships stay when a rule goes.
#[test]
fn memberships_of_other_programs_are_left_alone() {
    let topology = Topology::sender_relay_receiver();
    let daemon = relay(&topology, IoBackend::Recvmmsg, &[rule(input("239.1.1.1"), [output("239.2.2.1")])]);
    let arguments = ["--interface", "eth0", "--group", "239.1.1.1", "--port", "5000"];
    let stranger = Generator::recv(&topology.relay, &arguments);
    remove(&daemon, 0);
    wait_for("no memberships of ours", DEADLINE, || {
        let memberships = daemon.ctl_json(&["memberships"]);
        if memberships["memberships"] == json!([]) { Ok(()) } else { Err(memberships) }
    });
    assert_eq!(joined(&topology.relay, "eth0"), groups_of(["239.1.1.1"]));
    stranger.interrupt();
    let _ = stranger.outcome();
    wait_until_joined(&topology.relay, "eth0", &Groups::new());
}
