//! A hash that is the same for a rule set and for the table that a worker built from it, so that the two can be compared.
//!
//! It is a sum over *facts*: accepted sources, outputs, their destinations and sockets. A sum does not depend on the order, so
//! a worker iterates over its table in memory order, a few facts at a time, and the supervisor over the rule set that it sent.
//! A fixed TTL or DSCP is not a fact: it is set on the socket, which is identified by its number.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use mcr_rules::{
    Dscp, MergeBy, MergeOptions, MergeOrder, OutputOptions, RuleOptions, SourceAddress, SourcePort,
    StreamFormat, Ttl,
};
use mcr_wire::AddressBits;

use super::{EgressId, OutputSlot, Own, RelayLeg, RelayMerge, RelayOutput, RelayRule, RuleSet, RuleSlot};

/// One thing that a table does. Rules are named by their telemetry slot, which no two rules of a table share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// An address of the host: datagrams from it are not relayed.
    OwnAddress(AddressBits),
    /// Datagrams from this address of the host are not relayed if their frame is from one of its MAC addresses.
    HostAddress(AddressBits),
    /// A MAC address of the host.
    HostMac([u8; 6]),
    /// Datagrams from a MAC address of the host are not relayed if they are to this address and port.
    KeptSource(AddressBits, u16),
    /// Datagrams to this address and port are relayed by the rule.
    Admits {
        /// Destination address.
        group: AddressBits,
        /// Destination port.
        port: u16,
        /// Only from this source; `None` for any.
        source: Option<AddressBits>,
        /// The rule.
        rule: RuleSlot,
    },
    /// A rule.
    Rule {
        /// The rule.
        rule: RuleSlot,
        /// Number of its outputs.
        outputs: u32,
        /// Datagrams with different TTLs are not sent together.
        by_ttl: bool,
        /// Datagrams with different DSCPs are not sent together.
        by_dscp: bool,
        /// Datagrams of different senders are not sent together.
        by_sender: bool,
        /// Datagrams per second at most; 0 for no limit.
        max_pps: u32,
        /// The format of the stream whose sequence numbers are checked.
        stream: Option<StreamFormat>,
        /// Whether fragments for it are put together.
        reassemble: bool,
    },
    /// How a rule is merged.
    Merge {
        /// The rule.
        rule: RuleSlot,
        /// How.
        options: MergeOptions,
    },
    /// A destination of a leg.
    Leg {
        /// The rule.
        rule: RuleSlot,
        /// The index of the leg.
        leg: u8,
        /// Its capture socket.
        socket: Option<u8>,
        /// Destination address.
        group: AddressBits,
        /// Destination port.
        port: u16,
        /// Only from this source; `None` for any.
        source: Option<AddressBits>,
    },
    /// A rule's output.
    Output {
        /// The rule.
        rule: RuleSlot,
        /// The index of the output in the rule.
        ordinal: u32,
        /// The destination; `None` if the address is invalid.
        address: Option<SocketAddr>,
        /// Whether the TTL is the received one minus 1.
        decrement_ttl: bool,
        /// Whether the DSCP is the received one.
        keep_dscp: bool,
        /// The source address that is set: the arriving one, this one, or none.
        keep_source: bool,
        /// See `keep_source`.
        source: Option<AddressBits>,
        /// The source port that is set.
        source_port: Option<SourcePort>,
        /// Through which socket.
        egress: Option<EgressId>,
        /// The output's counters.
        slot: OutputSlot,
    },
}

/// Size of an encoded fact.
const FACT_BYTES: usize = 64;

/// An encoded fact: each field at a fixed offset, the rest zero.
#[derive(Clone, Copy)]
struct Bytes([u8; FACT_BYTES]);

impl Bytes {
    fn new(kind: u8) -> Self {
        let mut bytes = [0; FACT_BYTES];
        bytes[0] = kind;
        Self(bytes)
    }

