use clap::CommandFactory;
use clap::error::ErrorKind;
use mcr_rules::{Dscp, Ttl};

use super::*;

fn parse(line: &str) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(std::iter::once("mcrctl").chain(line.split_whitespace()))
}

#[test]
fn the_definition_is_valid() {
    Arguments::command().debug_assert();
}

#[test]
fn valid_command_lines_are_accepted() {
    for line in [
        "list",
        "--json list",
        "list --json --socket /tmp/x --timeout 0.5",
        "show",
        "check f",
        "diff",
        "diff f",
        "load f",
        "load --replace --dry-run -",
        "load --confirm 60 f",
        "confirm",
        "confirm --revert",
        "save",
        "save f",
        "stats",
        "stats --watch --json",
        "workers",
        "memberships",
        "interfaces",
        "log-level get",
        "log-level set debug",
        "log-level set off --facility dataplane",
        "trace enable a",
        "trace enable a --sample 1/100 --drops-only --records 5 --seconds 86400",
        "trace enable --sample 7 0123456789abcdef",
        "trace disable a",
        "trace show --follow --pcap - a",
        "ping",
        "version",
        "remove --id 0123456789abcdef",
        "remove --name a",
    ] {
        assert!(parse(line).is_ok(), "{line}");
    }
}

#[test]
fn the_last_of_repeated_options_takes_effect() {
    let parsed = parse("--socket /a --timeout 1 --json list --socket /b --timeout 2 --json").unwrap();
    assert_eq!(parsed.socket, Some("/b".into()));
    assert_eq!((parsed.timeout, parsed.json), (Duration::from_secs(2), true));
    let parsed = parse("--socket /a --socket /b --json --json list").unwrap();
    assert_eq!(parsed.socket, Some("/b".into()));
}

#[test]
fn wrong_usage_exits_with_code_2() {
    let add = "add --input-interface eth0 --input-group 239.1.1.1 --input-port 5000";
    for line in [
        "list extra".to_owned(),
        "frobnicate".to_owned(),
        "remove".to_owned(),
        "remove --id x".to_owned(),
        "remove --id 0123456789abcdef --name a".to_owned(),
        "log-level set loud".to_owned(),
        "log-level set info --facility disk".to_owned(),
        "trace".to_owned(),
        "trace enable".to_owned(),
        "trace enable a --sample 2/3".to_owned(),
        "trace enable a --sample 0".to_owned(),
        "trace enable a --records 0".to_owned(),
        "trace enable a --seconds 86401".to_owned(),
        "list --timeout 0".to_owned(),
        "list --timeout -1".to_owned(),
        "list --timeout NaN".to_owned(),
        add.to_owned(),
        format!("{add} --outputs x"),
        format!("{add} --outputs 239.2.2.2:5001:eth1,"),
        "add --input-interface a/b --input-group 239.1.1.1 --input-port 1 --outputs 239.2.2.2:1:e".to_owned(),
        "add --input-interface eth0 --input-group g --input-port 1 --outputs 239.2.2.2:1:e".to_owned(),
        "add --input-interface eth0 --input-group 239.1.1.1 --input-port 0 --outputs 239.2.2.2:1:e"
            .to_owned(),
        "add --input-interface eth0 --input-group 239.1.1.1 --input-port 65536 --outputs 239.2.2.2:1:e"
            .to_owned(),
    ] {
        let error = parse(&line).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}: {error}");
    }
    assert_eq!(parse("--help").unwrap_err().kind(), ErrorKind::DisplayHelp);
    assert_eq!(parse("--version").unwrap_err().exit_code(), 0);
}

#[test]
fn add_accepts_several_outputs_and_sources() {
    let line = "add --input-interface eth0 --input-group ff15::1 --input-port 5000 --source fd01::1 --source fd01::2 \
                --name a --outputs 239.2.2.2:5001:eth1,[ff15::2]:5002:wg0/ttl=decrement/dscp=keep \
                --outputs 10.0.0.1:5003:eth2";
    let Command::Add(add) = parse(line).unwrap().command else { panic!() };
    assert_eq!(add.source.len(), 2);
    let outputs: Vec<_> = add.outputs.into_iter().flat_map(|list| list.0.unwrap()).collect();
    let ports: Vec<u16> = outputs.iter().map(|output| output.port).collect();
    assert_eq!(ports, [5001, 5002, 5003]);
    assert_eq!((outputs[1].options.ttl, outputs[1].options.dscp), (Ttl::Decrement, Dscp::Keep));
}
