//! Whether datagrams arrive, where, and whether the rule takes them.

use std::net::SocketAddr;
use std::time::Duration;

use mcr_sys::clock::monotonic;
use mcr_testnet::RawPrefix;
use mcr_testnet::frames::{self, Checksum, UdpFrame, VLAN, fragments};
use mcr_testnet::{IoBackend, Topology, assert_accounting, wait_for};
use serde_json::{Value, json};

use super::{DEADLINE, assert_found, examine, examine_for, finding, ids, ids_of_host, step, while_sending};
use crate::scenario::{INPUT_PORT, input, nth, output, recv, relay, rule, send, with};

fn frame(source: &str, group: &str, port: u16) -> UdpFrame {
    let to: SocketAddr = format!("{group}:{port}").parse().unwrap();
    UdpFrame::new(format!("{source}:4000").parse().unwrap(), to, &[7; 600])
}

fn named(name: &str, input: Value, outputs: impl IntoIterator<Item = Value>) -> Value {
    with(rule(input, outputs), "name", name)
}

#[test]
fn a_rule_that_is_well_relays_and_nothing_is_found() {
    let topology = Topology::sender_relay_receiver();
    let rules = [named("studio", input("239.1.1.1"), [output("239.2.2.1")])];
    let daemon = relay(&topology, IoBackend::Uring, &rules);
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.1", "");
    let sender = send(&topology.sender, "eth0", "239.1.1.1", "--rate 200 --duration 8");
    wait_for("datagrams", DEADLINE, || {
        let stats = daemon.ctl_json(&["stats"]);
        if stats["rules"][0]["packets"].as_u64() > Some(20) { Ok(()) } else { Err(stats) }
    });
    let reply = daemon.ctl_json(&["explain", "studio"]);
    let rule = &reply["rules"][0];
    assert_eq!((&rule["verdict"], &rule["findings"]), (&json!("relaying"), &json!([])), "{reply:#}");
    assert!(reply["listened_ms"].as_u64() >= Some(1900), "{reply:#}");
    for stage in ["input", "join", "capture", "match", "relay", "output"] {
        assert_eq!(step(rule, stage)["state"], "ok", "{stage}: {reply:#}");
    }
    assert!(step(rule, "capture")["words"].as_str().unwrap().contains("from 10.1.0.1"), "{reply:#}");
    let text = daemon.ctl(&["explain", "studio", "--listen", "0.3"]);
    assert_eq!(text.code, 0, "{text:?}");
    println!("{}", text.stdout);
    assert!(
        text.stdout.starts_with("studio (eth0 239.1.1.1:5000): RELAYING\n  relaying "),
        "{}",
        text.stdout
    );
    // By counters alone.
    let reply = daemon.ctl_json(&["explain", "studio", "--listen", "0"]);
    assert_eq!((&reply["listened_ms"], ids(&reply["rules"][0])), (&json!(0), vec![]), "{reply:#}");
    drop((sender, receiver));
    assert_accounting(&daemon.settled_stats());
}

