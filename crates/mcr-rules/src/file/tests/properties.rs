//! What holds for every configuration and every text.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use super::super::*;
use crate::change::diff;
use crate::check;
use crate::rule::{Input, Output};
use crate::settings::{Form, Settings};
use crate::{Dscp, InputOptions, OutputOptions, RuleOptions, SourceAddress, SourcePort, StreamFormat, Ttl};

fn interface() -> impl Strategy<Value = crate::InterfaceName> {
    "(eth[0-3]|lo|wg-[a-z]|[a-z\"'\\\\é]{1,5}\\.[0-9])".prop_map(|name| name.parse().unwrap())
}

fn unicast(ipv4: bool) -> BoxedStrategy<IpAddr> {
    if ipv4 {
        (1u8..=223, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| Ipv4Addr::new(a, b, c, d).into()).boxed()
    } else {
        (0x2000u16..0xff00, any::<[u16; 7]>())
            .prop_map(|(a, [b, c, d, e, f, g, h])| Ipv6Addr::new(a, b, c, d, e, f, g, h).into())
            .boxed()
    }
}

fn group(ipv4: bool) -> BoxedStrategy<IpAddr> {
    let multicast = if ipv4 {
        (224u8..=239, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| Ipv4Addr::new(a, b, c, d).into()).boxed()
    } else {
        any::<[u16; 7]>()
            .prop_map(|[b, c, d, e, f, g, h]| Ipv6Addr::new(0xff15, b, c, d, e, f, g, h).into())
            .boxed()
    };
    prop_oneof![3 => multicast, 1 => unicast(ipv4)].boxed()
}

fn input() -> impl Strategy<Value = Input> {
    any::<bool>().prop_flat_map(|ipv4| {
        let sources = btree_set(unicast(ipv4), 0..6);
        (interface(), group(ipv4), 1u16.., sources, any::<[bool; 4]>()).prop_map(
            |(interface, group, port, sources, [promiscuous, local, hold_port, reassemble])| Input {
                interface,
                group,
                port,
                sources: sources.into_iter().collect(),
                options: InputOptions { promiscuous, local, hold_port, reassemble },
            },
        )
    })
}

fn output() -> impl Strategy<Value = Output> {
    let ttl = prop_oneof![Just(Ttl::default()), Just(Ttl::Decrement), (1u8..).prop_map(Ttl::Fixed)];
    let dscp = prop_oneof![Just(Dscp::default()), Just(Dscp::Keep), (0u8..64).prop_map(Dscp::Fixed)];
    any::<bool>().prop_flat_map(move |ipv4| {
        let source = option::of(unicast(ipv4).prop_map(SourceAddress::Fixed));
        let source_port =
            option::of(prop_oneof![Just(SourcePort::Keep), (1u16..).prop_map(SourcePort::Fixed)]);
        let options = (ttl.clone(), dscp.clone(), source, source_port, any::<bool>());
        (interface(), group(ipv4), 1u16.., options).prop_map(
            |(interface, group, port, (ttl, dscp, source, source_port, loopback))| Output {
                interface,
                group,
                port,
                options: OutputOptions { ttl, dscp, source, source_port, loopback },
            },
        )
    })
}

/// Each setting has its default or any value that is permitted.
fn settings() -> impl Strategy<Value = Settings> {
    vec(option::of(any::<u32>()), Settings::TABLE.len()).prop_map(|numbers| {
        let mut settings = Settings::default();
        for (setting, number) in Settings::TABLE.iter().zip(numbers) {
            let Some(number) = number else { continue };
            let (lowest, highest) = setting.range().into_inner();
            let span = u64::from(highest - lowest) + 1;
            let number = lowest + u32::try_from(u64::from(number) % span).unwrap();
            let number = match setting.form {
                Form::PowerOfTwo(_) => 1 << number.ilog2(),
                _ => number,
            };
            (setting.set)(&mut settings, number);
        }
        settings
    })
}