    fn put<const N: usize>(&mut self, at: usize, field: [u8; N]) {
        if let Some(place) = self.0.get_mut(at..at + N) {
            place.copy_from_slice(&field);
        }
    }

    fn put_admission(
        &mut self,
        (group, port, source): (AddressBits, u16, Option<AddressBits>),
        rule: RuleSlot,
    ) {
        self.put_address(1, group);
        self.put(18, port.to_le_bytes());
        if let Some(source) = source {
            self.put_address(20, source);
        }
        self.put(37, rule.0.to_le_bytes());
    }

    fn put_address(&mut self, at: usize, address: AddressBits) {
        self.put(at, [1 + u8::from(address.ipv6)]);
        self.put(at + 1, address.bits.to_le_bytes());
    }
}

impl Fact {
    const fn kind(&self) -> u8 {
        match self {
            Self::OwnAddress(_) => 1,
            Self::Admits { .. } => 2,
            Self::Rule { .. } => 3,
            Self::Output { .. } => 4,
            Self::HostAddress(_) => 5,
            Self::HostMac(_) => 6,
            Self::KeptSource(..) => 7,
            Self::Merge { .. } => 8,
            Self::Leg { .. } => 9,
        }
    }

    fn bytes(&self) -> Bytes {
        let mut bytes = Bytes::new(self.kind());
        match *self {
            Self::OwnAddress(address) | Self::HostAddress(address) => bytes.put_address(1, address),
            Self::HostMac(mac) => bytes.put(1, mac),
            Self::KeptSource(address, port) => {
                bytes.put_address(1, address);
                bytes.put(18, port.to_le_bytes());
            }
            Self::Admits { group, port, source, rule } => {
                bytes.put_admission((group, port, source), rule);
            }
            Self::Rule { rule, outputs, by_ttl, by_dscp, by_sender, max_pps, stream, reassemble } => {
                bytes.put(1, rule.0.to_le_bytes());
                bytes.put(5, outputs.to_le_bytes());
                bytes.put(9, [u8::from(by_ttl), u8::from(by_dscp)]);
                bytes.put(11, max_pps.to_le_bytes());
                bytes.put(15, [stream.map_or(0, stream_byte)]);
                bytes.put(16, [u8::from(by_sender), u8::from(reassemble)]);
            }
            Self::Merge { rule, options: MergeOptions { by, window_ms, order } } => {
                bytes.put(1, rule.0.to_le_bytes());
                bytes.put(5, window_ms.to_le_bytes());
                bytes.put(7, [merge_byte(by), u8::from(order == MergeOrder::Sequence)]);
            }
            Self::Leg { rule, leg, socket, group, port, source } => {
                bytes.put_admission((group, port, source), rule);
                bytes.put(41, [leg, socket.map_or(0, |socket| socket.saturating_add(1))]);
            }
            Self::Output {
                rule,
                ordinal,
                address,
                decrement_ttl,
                keep_dscp,
                keep_source,
                source,
                source_port,
                egress,
                slot,
            } => {
                bytes.put(1, rule.0.to_le_bytes());
                bytes.put(5, ordinal.to_le_bytes());
                if let Some(address) = address {
                    bytes.put_address(9, address.ip().into());
                    bytes.put(26, address.port().to_le_bytes());
                    if let SocketAddr::V6(v6) = address {
                        bytes.put(28, v6.scope_id().to_le_bytes());
                    }
                }
                bytes.put(32, [u8::from(decrement_ttl), u8::from(keep_dscp), u8::from(egress.is_some())]);
                bytes.put(35, egress.map_or(0, |egress| egress.0).to_le_bytes());
                bytes.put(39, slot.0.to_le_bytes());
                if let Some(source) = source {
                    bytes.put_address(43, source);
                }
                bytes.put(60, source_port.and_then(SourcePort::fixed).unwrap_or(0).to_le_bytes());
                bytes.put(62, [u8::from(keep_source), u8::from(source_port.is_some())]);
            }
        }
        bytes
    }
}

