//! Loops and what breaks them (R22): rules that feed each other are refused, opposite rules of one host don't echo
//! (`capture::opposite_rules_do_not_echo`), and a loop through another host, which nobody can see in one config, is broken
//! by `max_pps` or by TTLs.

use std::time::Duration;

use mcr_testnet::{Daemon, Generator, Host, IoBackend, Topology, assert_accounting, wait_for};
use serde_json::{Value, json};

use crate::scenario::{
    INPUT_PORT, input, kernel_loses_super_frames, nth, output, recv, rule, send, split_before_sending, with,
};

const DEADLINE: Duration = Duration::from_secs(20);
const GROUP: &str = "239.1.1.1";

/// Two relays with two cables between them, each with rules that take the group from one cable to the other, both ways:
/// what is on one cable circles for ever.
struct BackToBack {
    hosts: [Host; 2],
    daemons: [Daemon; 2],
}

fn both_ways(change: impl Fn(Value) -> Value) -> String {
    let end = |interface: &str| json!({"interface": interface, "group": GROUP, "port": INPUT_PORT});
    let one_way = |from: &str, to: &str| change(rule(end(from), [end(to)]));
    json!({"rules": [one_way("x", "y"), one_way("y", "x")]}).to_string()
}

impl BackToBack {
    fn start(io: IoBackend, configs: [String; 2]) -> Self {
        let hosts = [Host::new("first"), Host::new("second")];
        for (number, interface) in [(1, "x"), (2, "y")] {
            hosts[0].cable(interface, &hosts[1], interface);
            for (at, host) in (1..).zip(&hosts) {
                host.add_address(interface, &format!("10.{number}.0.{at}/24"));
                if kernel_loses_super_frames(host) {
                    split_before_sending(host, interface);
                }
            }
        }
        let [first, second] = configs;
        let daemons = [Daemon::start(&hosts[0], io, &first), Daemon::start(&hosts[1], io, &second)];
        daemons.iter().for_each(|daemon| daemon.wait_until_active(2));
        Self { hosts, daemons }
    }

    /// Puts datagrams on the first cable, as a program on the second host would.
    fn inject(&self, datagrams: u64) {
        let port = INPUT_PORT.to_string();
        let count = datagrams.to_string();
        let place = ["--interface", "x", "--group", GROUP, "--port", &port];
        let _ = Generator::send(&self.hosts[1], &[&place[..], &["--count", &count, "--ttl", "8"]].concat())
            .finish();
    }

