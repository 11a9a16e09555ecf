//! What feeds what; and checks that a file's reader never gets to, because its types forbid it.

use super::*;
use crate::file::parse;
use crate::{Dscp, Ttl};

/// Rules in short: `input → output, output`, an endpoint being `interface group [from source …]`, all on port 5000.
fn rules(text: &[&str]) -> Result<Config, Vec<crate::ConfigError>> {
    let endpoint = |text: &str, key: &str, list: bool| {
        let mut words = text.split_whitespace();
        let (interface, group) = (words.next().unwrap(), words.next().unwrap());
        let sources: Vec<String> = words.skip(1).map(|source| format!("'{source}'")).collect();
        let sources = match sources.len() {
            0 => String::new(),
            _ if list => format!(", {key}: [{}]", sources.join(",")),
            _ => format!(", {key}: {}", sources[0]),
        };
        format!("{{ interface: '{interface}', group: '{group}', port: 5000{sources} }}")
    };
    let rule = |text: &&str| {
        let (input, outputs) = text.split_once('→').unwrap();
        let outputs: Vec<String> =
            outputs.split(',').map(|output| endpoint(output, "source", false)).collect();
        format!("{{ input: {}, outputs: [{}] }}", endpoint(input, "sources", true), outputs.join(","))
    };
    parse(&format!("{{ rules: [\n{}] }}", text.iter().map(|text| rule(text) + ",\n").collect::<String>()))
}

fn accepted(text: &[&str]) {
    if let Err(errors) = rules(text) {
        panic!("{text:?} is refused: {errors:?}");
    }
}

/// Expects exactly these refusals, each as `path: message`.
fn refused(text: &[&str], expected: &[&str]) {
    let found: Vec<String> = rules(text)
        .expect_err("is accepted")
        .iter()
        .map(|error| format!("{}: {}", error.path, error.message))
        .collect();
    assert_eq!(found, expected, "{text:?}");
}

#[test]
fn a_round_on_one_interface_is_refused() {
    refused(
        &["eth0 239.1.1.1 → eth0 239.1.1.2", "eth0 239.1.1.2 → eth0 239.1.1.1"],
        &["rules[1].outputs[0]: these rules form a loop through eth0: rules[0] → rules[1] → rules[0]"],
    );
    refused(
        &[
            "eth0 239.1.1.3 → eth1 239.9.9.9, eth0 239.1.1.1",
            "eth0 ff15::2 → eth0 239.1.1.3",
            "eth0 239.1.1.1 → eth1 239.9.9.9, eth0 ff15::2",
        ],
        &[
            "rules[2].outputs[1]: these rules form a loop through eth0: rules[0] → rules[2] → rules[1] → rules[0]",
        ],
    );
}

#[test]
fn each_round_is_named_once_and_rules_beside_it_are_not() {
    refused(
        &[
            "eth0 239.1.1.9 → eth0 239.1.1.1",
            "eth0 239.1.1.1 → eth0 239.1.1.2",
            "eth0 239.1.1.2 → eth0 239.1.1.1, eth0 239.1.1.8",
            "eth1 239.1.1.1 → eth1 239.1.1.2",
            "eth1 239.1.1.2 → eth1 239.1.1.1",
        ],
        &[
            "rules[2].outputs[0]: these rules form a loop through eth0: rules[1] → rules[2] → rules[1]",
            "rules[4].outputs[0]: these rules form a loop through eth1: rules[3] → rules[4] → rules[3]",
        ],
    );
}

#[test]
fn rules_are_called_by_their_names() {
    let text = "{ rules: [
        { name: 'there', input: { interface: 'eth0', group: '239.1.1.1', port: 1 }, outputs: [{ interface: 'eth0', group: '239.1.1.1', port: 2 }] },
        { name: 'back', input: { interface: 'eth0', group: '239.1.1.1', port: 2 }, outputs: [{ interface: 'eth0', group: '239.1.1.1', port: 1 }] },
    ] }";
    assert!(
        parse(text).unwrap_err()[0]
            .message
            .ends_with("rules[0] (there) → rules[1] (back) → rules[0] (there)")
    );
}

#[test]
fn relays_between_two_interfaces_and_more_are_accepted() {
    accepted(&["eth0 239.1.1.1 → eth1 239.1.1.1", "eth1 239.1.1.1 → eth0 239.1.1.1"]);
    accepted(&["eth0 239.1.1.1 → eth1 239.2.2.2", "eth1 239.2.2.2 → eth0 239.1.1.1"]);
    accepted(&[
        "eth0 239.1.1.1 → eth1 239.1.1.1",
        "eth1 239.1.1.1 → eth2 239.1.1.1",
        "eth2 239.1.1.1 → eth0 239.1.1.1",
    ]);
    let mesh = [
        "eth0 239.1.1.1 → eth1 239.1.1.1, eth2 239.1.1.1",
        "eth1 239.1.1.1 → eth0 239.1.1.1, eth2 239.1.1.1",
    ];
    accepted(&[mesh[0], mesh[1], "eth2 239.1.1.1 → eth0 239.1.1.1, eth1 239.1.1.1"]);
    accepted(&[
        "eth0 239.1.1.1 → eth0 239.1.1.2",
        "eth0 239.1.1.2 → eth1 239.1.1.1",
        "eth1 239.1.1.1 → eth0 239.1.1.1",
    ]);
}

