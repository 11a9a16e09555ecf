//! Each mistake with its line, column, path, message and hint.

use super::super::*;

/// A text in which `⟦` marks the place of the error, and the error without its place and with its hint behind ` # `.
type Row = (&'static str, &'static str);

/// Parses a marked text and compares: one error, at the mark, with these words.
fn expect(marked: &str, expected: &str) {
    let offset = marked.find('⟦').unwrap_or_else(|| panic!("no mark in {marked}"));
    let text = marked.replacen('⟦', "", 1);
    let before = &marked[..offset];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let found: Vec<String> = parse(&text).expect_err(&text).iter().map(show).collect();
    assert_eq!(found, [format!("{line}:{column}: {expected}")], "{marked}");
}

fn show(error: &ConfigError) -> String {
    error.hint.as_ref().map_or_else(|| error.to_string(), |hint| format!("{error} # {hint}"))
}

fn expect_all(rows: &[Row], around: impl Fn(&str) -> String) {
    for (part, expected) in rows {
        expect(&around(part), expected);
    }
}

/// A configuration with one rule of which `input` and `outputs` are given.
fn rule(input: &str, outputs: &str) -> String {
    format!("{{\n  rules: [\n    {{ input: {input},\n      outputs: {outputs} }},\n  ],\n}}\n")
}

const INPUT: &str = "{ interface: 'eth0', group: '239.1.1.1', port: 5000 }";
const OUTPUTS: &str = "[{ interface: 'eth1', group: '239.2.2.2', port: 5001 }]";

const YAML: &str =
    "a value is expected here # this looks like YAML; a configuration is JSON5: `{ rules: [ { … } ] }`";

#[test]
fn syntax() {
    let rows: [Row; 20] = [
        ("⟦", "the file is empty # a configuration without rules is `{}`"),
        ("// nothing\n⟦", "the text ends where a value is expected"),
        ("{\n  rules: [\n    { input: 1 ⟦", "the text ends within an object # the `{` at 3:5 is not closed"),
        ("{\n  rules: [ 1, ⟦", "the text ends where a value is expected # the `[` at 2:10 is not closed"),
        ("{ /* é ⟦", "the text ends within a comment # the `{` at 1:1 is not closed"),
        ("{ rules: [] ⟦settings: {} }", "a comma or a closing bracket is expected here"),
        ("{ é: 1, rules ⟦= [] }", "a colon is expected here, between key and value"),
        ("{ rules: ⟦eth0 }", "a value is expected here # strings and addresses need quotes"),
        ("{ rules: 'a⟦\n' }", "the line ends within a string # close the string with its quote"),
        ("{ a: ⟦007 }", "a number may not begin with 0 # remove the leading zeros"),
        ("{ a: 'b⟦\\u12' }", "invalid escape sequence # write a backslash as `\\\\`"),
        ("{ ⟦1a: 2 }", "a key is expected here # quote keys that are not plain words"),
        ("{ /⟦ a: 1 }", "unexpected `/` # comments begin with `//` or `/*`"),
        ("{}\n⟦{}", "unexpected text after the end of the configuration"),
        ("{ a: 0xffffffffffffffffffffffffffffffff⟦f }", "the number is too large"),
        ("{ ⟦# relays\n}", "a key is expected here # comments begin with `//` or `/*`"),
        ("⟦# relays\n{}", "a value is expected here # comments begin with `//` or `/*`"),
        ("⟦rules:\n  - name: a", YAML),
        ("-⟦--\nrules: []\n", YAML),
        ("-⟦ input: a\n", YAML),
    ];
    expect_all(&rows, str::to_owned);
}

#[test]
fn limits_before_parsing() {
    let deep = format!("{{ a:\n{}", "[".repeat(100_000));
    assert_eq!(parse(&deep).unwrap_err()[0].to_string(), "2:32: nested deeper than 32 levels");
    let mixed = "[{a:".repeat(50_000);
    assert!(parse(&mixed).unwrap_err()[0].message.starts_with("nested deeper"));
    let big = " ".repeat(MAX_FILE_BYTES + 1);
    let expected =
        format!("1:1: the file has {} bytes, at most {MAX_FILE_BYTES} are allowed", MAX_FILE_BYTES + 1);
    assert_eq!(parse(&big).unwrap_err()[0].to_string(), expected);
    let many = format!("[{}]", "0,".repeat(MAX_FILE_VALUES));
    assert!(parse(&many).unwrap_err()[0].message.starts_with("more than"));
}

