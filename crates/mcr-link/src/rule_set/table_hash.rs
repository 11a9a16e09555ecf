//! A hash that is the same for a rule set and for the table that a worker built from it, so that the two can be compared.
//!
//! It is a sum over *facts*: accepted sources, outputs, their destinations and sockets. A sum does not depend on the order, so
//! a worker iterates over its table in memory order, a few facts at a time, and the supervisor over the rule set that it sent.
//! A fixed TTL or DSCP is not a fact: it is set on the socket, which is identified by its number.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use mcr_rules::{Dscp, OutputOptions, RuleOptions, StreamFormat, Ttl};

use super::{EgressId, OutputSlot, RelayOutput, RelayRule, RuleSet, RuleSlot};

/// The bits of an address and its family: an IPv4 address never equals an IPv6 one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressBits {
    /// IPv6 instead of IPv4.
    pub ipv6: bool,
    /// The address as a number.
    pub bits: u128,
}

impl From<IpAddr> for AddressBits {
    #[inline]
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self { ipv6: false, bits: u128::from(v4.to_bits()) },
            IpAddr::V6(v6) => Self { ipv6: true, bits: v6.to_bits() },
        }
    }
}

impl From<AddressBits> for IpAddr {
    #[expect(clippy::cast_possible_truncation, reason = "an IPv4 address has 32 bits")]
    fn from(AddressBits { ipv6, bits }: AddressBits) -> Self {
        if ipv6 { Self::from(bits.to_be_bytes()) } else { Self::from((bits as u32).to_be_bytes()) }
    }
}

impl AddressBits {
    /// The upper and the lower half.
    #[expect(clippy::cast_possible_truncation, reason = "the halves are taken apart on purpose")]
    pub(crate) const fn halves(self) -> [u64; 2] {
        [(self.bits >> 64) as u64, self.bits as u64]
    }

    pub(crate) fn from_halves(ipv6: bool, [upper, lower]: [u64; 2]) -> Self {
        Self { ipv6, bits: u128::from(upper) << 64 | u128::from(lower) }
    }
}

/// One thing that a table does. Rules are named by their telemetry slot, which no two rules of a table share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// An address of the host: datagrams from it are not relayed.
    OwnAddress(AddressBits),
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
        /// Maximum number of datagrams per second; 0: no limit.
        max_pps: u32,
        /// The format of the stream whose sequence numbers are checked.
        stream: Option<StreamFormat>,
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
        /// The socket.
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

    fn put_address(&mut self, at: usize, address: AddressBits) {
        self.put(at, [1 + u8::from(address.ipv6)]);
        self.put(at + 1, address.bits.to_le_bytes());
    }
}

impl Fact {
    fn bytes(&self) -> Bytes {
        match *self {
            Self::OwnAddress(address) => {
                let mut bytes = Bytes::new(1);
                bytes.put_address(1, address);
                bytes
            }
            Self::Admits { group, port, source, rule } => {
                let mut bytes = Bytes::new(2);
                bytes.put_address(1, group);
                bytes.put(18, port.to_le_bytes());
                if let Some(source) = source {
                    bytes.put_address(20, source);
                }
                bytes.put(37, rule.0.to_le_bytes());
                bytes
            }
            Self::Rule { rule, outputs, by_ttl, by_dscp, max_pps, stream } => {
                let mut bytes = Bytes::new(3);
                bytes.put(1, rule.0.to_le_bytes());
                bytes.put(5, outputs.to_le_bytes());
                bytes.put(9, [u8::from(by_ttl), u8::from(by_dscp)]);
                bytes.put(11, max_pps.to_le_bytes());
                bytes.put(
                    15,
                    [match stream {
                        None => 0,
                        Some(StreamFormat::Rtp) => 1,
                        Some(StreamFormat::MpegTs) => 2,
                    }],
                );
                bytes
            }
            Self::Output { rule, ordinal, address, decrement_ttl, keep_dscp, egress, slot } => {
                let mut bytes = Bytes::new(4);
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
                bytes
            }
        }
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
        // A table has each address once, even if the set has duplicates.
        let own: BTreeSet<AddressBits> = self.own_addresses.iter().map(|address| (*address).into()).collect();
        own.into_iter().for_each(|address| hash.add(&Fact::OwnAddress(address)));
        self.rules.iter().for_each(|rule| hash.add_all(rule.facts()));
        hash.finish()
    }
}