const fn merge_byte(by: MergeBy) -> u8 {
    match by {
        MergeBy::Rtp => 1,
        MergeBy::Moldudp64 => 2,
        MergeBy::Payload => 3,
    }
}

const fn stream_byte(format: StreamFormat) -> u8 {
    match format {
        StreamFormat::Rtp => 1,
        StreamFormat::MpegTs => 2,
    }
}

/// The sum of the facts added so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableHash {
    sum: u64,
    facts: u64,
}

impl TableHash {
    /// Adds a fact (XXH3, 64 bits, of its bytes).
    #[inline]
    pub fn add(&mut self, fact: &Fact) {
        self.sum = self.sum.wrapping_add(xxhash_rust::xxh3::xxh3_64(&fact.bytes().0));
        self.facts += 1;
    }

    /// Adds the facts of another sum.
    pub fn add_all(&mut self, other: Self) {
        self.sum = self.sum.wrapping_add(other.sum);
        self.facts += other.facts;
    }

    /// Returns the hash. That of an empty table is not 0.
    #[must_use]
    pub fn finish(&self) -> u64 {
        let mut both = [0; 16];
        both[..8].copy_from_slice(&self.sum.to_le_bytes());
        both[8..].copy_from_slice(&self.facts.to_le_bytes());
        xxhash_rust::xxh3::xxh3_64(&both)
    }
}

impl RuleSet {
    /// The hash of a table built from this set.
    #[must_use]
    pub fn table_hash(&self) -> u64 {
        let mut hash = TableHash::default();
        // A table holds each address once, however often the set names it.
        let Own { addresses, host, macs, kept_source } = &self.own;
        let distinct = |list: &[IpAddr]| -> BTreeSet<AddressBits> {
            list.iter().map(|address| (*address).into()).collect()
        };
        distinct(addresses).into_iter().for_each(|address| hash.add(&Fact::OwnAddress(address)));
        distinct(host).into_iter().for_each(|address| hash.add(&Fact::HostAddress(address)));
        let macs: BTreeSet<[u8; 6]> = macs.iter().copied().collect();
        macs.into_iter().for_each(|mac| hash.add(&Fact::HostMac(mac)));
        // Only destinations of rules are in a table.
        let kept: BTreeSet<(AddressBits, u16)> =
            kept_source.iter().map(|(address, port)| ((*address).into(), *port)).collect();
        if !kept.is_empty() {
            let rules = self.rules.iter();
            let destinations: BTreeSet<(AddressBits, u16)> =
                rules.flat_map(|rule| rule.destinations()).collect();
            let both = kept.intersection(&destinations);
            both.for_each(|(address, port)| hash.add(&Fact::KeptSource(*address, *port)));
        }
        self.rules.iter().for_each(|rule| hash.add_all(rule.facts()));
        hash.finish()
    }
}

