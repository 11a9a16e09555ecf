//! The input's interface and its membership.

use std::net::Ipv4Addr;

use mcr_sys::test_env::{set_link_type, without_capability};
use mcr_testnet::{Daemon, IoBackend, Topology, assert_accounting, wait_for};
use serde_json::{Value, json};

use super::{DEADLINE, assert_found, examine, examine_for, finding, ids, run, set, step, while_sending};
use crate::lacking::has_firewall;
use crate::scenario::{input_on, output, relay, rule, with};

fn named(name: &str, input: Value) -> Value {
    with(rule(input, [output("239.2.2.1")]), "name", name)
}

#[test]
fn interfaces_that_can_not_deliver() {
    let topology = Topology::sender_relay_receiver();
    for number in 1..=4 {
        topology.add_input(number);
    }
    topology.relay.set_up("in1", false);
    topology.sender.set_up("eth2", false);
    topology.relay.remove_address("in3", "10.1.3.2/24");
    topology.relay.setup("bridge", |links| {
        links.create_bridge("bridge", true)?;
        links.set_master("in4", Some("bridge"))
    });
    let rules = [
        named("missing", input_on("nope0", "239.1.1.1")),
        named("down", input_on("in1", "239.1.1.1")),
        named("carrier", input_on("in2", "239.1.1.1")),
        named("address", input_on("in3", "239.1.1.1")),
        named("port-of-bridge", input_on("in4", "239.1.1.1")),
        named("unicast", input_on("eth0", "10.9.9.9")),
        named("odd", input_on("odd", "239.1.1.1")),
    ];
    // Of a CAN bus; nothing goes through it.
    let Some(odd) = topology.relay.tun("odd") else { return };
    set_link_type(&odd, 280).unwrap();
    topology.relay.set_up("odd", true);
    let daemon = Daemon::start(&topology.relay, IoBackend::Uring, &json!({"rules": rules}).to_string());
    let (_, found) = examine(&daemon);
    assert_found(
        &found,
        &[
            ("missing", "stopped", "interface_missing"),
            ("down", "stopped", "interface_down"),
            ("carrier", "stopped", "no_carrier"),
            ("unicast", "stopped", "not_our_address"),
            ("odd", "stopped", "interface_unreadable"),
        ],
    );
    // Nothing comes there either.
    assert_eq!(ids(&found["address"]), ["nothing_arrives", "no_input_address"], "{found:#?}");
    assert_eq!(ids(&found["port-of-bridge"]), ["nothing_arrives", "bridge_port"], "{found:#?}");
    assert!(finding(&found["missing"], "interface_missing")["hint"].as_str().unwrap().contains("in1"));
    assert_accounting(&daemon.settled_stats());
}

#[test]
fn a_group_that_the_kernel_does_not_join() {
    let topology = Topology::sender_relay_receiver();
    set(&topology.relay, "net/ipv4/igmp_max_memberships", "0");
    let config = json!({"rules": [named("refused", input_on("eth0", "239.1.1.1"))]}).to_string();
    let daemon = Daemon::start(&topology.relay, IoBackend::Uring, &config);
    let (_, found) = examine(&daemon);
    assert_found(&found, &[("refused", "stopped", "not_joined")]);
}

/// A query as sent by a router with this query interval, in seconds: to all hosts, with the router alert option (RFC 3376
/// section 4).
fn query(from: Ipv4Addr, interval_s: u8) -> Vec<u8> {
    let checksum = |bytes: &[u8]| {
        let (pairs, _) = bytes.as_chunks::<2>();
        let sum: u32 = pairs.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
        (!u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()).to_be_bytes()
    };
    let mut header = vec![0x46, 0xc0, 0, 36, 0, 0, 0x40, 0, 1, 2, 0, 0];
    header.extend(from.octets());
    header.extend([224, 0, 0, 1, 0x94, 4, 0, 0]);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    let mut message = vec![0x11, 100, 0, 0, 0, 0, 0, 0, 2, interval_s, 0, 0];
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);
    let macs = [1, 0, 0x5e, 0, 0, 1, 2, 0, 0, 0, 0, 1, 8, 0];
    [macs.as_slice(), &header, &message].concat()
}