#[test]
fn keys_and_kinds() {
    let rows: [Row; 13] = [
        ("⟦[]", "an object is expected, not a list"),
        ("⟦null", "an object is expected, not null # omit the key for the default"),
        ("{ ⟦rulez: [] }", "rulez: unknown key \"rulez\" # did you mean `rules`?"),
        ("{ ⟦'a b': [] }", "[\"a b\"]: unknown key \"a b\" # known keys: pinning, rules, settings"),
        ("{ rules: [], ⟦rules: [] }", "rules: duplicate key # remove one of them"),
        ("{ rules: ⟦{} }", "rules: a list is expected, not an object"),
        ("{ rules: [ ⟦7 ] }", "rules[0]: an object is expected, not a number"),
        ("{ pinning: ⟦[] }", "pinning: an object is expected, not a list"),
        ("{ pinning: { eth0: ⟦4 } }", "pinning.eth0: a list is expected, not a number"),
        ("{ settings: ⟦true }", "settings: an object is expected, not a boolean"),
        ("{ settings: { ⟦IO: 'auto' } }", "settings.IO: unknown key \"IO\" # did you mean `io`?"),
        (
            "{\r\n  settings: {\r\n\tio: ⟦null } }",
            "settings.io: one of \"auto\", \"io_uring\", \"recvmmsg\" is expected, not null # omit the key for the default",
        ),
        ("{ /* \u{2028} */\n r\\u0075les: ⟦'x' }", "rules: a list is expected, not a string"),
    ];
    for (part, expected) in &rows {
        // U+2028 ends a line for JSON5 and not for this test's own counting, so it is kept out of the counted part.
        if part.contains('\u{2028}') {
            let found = parse(&part.replace('⟦', "")).unwrap_err();
            assert_eq!(found[0].to_string(), format!("3:14: {expected}"));
        } else {
            expect(part, expected);
        }
    }
}

#[test]
fn pinning_and_settings() {
    let rows: [Row; 17] = [
        (
            "pinning: { ⟦'a/b': [1] }",
            "pinning[\"a/b\"]: \"a/b\" is not an interface name: the name may not contain '/'",
        ),
        (
            "pinning: { eth0: ⟦[] }",
            "pinning.eth0: the list of cores is empty # name a core, or omit eth0 for one worker on a core that the planner selects",
        ),
        (
            "pinning: { eth0: [1, 2, ⟦1] }",
            "pinning.eth0[2]: core 1 is listed twice # an interface has one worker per core",
        ),
        ("pinning: { 'eth0.7': [⟦-1] }", "pinning[\"eth0.7\"][0]: -1 is out of range: 0 to 8191 are allowed"),
        ("pinning: { eth0: [⟦8192] }", "pinning.eth0[0]: 8192 is out of range: 0 to 8191 are allowed"),
        ("pinning: { eth0: [0], ⟦eth0: [1] }", "pinning.eth0: duplicate key # remove one of them"),
        (
            "settings: { io: ⟦'iouring' }",
            "settings.io: one of \"auto\", \"io_uring\", \"recvmmsg\" is expected, not \"iouring\" # did you mean \"io_uring\"?",
        ),
        (
            "settings: { io: ⟦1 }",
            "settings.io: one of \"auto\", \"io_uring\", \"recvmmsg\" is expected, not a number",
        ),
        (
            "settings: { worker_grace_s: ⟦86401 }",
            "settings.worker_grace_s: 86401 is out of range: 0 to 86400 are allowed",
        ),
        (
            "settings: { worker_grace_s: ⟦0.5 }",
            "settings.worker_grace_s: a whole number from 0 to 86400 is expected, not 0.5",
        ),
        (
            "settings: { worker_grace_s: ⟦'10' }",
            "settings.worker_grace_s: a number from 0 to 86400 is expected, not a string # write 10 without quotes",
        ),
        (
            "settings: { receive_buffer_bytes: ⟦1000 }",
            "settings.receive_buffer_bytes: 1000 is out of range: 65536 to 536870912 are allowed",
        ),
        (
            "settings: { send_buffer_bytes: ⟦1e99 }",
            "settings.send_buffer_bytes: 1000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000 is out of range: 65536 to 536870912 are allowed",
        ),
        (
            "settings: { send_buffer_bytes: ⟦NaN }",
            "settings.send_buffer_bytes: NaN is out of range: 65536 to 536870912 are allowed",
        ),
        (
            "settings: { ring_buffers: ⟦300 }",
            "settings.ring_buffers: 300 is not a power of two # write 256 or 512",
        ),
        (
            "settings: { ring_buffers: ⟦16384 }",
            "settings.ring_buffers: 16384 is out of range: 16 to 8192 are allowed",
        ),
        (
            "settings: { ⟦recieve_buffer_bytes: 1 }",
            "settings.recieve_buffer_bytes: unknown key \"recieve_buffer_bytes\" # did you mean `receive_buffer_bytes`?",
        ),
    ];
    for (part, expected) in rows {
        expect(&format!("{{\n  // é\n  {part},\n}}"), expected);
    }
}

