//! What becomes of sends, and who waits for them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use mcr_testnet::frames::UdpFrame;
use mcr_testnet::{Daemon, Host, IoBackend, Topology, assert_accounting, wait_for};
use serde_json::{Value, json};

use super::{
    DEADLINE, OPTMEM_MAX, assert_found, examine, examine_for, finding, ids, run, set, step, while_sending,
};
use crate::lacking::{has_firewall, has_sysctl};
use crate::scenario::{INPUT_PORT, input, input_on, nth, output_on, recv, relay, rule, with};

/// The group of the rule with this number.
fn group(number: usize) -> String {
    nth("239.1.1.1", u8::try_from(number).unwrap())
}

fn stream(rules: usize, payload: usize) -> Vec<(&'static str, Vec<u8>)> {
    let frame = |number| {
        let to: SocketAddr = format!("{}:{INPUT_PORT}", group(number)).parse().unwrap();
        let frame = UdpFrame::new("10.1.0.1:4000".parse().unwrap(), to, &vec![7; payload]);
        ("eth0", UdpFrame { ttl: if number == 0 { 1 } else { 16 }, ..frame }.bytes())
    };
    (0..rules).map(frame).collect()
}

/// Starts a daemon with one rule for each output; the rule has the name, and the input group of its number.
fn daemon_with(topology: &Topology, outputs: &[(&str, Value)]) -> Daemon {
    let rules = outputs.iter().enumerate().map(|(number, (name, output))| {
        let mut rule = with(rule(input(group(number)), [output.clone()]), "name", *name);
        if *name == "limited" {
            rule["max_pps"] = json!(5);
        }
        rule
    });
    let config = json!({"rules": rules.collect::<Vec<_>>()}).to_string();
    Daemon::start(&topology.relay, IoBackend::Uring, &config)
}

#[test]
fn outputs_that_can_not_send() {
    let topology = Topology::sender_relay_receiver();
    for number in 1..=4 {
        topology.add_output(number);
    }
    let relay = &topology.relay;
    relay.set_up("out1", false);
    topology.receiver.set_up("eth2", false);
    relay.remove_address("out3", "10.2.3.1/24");
    let daemon = daemon_with(
        &topology,
        &[
            ("expired", with(output_on("eth1", "239.2.2.1"), "ttl", "decrement")),
            ("missing", output_on("nope1", "239.2.2.1")),
            ("down", output_on("out1", "239.2.2.1")),
            ("carrier", output_on("out2", "239.2.2.1")),
            ("address", output_on("out3", "239.2.2.1")),
            ("limited", output_on("eth1", "239.2.2.1")),
        ],
    );
    let (_, found) = while_sending(&topology.sender, &stream(6, 100), || examine(&daemon));
    assert_found(
        &found,
        &[
            ("expired", "stopped", "ttl_expired"),
            ("missing", "stopped", "output_interface_missing"),
            ("down", "stopped", "output_interface_down"),
            ("carrier", "stopped", "output_no_carrier"),
            ("address", "stopped", "output_no_address"),
            ("limited", "impaired", "rate_limited"),
        ],
    );
    assert_accounting(&daemon.settled_stats());
}

/// An ipvlan in L3 mode; not every kernel has them.
#[test]
fn interfaces_that_carry_no_multicast() {
    let topology = Topology::sender_relay_receiver();
    let host = &topology.relay;
    for (name, lower) in [("vlan0", "eth0"), ("vlan1", "eth1")] {
        let arguments = ["link", "add", name, "link", lower, "type", "ipvlan", "mode", "l3"];
        if !host.output("ip", &arguments).status.success() {
            println!("skipped: this kernel has no ipvlan");
            return;
        }
        host.set_up(name, true);
    }
    host.add_address("vlan0", "10.1.0.99/24");
    host.add_address("vlan1", "10.2.0.99/24");
    let rules = json!([
        with(rule(input_on("vlan0", group(0)), [output_on("eth1", "239.2.2.1")]), "name", "in"),
        with(rule(input(group(0)), [output_on("vlan1", "239.2.2.1")]), "name", "out"),
        with(rule(input(group(1)), [output_on("vlan1", "10.2.0.2")]), "name", "unicast"),
    ]);
    let daemon = Daemon::start(host, IoBackend::Uring, &json!({"rules": rules}).to_string());
    daemon.wait_until_active(1);
    let (_, found) = while_sending(&topology.sender, &stream(2, 100), || examine(&daemon));
    assert_found(&found, &[("in", "stopped", "no_multicast"), ("out", "stopped", "output_no_multicast")]);
    assert_eq!(found["unicast"]["verdict"], "relaying", "{found:#?}");
    assert_accounting(&daemon.settled_stats());
}

