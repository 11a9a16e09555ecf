//! Network cards, which filter by MAC address, strip VLAN tags, calculate checksums, lose their carrier and their driver.
//! `cargo xtask lab --nic MODEL` runs these tests on the cards that qemu emulates; for others, see [`cables`].

mod cables;

use std::net::UdpSocket;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use mcr_testnet::{Daemon, Host, assert_accounting, wait_for};
use serde_json::Value;

use crate::lab_interfaces::{creates, ip, run};
use crate::scenario::{
    assert_received, input, input_on, output, packets_of, recv, relay, rule, send, stats_without_drops,
};
use cables::Cables;

const DEADLINE: Duration = Duration::from_secs(20);
const DATAGRAMS: u64 = 200;
/// The inputs' MAC addresses differ from those of 224.0.0.1 and ff02::1, which every host takes, in their last 12 bits: of no more
/// does a card make its hash.
const GROUPS: [(&str, &str); 2] = [("239.37.41.83", "239.2.2.1"), ("ff15::29:5253", "ff15::2:1")];
/// What a card may take beside a stream: neighbour discovery, reports.
const OTHER_FRAMES: u64 = 20;

/// Frames that the card of the relay's input has taken, as its driver counts them.
fn taken(relay: &Host) -> u64 {
    let shown = relay.output("ip", &["-s", "-j", "link", "show", "eth0"]).stdout;
    let shown: Value = serde_json::from_slice(&shown).expect("JSON of ip");
    shown[0]["stats64"]["rx"]["packets"].as_u64().expect("a count of frames")
}

fn index(host: &Host, interface: &str) -> u64 {
    let shown = host.output("ip", &["-j", "link", "show", interface]).stdout;
    let shown: Value = serde_json::from_slice(&shown).expect("JSON of ip");
    shown[0]["ifindex"].as_u64().expect("an index")
}

/// Waits until all cards have a carrier, the daemon has heard of everything that happened to them, and its rules are active. Before,
/// the state of a rule may be that of before the change. The kernel tells of changes in order: an address that is added now comes
/// last.
fn wait_until_settled(cables: &Cables, daemon: &Daemon, rules: usize) {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    cables.wait_for_carriers();
    let address = format!("127.1.0.{}/32", NEXT.fetch_add(1, Ordering::Relaxed));
    cables.topology.relay.add_address("lo", &address);
    wait_for("the daemon to know of the changes", DEADLINE, || {
        let reply = daemon.ctl_json(&["interfaces"]);
        if reply.to_string().contains(&address) { Ok(()) } else { Err(reply) }
    });
    daemon.wait_until_active(rules);
}

/// Waits until the daemon has heard that an interface lost its carrier.
fn wait_until_carrier_is_missed(daemon: &Daemon, interface: &str) {
    wait_for("the daemon to miss a carrier", DEADLINE, || {
        let reply = daemon.ctl_json(&["interfaces"]);
        let mut known = reply["interfaces"].as_array().into_iter().flatten();
        if known.any(|one| one["name"] == interface && one["carrier"] == false) {
            Ok(())
        } else {
            Err(reply.clone())
        }
    });
}

fn stream(cables: &Cables, group: &str, options: &str) {
    let options = format!("--count {DATAGRAMS} --rate 400 {options}");
    let report = send(&cables.topology.sender, "eth0", group, &options).finish();
    assert_eq!(report["sent"], DATAGRAMS, "{report:#}");
}

/// Streams of both families arrive in full.
fn passes(cables: &Cables, options: &str) {
    for (group, relayed) in GROUPS {
        let receiver = recv(&cables.topology.receiver, "eth0", relayed, &format!("--count {DATAGRAMS}"));
        stream(cables, group, options);
        assert_received(&receiver.finish(), DATAGRAMS);
    }
}

fn rules() -> [Value; 2] {
    GROUPS.map(|(group, relayed)| rule(input(group), [output(relayed)]))
}

fn sent(stats: &Value) -> u64 {
    GROUPS.iter().map(|(_, relayed)| packets_of(stats, relayed)).sum()
}

/// Sets an offload of the relay's two cards; one that they don't have, or can't change, stays as it is.
fn set_offload(cables: &Cables, feature: &str, on: bool) {
    for interface in ["eth0", "eth1"] {
        let value = if on { "on" } else { "off" };
        let output = cables.topology.relay.output("ethtool", &["-K", interface, feature, value]);
        if !output.status.success() {
            println!("skipped: {interface} does not switch {feature} {value}");
        }
    }
}

fn has_ethtool() -> bool {
    let there = std::process::Command::new("ethtool").arg("--version").output().is_ok();
    if !there {
        println!("skipped: ethtool is not installed");
    }
    there
}