#[test]
fn where_datagrams_are_instead_and_what_is_wrong_with_them() {
    let topology = Topology::sender_relay_receiver();
    topology.add_input(1);
    let expected = [
        ("port", "stopped", "other_port"),
        ("interface", "stopped", "other_interface"),
        ("vlan", "stopped", "other_vlan"),
        ("host", "stopped", "other_host"),
        ("source", "stopped", "source_excluded"),
        ("own", "stopped", "own_source"),
        ("fragments", "stopped", "fragments"),
        ("checksum", "stopped", "bad_checksum"),
        ("ttl", "stopped", "ttl_zero"),
        ("lies", "stopped", "malformed"),
        ("silence", "stopped", "nothing_arrives"),
        ("some-fragments", "impaired", "fragments"),
    ];
    let group = |name: &str| {
        let place = expected.iter().position(|(known, ..)| *known == name).unwrap();
        nth("239.1.1.1", u8::try_from(place).unwrap())
    };
    let rules = expected.map(|(name, ..)| {
        let mut input = input(group(name));
        if name == "source" {
            input["sources"] = json!(["10.1.0.9"]);
        }
        if name.ends_with("fragments") {
            input["reassemble"] = json!(false);
        }
        named(name, input, [output(nth("239.2.2.1", u8::try_from(name.len()).unwrap()))])
    });
    let daemon = relay(&topology, IoBackend::Uring, &rules);
    let of = |name: &str| frame("10.1.0.1", &group(name), INPUT_PORT);
    let mut sent = vec![
        ("eth0", frame("10.1.0.1", &group("port"), 5004).bytes()),
        ("eth1", of("interface").bytes()),
        ("eth0", UdpFrame { tags: vec![(VLAN, 7)], ..of("vlan") }.bytes()),
        ("eth0", UdpFrame { macs: Some(([2, 0, 0, 0, 0, 0x77], [2, 0, 0, 0, 0, 1])), ..of("host") }.bytes()),
        ("eth0", of("source").bytes()),
        ("eth0", frame("10.1.0.2", &group("own"), INPUT_PORT).bytes()),
        ("eth0", UdpFrame { udp_checksum: Checksum::Wrong, ..of("checksum") }.bytes()),
        ("eth0", UdpFrame { ttl: 0, ..of("ttl") }.bytes()),
        ("eth0", UdpFrame { udp_length: Some(2000), ..of("lies") }.bytes()),
        ("eth0", of("some-fragments").bytes()),
    ];
    for name in ["fragments", "some-fragments"] {
        sent.extend(fragments(&of(name), 296).into_iter().map(|piece| ("eth0", piece)));
    }
    let (host, found) = while_sending(&topology.sender, &sent, || examine(&daemon));
    assert_found(&found, &expected);
    assert_eq!(ids_of_host(&host), [""; 0], "{host:#}");
    let words = |name: &str, id: &str| finding(&found[name], id)["words"].as_str().unwrap().to_owned();
    for (name, id, told) in [
        ("port", "other_port", "from 10.1.0.1, but on port 5004, not 5000"),
        ("interface", "other_interface", "arrives on in1 from 10.1.0.1, not on eth0"),
        ("vlan", "other_vlan", "tagged for VLAN 7"),
        ("host", "other_host", "from 10.1.0.1, but in frames for another host's MAC address"),
        ("source", "source_excluded", "from 10.1.0.1, but the rule accepts 10.1.0.9 only"),
        ("own", "own_source", "from 10.1.0.2, an address of this host"),
        ("silence", "nothing_arrives", "no frame for 1.5 s on any interface"),
    ] {
        assert!(words(name, id).contains(told), "{name}: {}", words(name, id));
    }
    assert!(finding(&found["fragments"], "fragments")["evidence"]["frames"].as_u64() > Some(2));
    let text = while_sending(&topology.sender, &sent, || daemon.ctl(&["explain", "port", "--listen", "0.5"]));
    println!("{}", text.stdout);
    println!("{}", daemon.ctl(&["doctor", "--listen", "0"]).stdout);
    assert_accounting(&daemon.settled_stats());
}

/// What a program of the relay's own host sends is seen, and the option that takes it is named.
#[test]
fn a_sender_on_the_relay_itself_is_named() {
    let topology = Topology::sender_relay_receiver();
    let rules = ["239.1.1.1", "ff15::1:1"].map(|group| {
        let name = if group.starts_with('2') { "four" } else { "six" };
        named(name, input(group), [output(if name == "four" { "239.2.2.1" } else { "ff15::2:1" })])
    });
    let daemon = relay(&topology, IoBackend::Uring, &rules);
    let senders = ["239.1.1.1", "ff15::1:1"]
        .map(|group| send(&topology.relay, "eth0", group, "--rate 200 --duration 6"));
    let (_, found) = examine(&daemon);
    senders.into_iter().for_each(drop);
    assert_found(&found, &[("four", "stopped", "local_sender"), ("six", "stopped", "local_sender")]);
    for (name, source) in [("four", "10.1.0.2"), ("six", "fd01::2")] {
        let told = finding(&found[name], "local_sender");
        assert!(told["words"].as_str().unwrap().contains(source), "{told}");
        assert!(told["hint"].as_str().unwrap().contains("local: true"), "{told}");
    }
    assert_accounting(&daemon.settled_stats());
}

