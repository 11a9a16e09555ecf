//! Hashes the table in use, a few facts at a time. The supervisor compares the hash with that of its rule set.
//!
//! ```text
//!  own addresses, MAC addresses ─▶ admissions, by destination, as the index finds them ─▶ rules and their outputs ─▶ hash
//! ```

use mcr_link::rule_set::RuleSlot;
use mcr_link::rule_set::table_hash::{Fact, TableHash};

use super::super::path::Path;
use super::{AddressBits, Destination, OutputTtl, Table, TableOutput, TableRule, Target, as_index, range};

/// The part of the table that is hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    OwnAddresses,
    HostAddresses,
    HostMacs,
    KeptSource,
    Admissions,
    Rules,
    Done,
}

/// See the module documentation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Audit {
    stage: Stage,
    /// The index of the element in the list of the stage.
    at: usize,
    /// Number of facts of this element that have been hashed.
    within: usize,
    hash: TableHash,
}

impl Audit {
    /// Hashes the next facts. Returns the hash when it is complete. All steps must be called with the same table.
    pub(crate) fn step(&mut self, table: &Table, facts: usize) -> Option<u64> {
        for _ in 0..facts {
            match self.stage {
                Stage::OwnAddresses => match table.own_addresses.get(self.at) {
                    Some(address) => self.found(&Fact::OwnAddress(*address), 1),
                    None => self.next(Stage::HostAddresses),
                },
                Stage::HostAddresses => match table.host_addresses.get(self.at) {
                    Some(address) => self.found(&Fact::HostAddress(*address), 1),
                    None => self.next(Stage::HostMacs),
                },
                Stage::HostMacs => match table.host_macs.get(self.at) {
                    Some(mac) => self.found(&Fact::HostMac(*mac), 1),
                    None => self.next(Stage::KeptSource),
                },
                Stage::KeptSource => match table.destinations.get(self.at) {
                    Some(Destination { key, keeps_source: true, .. }) => {
                        self.found(&Fact::KeptSource(key.address, key.port), 1);
                    }
                    Some(_) => self.skip(),
                    None => self.next(Stage::Admissions),
                },
                Stage::Admissions => match table.destinations.get(self.at) {
                    Some(destination) => self.admission(table, destination),
                    None => self.next(Stage::Rules),
                },
                Stage::Rules => match table.rules.get(self.at) {
                    Some(rule) => self.rule(rule),
                    None => self.next(Stage::Done),
                },
                Stage::Done => return Some(self.hash.finish()),
            }
        }
        None
    }

    fn next(&mut self, stage: Stage) {
        *self = Self { stage, at: 0, within: 0, hash: self.hash };
    }

    /// Adds a fact of an element that has `of` facts.
    fn found(&mut self, fact: &Fact, of: usize) {
        self.hash.add(fact);
        self.within += 1;
        if self.within >= of {
            self.skip();
        }
    }

    fn skip(&mut self) {
        self.at += 1;
        self.within = 0;
    }

    fn admission(&mut self, table: &Table, destination: &Destination) {
        let Destination { key, keeps_source: _, any_source, by_source } = destination; // hashed by an earlier stage
        // No datagram matches a destination that the index does not find.
        let found = self.within > 0
            || table
                .find(*key)
                .is_some_and(|index| usize::try_from(index).is_ok_and(|index| index == self.at));
        let any = range(&table.any_source, any_source);
        let by = range(&table.by_source, by_source);
        let of = any.len() + by.len();
        let admission = match self.within.checked_sub(any.len()) {
            None => any.as_slice().get(self.within).map(|index| (None, *index)),
            Some(at) => by.as_slice().get(at).map(|(source, index)| (Some(*source), *index)),
        };
        let rule = admission.and_then(|(source, index)| Some((source, table.rule(index)?.slot)));
        match rule {
            Some((source, rule)) if found => {
                self.found(&Fact::Admits { group: key.address, port: key.port, source, rule }, of);
            }
            _ => self.skip(),
        }
    }

    fn rule(&mut self, relay: &TableRule) {
        // The id only names the rule, and the flow is that of its last datagram.
        let TableRule {
            id: _,
            slot: rule,
            flow: _,
            outputs,
            by_ttl,
            by_dscp,
            senders,
            stream,
            limit,
            reassemble,
            merge,
        } = relay;
        let of_merge = merge.as_ref().map_or(0, |merge| merge.facts());
        let of = 1 + outputs.len() + of_merge;
        let Some(ordinal) = self.within.checked_sub(1) else {
            let fact = Fact::Rule {
                rule: *rule,
                outputs: as_index(outputs.len()),
                by_ttl: *by_ttl,
                by_dscp: *by_dscp,
                by_sender: senders.is_some(),
                max_pps: limit.max_pps(),
                stream: *stream,
                reassemble: *reassemble,
            };
            return self.found(&fact, of);
        };
        match outputs.get(ordinal) {
            Some(output) => self.found(&output_fact(*rule, as_index(ordinal), output), of),
            None => {
                let fact =
                    merge.as_ref().and_then(|merge| merge.fact(*rule, ordinal.saturating_sub(outputs.len())));
                match fact {
                    Some(fact) => self.found(&fact, of),
                    None => self.skip(),
                }
            }
        }
    }
}