/// Adds the facts of a rule. Rule, output and options are destructured without `..`, so that a new field does not compile
/// until it is handled here.
pub(crate) fn add_rule(hash: &mut TableHash, relay: &RelayRule) {
    // A table's rules are identified by their slots, not by their ids.
    let RelayRule { id: _, group, port, sources, slot: rule, options, outputs } = relay;
    let (group, port, rule) = (AddressBits::from(*group), *port, *rule);
    if sources.is_empty() {
        hash.add(&Fact::Admits { group, port, source: None, rule });
    }
    let sources: BTreeSet<AddressBits> = sources.iter().map(|source| (*source).into()).collect();
    for source in sources {
        hash.add(&Fact::Admits { group, port, source: Some(source), rule });
    }
    let RuleOptions { max_pps, stream } = *options;
    hash.add(&Fact::Rule {
        rule,
        outputs: u32::try_from(outputs.len()).unwrap_or(u32::MAX),
        by_ttl: outputs.iter().any(|output| output.options.ttl == Ttl::Decrement),
        by_dscp: outputs.iter().any(|output| output.options.dscp == Dscp::Keep),
        max_pps: max_pps.map_or(0, NonZeroU32::get),
        stream,
    });
    for (ordinal, output) in (0..).zip(outputs) {
        let RelayOutput { address, options, egress, slot } = *output;
        // The source address is set on the socket, like a fixed TTL or DSCP.
        let OutputOptions { ttl, dscp, source: _ } = options;
        hash.add(&Fact::Output {
            rule,
            ordinal,
            address: Some(address),
            decrement_ttl: ttl == Ttl::Decrement,
            keep_dscp: dscp == Dscp::Keep,
            egress,
            slot,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mcr_rules::RuleId;

    /// A rule set with mutable rules.
    #[derive(Clone)]
    struct Plain {
        own_addresses: Vec<IpAddr>,
        rules: Vec<RelayRule>,
    }

    impl Plain {
        fn table_hash(&self) -> u64 {
            let rules = self.rules.iter().cloned().map(Into::into).collect();
            RuleSet { generation: 1, own_addresses: self.own_addresses.clone(), rules }.table_hash()
        }
    }

    fn set() -> Plain {
        let output = |slot, address: &str| RelayOutput {
            address: address.parse().unwrap(),
            options: OutputOptions::default(),
            egress: Some(EgressId(slot)),
            slot: OutputSlot(slot),
        };
        let rule = |slot: u32, group: &str, sources: &[&str]| RelayRule {
            id: RuleId::from_bits(slot.into()),
            group: group.parse().unwrap(),
            port: 5000,
            sources: sources.iter().map(|source| source.parse().unwrap()).collect(),
            slot: RuleSlot(slot),
            options: RuleOptions::default(),
            outputs: vec![output(2 * slot, "239.2.2.2:6000"), output(2 * slot + 1, "[ff12::1%4]:6000")],
        };
        Plain {
            own_addresses: vec!["10.0.0.1".parse().unwrap()],
            rules: vec![rule(0, "239.1.1.1", &[]), rule(1, "232.1.1.1", &["10.9.0.1", "10.9.0.2"])],
        }
    }

    #[test]
    fn every_change_of_a_table_changes_the_hash() {
        type Change = (&'static str, fn(&mut Plain));
        let changes: [Change; 15] = [
            ("own address", |set| set.own_addresses.clear()),
            ("a rule removed", |set| set.rules.truncate(1)),
            ("group", |set| set.rules[0].group = "239.1.1.2".parse().unwrap()),
            ("family", |set| set.rules[0].group = "::239.1.1.1".parse().unwrap()),
            ("port", |set| set.rules[0].port += 1),
            ("source", |set| set.rules[1].sources.truncate(1)),
            ("limit", |set| set.rules[0].options.max_pps = NonZeroU32::new(7)),
            ("stream", |set| set.rules[0].options.stream = Some(StreamFormat::MpegTs)),
            ("rule slot", |set| set.rules[0].slot = RuleSlot(9)),
            ("address", |set| set.rules[0].outputs[0].address.set_port(1)),
            ("scope", |set| set.rules[0].outputs[1].address = "[ff12::1%5]:6000".parse().unwrap()),
            ("ttl", |set| set.rules[0].outputs[0].options.ttl = Ttl::Decrement),
            ("dscp", |set| set.rules[0].outputs[0].options.dscp = Dscp::Keep),
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
        same.rules[0].sources.push("10.9.0.1".parse().unwrap());
        same.own_addresses.push("10.0.0.1".parse().unwrap());
        assert_eq!(same.table_hash(), before);
        assert_ne!(RuleSet::default().table_hash(), 0);
    }
}