/// Gives the card of the relay's input a MAC address that ends so, while it is down: some drivers refuse it else.
fn set_mac_address(cables: &Cables, last: u8) {
    let relay_host = &cables.topology.relay;
    relay_host.setup("eth0", |links| {
        links.set_up("eth0", false)?;
        links.set_hardware_address("eth0", [0x52, 0x54, 0, 0, 0, last])?;
        links.set_up("eth0", true)
    });
    // Setting it down removed its IPv6 addresses.
    for address in ["fd01::2/64", "fe80::2/64"] {
        ip(relay_host, &format!("address replace {address} dev eth0 nodad"));
    }
    cables.wait_for_carriers();
    run(&cables.topology.sender, "ip neighbor flush all");
}

/// Whether unicast arrives at the relay's input, by two UDP sockets.
fn takes_unicast(cables: &Cables) -> bool {
    let bind = |host: &Host, to: &str| host.run(|| UdpSocket::bind(to)).expect("a socket");
    let receiver = bind(&cables.topology.relay, "10.1.0.2:4999");
    let sender = bind(&cables.topology.sender, "10.1.0.1:0");
    receiver.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    // Until the neighbour is found, the kernel may send none.
    (0..25).any(|_| {
        let _ = sender.send_to(b"unicast", "10.1.0.2:4999");
        receiver.recv(&mut [0; 8]).is_ok()
    })
}