fn output_fact(rule: RuleSlot, ordinal: u32, output: &TableOutput) -> Fact {
    let TableOutput { target, ttl, keep_dscp, keep_source } = output;
    let (slot, address, egress, origin) = match target {
        Target::Down { slot, address } => (*slot, Some(*address), None, None),
        Target::Up(path) => {
            // The rest follows from the sockets and from what the kernel refused, not from the rule set.
            let Path { slot, socket, address, serialized: _, segmentation: _, origin } = &**path;
            (*slot, address.get(), Some(socket.id), origin.as_deref())
        }
    };
    Fact::Output {
        rule,
        ordinal,
        address,
        decrement_ttl: *ttl == OutputTtl::Decrement,
        keep_dscp: *keep_dscp,
        keep_source: *keep_source,
        source: origin.and_then(|origin| origin.source).map(AddressBits::from),
        source_port: origin.and_then(|origin| origin.port),
        egress,
        slot,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{build_set, output, rule, shared, socket};
    use super::*;
    use crate::engine::rate_limit::RateLimit;
    use mcr_link::rule_set::{EgressId, Own, RelayRule, RuleSet};
    use mcr_rules::{Dscp, SourceAddress, SourcePort, Ttl};
    use mcr_sys::mmsg::SocketAddress;
    use proptest::prelude::*;
    use std::rc::Rc;

    fn audit(table: &Table, facts: usize) -> u64 {
        let mut audit = Audit::default();
        (0..10_000).find_map(|_| audit.step(table, facts)).expect("the hash is complete")
    }

    fn path(table: &mut Table) -> &mut Path {
        match &mut table.rules[0].outputs[0].target {
            Target::Up(path) => Rc::get_mut(path).unwrap(),
            Target::Down { .. } => panic!("the output is up"),
        }
    }

    fn set(rules: Vec<RelayRule>) -> RuleSet {
        let own = Own {
            addresses: vec!["10.1.0.2".parse().unwrap()],
            host: vec!["10.2.0.2".parse().unwrap()],
            macs: vec![[2; 6]],
            kept_source: vec![("239.1.1.1".parse().unwrap(), 5_000), ("239.9.9.9".parse().unwrap(), 9_000)],
        };
        RuleSet { generation: 3, own, rules: shared(rules) }
    }

    fn any_rules() -> impl Strategy<Value = Vec<RelayRule>> {
        let sources = proptest::collection::vec(0..4_u8, 0..4);
        let one = (0..6_u8, sources, 1..4_usize, 0..4_u32, any::<bool>());
        proptest::collection::vec(one, 0..20).prop_map(|all| {
            let mut output_slot = 0;
            (0..)
                .zip(all)
                .map(|(slot, (group, sources, outputs, egress, special))| {
                    let sources: Vec<String> = sources.iter().map(|n| format!("10.9.0.{n}")).collect();
                    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
                    let mut rule = rule(slot, &format!("239.1.1.{group}"), &sources);
                    rule.outputs = (0..outputs)
                        .map(|_| {
                            output_slot += 1;
                            let mut output = output(output_slot, (egress > 0).then_some(egress));
                            if special {
                                (output.options.ttl, output.options.dscp) = (Ttl::Decrement, Dscp::Keep);
                                output.options.source_port = Some(SourcePort::Fixed(5_353));
                                (output.options.source, output.source) = match slot % 2 {
                                    0 => (Some(SourceAddress::Keep), None),
                                    _ => (None, Some("10.9.9.1".parse().unwrap())),
                                };
                            }
                            output
                        })
                        .collect();
                    rule
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn a_table_has_the_hash_of_its_rule_set_for_any_slice_size(rules in any_rules(), facts in 1..50_usize) {
            let set = set(rules);
            let table = build_set(&set).unwrap();
            prop_assert_eq!(audit(&table, facts), set.table_hash());
        }
    }

    #[test]
    fn each_difference_changes_the_hash() {
        type Change = (&'static str, fn(&mut Table));
        let rules = vec![rule(1, "239.1.1.1", &[]), rule(2, "232.1.1.1", &["10.9.0.1", "10.9.0.2"])];
        let set = set(rules);
        let changes: [Change; 15] = [
            ("own address", |table| table.own_addresses = Box::default()),
            ("host address", |table| table.host_addresses = Box::default()),
            ("MAC address", |table| table.host_macs = Box::default()),
            ("kept source", |table| table.destinations[1].keeps_source = false),
            ("index", |table| table.index = super::super::DestinationIndex::build(&[])),
            ("destination", |table| table.destinations[0].key.port = 1),
            ("any source", |table| table.any_source[0] = 1),
            ("by source", |table| table.by_source[1].1 = 0),
            ("admission", |table| table.destinations[0].by_source.end -= 1),
            ("rule slot", |table| table.rules[0].slot.0 = 7),
            ("limit", |table| table.rules[0].limit = RateLimit::new(std::num::NonZeroU32::new(9))),
            ("outputs", |table| table.rules[0].outputs = Box::default()),
            ("socket", |table| path(table).socket = socket(EgressId(3))),
            ("address", |table| path(table).address = SocketAddress::new("239.9.9.9:9001".parse().unwrap())),
            ("counters", |table| path(table).slot.0 = 9),
        ];
        for (what, change) in changes {
            let mut table = build_set(&set).unwrap();
            assert_eq!(audit(&table, 3), set.table_hash());
            change(&mut table);
            assert_ne!(audit(&table, 3), set.table_hash(), "{what}");
        }
    }
}