#[test]
fn an_overflowing_queue_is_explained_with_its_arithmetic() {
    let topology = Topology::sender_relay_receiver();
    let rules = json!([named("burst", input("239.1.1.1"), [output("239.2.2.1")])]);
    let config = json!({"settings": {"receive_buffer_bytes": 262_144}, "rules": rules}).to_string();
    let daemon = mcr_testnet::Daemon::start(&topology.relay, IoBackend::Recvmmsg, &config);
    daemon.wait_until_active(1);
    let rule = wait_for("an overflow", 3 * DEADLINE, || {
        let options = "--rate 0 --duration 3 --size 100 --segment never";
        let sender = send(&topology.sender, "eth0", "239.1.1.1", options);
        let rule = daemon.ctl_json(&["explain", "burst", "--listen", "1"])["rules"][0].clone();
        let _ = sender.finish();
        if ids(&rule).contains(&"queue_overflow") { Ok(rule) } else { Err(rule) }
    });
    let evidence = &finding(&rule, "queue_overflow")["evidence"];
    assert_eq!((&rule["verdict"], &evidence["frames_held"]), (&json!("impaired"), &json!(227)), "{rule:#}");
    let number = |name: &str| evidence[name].as_u64().unwrap_or_else(|| panic!("{name}: {rule:#}"));
    assert!(number("lost") > 0 && number("pps") > 1_000, "{rule:#}");
    assert_eq!(number("needed_bytes"), (number("pps") * 8).div_ceil(10) * 1152, "{rule:#}");
    println!("{}", finding(&rule, "queue_overflow")["hint"]);
    // The hint helps at once: queues that are there are made larger.
    let file = tempfile::NamedTempFile::new().unwrap();
    let larger = json!({"settings": {"receive_buffer_bytes": 524_288}, "rules": rules}).to_string();
    std::fs::write(&file, larger).unwrap();
    daemon.ctl(&["load", "--replace", file.path().to_str().unwrap()]);
    let (host, _) = examine_for(&daemon, "0");
    let buffers =
        host["checks"].as_array().unwrap().iter().find(|check| check["topic"] == "buffers").unwrap();
    assert!(
        buffers["words"]
            .as_str()
            .unwrap()
            .starts_with("receive buffers of 512 KiB hold 455 full-size frames"),
        "{host:#}"
    );
    assert_accounting(&daemon.settled_stats());
}

/// What a rule's `stream` counted is reported: packets that the sender left out, and datagrams that are no RTP.
#[test]
fn streams_that_come_with_losses_or_are_something_else() {
    let topology = Topology::sender_relay_receiver();
    let rules =
        [("whole", "239.1.1.1"), ("gaps", "239.1.1.2"), ("noise", "239.1.1.3")].map(|(name, group)| {
            with(
                named(name, input(group), [output(nth("239.2.2.1", u8::try_from(name.len()).unwrap()))]),
                "stream",
                "rtp",
            )
        });
    let daemon = relay(&topology, IoBackend::Uring, &rules);
    let packet = |group: &str, payload: Vec<u8>| {
        let to = format!("{group}:{INPUT_PORT}").parse().unwrap();
        ("eth0", UdpFrame::new("10.1.0.1:4000".parse().unwrap(), to, &payload).bytes())
    };
    let rtp = |sequence: u16| {
        let mut packet = vec![0x80, 33];
        packet.extend(sequence.to_be_bytes());
        packet.extend([0; 200]);
        packet
    };
    // Repeated often enough, the sequence is that of a stream: 1,000 packets, and each eighth is left out of one.
    let mut sent = Vec::new();
    for sequence in 0..1_000 {
        sent.push(packet("239.1.1.1", rtp(sequence)));
        sent.extend((sequence % 8 != 3).then(|| packet("239.1.1.2", rtp(sequence))));
        sent.extend((sequence % 8 == 0).then(|| packet("239.1.1.3", vec![0; 100])));
    }
    let sender = frames::sender(&topology.sender, "eth0", RawPrefix::None);
    let found = std::thread::scope(|scope| {
        let explained = scope.spawn(|| examine(&daemon).1);
        let (_never, wait) = std::sync::mpsc::channel::<()>();
        for frames in sent.chunks(10) {
            frames.iter().for_each(|(_, frame)| sender.send(frame).unwrap());
            let _ = wait.recv_timeout(std::time::Duration::from_millis(20));
        }
        explained.join().unwrap()
    });
    assert_eq!(
        (ids(&found["whole"]), &found["whole"]["verdict"]),
        (vec![], &json!("relaying")),
        "{found:#?}"
    );
    assert_found(&found, &[("gaps", "impaired", "stream_loss"), ("noise", "impaired", "other_format")]);
    let evidence = &finding(&found["gaps"], "stream_loss")["evidence"];
    let number = |name: &str| evidence[name].as_u64().unwrap();
    assert!(number("lost").abs_diff(number("checked") / 7) <= 2, "{evidence}");
    assert_accounting(&daemon.settled_stats());
}