#[test]
fn inputs() {
    let around = |input: &str| rule(input, OUTPUTS);
    let whole: [Row; 5] = [
        ("⟦{ interface: 'eth0', group: '239.1.1.1' }", "rules[0].input.port: the key `port` is missing"),
        ("⟦'eth0'", "rules[0].input: an object is expected, not a string"),
        (
            "{ interface: ⟦'', group: '239.1.1.1', port: 1 }",
            "rules[0].input.interface: \"\" is not an interface name: the name is empty",
        ),
        (
            "{ interface: ⟦'sixteen-bytes-xx', group: '239.1.1.1', port: 1 }",
            "rules[0].input.interface: \"sixteen-bytes-xx\" is not an interface name: the name has 16 bytes, at most 15 are allowed # for an altname, write the interface's name, which `ip link show dev ALTNAME` shows",
        ),
        (
            "{ interface: 'eth0', ⟦address: '239.1.1.1', group: '239.1.1.1', port: 1 }",
            "rules[0].input.address: unknown key \"address\" # known keys: interface, group, port, sources, promiscuous, local, hold_port, reassemble",
        ),
    ];
    expect_all(&whole, around);
    let ports: [Row; 7] = [
        ("⟦0", "0 is out of range: 1 to 65535 are allowed"),
        ("⟦65536", "65536 is out of range: 1 to 65535 are allowed"),
        ("⟦-5000", "-5000 is out of range: 1 to 65535 are allowed"),
        ("⟦5000.5", "a whole number from 1 to 65535 is expected, not 5000.5"),
        ("⟦18446744073709551615", "10000000000000000000 is out of range: 1 to 65535 are allowed"),
        ("⟦'5000'", "a number from 1 to 65535 is expected, not a string # write 5000 without quotes"),
        ("⟦[5000]", "a number from 1 to 65535 is expected, not a list"),
    ];
    for (port, expected) in ports {
        let input = format!("{{ interface: 'eth0', group: '239.1.1.1', port: {port} }}");
        expect(&around(&input), &format!("rules[0].input.port: {expected}"));
    }
}

#[test]
fn addresses() {
    let around = |input: &str| rule(input, OUTPUTS);
    let groups: [Row; 15] = [
        ("⟦5", "an IP address in quotes is expected, not a number"),
        ("⟦'239.1.1'", "\"239.1.1\" is not an IP address"),
        (
            "⟦'239.1.1.256'",
            "\"239.1.1.256\" is not an IP address # four numbers from 0 to 255 without leading zeros are needed",
        ),
        (
            "⟦'239.001.001.001'",
            "\"239.001.001.001\" is not an IP address # four numbers from 0 to 255 without leading zeros are needed",
        ),
        (
            "⟦'239.1.1.1:5000'",
            "\"239.1.1.1:5000\" is not an IP address # write \"239.1.1.1\", and the port as `port: 5000`",
        ),
        (
            "⟦'udp://@239.1.1.1:5000'",
            "\"udp://@239.1.1.1:5000\" is not an IP address # write \"239.1.1.1\", and the port as `port: 5000`",
        ),
        ("⟦'[ff15::1]'", "\"[ff15::1]\" is not an IP address # remove the brackets"),
        (
            "⟦'ff02::1%eth0'",
            "\"ff02::1%eth0\" is not an IP address # write \"ff02::1\": the scope is the `interface`",
        ),
        (
            "⟦'239.1.1.0/24'",
            "\"239.1.1.0/24\" is not an IP address # a single address is needed, without a prefix length",
        ),
        ("⟦' 239.1.1.1'", "\" 239.1.1.1\" is not an IP address # remove the white space"),
        ("⟦'studio'", "\"studio\" is not an IP address # names are not resolved: write the address"),
        ("⟦'0.0.0.0'", "0.0.0.0 is the unspecified address # use a multicast group or a unicast address"),
        ("⟦'::'", ":: is the unspecified address # use a multicast group or a unicast address"),
        ("⟦'Broadcast'", "\"Broadcast\" is not an IP address # did you mean \"broadcast\"?"),
        ("⟦'::ffff:239.1.1.1'", "::ffff:239.1.1.1 is an IPv4 address written as IPv6 # write 239.1.1.1"),
    ];
    for (group, expected) in groups {
        let input = format!("{{ interface: 'eth0', group: {group}, port: 5000 }}");
        expect(&around(&input), &format!("rules[0].input.group: {expected}"));
    }
}