#[test]
fn a_chain_that_does_not_come_back_is_accepted() {
    accepted(&["eth0 239.1.1.1 → eth0 239.1.1.2", "eth0 239.1.1.2 → eth0 239.1.1.3"]);
    accepted(&["lo 239.1.1.1 → lo 239.1.1.2", "lo 239.1.1.2 → eth0 239.1.1.1"]);
    accepted(&["eth0 239.1.1.1 → eth1 239.1.1.2", "eth0 239.1.1.2 → eth1 239.1.1.1"]);
}

#[test]
fn rounds_over_loopback_are_refused() {
    refused(
        &["lo 239.1.1.1 → lo 239.1.1.2", "lo 239.1.1.2 → lo 239.1.1.1"],
        &["rules[1].outputs[0]: these rules form a loop through lo: rules[0] → rules[1] → rules[0]"],
    );
    refused(
        &["eth0 239.1.1.1 → lo 239.1.1.1", "lo 239.1.1.1 → eth0 239.1.1.1"],
        &["rules[1].outputs[0]: these rules form a loop through eth0 and lo: rules[0] → rules[1] → rules[0]"],
    );
    // Two interfaces beside it: what arrives on one leaves on the other.
    accepted(&[
        "eth0 239.1.1.1 → lo 239.1.1.1",
        "lo 239.1.1.1 → eth1 239.1.1.1",
        "eth1 239.1.1.1 → eth0 239.1.1.1",
    ]);
}

#[test]
fn sources_close_a_round_only_if_they_may_match() {
    let there = "eth0 239.1.1.1 → eth0 239.1.1.2 from 10.0.0.1";
    let round = "rules[1].outputs[0]: these rules form a loop through eth0: rules[0] → rules[1] → rules[0]";
    refused(&[there, "eth0 239.1.1.2 → eth0 239.1.1.1"], &[round]);
    refused(&[there, "eth0 239.1.1.2 from 10.0.0.9 10.0.0.1 → eth0 239.1.1.1"], &[round]);
    accepted(&[there, "eth0 239.1.1.2 from 10.0.0.9 10.0.0.2 → eth0 239.1.1.1"]);
    // Which address an output without `source` has is not known here.
    refused(&["eth0 239.1.1.1 → eth0 239.1.1.2", "eth0 239.1.1.2 from 10.0.0.9 → eth0 239.1.1.1"], &[round]);
    // Of two rules on one group, only the one that admits the source is in the round.
    refused(
        &[
            there,
            "eth0 239.1.1.2 from 10.0.0.9 → eth0 239.1.1.1",
            "eth0 239.1.1.2 from 10.0.0.1 → eth0 239.1.1.1",
        ],
        &["rules[2].outputs[0]: these rules form a loop through eth0: rules[0] → rules[2] → rules[0]"],
    );
}

#[test]
fn a_rule_that_feeds_itself_has_its_own_message_and_hides_no_round() {
    let own = "the output eth0 239.1.1.1:5000 equals the rule's input";
    refused(&["eth0 239.1.1.1 → eth0 239.1.1.1"], &[&format!("rules[0].outputs[0]: {own}")]);
    refused(
        &["eth0 239.1.1.1 → eth0 239.1.1.1", "eth0 239.1.1.1 from 10.0.0.9 → eth0 239.1.1.1"],
        &[
            &format!("rules[0].outputs[0]: {own}"),
            &format!("rules[1].outputs[0]: {own}"),
            "rules[1].outputs[0]: these rules form a loop through eth0: rules[0] → rules[1] → rules[0]",
        ],
    );
}

#[test]
fn rules_that_differ_in_their_sources_share_group_and_port() {
    accepted(&[
        "eth0 239.1.1.1 → eth1 239.1.1.1",
        "eth0 239.1.1.1 from 10.0.0.1 → eth1 239.1.1.2",
        "eth0 239.1.1.1 from 10.0.0.2 10.0.0.1 → eth1 239.1.1.3",
        "eth1 239.1.1.9 → eth0 239.1.1.9",
    ]);
}

#[test]
fn addresses_that_look_odd_and_are_fine() {
    accepted(&[
        "eth0 10.0.0.1 from 10.0.0.2 → eth1 fe80::7 from fe80::1, eth1 ff02::1, eth1 224.0.0.1, wg0 10.1.1.1",
    ]);
    accepted(&["eth0 fe80::1 from fe80::2 → eth1 127.0.0.1", "eth0 ff02::fb → eth1 224.0.0.251"]);
    accepted(&["eth0 232.1.1.1 → eth1 ff35::8000:1", "lo 127.0.0.1 → eth0 239.1.1.1"]);
}