/// Adds the facts of a rule. Rule, output and options are destructured without `..`, so that a new field does not compile
/// until it is handled here.
pub(crate) fn add_rule(hash: &mut TableHash, relay: &RelayRule) {
    // The id only names the rule; a table's rules are named by their slots.
    let RelayRule {
        id: _,
        group: _,
        more_groups: _,
        port: _,
        sources: _,
        reassemble,
        slot: rule,
        options,
        merge,
        outputs,
    } = relay;
    let rule = *rule;
    let sources: BTreeSet<AddressBits> =
        relay.looked_up_sources().iter().map(|source| (*source).into()).collect();
    for (group, port) in relay.destinations() {
        if sources.is_empty() {
            hash.add(&Fact::Admits { group, port, source: None, rule });
        }
        for source in &sources {
            hash.add(&Fact::Admits { group, port, source: Some(*source), rule });
        }
    }
    if let Some(merge) = merge {
        add_merge(hash, rule, merge);
    }
    let RuleOptions { max_pps, stream } = *options;
    hash.add(&Fact::Rule {
        rule,
        outputs: u32::try_from(outputs.len()).unwrap_or(u32::MAX),
        by_ttl: outputs.iter().any(RelayOutput::depends_on_ttl),
        by_dscp: outputs.iter().any(|output| output.options.dscp == Dscp::Keep),
        by_sender: outputs.iter().any(|output| output.options.keeps_sender()),
        max_pps: max_pps.map_or(0, NonZeroU32::get),
        stream,
        reassemble: *reassemble,
    });
    for (ordinal, output) in (0..).zip(outputs) {
        let RelayOutput { address, options, source, egress, slot } = *output;
        // A fixed source address without port is set on the socket, as a fixed TTL or DSCP and the loop are.
        let OutputOptions { ttl, dscp, source: configured, source_port, loopback: _ } = options;
        hash.add(&Fact::Output {
            rule,
            ordinal,
            address: Some(address),
            decrement_ttl: ttl == Ttl::Decrement,
            keep_dscp: dscp == Dscp::Keep,
            keep_source: configured == Some(SourceAddress::Keep),
            // An output that can't send sets nothing.
            source: source.filter(|_| egress.is_some()).map(AddressBits::from),
            source_port: source_port.filter(|_| egress.is_some()),
            egress,
            slot,
        });
    }
}