#[test]
fn sources() {
    let rows: [Row; 9] = [
        ("⟦'10.1.1.5'", ": a list is expected, not a string"),
        ("['10.1.1.9', ⟦'10.1.1']", "[1]: \"10.1.1\" is not an IP address"),
        (
            "['10.1.1.9', ⟦'fd00::1']",
            "[1]: fd00::1 is an IPv6 address, but the group 232.1.1.1 is IPv4 # name an IPv4 address",
        ),
        (
            "[⟦'239.1.1.1']",
            "[0]: 239.1.1.1 is a multicast group, which can't be a source # sources are unicast addresses",
        ),
        (
            "[⟦'ff02::1']",
            "[0]: ff02::1 is a multicast group, which can't be a source # sources are unicast addresses",
        ),
        (
            "[⟦'0.0.0.0']",
            "[0]: 0.0.0.0 is the unspecified address # use a multicast group or a unicast address",
        ),
        ("['10.1.1.9', '10.1.1.5', ⟦'10.1.1.9']", "[2]: 10.1.1.9 is listed twice # remove one of them"),
        ("[⟦null]", "[0]: an IP address in quotes is expected, not null # omit the key for the default"),
        ("⟦{}", ": a list is expected, not an object"),
    ];
    for (sources, expected) in rows {
        let input = format!("{{ interface: 'eth0', group: '232.1.1.1', port: 5000, sources: {sources} }}");
        expect(&rule(&input, OUTPUTS), &format!("rules[0].input.sources{expected}"));
    }
    let many: Vec<String> = (0..257).map(|n| format!("'10.1.{}.{}'", n / 250, n % 250)).collect();
    let input =
        format!("{{ interface: 'eth0', group: '232.1.1.1', port: 1, sources: ⟦[{}] }}", many.join(","));
    let expected =
        "rules[0].input.sources: 257 sources, at most 256 are allowed # omit `sources` to admit any";
    expect(&rule(&input, OUTPUTS), expected);
}

