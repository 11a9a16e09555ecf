//! Half a minute of a relay, as its daemon reports it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::top::snapshot::{Answer, Report, Snapshot};
use crate::top::state::State;

/// 2026-11-23 14:05:00 UTC.
const START: u64 = 1_795_442_700;

/// The daemon's replies after a number of seconds.
pub(in crate::top) fn snapshot(second: u64) -> Snapshot {
    Snapshot {
        at: Duration::from_secs(1_000 + second),
        wall: START + second,
        version: "0.1.0".to_owned(),
        status: read(
            json!({ "startup_file": "/etc/mcr/mcr.json5", "confirm_within_s": null, "notices": [] }),
        ),
        rules: read(json!({ "rules": rules(second) })),
        workers: read(json!({ "workers": workers(second) })),
        stats: read(stats(second)),
        interfaces: read(json!({ "interfaces": interfaces(second) })),
        memberships: read(json!({ "memberships": memberships() })),
        flows: read(json!({ "flows": flows(second), "unlisted": 0 })),
        // A quarter of core 0, half of that of core 1.
        processor_ns: BTreeMap::from([
            (4711, second * 230_000_000 + second % 3 * 40_000_000),
            (4712, second * 110_000_000),
        ]),
    }
}

/// The state after a number of seconds.
pub(in crate::top) fn state(seconds: u64) -> State {
    let mut state = State::default();
    for second in 0..=seconds {
        events(second).into_iter().for_each(|event| state.take(event));
        state.take(Report::Snapshot(Box::new(snapshot(second))));
    }
    state
}

/// The daemon's events in this second.
fn events(second: u64) -> Vec<Report> {
    let feed = "00000000000000a2";
    let told = match second {
        11 => vec![
            json!({ "kind": "flow", "state": "started", "rule": feed, "interface": "eth2", "group": "232.7.0.1",
                           "words": "datagrams arrive (eth2 232.7.0.1:7100)" }),
        ],
        20 => vec![
            json!({ "kind": "link", "state": "up", "interface": "eth2", "words": "interface eth2 is up" }),
            json!({ "kind": "rule", "state": "active", "rule": feed, "words": "rule is active" }),
        ],
        25 => {
            vec![json!({ "kind": "worker", "state": "running", "interface": "eth2", "core": 1, "pid": 4712,
                           "words": "worker eth2 core 1 (pid 4712) is running" })]
        }
        _ => vec![json!({ "kind": "alive", "words": "nothing happened" })],
    };
    let event = |mut event: Value| {
        event["at_ms"] = ((START + second) * 1_000).into();
        Report::Event(Box::new(read(event)))
    };
    told.into_iter().map(event).collect()
}

pub(in crate::top) fn lost(second: u64) -> Report {
    Report::Lost { wall: START + second, why: "mcrd closed the connection without an answer".to_owned() }
}

/// A record of the first rule's trace.
pub(in crate::top) fn trace_record() -> Value {
    json!({
        "at_ns": START * 1_000_000_000 + 123_456_789, "core": 0, "arrival": 17, "run": 3, "what": "dropped",
        "reason": "too_big", "output": { "interface": "wg0", "group": "10.100.0.2", "port": 5001 },
        "datagrams": 4, "bytes": 5600, "segment_bytes": 1400, "ttl": 0, "dscp": 0, "frame_bytes": 0,
    })
}