#[test]
fn unknown_rules_are_refused_and_explanations_are_limited() {
    let topology = Topology::sender_relay_receiver();
    let daemon = relay(&topology, IoBackend::Recvmmsg, &[rule(input("239.1.1.1"), [output("239.2.2.1")])]);
    let id = daemon.ctl_json(&["list"])["rules"][0]["id"].as_str().unwrap().to_owned();
    let unknown = daemon.ctl(&["explain", "nobody"]);
    assert_eq!(unknown.code, 1);
    assert!(unknown.stderr.contains("there is no rule with name \"nobody\""), "{unknown:?}");
    assert_eq!(daemon.ctl(&["explain", &id, "--listen", "11"]).code, 2);
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let calls = [(); 8].map(|()| scope.spawn(|| daemon.ctl(&["explain", &id, "--listen", "2"])));
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let (served, refused): (Vec<_>, Vec<_>) = outcomes.iter().partition(|outcome| outcome.code == 0);
    assert!(served.len() >= 4 && !refused.is_empty(), "{outcomes:#?}");
    for outcome in refused {
        assert!(outcome.stderr.contains("too many explanations are under way"), "{outcome:?}");
    }
    // They are over: the next one is served.
    assert_eq!(daemon.ctl(&["explain", &id, "--listen", "0"]).code, 0);
}

/// A rule that has the fault of its name when a burst for it arrives.
fn burst_rule(name: &str, group: &str, other_source: &str, out: &str) -> Value {
    let mut input = input(group);
    match name {
        "source" => input["sources"] = json!([other_source]),
        "fragment" => input["reassemble"] = json!(false),
        _ => {}
    }
    named(name, input, [output(out)])
}

on_both_backends! {
    /// What a burst was skipped for is known when it is over: `explain`, `doctor`, `stats` and the metrics report it.
    fn bursts_are_explained_after_they_are_over(io) {
        const BURST: u64 = 30;
        for (from, other, base, out) in
            [("10.1.0.1", "10.1.0.9", "239.1.1.1", "239.2.2.1"), ("fd01::1", "fd01::9", "ff15::1", "ff15::2:1")]
        {
            let topology = Topology::sender_relay_receiver();
            let expected = [
                ("source", "source_excluded", "source_excluded"),
                ("checksum", "bad_checksum", "bad_checksum"),
                ("fragment", "fragments", "fragment"),
                ("port", "other_port", "no_rule"),
                ("incomplete", "fragments_lost", "fragment_incomplete"),
            ];
            let paused = expected.len();
            let group = |place: usize| nth(base, u8::try_from(place).unwrap());
            let names = expected.map(|(name, ..)| name).into_iter().chain(["paused"]);
            let rules: Vec<Value> =
                (0..).zip(names).map(|(place, name)| burst_rule(name, &group(place), other, &nth(out, u8::try_from(place).unwrap()))).collect();
            let daemon = relay(&topology, io, &rules);
            let to = |place: usize, port: u16| UdpFrame::new(
                format!("{}:4000", bracketed(from)).parse().unwrap(),
                format!("{}:{port}", bracketed(&group(place))).parse().unwrap(),
                &[7; 600],
            );
            let of = |place: usize| to(place, INPUT_PORT);
            let sender = frames::sender(&topology.sender, "eth0", RawPrefix::None);
            for identification in 0..BURST {
                sender.send(&of(0).bytes()).unwrap();
                sender.send(&UdpFrame { udp_checksum: Checksum::Wrong, ..of(1) }.bytes()).unwrap();
                fragments(&of(2), 296).iter().for_each(|piece| sender.send(piece).unwrap());
                sender.send(&to(3, INPUT_PORT + 1).bytes()).unwrap();
                let incomplete =
                    UdpFrame { identification: u16::try_from(identification).unwrap(), ..of(4) };
                sender.send(&fragments(&incomplete, 296)[0]).unwrap();
                sender.send(&of(paused).bytes()).unwrap();
            }
            let stats = wait_for("the skips", DEADLINE, || {
                let stats = daemon.ctl_json(&["stats"]);
                let skips = &stats["rules"];
                let all = (0..paused).all(|place| skips[place]["skips"][expected[place].2].as_u64() >= Some(BURST));
                if all && skips[paused]["packets"] == json!(BURST) { Ok(stats) } else { Err(stats) }
            });
            let skips = |place: usize, reason: &str| stats["rules"][place]["skips"][reason].clone();
            let others = [skips(0, "source_excluded"), skips(1, "bad_checksum"), skips(3, "no_rule")];
            assert_eq!(others, [json!(BURST), json!(BURST), json!(BURST)]);
            assert_eq!(skips(4, "fragment_incomplete"), json!(BURST));
            assert_eq!(stats["rules"][paused]["skips"], json!({}), "{stats:#}");
            assert_eq!(stats["rules"][3]["last_skip"]["port"], INPUT_PORT + 1, "{stats:#}");
            let last = &stats["rules"][0]["last_skip"];
            assert_eq!((&last["source"], &last["reason"]), (&json!(from), &json!("source_excluded")), "{last}");
            assert_eq!(last["port"], INPUT_PORT, "{last}");
            assert!(last["at_ms"].as_u64() > Some(1_700_000_000_000), "{last}");
            let (_, found) = examine_for(&daemon, "0.3");
            for (name, id, _) in expected {
                assert_found(&found, &[(name, "stopped", id)]);
                let words = finding(&found[name], id)["words"].as_str().unwrap();
                assert!(words.contains(from) && words.contains(" ago"), "{words}");
            }
            assert_ne!(found["paused"]["verdict"], "stopped", "{:#}", found["paused"]);
            let text = daemon.ctl(&["stats"]).stdout;
            assert!(text.contains(&format!("source_excluded from {from}")), "{text}");
            assert_accounting(&daemon.settled_stats());
        }
    }
}

