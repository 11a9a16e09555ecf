//! Which frames of an interface an input takes: those for another host's MAC address, those from an address of this host, those
//! that a program of this host sends.

use std::net::SocketAddr;

use mcr_sys::network::NetworkMonitor;
use mcr_testnet::frames::{self, UdpFrame, VLAN};
use mcr_testnet::{Daemon, Host, RawPrefix, Topology, assert_accounting, wait_for};
use serde_json::{Value, json};

use crate::scenario::{
    INPUT_PORT, assert_received, at_rate, input, input_on, output, output_on, recv, relay, rule, send,
    send_super_frame, split_if_super_frames_are_lost, stats_without_drops, with,
};

/// The MAC address of a host that is not there.
const OTHER_HOST: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
/// The MAC address of a sender.
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);

fn frame(source: &str, group: &str) -> UdpFrame {
    let address = |text: &str, port| SocketAddr::new(text.parse().unwrap(), port);
    UdpFrame::new(address(source, 4000), address(group, INPUT_PORT), b"payload")
}

fn from_mac(frame: UdpFrame, source: [u8; 6]) -> UdpFrame {
    UdpFrame { macs: frame.macs.map(|(destination, _)| (destination, source)), ..frame }
}

fn to_other_host(frame: UdpFrame) -> UdpFrame {
    UdpFrame { macs: Some((OTHER_HOST, SENDER)), ..frame }
}

fn mac_of(host: &Host, interface: &str) -> [u8; 6] {
    let links = host.run(|| NetworkMonitor::open().unwrap().dump().unwrap().0);
    links.into_iter().find(|link| link.name == interface).unwrap().mac.unwrap()
}

/// `(datagrams of each rule, skips by reason)` once the workers have received `datagrams`.
fn counted(daemon: &Daemon, datagrams: u64) -> (Vec<u64>, Value) {
    wait_for("the datagrams", DEADLINE, || {
        let stats = daemon.ctl_json(&["stats"]);
        let workers = stats["workers"].as_array().into_iter().flatten();
        let received: u64 = workers.filter_map(|worker| worker["received"].as_u64()).sum();
        if received >= datagrams { Ok(()) } else { Err(stats) }
    });
    let stats = daemon.settled_stats();
    assert_accounting(&stats);
    let rules = stats["rules"].as_array().into_iter().flatten();
    let mut skips = stats["skips"].clone();
    if let Some(skips) = skips.as_object_mut() {
        skips.retain(|_, count| *count != 0);
    }
    (rules.map(|rule| rule["packets"].as_u64().unwrap()).collect(), skips)
}

fn promiscuity(host: &Host, interface: &str) -> u64 {
    let output = host.output("ip", &["-json", "-details", "link", "show", interface]);
    let links: Value = serde_json::from_slice(&output.stdout).unwrap();
    links[0]["promiscuity"].as_u64().unwrap_or_else(|| panic!("no promiscuity: {links}"))
}