/// What the daemon says of the first rule if it is asked.
pub(in crate::top) fn explained(listened_ms: u64) -> Report {
    let explanation: mcr_control::explanation::Explanation = read(json!({
        "id": "00000000000000a1", "name": "video",
        "input": { "interface": "eth0", "group": "239.1.1.1", "port": 5000, "sources": [] },
        "verdict": "impaired", "summary": "1,200 datagrams did not fit wg0",
        "path": [
            { "stage": "input", "state": "ok", "words": "eth0 is up" },
            { "stage": "join", "state": "ok", "words": "239.1.1.1 is joined on eth0" },
            { "stage": "output", "state": "warning", "words": "2 outputs, 1 with drops" },
        ],
        "findings": [{ "id": "too_big", "severity": "warning", "stage": "output", "evidence": { "mtu": 1420 },
                       "words": "1200 datagrams were larger than wg0's MTU of 1420",
                       "hint": "send smaller datagrams, or raise the MTU" }],
    }));
    let answer = Answer::Received { wall: START + 31, listened_ms, explanation: Box::new(explanation) };
    Report::Explained { rule: "00000000000000a1".parse().unwrap(), answer }
}

pub(in crate::top) fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// Datagrams of the stream that swings, up to a second.
fn swinging(second: u64) -> u64 {
    (0..second).map(|n| 9_000 + 3_400 * (n % 11).min(11 - n % 11) / 5).sum()
}

/// The stream that begins after ten seconds.
fn late(second: u64) -> u64 {
    second.saturating_sub(10) * 998
}

fn output(interface: &str, group: &str, port: u16, reason: Value) -> Value {
    let state = if reason.is_null() { "active" } else { "pending" };
    json!({ "interface": interface, "group": group, "port": port, "ttl": 16, "dscp": 0, "source": null,
            "state": state, "reason": reason })
}

fn rules(second: u64) -> Value {
    let feed = (second < 20).then_some("eth2 does not exist");
    json!([
        { "id": "00000000000000a1", "name": "video", "state": "active", "reason": null, "max_pps": null,
          "input": { "interface": "eth0", "group": "239.1.1.1", "port": 5000, "sources": [] },
          "outputs": [output("eth1", "239.2.2.2", 5001, Value::Null),
                      output("wg0", "10.100.0.2", 5001, Value::Null)] },
        { "id": "00000000000000a2", "name": "feed-a", "state": if feed.is_some() { "pending" } else { "active" },
          "reason": feed, "max_pps": null,
          "input": { "interface": "eth2", "group": "232.7.0.1", "port": 7100, "sources": ["10.4.0.1"] },
          "outputs": [output("eth1", "239.7.0.1", 7100, Value::Null)] },
        { "id": "00000000000000a3", "name": null, "state": "active", "reason": null, "max_pps": null,
          "input": { "interface": "eth0", "group": "ff15::1:2", "port": 6000, "sources": [] },
          "outputs": [output("eth3", "ff15::2:2", 6000, json!("eth3 is down"))] },
    ])
}

fn stats(second: u64) -> Value {
    let video = 1_000_000 + swinging(second);
    let (feed, drops) = (late(second), second * 40);
    let last = second.saturating_sub(1);
    let rate = |now: u64, before: u64| f64::from(u32::try_from(now - before).unwrap());
    let (pps, feed_pps) = (rate(swinging(second), swinging(last)), rate(feed, late(last)));
    let sent = |interface: &str,
                group: &str,
                port: u16,
                packets: u64,
                size: u64,
                drops: Value,
                error: Value| {
        let errors: u64 = drops.as_object().unwrap().values().filter_map(Value::as_u64).sum();
        json!({ "interface": interface, "group": group, "port": port, "packets": packets, "bytes": packets * size,
                "errors": errors, "drops": drops, "last_error": error })
    };
    let told = json!("Message too long (os error 90)");
    json!({
        "rules": [
            { "id": "00000000000000a1", "name": "video", "packets": video, "bytes": video * 1316, "pps": pps,
              "bps": pps * 10_528.0, "due": 2 * video,
              "outputs": [sent("eth1", "239.2.2.2", 5001, video, 1316, json!({}), Value::Null),
                          sent("wg0", "10.100.0.2", 5001, video - drops, 1316, json!({ "too_big": drops }), told)] },
            { "id": "00000000000000a2", "name": "feed-a", "packets": feed, "bytes": feed * 700, "pps": feed_pps, "bps": feed_pps * 5_600.0,
              "due": feed, "outputs": [sent("eth1", "239.7.0.1", 7100, feed, 700, json!({}), Value::Null)] },
            { "id": "00000000000000a3", "name": null, "packets": 0, "bytes": 0, "pps": 0.0, "bps": 0.0, "due": 0,
              "outputs": [sent("eth3", "ff15::2:2", 6000, 0, 0, json!({}), Value::Null)] },
        ],
        "workers": [
            { "interface": "eth0", "core": 0, "pid": 4711, "received": video + 3 * second, "frames": video, "matched": video,
              "due": 2 * video, "sent": 2 * video - drops, "kernel_drops": 0 },
            { "interface": "eth2", "core": 1, "pid": 4712, "received": feed, "frames": feed, "matched": feed, "due": feed,
              "sent": feed, "kernel_drops": 0 },
        ],
        "drops": { "too_big": drops, "queue_full": 0, "output_down": 0 },
        "skips": { "no_rule": 3 * second, "fragment": 0 },
    })
}

