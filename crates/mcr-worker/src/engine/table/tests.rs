use std::net::IpAddr;

use mcr_link::rule_set::{Own, RelayOutput, RelayRule};
use mcr_rules::{OutputOptions, RuleId, RuleOptions};

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn output(slot: u32, egress: Option<u32>) -> RelayOutput {
    RelayOutput {
        address: "239.9.9.9:9000".parse().unwrap(),
        options: OutputOptions::default(),
        source: None,
        egress: egress.map(EgressId),
        slot: OutputSlot(slot),
    }
}

pub(super) fn rule(slot: u32, group: &str, sources: &[&str]) -> RelayRule {
    RelayRule {
        id: RuleId::from_bits(u64::from(slot)),
        group: ip(group),
        more_groups: Vec::new(),
        reassemble: true,
        port: 5_000,
        sources: sources.iter().map(|source| ip(source)).collect(),
        slot: RuleSlot(slot),
        options: RuleOptions::default(),
        merge: None,
        outputs: vec![output(slot, Some(0))],
    }
}

fn build(rules: Vec<RelayRule>) -> Result<Table, TableError> {
    let set = RuleSet {
        generation: 3,
        own: Own { addresses: vec![ip("10.1.0.2"), ip("fd01::2")], ..Own::default() },
        rules: shared(rules),
    };
    build_set(&set)
}

pub(crate) fn shared(rules: Vec<RelayRule>) -> Vec<SharedRule> {
    rules.into_iter().map(SharedRule::from).collect()
}

/// A socket placeholder.
pub(crate) fn socket(id: EgressId) -> Rc<EgressSocket> {
    let fd = std::fs::File::open("/dev/null").unwrap().into();
    Rc::new(EgressSocket { id, fd, file: None, replies: std::cell::Cell::new(0) })
}

pub(super) fn build_set(set: &RuleSet) -> Result<Table, TableError> {
    let table = Table::build(set, |id| (id.0 < 4).then(|| socket(id)));
    if let Ok(table) = &table {
        assert_eq!((table.generation, table.hash), (set.generation, set.content_hash()));
    }
    table
}

/// The slots of the rules that match a datagram, or the lookup result if none does.
fn slots(table: &Table, group: &str, port: u16, source: &str) -> Result<Vec<u32>, Lookup> {
    match table.look_up(DestinationKey::new(ip(group), port), ip(source).into()) {
        Lookup::Admitted(admitting) => {
            Ok(table.admitting(&admitting).map(|index| table.rule(index).unwrap().slot.0).collect())
        }
        other => Err(other),
    }
}

#[test]
fn every_rule_that_matches_the_source_is_found() {
    let table = build(vec![
        rule(1, "239.1.1.1", &[]),
        rule(2, "239.1.1.1", &["10.1.0.1", "10.1.0.5"]),
        rule(3, "239.1.1.1", &["10.1.0.5", "10.1.0.9"]),
        rule(4, "232.1.1.1", &["10.1.0.5"]),
        rule(5, "ff15::1", &["fd01::9"]),
    ])
    .unwrap();
    for (group, source, expected) in [
        ("239.1.1.1", "10.1.0.1", Ok(vec![1, 2])),
        ("239.1.1.1", "10.1.0.5", Ok(vec![1, 2, 3])),
        ("239.1.1.1", "10.1.0.7", Ok(vec![1])),
        ("232.1.1.1", "10.1.0.5", Ok(vec![4])),
        ("232.1.1.1", "10.1.0.7", Err(Lookup::SourceExcluded)),
        ("ff15::1", "fd01::9", Ok(vec![5])),
        ("ff15::1", "fd01::8", Err(Lookup::SourceExcluded)),
        ("ff15::2", "fd01::9", Err(Lookup::NoRule)),
        ("239.129.1.1", "10.1.0.1", Err(Lookup::NoRule)),
        ("239.1.1.1", "10.1.0.2", Err(Lookup::OwnSource)),
        ("ff15::1", "fd01::2", Err(Lookup::OwnSource)),
    ] {
        assert_eq!(slots(&table, group, 5_000, source), expected, "{source} to {group}");
    }
    assert_eq!(slots(&table, "239.1.1.1", 5_001, "10.1.0.1"), Err(Lookup::NoRule));
}

#[test]
fn a_duplicate_source_relays_once() {
    let table = build(vec![rule(1, "239.1.1.1", &["10.1.0.5", "10.1.0.5"])]).unwrap();
    assert_eq!(slots(&table, "239.1.1.1", 5_000, "10.1.0.5"), Ok(vec![1]));
}