#[test]
fn outputs() {
    let around = |outputs: &str| rule(INPUT, outputs);
    let whole: [Row; 5] = [
        (
            "⟦[]",
            "rules[0].outputs: a rule needs at least one output # add an interface, group and port to send to",
        ),
        ("⟦{}", "rules[0].outputs: a list is expected, not an object"),
        ("[⟦'239.2.2.2']", "rules[0].outputs[0]: an object is expected, not a string"),
        (
            "[{ interface: 'eth1', group: '239.2.2.2', port: 1 }, ⟦{ interface: 'eth1', group: '239.2.2.2', port: 1, ttl: 16 }]",
            "rules[0].outputs[1]: the same as outputs[0]: each datagram would be sent twice # remove one of them",
        ),
        (
            "[⟦{ interface: 'eth0', group: '239.1.1.1', port: 5000, ttl: 3 }]",
            "rules[0].outputs[0]: the output eth0 239.1.1.1:5000 equals the rule's input # send on another interface, or to another group or port",
        ),
    ];
    expect_all(&whole, around);
    let parts: [Row; 16] = [
        ("group: '239.2.2.2', ttl: ⟦0", "ttl: 0 is out of range: 1 to 255 are allowed"),
        ("group: '239.2.2.2', ttl: ⟦256", "ttl: 256 is out of range: 1 to 255 are allowed"),
        ("group: '239.2.2.2', ttl: ⟦1.5", "ttl: a whole number from 1 to 255 is expected, not 1.5"),
        (
            "group: '239.2.2.2', ttl: ⟦'decrament'",
            "ttl: a number from 1 to 255 or \"decrement\" is expected, not \"decrament\" # did you mean \"decrement\"?",
        ),
        (
            "group: '239.2.2.2', ttl: ⟦'16'",
            "ttl: a number from 1 to 255 or \"decrement\" is expected, not a string # write 16 without quotes",
        ),
        (
            "group: '239.2.2.2', ttl: ⟦null",
            "ttl: a number from 1 to 255 or \"decrement\" is expected, not null # omit the key for the default",
        ),
        ("group: '239.2.2.2', dscp: ⟦64", "dscp: 64 is out of range: 0 to 63 are allowed"),
        ("group: '239.2.2.2', dscp: ⟦-1", "dscp: -1 is out of range: 0 to 63 are allowed"),
        (
            "group: '239.2.2.2', dscp: ⟦'ef'",
            "dscp: a number from 0 to 63 or \"keep\" is expected, not \"ef\"",
        ),
        ("group: '239.2.2.2', dscp: ⟦[]", "dscp: a number from 0 to 63 or \"keep\" is expected, not a list"),
        (
            "group: '239.2.2.2', source: ⟦'fd00::1'",
            "source: fd00::1 is an IPv6 address, but the group 239.2.2.2 is IPv4 # name an IPv4 address",
        ),
        (
            "group: 'ff15::1', source: ⟦'10.0.0.1'",
            "source: 10.0.0.1 is an IPv4 address, but the group ff15::1 is IPv6 # name an IPv6 address",
        ),
        (
            "group: '239.2.2.2', source: ⟦'239.3.3.3'",
            "source: 239.3.3.3 is a multicast group, which can't be a source # sources are unicast addresses",
        ),
        (
            "group: '239.2.2.2', source: ⟦'255.255.255.255'",
            "source: 255.255.255.255 is the broadcast address, which can't be a source # sources are unicast addresses",
        ),
        (
            "group: ⟦'::ffff:10.0.0.1'",
            "group: ::ffff:10.0.0.1 is an IPv4 address written as IPv6 # write 10.0.0.1",
        ),
        (
            "group: '239.2.2.2', ⟦tos: 3",
            "tos: unknown key \"tos\" # known keys: interface, group, port, ttl, dscp, source, source_port, loop",
        ),
    ];
    for (part, expected) in parts {
        let outputs = format!("[{{ interface: 'eth1', port: 5001, {part} }}]");
        expect(&around(&outputs), &format!("rules[0].outputs[0].{expected}"));
    }
}

#[test]
fn rules_among_each_other() {
    let other = "{ interface: 'eth0', group: '239.1.1.1', port: 5000, sources: ['10.0.0.1', '10.0.0.2'] }";
    let reordered =
        "⟦{ interface: 'eth0', group: '239.1.1.1', port: 5000, sources: ['10.0.0.2', '10.0.0.1'] }";
    let rows = [
        (
            format!(
                "{{ name: 'a', input: {INPUT}, outputs: {OUTPUTS} }}, {{ name: ⟦'a', input: {other}, outputs: {OUTPUTS} }}"
            ),
            "rules[1].name: a is the name of rules[0] already # names are unique and optional",
        ),
        (
            format!("{{ input: {INPUT}, outputs: {OUTPUTS} }}, {{ input: ⟦{INPUT}, outputs: {OUTPUTS} }}"),
            "rules[1].input: the same input as rules[0]: eth0 239.1.1.1:5000 # add the outputs to rules[0], or distinguish the rules by their sources",
        ),
        (
            format!("{{ input: {other}, outputs: {OUTPUTS} }}, {{ input: {reordered}, outputs: {OUTPUTS} }}"),
            "rules[1].input: the same input as rules[0]: eth0 239.1.1.1:5000 from 10.0.0.1, 10.0.0.2 # add the outputs to rules[0], or distinguish the rules by their sources",
        ),
        (
            format!("{{ name: ⟦'-a', input: {INPUT}, outputs: {OUTPUTS} }}"),
            "rules[0].name: \"-a\" is not a rule name: the name may not begin with '-'",
        ),
        (
            format!("{{ name: ⟦7, input: {INPUT}, outputs: {OUTPUTS} }}"),
            "rules[0].name: a rule name in quotes is expected, not a number",
        ),
        (format!("⟦{{ input: {INPUT} }}"), "rules[0].outputs: the key `outputs` is missing"),
        (format!("⟦{{ outputs: {OUTPUTS} }}"), "rules[0].input: the key `input` is missing"),
    ];
    for (rules, expected) in rows {
        expect(&format!("{{ rules: [\n  {rules}\n] }}"), expected);
    }
    let many = vec!["{}"; MAX_RULES + 1].join(",");
    let found = parse(&format!("{{ rules: [{many}] }}")).unwrap_err();
    assert!(found.iter().any(|error| error.message.contains("more errors are not shown")));
    assert_eq!(found.len(), MAX_ERRORS + 1);
}