fn add_merge(hash: &mut TableHash, rule: RuleSlot, merge: &RelayMerge) {
    let RelayMerge { options, legs } = merge;
    hash.add(&Fact::Merge { rule, options: *options });
    for (leg, RelayLeg { socket, group, more_groups, port, sources }) in (0..).zip(legs) {
        let (socket, port) = (*socket, *port);
        let groups: BTreeSet<AddressBits> =
            more_groups.iter().chain([group]).map(|group| (*group).into()).collect();
        let sources: BTreeSet<AddressBits> = sources.iter().map(|source| (*source).into()).collect();
        for group in groups {
            if sources.is_empty() {
                hash.add(&Fact::Leg { rule, leg, socket, group, port, source: None });
            }
            for source in &sources {
                hash.add(&Fact::Leg { rule, leg, socket, group, port, source: Some(*source) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mcr_rules::RuleId;

    /// A rule set with mutable rules.
    #[derive(Clone)]
    struct Plain {
        own: Own,
        rules: Vec<RelayRule>,
    }

    impl Plain {
        fn table_hash(&self) -> u64 {
            let rules = self.rules.iter().cloned().map(Into::into).collect();
            RuleSet { generation: 1, own: self.own.clone(), rules }.table_hash()
        }
    }

    fn set() -> Plain {
        let output = |slot, address: &str| RelayOutput {
            address: address.parse().unwrap(),
            options: OutputOptions::default(),
            source: None,
            egress: Some(EgressId(slot)),
            slot: OutputSlot(slot),
        };
        let leg = |socket, group: &str, sources: &[&str]| RelayLeg {
            socket: Some(socket),
            group: group.parse().unwrap(),
            more_groups: Vec::new(),
            port: 5000,
            sources: sources.iter().map(|source| source.parse().unwrap()).collect(),
        };
        let rule = |slot: u32, group: &str, sources: &[&str]| RelayRule {
            id: RuleId::from_bits(slot.into()),
            group: group.parse().unwrap(),
            more_groups: Vec::new(),
            port: 5000,
            sources: sources.iter().map(|source| source.parse().unwrap()).collect(),
            reassemble: true,
            slot: RuleSlot(slot),
            options: RuleOptions::default(),
            merge: (slot == 1).then(|| RelayMerge {
                options: MergeOptions::by(MergeBy::Rtp),
                legs: vec![leg(0, group, sources), leg(1, "239.1.1.7", &[])],
            }),
            outputs: vec![output(2 * slot, "239.2.2.2:6000"), output(2 * slot + 1, "[ff12::1%4]:6000")],
        };
        Plain {
            own: Own {
                addresses: vec!["10.0.0.1".parse().unwrap()],
                host: vec!["10.0.0.2".parse().unwrap()],
                macs: vec![[2; 6]],
                kept_source: vec![("239.1.1.1".parse().unwrap(), 5000)],
            },
            rules: vec![rule(0, "239.1.1.1", &[]), rule(1, "232.1.1.1", &["10.9.0.1", "10.9.0.2"])],
        }
    }

    #[test]
    fn every_change_of_a_table_changes_the_hash() {
        type Change = (&'static str, fn(&mut Plain));
        fn merge(set: &mut Plain) -> &mut RelayMerge {
            set.rules[1].merge.as_mut().unwrap()
        }
        let changes: [Change; 30] = [
            ("own address", |set| set.own.addresses.clear()),
            ("host address", |set| set.own.host.clear()),
            ("kind of address", |set| std::mem::swap(&mut set.own.addresses, &mut set.own.host)),
            ("MAC address", |set| set.own.macs[0][5] = 3),
            ("kept source", |set| set.own.kept_source[0].1 = 3),
            ("a rule forgotten", |set| set.rules.truncate(1)),
            ("group", |set| set.rules[0].group = "239.1.1.2".parse().unwrap()),
            ("further group", |set| set.rules[0].more_groups.push("239.1.1.2".parse().unwrap())),
            ("family", |set| set.rules[0].group = "::239.1.1.1".parse().unwrap()),
            ("port", |set| set.rules[0].port += 1),
            ("source of a leg", |set| merge(set).legs[0].sources.truncate(1)),
            ("socket of a leg", |set| merge(set).legs[0].socket = Some(2)),
            ("group of a leg", |set| merge(set).legs[1].group = "239.1.1.8".parse().unwrap()),
            ("window", |set| merge(set).options.window_ms = 9),
            ("order", |set| merge(set).options.order = MergeOrder::Sequence),
            ("method", |set| merge(set).options.by = MergeBy::Payload),
            ("merge", |set| set.rules[1].merge = None),
            ("limit", |set| set.rules[0].options.max_pps = NonZeroU32::new(7)),
            ("stream", |set| set.rules[0].options.stream = Some(StreamFormat::MpegTs)),
            ("reassembly", |set| set.rules[0].reassemble = false),
            ("rule slot", |set| set.rules[0].slot = RuleSlot(9)),
            ("address", |set| set.rules[0].outputs[0].address.set_port(1)),
            ("scope", |set| set.rules[0].outputs[1].address = "[ff12::1%5]:6000".parse().unwrap()),
            ("ttl", |set| set.rules[0].outputs[0].options.ttl = Ttl::Decrement),
            ("dscp", |set| set.rules[0].outputs[0].options.dscp = Dscp::Keep),
            ("kept source", |set| set.rules[0].outputs[0].options.source = Some(SourceAddress::Keep)),
            ("source", |set| set.rules[0].outputs[0].source = Some("10.0.0.7".parse().unwrap())),
            ("source port", |set| set.rules[0].outputs[0].options.source_port = Some(SourcePort::Keep)),
            ("egress", |set| set.rules[0].outputs[0].egress = None),
            ("output slot", |set| set.rules[0].outputs[0].slot = OutputSlot(9)),
        ];
        let before = set().table_hash();
        for (what, change) in changes {
            let mut set = set();
            change(&mut set);
            assert_ne!(set.table_hash(), before, "{what}");
        }
        let mut swapped = set();
        swapped.rules[0].outputs.swap(0, 1);
        assert_ne!(swapped.table_hash(), before, "the order of outputs");
    }

    #[test]
    fn equivalent_sets_have_the_same_hash() {
        let before = set().table_hash();
        let mut same = set();
        same.rules.reverse();
        same.rules[0].merge.as_mut().unwrap().legs[0].sources.push("10.9.0.1".parse().unwrap());
        same.own.addresses.push("10.0.0.1".parse().unwrap());
        same.own.macs.push([2; 6]);
        assert_eq!(same.table_hash(), before);
        assert_ne!(RuleSet::default().table_hash(), 0);
    }
}