#[test]
fn values_that_only_a_program_can_make() {
    let mut config = rules(&["eth0 239.1.1.1 → eth1 239.1.1.1"]).unwrap();
    config.rules[0].input.port = 0;
    config.rules[0].outputs[0].port = 0;
    config.rules[0].outputs[0].options.ttl = Ttl::Fixed(0);
    config.rules[0].outputs[0].options.dscp = Dscp::Fixed(64);
    config.settings.worker_grace_s = 100_000;
    config.settings.ring_buffers = 15;
    config.pinning.insert("eth0".parse().unwrap(), vec![9_000]);
    config.pinning.insert("eth1".parse().unwrap(), (0..257).collect());
    let found: Vec<String> = check(&config).into_iter().map(|violation| violation.path).collect();
    assert_eq!(
        found,
        [
            "settings.worker_grace_s",
            "settings.ring_buffers",
            "pinning.eth0[0]",
            "pinning.eth1",
            "rules[0].input.port",
            "rules[0].outputs[0].port",
            "rules[0].outputs[0].ttl",
            "rules[0].outputs[0].dscp",
        ]
    );
}

#[test]
fn limits_of_a_typed_configuration() {
    let rule = |outputs: usize, sources: usize| {
        let mut rule = rules(&["eth0 239.1.1.1 → eth1 239.1.1.1"]).unwrap().rules.remove(0);
        rule.outputs =
            (1u16..).take(outputs).map(|port| crate::Output { port, ..rule.outputs[0].clone() }).collect();
        rule.input.sources =
            (1u32..).take(sources).map(|n| std::net::Ipv4Addr::from(0x0a00_0000 + n).into()).collect();
        rule
    };
    let config = |rules| Config { rules, ..Config::default() };
    assert_eq!(check(&config(vec![rule(256, 256)])), []);
    let found = check(&config(vec![rule(257, 257)]));
    let found: Vec<&str> = found.iter().map(|violation| violation.path.as_str()).collect();
    assert_eq!(found, ["rules[0].input.sources", "rules[0].outputs"]);
    let many = (0..257u16).map(|port| {
        let mut rule = rule(256, 256);
        rule.input.port = port + 1;
        rule
    });
    let found = check(&config(many.collect()));
    let found: Vec<&str> = found.iter().map(|violation| violation.message.as_str()).collect();
    assert_eq!(
        found,
        ["65792 outputs, at most 65536 are allowed", "65792 sources, at most 65536 are allowed"]
    );
}

/// The worst that fits the limits: every output may feed every rule on its group. It has to be a matter of nodes and edges,
/// not of their product, which would be 10⁹ here.
#[test]
fn many_rules_on_one_group_are_checked_at_once() {
    let rules = (0..16_384u32).map(|index| crate::Rule {
        merge: None,
        name: None,
        input: crate::Input {
            interface: "eth0".parse().unwrap(),
            group: "239.1.1.1".parse().unwrap(),
            port: 5000,
            sources: vec![std::net::Ipv4Addr::from(0x0a00_0000 + index).into()],
            options: crate::InputOptions::default(),
        },
        outputs: (1..=4u16)
            .map(|port| crate::Output {
                interface: "eth0".parse().unwrap(),
                group: "239.1.1.1".parse().unwrap(),
                port: if port == 1 { 5000 } else { port },
                options: crate::OutputOptions::default(),
            })
            .collect(),
        options: crate::RuleOptions::default(),
        engine: None,
    });
    let found = check(&Config { rules: rules.collect(), ..Config::default() });
    assert_eq!(found.len(), crate::limits::MAX_ERRORS);
}

/// Adding rules one by one finds what a check of all finds.
#[test]
fn an_addition_is_judged_as_the_whole_would_be() {
    use crate::rule::{Input, Output, Rule};
    let rule = |from: &str, port: u16, to: &str, to_port: u16| Rule {
        merge: None,
        name: None,
        input: Input {
            interface: from.parse().unwrap(),
            group: "239.1.1.1".parse().unwrap(),
            port,
            sources: Vec::new(),
            options: crate::InputOptions::default(),
        },
        outputs: vec![Output {
            interface: to.parse().unwrap(),
            group: "239.1.1.1".parse().unwrap(),
            port: to_port,
            options: crate::OutputOptions::default(),
        }],
        options: crate::RuleOptions::default(),
        engine: None,
    };
    let mut sound = Config::default();
    let mut refused = 0;
    for from in ["eth0", "lo", "eth1"] {
        for to in ["eth0", "lo"] {
            for (port, to_port) in [(1, 2), (2, 1), (3, 3), (2, 3), (0, 4), (4, 2)] {
                let added = rule(from, port, to, to_port);
                if sound.rules.iter().any(|other| other.input == added.input) {
                    continue;
                }
                let mut config = sound.clone();
                config.rules.push(added);
                let found = super::check_addition(&config);
                assert_eq!(found, super::check(&config));
                if found.is_empty() { sound = config } else { refused += 1 }
            }
        }
    }
    assert!(refused > 3 && sound.rules.len() > 3, "{refused} refused, {} accepted", sound.rules.len());
}