on_both_backends! {
    /// Without a join the card takes nothing of a group; from the join on, all of it, and nothing of another group.
    fn a_group_passes_the_filter_of_the_card_from_its_join(io) {
        let Some(cables) = Cables::lay() else { return };
        let relay_host = &cables.topology.relay;
        for (group, _) in GROUPS {
            let before = taken(relay_host);
            stream(&cables, group, "");
            let more = taken(relay_host) - before;
            assert!(more < OTHER_FRAMES, "the card took {more} frames of {group}, which nobody has joined");
        }
        let daemon = relay(&cables.topology, io, &rules());
        passes(&cables, "");
        let before = taken(relay_host);
        stream(&cables, "239.77.66.55", "");
        let more = taken(relay_host) - before;
        assert!(more < OTHER_FRAMES, "the card took {more} frames of a foreign group");
        assert_eq!(sent(&stats_without_drops(&daemon)), 2 * DATAGRAMS);
    }

    fn a_group_is_joined_again_after_a_carrier_flap(io) {
        let Some(cables) = Cables::lay() else { return };
        let daemon = relay(&cables.topology, io, &rules());
        passes(&cables, "");
        for (card, interface) in [(1, "eth0"), (2, "eth1")] {
            if !cables.set_carrier(card, false) {
                return;
            }
            wait_until_carrier_is_missed(&daemon, interface);
            assert!(cables.set_carrier(card, true), "the cable is back");
            wait_until_settled(&cables, &daemon, 2);
            passes(&cables, "");
        }
        let stats = daemon.settled_stats();
        assert_accounting(&stats);
        assert_eq!(sent(&stats), 6 * DATAGRAMS, "{stats:#}");
    }

    /// The driver is taken away and comes back, for the input's card and the output's.
    fn a_card_that_is_made_anew_is_used_again(io) {
        let Some(cables) = Cables::lay() else { return };
        let daemon = relay(&cables.topology, io, &rules());
        passes(&cables, "");
        for (card, interface) in [(1, "eth0"), (2, "eth1")] {
            let host = cables.host(card);
            let old = index(host, interface);
            cables.recreate(card);
            assert_ne!(index(host, interface), old, "it is another interface");
            wait_until_settled(&cables, &daemon, 2);
            passes(&cables, "");
        }
        let stats = daemon.settled_stats();
        assert_accounting(&stats);
        assert_eq!(sent(&stats), 6 * DATAGRAMS, "{stats:#}");
    }

    /// Whether the card strips the tag or leaves it in the frame: each VLAN's stream goes to its own interface's rule.
    fn vlans_with_and_without_stripping(io) {
        let Some(cables) = Cables::lay() else { return };
        if !has_ethtool() {
            return;
        }
        let (sender, relay_host) = (&cables.topology.sender, &cables.topology.relay);
        for (host, id, number) in [(sender, 7, 1), (relay_host, 7, 2), (sender, 8, 1)] {
            let name = format!("eth0.{id}");
            if !creates(host, &format!("ip link add {name} link eth0 type vlan id {id}")) {
                return;
            }
            host.add_address(&name, &format!("10.{}.0.{number}/24", 60 + id));
            ip(host, &format!("link set {name} up"));
        }
        let daemon = relay(&cables.topology, io, &[
            rule(input("239.1.1.1"), [output("239.2.2.1")]),
            rule(input_on("eth0.7", "239.1.1.1"), [output("239.2.2.7")]),
        ]);
        for stripping in [true, false] {
            set_offload(&cables, "rxvlan", stripping);
            wait_until_settled(&cables, &daemon, 2);
            let receivers = ["239.2.2.1", "239.2.2.7"]
                .map(|group| recv(&cables.topology.receiver, "eth0", group, &format!("--count {DATAGRAMS}")));
            for interface in ["eth0.8", "eth0.7", "eth0"] {
                let options = format!("--count {DATAGRAMS} --rate 400");
                let _ = send(sender, interface, "239.1.1.1", &options).finish();
            }
            for receiver in receivers {
                assert_received(&receiver.finish(), DATAGRAMS);
            }
        }
        let stats = stats_without_drops(&daemon);
        for group in ["239.2.2.1", "239.2.2.7"] {
            assert_eq!(packets_of(&stats, group), 2 * DATAGRAMS, "{group}: {stats:#}");
        }
    }

    /// Checksums and segments by the cards, and without them.
    fn with_and_without_offloads(io) {
        let Some(cables) = Cables::lay() else { return };
        if !has_ethtool() {
            return;
        }
        let daemon = relay(&cables.topology, io, &rules());
        for on in [false, true] {
            for feature in ["rx", "tx", "sg", "gro", "gso", "tx-udp-segmentation", "rx-udp-gro-forwarding"] {
                set_offload(&cables, feature, on);
            }
            wait_until_settled(&cables, &daemon, 2);
            // In bursts, so that the relay segments, and so that a card may merge.
            passes(&cables, "--burst 20 --size 600");
        }
        assert_eq!(sent(&stats_without_drops(&daemon)), 4 * DATAGRAMS);
    }

    fn jumbo_datagrams_pass(io) {
        let Some(cables) = Cables::lay() else { return };
        for number in 0..4 {
            let interface = if number == 2 { "eth1" } else { "eth0" };
            cables.host(number).set_mtu(interface, 9000);
        }
        cables.wait_for_carriers();
        let daemon = relay(&cables.topology, io, &rules());
        passes(&cables, "--size 8900");
        assert_eq!(sent(&stats_without_drops(&daemon)), 2 * DATAGRAMS);
    }

    /// More groups than a card's filter has room for.
    fn more_groups_than_the_filter_of_the_card_holds(io) {
        const MANY: u8 = 250;
        let Some(cables) = Cables::lay() else { return };
        let nth = |first: &str, offset| crate::scenario::nth(first, offset);
        let all: Vec<Value> = (0..MANY)
            .map(|offset| rule(input(nth("239.1.1.0", offset)), [output(nth("239.2.2.0", offset))]))
            .collect();
        let daemon = relay(&cables.topology, io, &all);
        let count = 4 * u64::from(MANY);
        let receiver = recv(&cables.topology.receiver, "eth0", "239.2.2.0", &format!("--groups {MANY} --count {count}"));
        let options = format!("--groups {MANY} --count {count} --rate 500");
        let _ = send(&cables.topology.sender, "eth0", "239.1.1.0", &options).finish();
        assert_received(&receiver.finish(), count);
        stats_without_drops(&daemon);
    }

    /// The card gets another MAC address under the rules: multicast and unicast inputs go on.
    fn another_mac_address(io) {
        let Some(cables) = Cables::lay() else { return };
        set_mac_address(&cables, 0x53);
        let unicast_arrives = takes_unicast(&cables);
        if !unicast_arrives {
            println!("skipped: unicast: the card takes none for a new MAC address, without mcrd either");
        }
        let unicast = rule(input("10.1.0.2"), [output("239.2.2.9")]);
        let daemon = relay(&cables.topology, io, &[&rules()[..], &[unicast]].concat());
        for last in [0x51, 0x52] {
            set_mac_address(&cables, last);
            wait_until_settled(&cables, &daemon, 3);
            passes(&cables, "");
            if unicast_arrives {
                let receiver = recv(&cables.topology.receiver, "eth0", "239.2.2.9", &format!("--count {DATAGRAMS}"));
                stream(&cables, "10.1.0.2", "");
                assert_received(&receiver.finish(), DATAGRAMS);
            }
        }
        let stats = daemon.settled_stats();
        assert_accounting(&stats);
        let expected = if unicast_arrives { 6 } else { 4 } * DATAGRAMS;
        assert_eq!(sent(&stats) + packets_of(&stats, "239.2.2.9"), expected, "{stats:#}");
    }
}