    fn matched(&self) -> u64 {
        let stats = self.daemons[0].ctl_json(&["stats"]);
        stats["workers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|worker| worker["matched"].as_u64())
            .sum()
    }
}

fn limit_lines(daemon: &Daemon) -> usize {
    daemon.log().lines().filter(|line| line.contains("more than its max_pps")).count()
}

on_both_backends! {
    /// A storm first, so that there is something to break; then the limit comes into force.
    fn a_storm_between_two_relays_is_broken_by_max_pps(io) {
        const MAX_PPS: u64 = 200;
        let pair = BackToBack::start(io, [both_ways(|rule| rule), both_ways(|rule| rule)]);
        pair.inject(20);
        wait_for("a storm: each datagram relayed again and again", DEADLINE, || {
            let matched = pair.matched();
            if matched > 100 * 20 { Ok(()) } else { Err(matched) }
        });
        let limited = pair.daemons[0].directory().join("limited.json5");
        std::fs::write(&limited, both_ways(|rule| with(rule, "max_pps", MAX_PPS))).unwrap();
        let loaded = pair.daemons[0].ctl(&["load", "--replace", limited.to_str().unwrap()]);
        assert_eq!(loaded.code, 0, "{loaded:?}");
        // Counters that rest: the storm is over, not only slower.
        for daemon in &pair.daemons {
            assert_accounting(&daemon.settled_stats());
        }
        let stats = pair.daemons[0].settled_stats();
        assert!(stats["drops"]["rate_limited"].as_u64() > Some(0), "{stats:#}");
        let reasons = wait_for("the reason in the list", DEADLINE, || {
            let list = pair.daemons[0].ctl_json(&["list"]);
            let rules = list["rules"].as_array().cloned().unwrap_or_default();
            let reasons: Vec<String> =
                rules.iter().filter_map(|rule| Some(rule["reason"].as_str()?.to_owned())).collect();
            if reasons.is_empty() { Err(list) } else { Ok(reasons) }
        });
        assert!(reasons.iter().all(|reason| reason.contains("max_pps (200)")), "{reasons:?}");
        let log = pair.daemons[0].log();
        assert!((1..=2).contains(&limit_lines(&pair.daemons[0])), "one event for each rule at most: {log}");
    }

    fn a_loop_between_two_relays_ends_with_the_ttl(io) {
        let decrement = |rule: Value| {
            let mut rule = rule;
            rule["outputs"][0]["ttl"] = json!("decrement");
            rule
        };
        let pair = BackToBack::start(io, [both_ways(decrement), both_ways(decrement)]);
        pair.inject(20);
        wait_for("the last hop of each", DEADLINE, || {
            let expired: Vec<Option<u64>> =
                pair.daemons.iter().map(|daemon| daemon.ctl_json(&["stats"])["drops"]["ttl_expired"].as_u64()).collect();
            if expired.iter().flatten().sum::<u64>() == 20 { Ok(()) } else { Err(expired) }
        });
        let relayed: u64 = pair
            .daemons
            .iter()
            .map(|daemon| {
                let stats = daemon.settled_stats();
                assert_accounting(&stats);
                stats["workers"].as_array().into_iter().flatten().filter_map(|w| w["sent"].as_u64()).sum::<u64>()
            })
            .sum();
        assert_eq!(relayed, 20 * 7, "from TTL 8 to 1");
    }

    /// The limit drops the excess and nothing else; the rule beside it does not notice.
    fn a_rule_relays_no_more_than_its_limit(io) {
        let topology = Topology::sender_relay_receiver();
        let limited = with(rule(input(GROUP), [output("239.2.2.1"), output("239.2.2.2")]), "max_pps", 1_000);
        let beside = rule(input(nth(GROUP, 1)), [output("239.2.2.3")]);
        let daemon = crate::scenario::relay(&topology, io, &[limited, beside]);
        let receivers = ["239.2.2.1", "239.2.2.2", "239.2.2.3"]
            .map(|group| recv(&topology.receiver, "eth0", group, "--idle 2"));
        let _ = send(&topology.sender, "eth0", GROUP, "--groups 2 --rate 8000 --count 16000 --size 200").finish();
        let [first, second, beside] = receivers.map(|receiver| receiver.finish()["received"].as_u64().unwrap());
        assert_eq!(beside, 8_000);
        assert_eq!(first, second);
        // The bucket of one second, and the rate for two. A sender that starts late makes up for it in less time, one that
        // is slow takes more.
        assert!((2_000..=6_000).contains(&first), "{first} datagrams in two seconds at 1,000/s");
        let stats = daemon.settled_stats();
        assert_accounting(&stats);
        for output in [0, 1] {
            let output = &stats["rules"][0]["outputs"][output];
            assert_eq!(output["packets"], first, "{stats:#}");
            assert_eq!(output["drops"], json!({"rate_limited": 8_000 - first}), "{stats:#}");
        }
        assert_eq!(stats["rules"][1]["outputs"][0]["errors"], 0, "{stats:#}");
        wait_for("one line in the log", DEADLINE, || match limit_lines(&daemon) {
            1 => Ok(()),
            lines => Err(lines),
        });
        assert_eq!(daemon.ctl_json(&["list"])["rules"][0]["state"], "active");
    }
}

#[test]
fn a_limit_comes_from_the_command_line_and_is_saved() {
    let topology = Topology::sender_relay_receiver();
    let daemon = Daemon::start(&topology.relay, IoBackend::Uring, "{}");
    let place = ["add", "--input-interface", "eth0", "--input-group", GROUP, "--input-port", "5000"];
    let added =
        daemon.ctl(&[&place[..], &["--outputs", "239.2.2.2:6001:eth1", "--max-pps", "1234"]].concat());
    assert_eq!(added.code, 0, "{added:?}");
    assert_eq!(daemon.ctl_json(&["list"])["rules"][0]["max_pps"], 1234);
    assert!(daemon.ctl(&["show"]).stdout.contains("max_pps: 1234"));
    let refused = daemon.ctl(&[&place[..], &["--outputs", "239.2.2.3:6001:eth1", "--max-pps", "0"]].concat());
    assert_eq!(refused.code, 2, "{refused:?}");
}

#[test]
fn rules_that_feed_each_other_through_one_interface_are_refused_and_the_cycle_is_named() {
    let topology = Topology::sender_relay_receiver();
    let daemon = Daemon::start(&topology.relay, IoBackend::Uring, "{}");
    let end = |group: &str| json!({"interface": "eth0", "group": group, "port": INPUT_PORT});
    let named = |name: &str, rule: Value| with(rule, "name", name);
    let config = json!({"rules": [
        named("a", rule(end("239.1.1.1"), [end("239.1.1.2")])),
        named("b", rule(end("239.1.1.2"), [end("239.1.1.3")])),
        named("c", rule(end("239.1.1.3"), [end("239.1.1.1")])),
    ]});
    let file = daemon.directory().join("loop.json5");
    std::fs::write(&file, config.to_string()).unwrap();
    let loaded = daemon.ctl(&["load", file.to_str().unwrap()]);
    assert_eq!(loaded.code, 1, "{loaded:?}");
    let round = "through eth0: rules[0] (a) → rules[1] (b) → rules[2] (c) → rules[0] (a)";
    assert!(loaded.stderr.contains(round), "{loaded:?}");
    assert_eq!(daemon.ctl_json(&["list"])["rules"], json!([]));
}
