//! Texts and what is found in them.

mod damage;
mod errors;
mod properties;

use super::*;
use crate::settings::IoChoice;
use crate::{Dscp, Ttl};

/// The example of the design, with everything in it.
const EXAMPLE: &str = r#"{
  // cores for the workers of an interface; others get one worker
  pinning: { eth1: [4, 5, 6, 7] },

  rules: [
    {
      name: "studio-video",                  // optional, unique
      input: { interface: "eth0", group: "239.1.1.1", port: 5000 },
      outputs: [
        { interface: "eth1", group: "239.2.2.2", port: 5001 },
        { interface: "wg0",  group: "10.100.0.2", port: 5001, ttl: 64, dscp: 34 },
      ],
    },
    {
      input: { interface: "eth0", group: "232.1.1.1", port: 6000, sources: ["10.1.1.9", "10.1.1.5"] },   // SSM
      outputs: [ { interface: "eth1", group: "ff35::8000:1", port: 6000, ttl: "decrement", dscp: 'keep', source: "fe80::1" } ],
    },
  ],

  settings: { io: "recvmmsg", worker_grace_s: 0x3, ring_buffers: +512 },
}
"#;

#[test]
fn the_example_is_what_it_says() {
    let config = parse(EXAMPLE).unwrap();
    assert_eq!(config.pinning["eth1"], [4, 5, 6, 7]);
    assert_eq!(config.rules.len(), 2);
    let video = config.rule_named("studio-video").unwrap();
    assert_eq!(video.input.to_string(), "eth0 239.1.1.1:5000");
    assert_eq!(
        (video.outputs[0].options.ttl, video.outputs[0].options.dscp),
        (Ttl::Fixed(16), Dscp::Fixed(0))
    );
    assert_eq!(
        (video.outputs[1].options.ttl, video.outputs[1].options.dscp),
        (Ttl::Fixed(64), Dscp::Fixed(34))
    );
    let ssm = &config.rules[1];
    assert_eq!(ssm.input.to_string(), "eth0 232.1.1.1:6000 from 10.1.1.5, 10.1.1.9");
    assert_eq!((ssm.outputs[0].options.ttl, ssm.outputs[0].options.dscp), (Ttl::Decrement, Dscp::Keep));
    assert_eq!(ssm.outputs[0].options.source, Some("fe80::1".parse().unwrap()));
    assert_eq!(config.settings.io, IoChoice::Recvmmsg);
    assert_eq!((config.settings.worker_grace_s, config.settings.ring_buffers), (3, 512));
    assert_eq!(config.rule(video.id()), Some(video));
}

#[test]
fn what_is_written_is_readable_and_always_the_same() {
    let written = to_json5(&parse(EXAMPLE).unwrap());
    assert_eq!(
        written,
        r#"{
  pinning: {
    eth1: [4, 5, 6, 7],
  },

  rules: [
    {
      name: "studio-video",
      input: { interface: "eth0", group: "239.1.1.1", port: 5000 },
      outputs: [
        { interface: "eth1", group: "239.2.2.2", port: 5001 },
        { interface: "wg0", group: "10.100.0.2", port: 5001, ttl: 64, dscp: 34 },
      ],
    },
    {
      input: { interface: "eth0", group: "232.1.1.1", port: 6000, sources: ["10.1.1.5", "10.1.1.9"] },
      outputs: [
        { interface: "eth1", group: "ff35::8000:1", port: 6000, ttl: "decrement", dscp: "keep", source: "fe80::1" },
      ],
    },
  ],

  settings: {
    io: "recvmmsg",
    worker_grace_s: 3,
    ring_buffers: 512,
  },
}
"#
    );
    assert_eq!(to_json5(&parse(&written).unwrap()), written);
    assert_eq!(to_json5(&Config::default()), "{\n  rules: [],\n}\n");
    assert_eq!(parse("{}"), Ok(Config::default()));
}

#[test]
fn a_written_configuration_has_nothing_to_lose_and_an_edited_one_has() {
    let written = to_json5(&parse(EXAMPLE).unwrap());
    assert!(!has_comments(&written));
    assert!(!has_comments(" \n"));
    for edited in [
        EXAMPLE.to_owned(),
        written.replace("  rules", "  // mine\n  rules"),
        written.replace("  rules", "  /* mine */ rules"),
        written.replace("rules:", "\"rules\":"),
        written.replace("port: 5000 }", "port: 5000, }"),
        written.replace("port: 5001 }", "port: 5001, ttl: 16 }"),
        written.replace("10.1.1.5\", \"10.1.1.9", "10.1.1.9\", \"10.1.1.5"),
        written.replace("port: 5000", "port: 0"),
        "not a configuration".to_owned(),
    ] {
        assert_ne!(edited, written);
        assert!(has_comments(&edited), "{edited}");
    }
}