#[test]
fn an_unusable_rule_set_is_rejected() {
    let id = RuleId::from_bits(1);
    let with = |output: RelayOutput| RelayRule { outputs: vec![output], ..rule(1, "239.1.1.1", &[]) };
    for (rules, expected) in [
        (vec![with(output(0, Some(9)))], TableError::UnknownEgress { rule: id, egress: 9 }),
        (
            vec![with(output(MAX_OUTPUTS, None))],
            TableError::Slot { rule: id, kind: "output", slot: MAX_OUTPUTS },
        ),
        (
            vec![RelayRule { id, ..rule(MAX_RULES, "239.1.1.1", &[]) }],
            TableError::Slot { rule: id, kind: "rule", slot: MAX_RULES },
        ),
        (
            vec![rule(1, "239.1.1.1", &[]), rule(1, "239.1.1.2", &[])],
            TableError::Slot { rule: id, kind: "rule", slot: 1 },
        ),
    ] {
        assert_eq!(build(rules).unwrap_err(), expected);
    }
}

#[test]
fn rules_and_outputs_have_their_options() {
    let mut plain = rule(1, "239.1.1.1", &[]);
    plain.outputs.extend([output(7, None), output(8, Some(2))]);
    plain.outputs[1].options.ttl = mcr_rules::Ttl::Decrement;
    plain.outputs[2].options.dscp = Dscp::Keep;
    let table = build(vec![plain, rule(2, "239.1.1.2", &[])]).unwrap();
    let (first, second) = (table.rule(0).unwrap(), table.rule(1).unwrap());
    assert_eq!((first.by_ttl, first.by_dscp, first.outputs.len()), (true, true, 3));
    assert_eq!((second.by_ttl, second.by_dscp, second.outputs.len()), (false, false, 1));
    assert!(first.outputs[1].ttl == OutputTtl::Decrement && first.outputs[2].keep_dscp);
    let sockets: Vec<_> = table
        .rules()
        .iter()
        .flat_map(|rule| &rule.outputs)
        .map(|output| up(output).map(|path| path.socket.id.0))
        .collect();
    assert_eq!(sockets, [Some(0), None, Some(2), Some(0)]);
}

fn up(output: &TableOutput) -> Option<&Path> {
    match &output.target {
        Target::Up(path) => Some(path),
        Target::Down { .. } => None,
    }
}

#[test]
fn sockets_with_several_destinations_including_unicast_are_serialized() {
    let to = |slot, egress, address: &str| RelayOutput {
        address: address.parse().unwrap(),
        ..output(slot, Some(egress))
    };
    let outputs = vec![
        to(0, 0, "239.9.9.9:9000"),
        to(1, 0, "239.9.9.8:9000"),
        to(2, 1, "239.9.9.9:9000"),
        to(3, 1, "10.2.0.2:9000"),
        to(4, 2, "10.2.0.2:9000"),
        to(5, 2, "10.2.0.2:9000"),
        to(6, 3, "10.2.0.2:9000"),
        to(7, 3, "10.2.0.2:9001"),
        output(8, None),
    ];
    let table = build(vec![RelayRule { outputs, ..rule(1, "239.1.1.1", &[]) }]).unwrap();
    let outputs = &table.rules()[0].outputs;
    let serialized: Vec<_> =
        outputs.iter().map(|output| up(output).is_some_and(|path| path.serialized)).collect();
    assert_eq!(serialized, [false, false, true, true, false, false, true, true, false]);
}

#[test]
fn the_rules_of_a_destination_are_found_whatever_they_admit_each_once_and_not_too_many() {
    let at = |slot, port, group: &str, sources: &[&str]| RelayRule { port, ..rule(slot, group, sources) };
    let mut rules = vec![
        at(1, 5_000, "239.1.1.1", &["10.1.0.1", "10.1.0.5"]),
        at(2, 5_000, "239.1.1.1", &[]),
        at(3, 5_001, "239.1.1.1", &[]),
        at(4, 5_000, "239.1.1.2", &[]),
        at(5, 5_000, "ff15::1", &[]),
    ];
    rules.extend((10..40).map(|slot| at(slot, 5_000, "239.1.1.9", &[])));
    let table = build(rules).unwrap();
    let concerned = |group: &str, port: Option<u16>| {
        let mut slots: Vec<u32> = table.concerned(ip(group).into(), port).map(|rule| rule.slot.0).collect();
        slots.sort_unstable();
        slots
    };
    assert_eq!(concerned("239.1.1.1", Some(5_000)), [1, 2]);
    assert_eq!(concerned("239.1.1.1", None), [1, 2, 3]);
    assert_eq!(concerned("239.1.1.1", Some(5_002)), [0; 0]);
    assert_eq!(concerned("239.1.1.3", None), [0; 0]);
    assert_eq!(concerned("ff15::1", Some(5_000)), [5]);
    assert_eq!(concerned("239.1.1.9", Some(5_000)).len(), MAX_CONCERNED);
    assert_eq!(Table::empty().concerned(ip("239.1.1.1").into(), None).count(), 0);
}