/// Puts something in the way of sends: a small MTU, a slow queue, firewalls.
fn obstruct(topology: &Topology) {
    for number in 1..=4 {
        topology.add_output(number);
    }
    let relay = &topology.relay;
    relay.set_mtu("out1", 700);
    run(relay, "tc qdisc replace dev out2 root tbf rate 8kbit burst 3000 limit 4500");
    // Not the usual answer: that the host has no UDP.
    let receiver = &topology.receiver;
    run(receiver, "nft add table ip t");
    run(receiver, "nft add chain ip t in { type filter hook input priority 0 ; }");
    run(receiver, "nft add rule ip t in ip daddr 10.2.4.2 reject with icmp type prot-unreachable");
    run(relay, "nft add table ip t");
    run(relay, "nft add chain ip t out { type filter hook output priority 0 ; }");
    run(relay, "nft add rule ip t out ip daddr 239.2.2.66 drop");
}

#[test]
fn sends_that_fail() {
    let topology = Topology::sender_relay_receiver();
    if !has_firewall(&topology.relay, "ip") {
        return;
    }
    obstruct(&topology);
    let daemon = daemon_with(
        &topology,
        &[
            ("zero", output_on("eth1", "239.2.2.1")),
            ("route", output_on("eth1", "fd99::9")),
            ("gateway", output_on("eth1", "10.99.9.9")),
            ("big", output_on("out1", "239.2.2.1")),
            ("slow", output_on("out2", "239.2.2.1")),
            // Its own socket: what one receiver answers fails whatever is sent next.
            ("refused", output_on("out3", "10.2.3.2")),
            ("firewall", output_on("eth1", "239.2.2.66")),
            ("nobody", output_on("eth1", "10.2.0.77")),
            ("averse", output_on("out4", "10.2.4.2")),
            ("everybody", output_on("eth1", "10.2.0.255")),
        ],
    );
    daemon.wait_until_active(10);
    let (_, found) = while_sending(&topology.sender, &stream(10, 1000), || examine(&daemon));
    for name in ["zero", "everybody"] {
        assert_eq!(ids(&found[name]), [""; 0], "{found:#?}");
    }
    assert_found(
        &found,
        &[
            ("route", "stopped", "no_route"),
            ("big", "impaired", "output_fragments"),
            ("firewall", "stopped", "firewall"),
        ],
    );
    let gateway = finding(&found["gateway"], "receiver_silent");
    assert!(gateway["hint"].as_str().unwrap().contains("in none of the networks of eth1"), "{gateway:#}");
    for (name, id) in [
        ("slow", "queue_full"),
        ("refused", "refused"),
        ("nobody", "receiver_silent"),
        ("averse", "send_failed"),
    ] {
        assert!(ids(&found[name]).contains(&id), "{name}: {:#}", found[name]);
        assert_ne!(found[name]["verdict"], "relaying", "{name}: {:#}", found[name]);
    }
    let averse = finding(&found["averse"], "send_failed");
    assert!(averse["words"].as_str().unwrap().contains("Protocol not available"), "{averse:#}");
    let big = finding(&found["big"], "output_fragments");
    assert_eq!(
        (&big["evidence"]["mtu"], &big["evidence"]["largest_bytes"]),
        (&json!(700), &json!(1028)),
        "{big:#}"
    );
    assert!(
        finding(&found["firewall"], "firewall")["evidence"]["last_error"]
            .as_str()
            .unwrap()
            .contains("os error 1")
    );
    let text = while_sending(&topology.sender, &stream(10, 1000), || {
        daemon.ctl(&["explain", "big", "--listen", "0.5"])
    });
    println!("{}", text.stdout);
    // The burst is over when the question comes.
    let (_, found) = examine(&daemon);
    for (name, id) in [("route", "no_route"), ("refused", "refused"), ("firewall", "firewall")] {
        let earlier = finding(&found[name], id);
        assert!(earlier["words"].as_str().unwrap().contains("so far were dropped"), "{earlier:#}");
        assert_ne!(found[name]["verdict"], "relaying", "{:#}", found[name]);
    }
    assert_accounting(&daemon.settled_stats());
}