/// One source sends the first rule's stream, the other one has ceased to.
fn flows(second: u64) -> Value {
    let flow = |source: &str, pps: f64, last: u64, health: Value| {
        json!({ "rule": "00000000000000a1", "name": "video", "source": source, "port": 40_000, "packets": 1_000_000,
                "bytes": 1_316_000_000, "pps": pps, "bps": pps * 10_528.0, "first_ms": (START - 300) * 1_000,
                "last_ms": last * 1_000, "flowing": pps > 0.0, "health": health })
    };
    let health = json!({ "checked": 1_000_000, "lost": 3, "reordered": 1, "duplicates": 0, "continuity_errors": 0,
                         "malformed": 0, "jitter_us": 120 });
    json!([
        flow("10.1.0.9", 0.0, START - 20, Value::Null),
        flow("10.1.0.1", 11_700.0, START + second, health)
    ])
}

fn workers(second: u64) -> Value {
    let worker = |interface: &str, core: u16, pid: u32, restarts: u64| {
        json!({ "interface": interface, "core": core, "pid": pid, "state": "running", "reason": null, "generation": 3,
                "ruleset_hash": "0123456789abcdef", "restarts": restarts, "uptime_s": 7_300 + second, "io": "io_uring",
                "uid": 65534, "notes": [], "recovery_ms": if restarts > 0 { Some(14) } else { None } })
    };
    json!([worker("eth0", 0, 4711, 0), worker("eth2", 1, 4712, u64::from(second >= 25))])
}

fn interfaces(second: u64) -> Value {
    let interface =
        |name: &str, index: Option<u32>, up: bool, inputs: u64, outputs: u64, addresses: Value| {
            json!({ "name": name, "index": index, "kind": "ethernet", "mtu": 1500, "up": up, "carrier": up,
                "multicast": true, "addresses": addresses, "inputs": inputs, "outputs": outputs })
        };
    let eth2 = interface("eth2", (second >= 20).then_some(4), second >= 20, 1, 0, json!(["10.4.0.2/24"]));
    json!([
        interface("eth0", Some(2), true, 2, 0, json!(["10.1.0.2/24", "fd01::2/64"])),
        interface("eth1", Some(3), true, 0, 2, json!(["10.2.0.1/24"])),
        eth2,
        interface("eth3", Some(5), false, 0, 1, json!([])),
        interface("wg0", Some(6), true, 0, 1, json!(["10.100.0.1/24"])),
    ])
}

fn memberships() -> Value {
    let membership = |interface: &str, group: &str, source: Value| json!({ "interface": interface, "group": group, "source": source, "joined": true, "reason": null, "rules": 1 });
    json!([
        membership("eth0", "239.1.1.1", Value::Null),
        membership("eth0", "ff15::1:2", Value::Null),
        membership("eth2", "232.7.0.1", json!("10.4.0.1")),
    ])
}