#[test]
fn all_at_once_in_order_of_place() {
    let text = "{
  settings: { io: 'fast' },
  pinning: { eth0: [] },
  rules: [
    { name: 'a', colour: 'red', input: { interface: 'eth0', group: '0.0.0.0', port: 70000 }, outputs: [] },
    { name: 'a', input: { interface: 'eth0', group: '239.1.1.1', port: 5, sources: ['x', 'ff02::1'] },
      outputs: [{ interface: 'eth0', group: '239.1.1.1', port: 5, ttl: 0 }, {}] },
    { input: { interface: 'eth0', group: '239.1.1.1', port: 6 }, outputs: [{ interface: 'eth0', group: '239.1.1.1', port: 7 }] },
    { input: { interface: 'eth0', group: '239.1.1.1', port: 7 }, outputs: [{ interface: 'eth0', group: '239.1.1.1', port: 6 }] },
  ],
}";
    let found = parse(text).unwrap_err();
    let places: Vec<String> = found
        .iter()
        .map(|e| format!("{}:{} {}", e.location.unwrap().line, e.location.unwrap().column, e.path))
        .collect();
    assert_eq!(
        places,
        [
            "2:19 settings.io",
            "3:20 pinning.eth0",
            "5:18 rules[0].colour",
            "5:68 rules[0].input.group",
            "5:85 rules[0].input.port",
            "5:103 rules[0].outputs",
            "6:13 rules[1].name",
            "6:85 rules[1].input.sources[0]",
            "6:90 rules[1].input.sources[1]",
            "7:17 rules[1].outputs[0]",
            "7:72 rules[1].outputs[0].ttl",
            "7:77 rules[1].outputs[1].interface",
            "7:77 rules[1].outputs[1].group",
            "7:77 rules[1].outputs[1].port",
            "9:76 rules[4].outputs[0]",
        ]
        .map(|place| place.replace("rules[4]", "rules[3]"))
    );
    assert!(found.iter().map(|e| e.location).is_sorted());
}

#[test]
fn rate_limits() {
    let around = |limit: &str| format!("{{ rules: [{{ input: {INPUT}, outputs: {OUTPUTS}, {limit} }}] }}");
    let rows: [Row; 5] = [
        ("max_pps: ⟦0", "rules[0].max_pps: 0 is out of range: 1 to 4294967295 are allowed"),
        ("max_pps: ⟦4294967296", "rules[0].max_pps: 4294967296 is out of range: 1 to 4294967295 are allowed"),
        ("max_pps: ⟦1.5", "rules[0].max_pps: a whole number from 1 to 4294967295 is expected, not 1.5"),
        (
            "max_pps: ⟦null",
            "rules[0].max_pps: a number from 1 to 4294967295 is expected, not null # omit the key for the default",
        ),
        ("⟦max_pp: 1", "rules[0].max_pp: unknown key \"max_pp\" # did you mean `max_pps`?"),
    ];
    expect_all(&rows, around);
}

/// `health` is the former name of `stream`: it is read, written as `stream`, and in the way beside it.
#[test]
fn stream_formats() {
    let around = |stream: &str| format!("{{ rules: [{{ input: {INPUT}, outputs: {OUTPUTS}, {stream} }}] }}");
    let rows: [Row; 4] = [
        (
            "stream: ⟦'rpt'",
            "rules[0].stream: one of \"rtp\", \"mpegts\" is expected, not \"rpt\" # did you mean \"rtp\"?",
        ),
        (
            "health: ⟦'rpt'",
            "rules[0].health: one of \"rtp\", \"mpegts\" is expected, not \"rpt\" # did you mean \"rtp\"?",
        ),
        (
            "stream: 'rtp', ⟦health: 'rtp'",
            "rules[0].health: the former name of `stream`, which is given as well # remove `health`",
        ),
        ("⟦strem: 'rtp'", "rules[0].strem: unknown key \"strem\" # did you mean `stream`?"),
    ];
    expect_all(&rows, around);
    let former = parse(&around("health: 'mpegts'")).unwrap();
    assert_eq!(Ok(&former), parse(&around("stream: 'mpegts'")).as_ref());
    assert!(to_json5(&former).contains("      stream: \"mpegts\",\n"), "{}", to_json5(&former));
}