/// A router behind the output has a smaller MTU on its other side, and says so; the kernel reports it with the next send,
/// and sends fragments from then on.
#[test]
fn a_path_that_is_narrower_than_the_output() {
    let topology = Topology::sender_relay_receiver();
    let (router, far) = (&topology.receiver, Host::new("far"));
    router.cable("narrow", &far, "eth0");
    router.add_address("narrow", "fd03::1/64");
    far.add_address("eth0", "fd03::9/64");
    router.set_mtu("narrow", 1280);
    set(router, "net/ipv6/conf/all/forwarding", "1");
    run(&topology.relay, "ip -6 route add fd03::/64 via fd02::2 dev eth1");
    let daemon = daemon_with(&topology, &[("narrow", output_on("eth1", "fd03::9"))]);
    daemon.wait_until_active(1);
    let found = while_sending(&topology.sender, &stream(1, 1400), || {
        wait_for("the router's answer", DEADLINE, || {
            let (_, found) = examine_for(&daemon, "0");
            if ids(&found["narrow"]).contains(&"too_big") { Ok(found) } else { Err(found) }
        })
    });
    let too_big = finding(&found["narrow"], "too_big");
    assert!(too_big["evidence"]["last_error"].as_str().unwrap().contains("os error 90"), "{too_big:#}");
    assert_accounting(&daemon.settled_stats());
}

/// Socket options that take memory are refused: the kernel's limit for them is 0.
#[test]
fn an_output_whose_socket_can_not_be_opened() {
    let topology = Topology::sender_relay_receiver();
    if !has_sysctl(&topology.relay, OPTMEM_MAX) {
        return;
    }
    topology.add_output(1);
    let daemon = daemon_with(&topology, &[("first", output_on("eth1", "239.2.2.1"))]);
    daemon.wait_until_active(1);
    let limit = topology.relay.run(|| std::fs::read_to_string(format!("/proc/sys/{OPTMEM_MAX}")).unwrap());
    set(&topology.relay, OPTMEM_MAX, "0");
    let input = ["--input-interface", "eth0", "--input-group", &group(1), "--input-port", "5000"];
    let output = ["--name", "second", "--outputs", "239.2.2.2:6001:out1"];
    let added = daemon.ctl(&[&["add"], input.as_slice(), output.as_slice()].concat());
    assert_eq!(added.code, 0, "{added:?}");
    let (_, found) = examine_for(&daemon, "0");
    let second = &found["second"];
    assert_eq!(ids(second), ["not_joined", "worker_down", "output_socket"], "{second:#}");
    for id in ids(second) {
        assert!(finding(second, id)["hint"].as_str().unwrap().contains("net.core.optmem_max"), "{second:#}");
    }
    // All is tried again by itself.
    set(&topology.relay, OPTMEM_MAX, limit.trim());
    daemon.wait_until_active(2);
    assert_accounting(&daemon.settled_stats());
}