on_both_backends! {
    /// A switch that floods, or `tcpdump` on the host, must not make a relay of what is for others; a mirror port is what
    /// `promiscuous` is for. Multicast and unicast, super-frames too.
    fn frames_for_another_host_are_relayed_by_promiscuous_inputs_only(io) {
        let topology = Topology::sender_relay_receiver();
        let promiscuous = |group: &str| with(input(group), "promiscuous", true);
        let rules = [
            rule(input("239.1.1.1"), [output("239.2.2.1")]),
            rule(input("10.1.0.2"), [output("239.2.2.2")]),
            rule(input("ff15::1:1"), [output("ff15::2:1")]),
            rule(input("fd01::2"), [output("ff15::2:2")]),
            rule(promiscuous("10.1.0.77"), [output("239.2.2.3")]),
            rule(promiscuous("fd01::77"), [output("ff15::2:3")]),
            rule(promiscuous("239.1.1.9"), [output("239.2.2.4")]),
        ];
        let daemon = relay(&topology, io, &rules);
        assert_eq!(promiscuity(&topology.relay, "eth0"), 1, "as long as a rule is promiscuous");
        let groups = ["239.1.1.1", "10.1.0.2", "ff15::1:1", "fd01::2", "10.1.0.77", "fd01::77", "239.1.1.9"];
        let source = |group: &str| if group.contains(':') { "fd01::1" } else { "10.1.0.1" };
        let sender = frames::sender(&topology.sender, "eth0", RawPrefix::None);
        for group in groups {
            for _ in 0..10 {
                sender.send(&to_other_host(frame(source(group), group)).bytes()).unwrap();
            }
            sender.send(&frame(source(group), group).bytes()).unwrap();
        }
        for group in ["239.1.1.1", "10.1.0.77"] {
            let whole = UdpFrame { payload: vec![7; 30], ..to_other_host(frame("10.1.0.1", group)) };
            send_super_frame(&topology.sender, "eth0", &whole, 10);
        }
        let expected = vec![1, 1, 1, 1, 14, 11, 11];
        assert_eq!(counted(&daemon, expected.iter().sum()), (expected, json!({})));

        // The kernel refuses nothing to the sender of what is another host's.
        let list = daemon.ctl_json(&["list"]);
        assert_eq!(list["rules"][4]["input"]["promiscuous"], true, "{list:#}");
        for rule in list["rules"].as_array().into_iter().flatten() {
            if rule["input"]["promiscuous"] == true {
                let id = rule["id"].as_str().unwrap();
                assert_eq!(daemon.ctl(&["remove", "--id", id]).code, 0);
            }
        }
        wait_for("an interface that is not promiscuous", DEADLINE, || match promiscuity(&topology.relay, "eth0") {
            0 => Ok(()),
            count => Err(count),
        });
    }

    /// Identical machine networks, anycast, `fe80::1` on every link: an address that the relay has on another interface is
    /// not its own here, unless the frame is from one of its MAC addresses.
    fn an_address_of_another_interface_is_not_own(io) {
        let topology = Topology::sender_relay_receiver();
        let rules = [
            rule(input("239.1.1.1"), [output("239.2.2.1")]),
            rule(input("ff15::1:1"), [output("ff15::2:1")]),
        ];
        let daemon = relay(&topology, io, &rules);
        let eth1 = mac_of(&topology.relay, "eth1");
        let sender = frames::sender(&topology.sender, "eth0", RawPrefix::None);
        let (v4, v6) = ("239.1.1.1", "ff15::1:1");
        // The relay has 10.2.0.1, fd02::1 and fe80::2:1 on eth1; 10.1.0.2, fd01::2 and fe80::1:2 on eth0.
        for (source, group) in [("10.2.0.1", v4), ("fd02::1", v6), ("fe80::2:1", v6)] {
            for _ in 0..10 {
                sender.send(&frame(source, group).bytes()).unwrap();
            }
            // The last datagram's flow must not decide: it is the same one.
            for mac in [eth1, SENDER] {
                sender.send(&from_mac(frame(source, group), mac).bytes()).unwrap();
            }
        }
        for (source, group) in [("10.1.0.2", v4), ("fd01::2", v6), ("fe80::1:2", v6)] {
            sender.send(&frame(source, group).bytes()).unwrap();
        }
        assert_eq!(counted(&daemon, 39), (vec![11, 22], json!({"own_source": 6})));
        let flows = daemon.ctl_json(&["flows"]);
        assert!(flows.to_string().contains("fe80::2:1"), "{flows:#}");
    }

    /// Without MAC addresses, the addresses of all tunnels are own, and those of other interfaces are not.
    fn an_address_of_another_tunnel_is_own(io) {
        let topology = Topology::sender_relay_receiver();
        let (Some(tun), Some(_other)) = (topology.relay.tun("tun0"), topology.relay.tun("tun1")) else { return };
        for (interface, address) in [("tun0", "10.9.0.1/24"), ("tun1", "10.8.0.1/24")] {
            topology.relay.setup(interface, |links| links.disable_automatic_ipv6(interface));
            topology.relay.add_address(interface, address);
            topology.relay.set_up(interface, true);
        }
        let daemon = relay(&topology, io, &[rule(input_on("tun0", "239.1.1.1"), [output("239.2.2.1")])]);
        for source in ["10.2.0.1", "10.1.0.2", "10.9.0.1", "10.8.0.1", "10.7.0.1"] {
            let packet = UdpFrame { macs: None, ..frame(source, "239.1.1.1") }.bytes();
            assert_eq!(rustix::io::write(&tun, &packet).unwrap(), packet.len());
        }
        assert_eq!(counted(&daemon, 5), (vec![3], json!({"own_source": 2})));
    }

    /// Both interfaces of a two-way relay on one switch: what is sent through one comes back through the other, once.
    fn interfaces_on_one_network_do_not_loop(io) {
        let (relay_host, sender, switch) = (Host::new("relay"), Host::new("sender"), Host::new("switch"));
        switch.setup("bridge", |links| links.create_bridge("bridge", false));
        for (host, interface, port, addresses) in [
            (&relay_host, "eth0", "to_relay0", ["10.1.0.2/24", "fd01::2/64"]),
            (&relay_host, "eth1", "to_relay1", ["10.2.0.2/24", "fd02::2/64"]),
            (&sender, "eth0", "to_sender", ["10.1.0.1/24", "fd01::1/64"]),
        ] {
            switch.cable(port, host, interface);
            switch.setup(port, |links| links.set_master(port, Some("bridge")));
            addresses.iter().for_each(|address| host.add_address(interface, address));
        }
        switch.set_up("bridge", true);
        split_if_super_frames_are_lost(&relay_host, &["eth0", "eth1"]);
        let same_port = |output: Value| with(output, "port", INPUT_PORT);
        let rules: Vec<Value> = ["239.1.1.1", "ff15::1:1"]
            .iter()
            .flat_map(|group| {
                [("eth0", "eth1"), ("eth1", "eth0")]
                    .map(|(from, to)| rule(input_on(from, group), [same_port(output_on(to, group))]))
            })
            .collect();
        let daemon = Daemon::start(&relay_host, io, &json!({"rules": rules}).to_string());
        daemon.wait_until_active(4);
        let raw = frames::sender(&sender, "eth0", RawPrefix::None);
        for _ in 0..20 {
            raw.send(&frame("10.1.0.1", "239.1.1.1").bytes()).unwrap();
            raw.send(&frame("fd01::1", "ff15::1:1").bytes()).unwrap();
        }
        // Each arrives on both interfaces and is sent through both, and each of these comes back through the other.
        assert_eq!(counted(&daemon, 160), (vec![20; 4], json!({"own_source": 80})));
    }

    /// A veth pair whose ends are both on the relay: what is sent into one end arrives at the other.
    fn a_veth_pair_of_one_host_does_not_loop(io) {
        let topology = Topology::sender_relay_receiver();
        topology.relay.cable("one", &topology.relay, "two");
        topology.relay.add_address("one", "10.5.0.1/24");
        topology.relay.add_address("two", "10.6.0.1/24");
        split_if_super_frames_are_lost(&topology.relay, &["one"]);
        let same_port = |output: Value| with(output, "port", INPUT_PORT);
        let daemon = relay(&topology, io, &[
            rule(input_on("two", "239.1.1.1"), [same_port(output_on("one", "239.1.1.1"))]),
        ]);
        let sender = frames::sender(&topology.relay, "one", RawPrefix::None);
        for _ in 0..10 {
            sender.send(&frame("10.7.0.9", "239.1.1.1").bytes()).unwrap();
        }
        assert_eq!(counted(&daemon, 20), (vec![10], json!({"own_source": 10})));
    }

    /// A media server and the relay on one host: `local` takes what the server sends, in both families, with and without
    /// link header, as super-frames or not; never what the relay sends.
    fn programs_of_this_host_are_relayed_by_local_inputs_only(io) {
        let topology = Topology::sender_relay_receiver();
        let local = |input: Value| with(input, "local", true);
        let rules = [
            rule(local(input("239.1.1.1")), [output("239.2.2.1")]),
            rule(local(input("ff15::1:1")), [output("ff15::2:1")]),
            rule(input("239.1.1.3"), [output("239.2.2.3")]),
            rule(local(input_on("lo", "239.1.1.4")), [output("239.2.2.4")]),
        ];
        let daemon = relay(&topology, io, &rules);
        split_if_super_frames_are_lost(&topology.relay, &["eth0", "lo"]);
        let receivers = ["239.2.2.1", "ff15::2:1", "239.2.2.4"]
            .map(|group| recv(&topology.receiver, "eth0", group, "--count 600"));
        for (interface, group) in [("eth0", "239.1.1.1"), ("eth0", "ff15::1:1"), ("eth0", "239.1.1.3"), ("lo", "239.1.1.4")] {
            let options = "--count 600 --rate 6000 --burst 20 --size 200";
            assert_eq!(send(&topology.relay, interface, group, options).finish()["sent"], 600);
        }
        receivers.into_iter().for_each(|receiver| assert_received(&receiver.finish(), 600));
        let outside = recv(&topology.receiver, "eth0", "239.2.2.1", "--count 100");
        let _ = send(&topology.sender, "eth0", "239.1.1.1", "--count 100").finish();
        assert_received(&outside.finish(), 100);
        assert_eq!(counted(&daemon, 1900), (vec![700, 600, 0, 600], json!({})));
        stats_without_drops(&daemon);

        let workers = daemon.ctl_json(&["workers"]);
        let of = |local: bool| {
            let workers = workers["workers"].as_array().into_iter().flatten();
            workers.filter(|worker| worker["local"] == local && worker["interface"] == "eth0").count()
        };
        assert_eq!((of(true), of(false)), (1, 1), "{workers:#}");
        // A tag that is in the frame.
        let raw = frames::sender(&topology.relay, "eth0", RawPrefix::None);
        for tag in [0xa000, 7] {
            raw.send(&UdpFrame { tags: vec![(VLAN, tag)], ..frame("10.1.0.2", "239.1.1.1") }.bytes()).unwrap();
        }
        raw.send(&frame("10.1.0.2", "239.1.1.1").bytes()).unwrap();
        assert_eq!(counted(&daemon, 1902), (vec![702, 600, 0, 600], json!({})));
    }

    /// Two opposite rules that both take what the host sends: its datagrams go out once, and the relay's own never again.
    fn a_two_way_relay_with_local_inputs_does_not_echo(io) {
        let topology = Topology::sender_relay_receiver();
        let same_port = |output: Value| with(output, "port", INPUT_PORT);
        let one_way = |from: &str, to: &str, group: &str| {
            rule(with(input_on(from, group), "local", true), [same_port(output_on(to, group))])
        };
        let rules = ["239.1.1.1", "ff15::1:1"]
            .map(|group| [one_way("eth0", "eth1", group), one_way("eth1", "eth0", group)])
            .concat();
        let daemon = relay(&topology, io, &rules);
        for group in ["239.1.1.1", "ff15::1:1"] {
            for (host, interface) in [
                (&topology.relay, "eth0"),
                (&topology.relay, "eth1"),
                (&topology.sender, "eth0"),
                (&topology.receiver, "eth0"),
            ] {
                assert_eq!(send(host, interface, group, "--count 100 --rate 2000").finish()["sent"], 100);
            }
        }
        assert_eq!(counted(&daemon, 800), (vec![200; 4], json!({})));
        stats_without_drops(&daemon);
    }

    /// The first `local` input beside running streams, and the last one's removal, cost these nothing.
    fn a_local_input_comes_and_goes_beside_a_stream(io) {
        let topology = Topology::sender_relay_receiver();
        let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), [output("239.2.2.1")])]);
        let receiver = recv(&topology.receiver, "eth0", "239.2.2.1", "");
        let mut stream = send(&topology.sender, "eth0", "239.1.1.1", &format!("--duration 600 --size 200 {}", at_rate(5_000)));
        for _ in 0..5 {
            let added = daemon.ctl(&[
                "add", "--name", "guest", "--local", "--input-interface", "eth0", "--input-group", "239.1.1.9",
                "--input-port", "5000", "--outputs", "239.2.2.9:6001:eth1",
            ]);
            assert_eq!(added.code, 0, "{added:?}");
            assert_eq!(daemon.ctl(&["remove", "--name", "guest"]).code, 0);
        }
        assert!(stream.is_running());
        stream.interrupt();
        let sent = stream.finish()["sent"].as_u64().unwrap();
        assert_received(&receiver.finish(), sent);
        stats_without_drops(&daemon);
    }
}