/// A stream to another port of a group costs the worker a second of it: then the kernel drops it, and only it.
#[test]
fn a_flood_to_another_port_is_kept_from_the_worker() {
    let topology = Topology::sender_relay_receiver();
    let daemon =
        relay(&topology, IoBackend::Uring, &[named("own", input("239.1.1.1"), [output("239.2.2.1")])]);
    let to = |port: u16| {
        let to = format!("239.1.1.1:{port}").parse().unwrap();
        UdpFrame::new("10.1.0.1:4000".parse().unwrap(), to, &[7; 100]).bytes()
    };
    // Some 200 per second and more.
    let flood: Vec<(&str, Vec<u8>)> = (0..4).map(|_| ("eth0", to(INPUT_PORT + 1))).collect();
    let sender = frames::sender(&topology.sender, "eth0", RawPrefix::None);
    while_sending(&topology.sender, &flood, || {
        let mut last = (0, monotonic());
        wait_for("an end of what is counted", DEADLINE, || {
            let counted = daemon.ctl_json(&["stats"])["rules"][0]["skips"]["no_rule"].as_u64().unwrap_or(0);
            if counted != last.0 {
                last = (counted, monotonic());
            }
            let over = counted > 100 && monotonic() - last.1 > Duration::from_millis(500);
            if over { Ok(()) } else { Err(counted) }
        });
        for _ in 0..50 {
            sender.send(&to(INPUT_PORT)).unwrap();
        }
    });
    let stats = daemon.settled_stats();
    assert_eq!(stats["rules"][0]["packets"], 50, "{stats:#}");
    assert_accounting(&stats);
}

fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// Nothing arrives for a rule, but something else does: that may be what was meant.
#[test]
fn what_arrives_instead() {
    for (from, wanted, sent, out) in [
        ("10.1.0.1", "239.1.1.1", "239.1.1.2", "239.2.2.1"),
        ("fd01::1", "ff15::1", "ff15::2", "ff15::3"),
        ("10.1.0.1", "239.1.1.1", "10.1.0.2", "239.2.2.1"),
        ("fd01::1", "ff15::1", "fd01::2", "ff15::3"),
        ("10.1.0.1", "239.1.1.1", "10.1.0.255", "239.2.2.1"),
        ("10.1.0.1", "239.1.1.1", "255.255.255.255", "239.2.2.1"),
        ("10.1.0.1", "10.1.0.2", "239.1.1.2", "239.2.2.1"),
        ("10.1.0.1", "10.1.0.2", "255.255.255.255", "239.2.2.1"),
        ("10.1.0.1", "broadcast", "10.1.0.2", "239.2.2.1"),
        ("10.1.0.1", "broadcast", "239.1.1.2", "239.2.2.1"),
    ] {
        let topology = Topology::sender_relay_receiver();
        let daemon = relay(&topology, IoBackend::Uring, &[named("wrong", input(wanted), [output(out)])]);
        let frame = UdpFrame::new(
            format!("{}:4000", bracketed(from)).parse().unwrap(),
            format!("{}:{INPUT_PORT}", bracketed(sent)).parse().unwrap(),
            &[7; 600],
        );
        let (_, found) = while_sending(&topology.sender, &[("eth0", frame.bytes())], || examine(&daemon));
        let rule = &found["wrong"];
        assert_eq!(ids(rule), ["nothing_arrives", "similar_arrives"], "{rule:#}");
        let similar = finding(rule, "similar_arrives");
        let words = similar["words"].as_str().unwrap();
        let expected = format!("{}:{INPUT_PORT} from {from}, ", bracketed(sent));
        assert!(
            words.starts_with(&expected) && words.ends_with("arrives on eth0: is that the one?"),
            "{words}"
        );
        assert_eq!(similar["evidence"]["group"], sent, "{similar:#}");
    }
}
