//! Who sends to a rule, since when and how much; and the alarm of a rule that is joined and silent.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mcr_sys::process::{PidFd, Signal};
use mcr_testnet::{Daemon, Topology, assert_accounting, wait_for};
use serde_json::{Value, json};

use crate::scenario::{INPUT_PORT, input, output, recv, rule, send, with};

const DEADLINE: Duration = Duration::from_secs(30);

fn flows(daemon: &Daemon, arguments: &[&str]) -> Vec<Value> {
    daemon.ctl_json(&[&["flows"], arguments].concat())["flows"].as_array().cloned().unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "compared with reported wall clock time")]
fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

on_both_backends! {
    /// Two hosts send to one rule, another rule has one of them: each is a flow with its own counters and times.
    fn each_source_of_a_rule_is_a_flow_with_its_counters_and_times(io) {
        let topology = Topology::sender_relay_receiver();
        topology.sender.add_address("eth0", "10.1.0.77/24");
        let named = with(rule(input("239.1.1.1"), [output("239.2.2.1")]), "name", "studio");
        let config = json!({
            "rules": [named, rule(input("239.1.1.2"), [output("239.2.2.2")])],
            "settings": { "flow_silence_s": 3 },
        });
        let daemon = Daemon::start(&topology.relay, io, &config.to_string());
        daemon.wait_until_active(2);
        assert!(daemon.ctl(&["flows"]).stdout.starts_with("no flows"));
        let began = now_ms();
        let receiver = recv(&topology.receiver, "eth0", "239.2.2.1", "");
        // For a second, so that it is no single batch on a slow machine.
        let _ = send(&topology.sender, "eth0", "239.1.1.1", "--rate 200 --count 200 --size 100").finish();
        let _ = send(&topology.sender, "eth0", "239.1.1.2", "--rate 1000 --count 30 --size 100").finish();
        let socket = topology.sender.run(|| std::net::UdpSocket::bind("10.1.0.77:4321").unwrap());
        for _ in 0..20 {
            socket.send_to(&[7; 50], ("239.1.1.1", INPUT_PORT)).unwrap();
        }
        let stats = daemon.settled_stats();
        assert_accounting(&stats);
        let listed = flows(&daemon, &["studio"]);
        let ended = now_ms();
        assert_eq!(listed.len(), 2, "{listed:#?}");
        let by = |source: &str| listed.iter().find(|flow| flow["source"] == source).unwrap();
        let other = by("10.1.0.77");
        assert_eq!((&other["port"], &other["packets"], &other["bytes"]), (&json!(4321), &json!(20), &json!(1000)));
        let main = by("10.1.0.1");
        assert_eq!((&main["packets"], &main["bytes"], &main["name"]), (&json!(200), &json!(20_000), &json!("studio")));
        let time = |value: &Value, key: &str| value[key].as_u64().unwrap();
        for flow in &listed {
            let (first, last) = (time(flow, "first_ms"), time(flow, "last_ms"));
            assert!(began - 2 <= first && first <= last && last <= ended + 2, "{began} {flow} {ended}");
        }
        assert!(time(main, "last_ms") - time(main, "first_ms") >= 150, "200 datagrams at 200/s: {main}");
        // The rule as a whole: from its first source's first to its last source's last.
        let studio = &stats["rules"][0];
        assert_eq!(time(studio, "packets"), 220);
        assert!(time(studio, "first_ms").abs_diff(time(main, "first_ms")) <= 2, "{studio} {main}");
        assert!(time(studio, "last_ms").abs_diff(time(other, "last_ms")) <= 2, "{studio} {other}");
        let all = flows(&daemon, &[]);
        assert_eq!(all.len(), 3, "{all:#?}");
        let sum: u64 = all.iter().map(|flow| time(flow, "packets")).sum();
        assert_eq!(sum, 250);

        // They outlive the worker: the replacement goes on counting in the same records.
        let pid = daemon.ctl_json(&["workers"])["workers"][0]["pid"].as_u64().unwrap();
        PidFd::open(u32::try_from(pid).unwrap()).unwrap().kill(Signal::KILL).unwrap();
        wait_for("another worker", DEADLINE, || {
            let workers = daemon.ctl_json(&["workers"]);
            let worker = &workers["workers"][0];
            if worker["restarts"] == 1 && worker["state"] == "running" { Ok(()) } else { Err(workers) }
        });
        for _ in 0..5 {
            socket.send_to(&[7; 50], ("239.1.1.1", INPUT_PORT)).unwrap();
        }
        let counted = wait_for("25 datagrams of the flow", DEADLINE, || {
            let listed = flows(&daemon, &["studio"]);
            match listed.iter().find(|flow| flow["source"] == "10.1.0.77" && flow["packets"] == 25) {
                Some(flow) if listed.len() == 2 => Ok(flow.clone()),
                _ => Err(listed),
            }
        });
        assert!(time(&counted, "first_ms").abs_diff(time(other, "first_ms")) <= 2, "{counted} {other}");
        let refused = daemon.ctl(&["flows", "nobody"]);
        assert_eq!(refused.code, 1, "{refused:?}");
        drop(receiver);
        assert_accounting(&daemon.settled_stats());
    }
}

on_both_backends! {
    /// Link up, joined, nothing comes: told once, in the statistics while it lasts, and over with the first datagram.
    fn a_rule_that_is_joined_and_silent_is_an_alarm(io) {
        let topology = Topology::sender_relay_receiver();
        let config = json!({
            "rules": [rule(input("239.1.1.1"), [output("239.2.2.1")])],
            "settings": { "flow_silence_s": 2 },
        });
        let daemon = Daemon::start(&topology.relay, io, &config.to_string());
        daemon.wait_until_active(1);
        let silent = |expected: bool| {
            wait_for("the silence", DEADLINE, || {
                let stats = daemon.ctl_json(&["stats"]);
                if stats["rules"][0]["silent"] == expected { Ok(()) } else { Err(stats) }
            });
        };
        let told = |what: &str| daemon.log().lines().filter(|line| line.contains(what)).count();
        silent(true);
        assert_eq!(told("joined, but no datagram received for 2 s"), 1, "{}", daemon.log());
        let _ = send(&topology.sender, "eth0", "239.1.1.1", "--rate 100 --count 10").finish();
        silent(false);
        silent(true);
        assert_eq!((told("datagrams arrive"), told("no datagram for 2 s")), (1, 1), "{}", daemon.log());
        assert_eq!(told("joined, but no datagram received"), 1, "{}", daemon.log());
        // While the link is down, silence is no news.
        topology.sender.set_up("eth0", false);
        silent(false);
        topology.sender.set_up("eth0", true);
        silent(true);
        assert_accounting(&daemon.settled_stats());
    }
}