/// What the kernel takes for a neighbour while there is no route fails; what matters later is the gateway.
#[test]
fn a_gateway_that_is_dead_and_a_filter_behind_the_routes() {
    let topology = Topology::sender_relay_receiver();
    let host = &topology.relay;
    if !has_firewall(host, "netdev") {
        return;
    }
    let outputs = [("far", output_on("eth1", "172.16.1.1")), ("filtered", output_on("eth1", "239.2.2.1"))];
    let daemon = daemon_with(&topology, &outputs);
    run(host, "nft add table netdev t");
    run(host, "nft add chain netdev t out { type filter hook egress device eth1 priority 0 ; }");
    run(host, "nft add rule netdev t out ip daddr 239.2.2.1 drop");
    // The first rule's stream has TTL 1, which does not matter here.
    while_sending(&topology.sender, &stream(2, 100), || {
        let until = |what: &str, words: &str| {
            wait_for(what, DEADLINE, || {
                let (_, found) = examine(&daemon);
                let is_told = |text: &Value| text.as_str().unwrap_or_default().contains(words);
                let far = &found["far"];
                let mut all = far["findings"].as_array().unwrap().iter().map(|finding| &finding["words"]);
                let told = is_told(&step(far, "downstream")["words"]) || all.any(is_told);
                if told { Ok(found) } else { Err(found) }
            })
        };
        let found = until("no route", "172.16.1.1 does not answer ARP on eth1");
        assert_found(
            &found,
            &[("far", "impaired", "receiver_silent"), ("filtered", "stopped", "queue_full")],
        );
        let filtered = finding(&found["filtered"], "queue_full");
        assert!(filtered["words"].as_str().unwrap().contains("an egress filter"), "{filtered:#}");
        run(host, "ip route add 172.16.0.0/16 via 10.2.0.77 dev eth1");
        let found = until("a dead gateway", "10.2.0.77, the gateway to 172.16.1.1, does not answer ARP");
        assert_found(&found, &[("far", "impaired", "receiver_silent")]);
        run(host, "ip route replace 172.16.0.0/16 via 10.2.0.2 dev eth1");
        let found = until("a gateway", "172.16.1.1 is behind the gateway 10.2.0.2, a neighbor on eth1");
        assert_eq!(
            (ids(&found["far"]), &found["far"]["verdict"]),
            (vec![], &json!("relaying")),
            "{found:#?}"
        );
    });
    assert_accounting(&daemon.settled_stats());
}

#[test]
fn a_socket_that_is_full() {
    let topology = Topology::sender_relay_receiver();
    run(&topology.relay, "tc qdisc replace dev eth1 root tbf rate 8kbit burst 3000 limit 100000000");
    let rules = json!([with(rule(input(group(0)), [output_on("eth1", "239.2.2.1")]), "name", "full")]);
    let config = json!({"settings": {"send_buffer_bytes": 65_536}, "rules": rules}).to_string();
    let daemon = Daemon::start(&topology.relay, IoBackend::Uring, &config);
    daemon.wait_until_active(1);
    let burst: Vec<_> = std::iter::repeat_n(stream(1, 1000), 20).flatten().collect();
    let (_, found) = while_sending(&topology.sender, &burst, || examine(&daemon));
    assert_eq!(ids(&found["full"]), ["socket_full"], "{found:#?}");
    assert_accounting(&daemon.settled_stats());
}

/// A bridge of this host knows from its own snooping who is behind its ports; elsewhere a report must be heard.
#[test]
fn receivers_that_are_there_and_not() {
    let topology = Topology::sender_relay_receiver();
    let (relay_host, receiver) = (&topology.relay, &topology.receiver);
    relay_host.setup("bridge", |links| links.create_bridge("bridge", true));
    relay_host.cable("port", receiver, "far");
    relay_host.setup("port", |links| links.set_master("port", Some("bridge")));
    relay_host.set_up("bridge", true);
    relay_host.add_address("bridge", "10.7.0.1/24");
    receiver.add_address("far", "10.7.0.2/24");
    let rules = [("wanted", "239.2.2.1"), ("unwanted", "239.2.2.2")].into_iter().enumerate();
    let rules: Vec<Value> = rules
        .map(|(number, (name, to))| with(rule(input(group(number)), [output_on("bridge", to)]), "name", name))
        .collect();
    let daemon = relay(&topology, IoBackend::Recvmmsg, &rules);
    let listener = recv(receiver, "far", "239.2.2.1", "");
    let found = while_sending(&topology.sender, &stream(2, 100), || {
        wait_for("the bridge's memory", DEADLINE, || {
            let found: BTreeMap<String, Value> = examine(&daemon).1;
            if step(&found["wanted"], "downstream")["state"] == "ok" { Ok(found) } else { Err(found) }
        })
    });
    assert_eq!(ids(&found["wanted"]), [""; 0], "{found:#?}");
    assert_found(&found, &[("unwanted", "impaired", "no_receiver")]);
    drop(listener);
    assert_accounting(&daemon.settled_stats());
}