/// Any valid configuration.
fn config() -> impl Strategy<Value = Config> {
    let name = option::of("[A-Za-z0-9._][A-Za-z0-9._-]{0,12}");
    let rule = (name, input(), vec(output(), 1..5), any::<u32>());
    let cores = btree_set(0u16..64, 1..60).prop_map(|cores| cores.into_iter().rev().collect::<Vec<u16>>());
    let pinning =
        vec((interface(), cores), 0..4).prop_map(|list| list.into_iter().collect::<BTreeMap<_, _>>());
    (pinning, vec(rule, 0..8), prop_oneof![Just(Settings::default()), settings()])
        .prop_map(|(pinning, rules, settings)| {
            let rules = rules.into_iter().enumerate().map(|(index, (name, input, outputs, max_pps))| Rule {
                name: name.map(|name| format!("{name}{index}").parse().unwrap()),
                input,
                merge: None,
                outputs,
                options: RuleOptions {
                    max_pps: std::num::NonZeroU32::new(if max_pps % 2 == 0 { 0 } else { max_pps }),
                    stream: [None, Some(StreamFormat::Rtp), Some(StreamFormat::MpegTs)][max_pps as usize % 3],
                },
                engine: [None, Some(crate::EngineChoice::Auto)][max_pps as usize % 2],
            });
            Config { pinning, rules: rules.collect(), settings }
        })
        .prop_filter("chance made a loop or a double", |config| check(config).is_empty())
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(config in config()) {
        let text = to_json5(&config);
        let read = parse(&text);
        prop_assert_eq!(read.as_ref(), Ok(&config), "{}", text);
        prop_assert!(!has_comments(&text));
        prop_assert!(diff(&config, &parse(&text).unwrap()).is_empty());
    }

    #[test]
    fn the_same_configuration_as_json_is_read_back(config in config()) {
        let text = serde_json::to_string_pretty(&config).unwrap();
        let read = parse(&text);
        prop_assert_eq!(read.as_ref(), Ok(&config));
        for rule in &config.rules {
            let read = parse_rule(&serde_json::to_value(rule).unwrap());
            prop_assert_eq!(read.as_ref(), Ok(rule));
        }
    }

    #[test]
    fn an_id_survives_writing_and_any_order_of_sources(config in config(), seed in any::<u64>()) {
        for (rule, read) in config.rules.iter().zip(parse(&to_json5(&config)).unwrap().rules) {
            prop_assert_eq!(rule.id(), read.id());
            let mut input = rule.input.clone();
            let count = u64::try_from(input.sources.len().max(1)).unwrap();
            input.sources.rotate_left(usize::try_from(seed % count).unwrap());
            prop_assert_eq!(rule.id(), input.id());
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let _ = (parse(&text), has_comments(&text));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..400)) {
        let _ = parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_tokens_make_it_panic(tokens in vec("[{}\\[\\]:,'\"/*\n\\\\ 01ex+-]|rules: |input: |outputs: |true|null|é", 0..80)) {
        let _ = parse(&tokens.concat());
    }

    /// An error always has a place within the text, and a text without errors reads the same when it is written.
    #[test]
    fn mutated_configurations_are_read_or_refused_with_places(
        config in config(),
        edits in vec((any::<prop::sample::Index>(), 0usize..4, "[{}\\[\\]:,'\"/0-9a-z\n -]{0,3}"), 1..6),
    ) {
        let mut chars: Vec<char> = to_json5(&config).chars().collect();
        for (at, removed, added) in edits {
            let at = at.index(chars.len().max(1)).min(chars.len());
            let end = (at + removed).min(chars.len());
            chars.splice(at..end, added.chars());
        }
        let text: String = chars.into_iter().collect();
        match parse(&text) {
            Ok(config) => prop_assert_eq!(parse(&to_json5(&config)), Ok(config)),
            Err(errors) => {
                prop_assert!(!errors.is_empty());
                prop_assert!(errors.iter().map(|error| error.location).is_sorted());
                for error in errors {
                    let location = error.location.expect("a file's errors have places");
                    let lines: Vec<&str> = text.split('\n').collect();
                    let line = lines.get(location.line as usize - 1).expect("a line of the text");
                    prop_assert!(location.column as usize <= line.chars().count() + 1, "{} in {:?}", error, line);
                }
            }
        }
    }
}