#[test]
fn who_asked_last_and_who_is_not_heard() {
    let topology = Topology::sender_relay_receiver();
    let rules = [named("asked", input_on("eth0", "239.1.1.1"))];
    let daemon = relay(&topology, IoBackend::Uring, &rules);
    let join = || {
        let reply = daemon.ctl_json(&["explain", "asked", "--listen", "0"]);
        step(&reply["rules"][0], "join")["words"].as_str().unwrap().to_owned()
    };
    assert!(join().contains("no IGMP query in the "), "{}", join());
    // Its network is behind another interface, as the kernel sees it.
    for sysctl in ["all/rp_filter", "eth0/rp_filter"] {
        set(&topology.relay, &format!("net/ipv4/conf/{sysctl}"), "1");
    }
    let filtered = [("eth0", query(Ipv4Addr::new(172, 31, 0, 1), 125))];
    let (host, found) = while_sending(&topology.sender, &filtered, || examine(&daemon));
    assert_eq!(ids(&found["asked"]), ["nothing_arrives", "querier_filtered"], "{found:#?}");
    assert!(
        finding(&found["asked"], "querier_filtered")["words"]
            .as_str()
            .unwrap()
            .starts_with("172.31.0.1 sends queries")
    );
    assert_eq!(finding(&host, "rp_filter")["severity"], "note", "{host:#}");
    // One that is heard, and asks every second ...
    let heard = [("eth0", query(Ipv4Addr::new(10, 1, 0, 1), 1))];
    while_sending(&topology.sender, &heard, || {
        wait_for("a query", DEADLINE, || {
            let words = join();
            if words.contains("query came") && words.ends_with("from 10.1.0.1") { Ok(()) } else { Err(words) }
        });
    });
    // ... until it does not any more.
    let found = wait_for("its absence to be noticed", DEADLINE, || {
        let (_, found) = examine_for(&daemon, "0");
        if ids(&found["asked"]).contains(&"querier_silent") { Ok(found) } else { Err(found) }
    });
    let silent = finding(&found["asked"], "querier_silent");
    assert!(silent["evidence"]["seconds"].as_u64() >= Some(6), "{silent:#}");
    assert!(silent["words"].as_str().unwrap().contains("the last one came from 10.1.0.1"), "{silent:#}");
    let hint = &finding(&found["asked"], "nothing_arrives")["hint"];
    assert!(hint.as_str().unwrap().starts_with("fix the querier first (querier_silent)"), "{hint}");
}

/// Whoever has the port of a unicast input, and a port that can't be held; in `ports` in more detail.
#[test]
fn ports_of_unicast_inputs() {
    let without_early_drop =
        |rules: &[Value]| json!({"rules": rules, "settings": {"early_drop": "off"}}).to_string();
    const CAP_NET_BIND_SERVICE: u8 = 10;
    let topology = Topology::sender_relay_receiver();
    let owner = topology.relay.run(|| std::net::UdpSocket::bind("0.0.0.0:5000").unwrap());
    let low = with(input_on("eth0", "10.1.0.2"), "port", 514);
    let rules = [named("taken", input_on("eth0", "10.1.0.2")), named("low", low)];
    let daemon = Daemon::start_with(&topology.relay, &without_early_drop(&rules), |command| {
        without_capability(command, CAP_NET_BIND_SERVICE);
    });
    daemon.wait_until_active(2);
    let (host, found) = examine_for(&daemon, "0");
    let taken = finding(&found["taken"], "port_held");
    assert_eq!(taken["severity"], "note", "{taken:#}");
    let program = format!("(pid {})", std::process::id());
    assert!(taken["words"].as_str().unwrap().contains(&program), "{taken:#}");
    let held = finding(&found["low"], "port_not_held");
    assert_eq!(held["severity"], "warning", "{held:#}");
    assert!(held["hint"].as_str().unwrap().contains("CAP_NET_BIND_SERVICE"), "{held:#}");
    assert_eq!(finding(&host, "capability_missing")["evidence"]["capability"], "CAP_NET_BIND_SERVICE");
    drop(owner);
}

/// A firewall of this host drops its reports: a querier is heard, and everything seems to be joined.
#[test]
fn a_report_that_does_not_leave() {
    let topology = Topology::sender_relay_receiver();
    if !has_firewall(&topology.relay, "ip") {
        return;
    }
    let rules = [named("unreported", input_on("eth0", "239.1.1.1"))];
    let daemon = relay(&topology, IoBackend::Uring, &rules);
    run(&topology.relay, "nft add table ip guard");
    run(&topology.relay, "nft add chain ip guard out { type filter hook output priority 0 ; }");
    let mut asks = query(Ipv4Addr::new(10, 1, 0, 1), 1);
    // Within a tenth of a second; the checksum changes by as much.
    let (time, sum) = (14 + 24 + 1, 14 + 24 + 2);
    let checksum = u16::from_be_bytes([asks[sum], asks[sum + 1]]) + u16::from(asks[time] - 1);
    asks[time] = 1;
    asks[sum..sum + 2].copy_from_slice(&checksum.to_be_bytes());
    let explained = || daemon.ctl_json(&["explain", "unreported", "--listen", "0"])["rules"][0].clone();
    let join = || step(&explained(), "join")["words"].as_str().unwrap().to_owned();
    while_sending(&topology.sender, &[("eth0", asks.clone())], || {
        wait_for("a query", DEADLINE, || {
            let words = join();
            if words.contains("query came") { Ok(()) } else { Err(words) }
        });
        // It reports, as it should.
        for _ in 0..5 {
            let rule = explained();
            assert!(!ids(&rule).contains(&"report_not_seen"), "{rule:#}");
        }
        run(&topology.relay, "nft add rule ip guard out ip protocol igmp drop");
        let rule = wait_for("a missing report to be noticed", DEADLINE, || {
            let rule = explained();
            if ids(&rule).contains(&"report_not_seen") { Ok(rule) } else { Err(rule) }
        });
        let found = finding(&rule, "report_not_seen");
        assert!(
            found["words"].as_str().unwrap().starts_with("10.1.0.1 sends IGMP queries on eth0"),
            "{found:#}"
        );
        run(&topology.relay, "nft delete table ip guard");
        wait_for("a report to be heard", DEADLINE, || {
            let rule = explained();
            if ids(&rule).contains(&"report_not_seen") { Err(rule) } else { Ok(()) }
        });
    });
}
