use serde_json::json;

use super::*;

fn read<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_rule_has_a_line_per_output_and_says_why_it_waits() {
    let reply: RulesReply = read(json!({ "rules": [{
        "id": "0123456789abcdef", "name": "video", "state": "pending", "reason": "eth0 is down",
        "input": { "interface": "eth0", "group": "239.1.1.1", "port": 5000, "sources": ["10.1.1.5", "10.1.1.6"] },
        "outputs": [
            { "interface": "eth1", "group": "239.2.2.2", "port": 5001, "ttl": 16, "dscp": 0, "source": null,
              "state": "active", "reason": null },
            { "interface": "wg0", "group": "ff15::1", "port": 5002, "ttl": "decrement", "dscp": "keep",
              "source": "fd01::1", "state": "pending", "reason": "wg0 does not exist" },
        ],
    }] }));
    let text = rules(&reply);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    for word in
        ["0123456789abcdef", "video", "pending", "eth0 239.1.1.1:5000", "10.1.1.5,10.1.1.6", "eth0 is down"]
    {
        assert!(lines[1].contains(word), "{word:?} is not in\n{text}");
    }
    for word in ["wg0 [ff15::1]:5002", "decrement", "keep", "wg0 does not exist"] {
        assert!(lines[2].contains(word), "{word:?} is not in\n{text}");
    }
    assert_eq!(lines[1].find("eth1 239"), lines[2].find("wg0 [ff"), "{text}");
}

#[test]
fn empty_replies_are_named() {
    assert_eq!(rules(&RulesReply::default()), "no rules\n");
    assert_eq!(stats(&StatsReply::default()), "no rules\n");
    assert_eq!(diff(&DiffReply::default()), "no difference\n");
    assert!(workers(&WorkersReply::default()).starts_with("no workers"));
    assert!(memberships(&MembershipsReply::default()).starts_with("no memberships"));
}

#[test]
fn statistics_name_rules_workers_and_reasons() {
    let reply: StatsReply = read(json!({
        "rules": [{
            "id": "0123456789abcdef", "name": null, "packets": 10, "bytes": 1000, "pps": 5.4, "bps": 2_500_000.0, "per_frame": 12.34,
            "due": 10,
            "outputs": [{ "interface": "eth1", "group": "239.2.2.2", "port": 5001, "packets": 8, "bytes": 800,
                          "errors": 2, "drops": { "unreachable": 2 }, "last_error": "Network is unreachable" }],
        }],
        "workers": [{ "interface": "eth0", "core": 1, "pid": 77, "received": 12, "frames": 12, "matched": 10,
                      "due": 10, "sent": 8, "kernel_drops": 3 }],
        "drops": { "unreachable": 2, "too_big": 0 },
        "skips": { "no_rule": 2 },
    }));
    let text = stats(&reply);
    for part in [
        "0123456789abcdef",
        "2.50 Mbit/s",
        " 12.3 ",
        "unreachable 2 (Network is unreachable)",
        "eth0 core 1",
        "dropped: unreachable 2\n",
        "skipped: no_rule 2\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(!text.contains("too_big"), "{text}");
}

#[test]
fn watched_statistics_have_rates_over_both_windows() {
    let reply = |packets: u64| -> StatsReply {
        read(json!({
            "rules": [{ "id": "0123456789abcdef", "name": "video", "packets": packets, "bytes": packets * 1000,
                        "pps": 77.0, "bps": 0.0, "due": 0, "outputs": [{ "interface": "eth1", "group": "239.2.2.2",
                        "port": 5001, "packets": 0, "bytes": 0, "errors": 0, "drops": {}, "last_error": null }] }],
            "workers": [], "drops": {}, "skips": {},
        }))
    };
    let mut rates = RuleRates::default();
    rates.sample(std::time::Duration::from_secs(1), &reply(0));
    let first = watched_stats(&reply(0), &rates);
    assert!(first.contains("PPS 1 s") && first.contains("RATE 10 s") && !first.contains("77"), "{first}");
    for (second, packets) in (2..=12).zip([100; 10].into_iter().chain([1_100])) {
        rates.sample(std::time::Duration::from_secs(second), &reply(packets));
    }
    let line = watched_stats(&reply(1_100), &rates);
    let words: Vec<&str> = line.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert_eq!(words[3..9], ["1000", "100", "8.00", "Mbit/s", "800.00", "kbit/s"], "{line}");
}

#[test]
fn a_diff_shows_old_and_new() {
    let rule = |port: u16, name: &str| {
        let input = json!({ "interface": "eth0", "group": "239.1.1.1", "port": port, "local": true, "reassemble": false });
        json!({ "name": name, "input": input,
                "outputs": [{ "interface": "eth1", "group": "239.2.2.2", "port": 5001, "source": "10.2.0.1" }] })
    };
    let reply: DiffReply = read(json!({
        "added": [rule(1, "new")], "removed": [rule(2, "gone")],
        "changed": [{ "id": "0123456789abcdef", "old": rule(3, "before"), "new": rule(3, "after") }],
        "settings_changed": true, "pinning_changed": true,
    }));
    let text = diff(&reply);
    let signs: String = text.lines().filter_map(|line| line.chars().next()).collect();
    assert_eq!(signs, "-<>+~~", "{text}");
    assert!(text.contains("eth1 239.2.2.2:5001 ttl 16 dscp 0 from 10.2.0.1"), "{text}");
    assert!(text.contains("eth0 239.1.1.1:2  local  reassemble false  to"), "{text}");
}

#[test]
fn rates_have_readable_units() {
    for (bps, text) in
        [(0.0, "0 bit/s"), (999.4, "999 bit/s"), (1500.0, "1.50 kbit/s"), (9.87e9, "9.87 Gbit/s")]
    {
        assert_eq!(bit_rate(bps), text);
    }
}