#[test]
fn one_rule_of_the_control_protocol() {
    let rule = &parse(EXAMPLE).unwrap().rules[1];
    assert_eq!(parse_rule(&serde_json::to_value(rule).unwrap()).as_ref(), Ok(rule));
    let json = serde_json::json!({
        "input": { "interface": "eth0", "group": "239.1.1.1", "port": 70_000 },
        "outputs": [{ "interface": "eth1", "group": "0.0.0.0", "port": 5, "tll": 3 }],
    });
    let found: Vec<String> = parse_rule(&json).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "input.port: 70000 is out of range: 1 to 65535 are allowed",
            "outputs[0].tll: unknown key \"tll\"",
            "outputs[0].group: 0.0.0.0 is the unspecified address",
        ]
    );
    let mut deep = serde_json::Value::Null;
    for _ in 0..=MAX_DEPTH {
        deep = serde_json::Value::Array(vec![deep]);
    }
    assert_eq!(parse_rule(&deep).unwrap_err()[0].message, "nested deeper than 32 levels");
    assert_eq!(
        parse_rule(&serde_json::json!(7)).unwrap_err()[0].message,
        "an object is expected, not a number"
    );
}

#[test]
fn the_greatest_configuration_fits_its_own_limits() {
    let input = |index: usize| crate::Input {
        interface: "fifteen-bytes-x".parse().unwrap(),
        group: format!("ffff:ffff:ffff:ffff:ffff:ffff:ffff:{index:x}").parse().unwrap(),
        port: 65_535,
        sources: (0..MAX_SOURCES / MAX_RULES)
            .map(|source| format!("2001:ffff:ffff:ffff:ffff:ffff:ffff:{source:x}").parse().unwrap())
            .collect(),
        options: crate::InputOptions { promiscuous: true, local: true, hold_port: false, reassemble: false },
    };
    let output = |index: usize| crate::Output {
        interface: "fifteen-bytes-y".parse().unwrap(),
        group: format!("ffff:ffff:ffff:ffff:ffff:ffff:ffff:{index:x}").parse().unwrap(),
        port: 65_535,
        options: crate::OutputOptions {
            ttl: Ttl::Decrement,
            dscp: Dscp::Keep,
            source: Some("2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap()),
            source_port: Some(crate::SourcePort::Fixed(65_535)),
            loopback: true,
        },
    };
    let rules = (0..MAX_RULES)
        .map(|index| Rule {
            name: Some(format!("{index:064}").parse().unwrap()),
            input: input(index),
            merge: None,
            outputs: (0..MAX_OUTPUTS / MAX_RULES).map(output).collect(),
            options: crate::RuleOptions { max_pps: Some(std::num::NonZeroU32::MAX), stream: None },
            engine: Some(crate::EngineChoice::Worker),
        })
        .collect();
    let config = Config { rules, ..Config::default() };
    let text = to_json5(&config);
    assert!(text.len() > MAX_FILE_BYTES / 2, "{} bytes: the limit is far from what is needed", text.len());
    assert_eq!(parse(&text).as_ref(), Ok(&config));
}

/// The manual may not promise what the code refuses, nor hide what it has.
#[test]
fn the_manual_is_true() {
    let manual = include_str!("../../../../user_docs/CONFIGURATION.md");
    let examples: Vec<&str> =
        manual.split("```json5\n").skip(1).filter_map(|part| part.split("```").next()).collect();
    assert!(examples.len() >= 4);
    for example in examples {
        assert!(!parse(example).unwrap_or_else(|errors| panic!("{errors:?} in {example}")).rules.is_empty());
    }
    let default = serde_json::to_value(crate::Settings::default()).unwrap();
    for (key, value) in default.as_object().unwrap() {
        let row = manual.lines().find(|line| line.starts_with(&format!("| `{key}` |"))).expect(key);
        assert!(row.contains(&format!("| `{value}` |")), "{row} has not the default {value}");
    }
    use crate::limits as is;
    let with_commas = |number: usize| {
        let digits = number.to_string();
        let groups: Vec<&str> =
            digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
        groups.join(",")
    };
    for fact in [
        format!("{} rules, with {} outputs", with_commas(is::MAX_RULES), with_commas(is::MAX_OUTPUTS)),
        format!("{} sources in total", with_commas(is::MAX_SOURCES)),
        format!("1–{} objects", is::MAX_OUTPUTS_PER_RULE),
        format!("up to {} unicast addresses", is::MAX_SOURCES_PER_RULE),
        format!("1–{} of `A–Z", is::MAX_RULE_NAME_CHARS),
        format!("1–{} bytes", is::MAX_INTERFACE_NAME_BYTES),
        format!("(0–{}, 1–{} of them)", is::MAX_CORE, is::MAX_CORES_PER_INTERFACE),
        format!("| 0–{} |", is::MAX_WORKER_GRACE_S),
        format!("| 0–{} |", is::MAX_LATENCY_BUDGET_US),
        format!("| {}–{} |", is::MIN_SOCKET_BUFFER_BYTES, is::MAX_SOCKET_BUFFER_BYTES),
        format!("| {}–{}, a power of two |", is::MIN_RING_BUFFERS, is::MAX_RING_BUFFERS),
        format!("{} MiB, {} keys", is::MAX_FILE_BYTES >> 20, with_commas(is::MAX_FILE_VALUES)),
        format!("{} levels", is::MAX_DEPTH),
    ] {
        assert!(manual.contains(&fact), "the manual does not say {fact:?}");
    }
}

const LEGS: &str = "inputs: [{ interface: 'eth0', group: '239.1.1.1', port: 1 }, { interface: 'eth2', group: '239.1.1.1', port: 1 }]";
const TO: &str = "outputs: [{ interface: 'eth1', group: '239.2.2.2', port: 1 }]";

#[test]
fn merged_rules_are_read_and_written() {
    let config = parse(&format!("{{ rules: [{{ {LEGS}, merge: {{ by: 'rtp' }}, {TO} }}] }}")).unwrap();
    let rule = &config.rules[0];
    let merge = rule.merge.as_ref().unwrap();
    assert_eq!(merge.options.to_string(), "merge rtp window 50 ms");
    assert_eq!(rule.inputs().map(|input| input.interface.as_str()).collect::<Vec<_>>(), ["eth0", "eth2"]);
    assert_eq!(parse(&to_json5(&config)).unwrap(), config);
    let other = "merge: { by: 'moldudp64', window_ms: 2000, order: 'sequence' }";
    let config = parse(&format!("{{ rules: [{{ {LEGS}, {other}, {TO} }}] }}")).unwrap();
    assert_eq!(parse(&to_json5(&config)).unwrap(), config);
}

#[test]
fn what_is_wrong_with_legs_is_told() {
    let alone = "input: { interface: 'eth0', group: '239.1.1.1', port: 1 }";
    let twice = LEGS.replace("eth2", "eth0");
    let local = LEGS.replacen("port: 1", "port: 1, local: true", 1);
    let back = TO.replace("eth1", "eth2").replace("239.2.2.2", "239.1.1.1");
    for (rule, path, message) in [
        (format!("{LEGS}, {TO}"), "rules[0].merge", "the key `merge` is missing"),
        (format!("merge: {{ by: 'rtp' }}, {TO}"), "rules[0].inputs", "the key `inputs` is missing"),
        (
            format!("{alone}, {LEGS}, merge: {{ by: 'rtp' }}, {TO}"),
            "rules[0].input",
            "a merged rule has `inputs`",
        ),
        (format!("{LEGS}, merge: {{}}, {TO}"), "rules[0].merge.by", "the key `by` is missing"),
        (format!("{LEGS}, merge: {{ by: 'rtcp' }}, {TO}"), "rules[0].merge.by", "is expected, not \"rtcp\""),
        (
            format!("{LEGS}, merge: {{ by: 'rtp', window_ms: 2001 }}, {TO}"),
            "rules[0].merge.window_ms",
            "1 to 2000 are allowed",
        ),
        (
            format!("{LEGS}, merge: {{ by: 'payload', order: 'sequence' }}, {TO}"),
            "rules[0].merge.order",
            "no sequence numbers",
        ),
        (
            format!("{twice}, merge: {{ by: 'rtp' }}, {TO}"),
            "rules[0].inputs[1]",
            "the same datagrams as inputs[0]",
        ),
        (format!("{local}, merge: {{ by: 'rtp' }}, {TO}"), "rules[0].inputs[0].local", "can't be `local`"),
        (
            format!("inputs: [], merge: {{ by: 'rtp' }}, {TO}"),
            "rules[0].inputs",
            "1 legs, 2 to 4 are allowed",
        ),
        (format!("{LEGS}, merge: {{ by: 'rtp' }}, {back}"), "rules[0].outputs[0]", "equals the rule's input"),
    ] {
        let errors = parse(&format!("{{ rules: [{{ {rule} }}] }}")).unwrap_err();
        let found = errors.iter().any(|error| error.path == path && error.message.contains(message));
        assert!(found, "{rule}: {errors:#?}");
    }
}

#[test]
fn the_same_legs_in_another_order_are_the_same_rule_and_legs_may_close_a_loop() {
    let turned = LEGS.replace("eth0", "eth9").replace("eth2", "eth0").replace("eth9", "eth2");
    let merge = "merge: { by: 'rtp' }";
    let rules = format!("{{ rules: [{{ {LEGS}, {merge}, {TO} }}, {{ {turned}, {merge}, {TO} }}] }}");
    let errors = parse(&rules).unwrap_err();
    assert!(errors[0].message.starts_with("the same input as rules[0]"), "{errors:#?}");
    let back = "input: { interface: 'eth2', group: '239.5.5.5', port: 1 }, outputs: [{ interface: 'eth2', group: '239.1.1.1', port: 1 }]";
    let to = "outputs: [{ interface: 'eth2', group: '239.5.5.5', port: 1 }]";
    let errors = parse(&format!("{{ rules: [{{ {LEGS}, {merge}, {to} }}, {{ {back} }}] }}")).unwrap_err();
    assert!(errors[0].message.contains("form a loop through eth2"), "{errors:#?}");
}
