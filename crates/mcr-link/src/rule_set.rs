//! The rules of one worker, resolved to what it needs: egress sockets by number, telemetry slots, this host's addresses. A
//! worker knows no interface names and makes no decisions.

mod change;
mod shared_rule;
pub mod table_hash;

use std::net::{IpAddr, SocketAddr};

use std::collections::BTreeSet;

use mcr_rules::{MergeOptions, OutputOptions, RuleId, RuleOptions, SourceAddress, Ttl};
use mcr_wire::AddressBits;
use serde::{Deserialize, Serialize};

pub use self::change::RuleSetChange;
pub use self::shared_rule::SharedRule;

/// An egress socket that was passed to the worker. Numbers are not reused while a worker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EgressId(pub u32);

/// The index of a rule's counters in the telemetry page; below [`crate::telemetry::MAX_RULES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleSlot(pub u32);

/// The index of an output's counters in the telemetry page; below [`crate::telemetry::MAX_OUTPUTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OutputSlot(pub u32);

/// The rules of a worker: those with the worker's interface as input, sorted by id.
///
/// Several rules may have the same group and port; a datagram is relayed by each of them that matches its source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSet {
    /// Incremented for each set that the supervisor sends to a worker.
    pub generation: u64,
    /// Which datagrams are this host's own. Empty on loopback.
    pub own: Own,
    /// The rules, sorted by id.
    pub rules: Vec<SharedRule>,
}

/// How a worker recognizes this host's own datagrams, which are not relayed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Own {
    /// Source addresses of own datagrams, sorted.
    pub addresses: Vec<IpAddr>,
    /// Source addresses, sorted, that are own if the source MAC address is one of `macs`: another host may have them, too.
    pub host: Vec<IpAddr>,
    /// The MAC addresses of this host, sorted.
    pub macs: Vec<[u8; 6]>,
    /// Destinations, sorted, to which this host sends with the source addresses of others: a datagram to one of them is own
    /// if the source MAC address is one of `macs`.
    pub kept_source: Vec<(IpAddr, u16)>,
}

/// One rule as a worker sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayRule {
    /// The rule's id.
    pub id: RuleId,
    /// Destination address of the datagrams: a group, a unicast address of this host, or a broadcast address.
    pub group: IpAddr,
    /// Further destination addresses, sorted: the other broadcast addresses of the interface.
    pub more_groups: Vec<IpAddr>,
    /// Destination port.
    pub port: u16,
    /// Accepted source addresses, sorted; empty: any.
    pub sources: Vec<IpAddr>,
    /// Whether fragments for it are put together.
    pub reassemble: bool,
    /// The rule's counters.
    pub slot: RuleSlot,
    /// How its datagrams are relayed.
    pub options: RuleOptions,
    /// Its legs, if it has several; group, port and sources are those of the first.
    pub merge: Option<RelayMerge>,
    /// Where each datagram is sent.
    pub outputs: Vec<RelayOutput>,
}

/// The legs of a rule, and how they are merged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayMerge {
    /// How they are merged.
    pub options: MergeOptions,
    /// The legs, in the order of the rule: at most [`crate::telemetry::merges::MAX_LEGS`].
    pub legs: Vec<RelayLeg>,
}

/// A leg of a worker's rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayLeg {
    /// The index of the capture socket that it arrives on; `None` while its interface does not exist.
    pub socket: Option<u8>,
    /// Destination address of the datagrams.
    pub group: IpAddr,
    /// Further destination addresses, sorted.
    pub more_groups: Vec<IpAddr>,
    /// Destination port.
    pub port: u16,
    /// Accepted source addresses, sorted; empty: any.
    pub sources: Vec<IpAddr>,
}

impl RelayRule {
    /// Addresses and ports of its datagrams: on any leg, if it is merged.
    #[must_use]
    pub fn destinations(&self) -> BTreeSet<(AddressBits, u16)> {
        let all = |more: &[IpAddr], group: IpAddr, port| {
            let groups = more.iter().copied().chain([group]);
            groups.map(move |group| (AddressBits::from(group), port)).collect::<Vec<_>>()
        };
        match &self.merge {
            None => all(&self.more_groups, self.group, self.port).into_iter().collect(),
            Some(merge) => {
                merge.legs.iter().flat_map(|leg| all(&leg.more_groups, leg.group, leg.port)).collect()
            }
        }
    }

    /// The sources that a table looks up; empty: any. Those of legs are compared once the leg is known.
    #[must_use]
    pub fn looked_up_sources(&self) -> &[IpAddr] {
        if self.merge.is_some() { &[] } else { &self.sources }
    }
}

/// An output of a worker's rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayOutput {
    /// The destination, with the scope of an IPv6 address that requires one.
    #[serde(with = "scoped_address")]
    pub address: SocketAddr,
    /// How datagrams are sent. A fixed TTL, DSCP or source address and the loop are set on the socket; what depends on the
    /// received datagram, and a source port, are the worker's to set.
    pub options: OutputOptions,
    /// The source address that the worker sets: with a source port, unless the arriving address is kept.
    pub source: Option<IpAddr>,
    /// The socket to send through; `None` while the output can't send (counted as `output_down`).
    pub egress: Option<EgressId>,
    /// The output's counters.
    pub slot: OutputSlot,
}

impl RelayOutput {
    /// The most that the TTL may be beside that configured: with the arriving source address, the host would not recognize a
    /// datagram that returns to it through a router, so that it leaves with less than it arrived with. What no router forwards
    /// is not limited.
    #[must_use]
    pub fn limits_ttl(&self) -> bool {
        let forwarded = match self.address.ip() {
            // RFC 5771 section 4: the local network control block.
            IpAddr::V4(group) => group.is_multicast() && !matches!(group.octets(), [224, 0, 0, _]),
            // RFC 4291 section 2.7: interface-local and link-local scope.
            IpAddr::V6(group) => group.is_multicast() && group.octets()[1] & 0xf > 2,
        };
        forwarded && self.options.source == Some(SourceAddress::Keep)
    }

    /// Whether the TTL depends on the arriving one.
    #[must_use]
    pub fn depends_on_ttl(&self) -> bool {
        self.options.ttl == Ttl::Decrement || self.limits_ttl()
    }
}

/// serde's encoding of a socket address omits the scope.
mod scoped_address {
    use std::net::{IpAddr, SocketAddr, SocketAddrV6};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(address: &SocketAddr, serializer: S) -> Result<S::Ok, S::Error> {
        let scope = match address {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(v6) => v6.scope_id(),
        };
        (address.ip(), address.port(), scope).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
        Ok(match <(IpAddr, u16, u32)>::deserialize(deserializer)? {
            (IpAddr::V4(v4), port, _) => (v4, port).into(),
            (IpAddr::V6(v6), port, scope) => SocketAddrV6::new(v6, port, 0, scope).into(),
        })
    }
}

/// A rule set that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleSetError {
    /// Not the encoding of a rule set.
    #[error("the rule set does not decode: {0}")]
    Encoding(#[from] postcard::Error),
    /// The content is not what its hash says.
    #[error("the rule set's hash is {found:016x}, expected {expected:016x}")]
    Hash {
        /// The announced hash.
        expected: u64,
        /// The hash of the content.
        found: u64,
    },
    /// The set in force is not the base of the change.
    #[error("the change is based on generation {expected}, and {found} is in force")]
    WrongBase {
        /// The generation of the base.
        expected: u64,
        /// The generation in force.
        found: u64,
    },
}

impl RuleSet {
    /// Maximum size of an encoded set, in bytes: 16,384 rules with 65,536 outputs take about 5 MB.
    pub const MAX_BYTES: usize = 16 * 1024 * 1024;

    /// The hash of everything but the generation: XXH3, 64 bits, of the addresses and of the sum of the rules' hashes.
    #[must_use]
    pub fn content_hash(&self) -> u64 {
        let rules = self.rules.iter().fold(0_u64, |sum, rule| sum.wrapping_add(rule.content_hash()));
        let bytes = postcard::to_stdvec(&(&self.own, self.rules.len(), rules)).unwrap_or_default();
        xxhash_rust::xxh3::xxh3_64(&bytes)
    }

    fn expect_hash(self, expected: u64) -> Result<Self, RuleSetError> {
        let found = self.content_hash();
        if found == expected { Ok(self) } else { Err(RuleSetError::Hash { expected, found }) }
    }

    /// Encodes the set for the worker.
    ///
    /// # Errors
    /// Memory for the encoding can't be allocated.
    pub fn encode(&self) -> Result<Vec<u8>, RuleSetError> {
        Ok(postcard::to_stdvec(self)?)
    }

    /// Decodes the result of [`RuleSet::encode`] and verifies its content hash.
    ///
    /// # Errors
    /// The bytes are not a rule set, or not the announced one.
    pub fn decode(bytes: &[u8], expected: u64) -> Result<Self, RuleSetError> {
        postcard::from_bytes::<Self>(bytes)?.expect_hash(expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddrV6;
    use std::num::NonZeroU32;

    use mcr_rules::{Dscp, MergeBy, SourcePort, StreamFormat};
    use proptest::prelude::*;

    fn output() -> impl Strategy<Value = RelayOutput> {
        let address = (any::<IpAddr>(), any::<u16>(), any::<u32>()).prop_map(|(ip, port, scope)| match ip {
            IpAddr::V4(v4) => SocketAddr::from((v4, port)),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, scope).into(),
        });
        (address, any::<u8>(), proptest::option::of(any::<u32>()), any::<u32>()).prop_map(
            |(address, ttl, egress, slot)| RelayOutput {
                address,
                options: OutputOptions {
                    ttl: if ttl == 0 { Ttl::Decrement } else { Ttl::Fixed(ttl) },
                    dscp: if ttl % 2 == 0 { Dscp::Keep } else { Dscp::Fixed(ttl & 63) },
                    // A fixed source is not the unspecified address, which encodes "keep".
                    source: [
                        None,
                        Some(SourceAddress::Fixed(IpAddr::from([10, 0, 0, ttl]))),
                        Some(SourceAddress::Keep),
                    ][usize::from(ttl % 3)],
                    source_port: [None, Some(SourcePort::Keep), Some(SourcePort::Fixed(u16::from(ttl) | 1))]
                        [usize::from(ttl % 3)],
                    loopback: ttl & 4 != 0,
                },
                source: [None, Some(address.ip())][usize::from(ttl & 1)],
                egress: egress.map(EgressId),
                slot: OutputSlot(slot),
            },
        )
    }

    fn rule() -> impl Strategy<Value = RelayRule> {
        (
            any::<u64>(),
            any::<IpAddr>(),
            any::<u16>(),
            proptest::collection::vec(any::<IpAddr>(), 0..4),
            any::<u32>(),
            proptest::collection::vec(output(), 0..4),
        )
            .prop_map(|(id, group, port, sources, slot, outputs)| RelayRule {
                id: RuleId::from_bits(id),
                group,
                more_groups: vec![group],
                port,
                sources,
                reassemble: slot % 3 == 0,
                slot: RuleSlot(slot),
                options: RuleOptions {
                    max_pps: NonZeroU32::new(slot),
                    stream: [None, Some(StreamFormat::Rtp)][slot as usize % 2],
                },
                merge: (slot % 5 == 0).then(|| RelayMerge {
                    options: MergeOptions::by(MergeBy::Rtp),
                    legs: vec![RelayLeg {
                        socket: Some(1),
                        group,
                        more_groups: Vec::new(),
                        port,
                        sources: Vec::new(),
                    }],
                }),
                outputs,
            })
    }

    fn rule_set() -> impl Strategy<Value = RuleSet> {
        (
            any::<u64>(),
            proptest::collection::vec(any::<IpAddr>(), 0..4),
            proptest::collection::vec(rule(), 0..8),
        )
            .prop_map(|(generation, addresses, rules)| RuleSet {
                generation,
                own: Own {
                    kept_source: addresses.iter().map(|address| (*address, 7)).collect(),
                    host: addresses.clone(),
                    addresses,
                    macs: vec![[2; 6]],
                },
                rules: sorted(rules),
            })
    }

    fn sorted(mut rules: Vec<RelayRule>) -> Vec<SharedRule> {
        rules.sort_by_key(|rule| rule.id);
        rules.dedup_by_key(|rule| rule.id);
        rules.into_iter().map(SharedRule::from).collect()
    }

    proptest! {
        #[test]
        fn decoding_reverts_encoding(set in rule_set()) {
            let bytes = set.encode().unwrap();
            prop_assert_eq!(RuleSet::decode(&bytes, set.content_hash()).unwrap(), set);
        }

        #[test]
        fn the_generation_does_not_change_the_hash(set in rule_set(), generation: u64) {
            let later = RuleSet { generation, ..set.clone() };
            prop_assert_eq!(later.content_hash(), set.content_hash());
        }

        #[test]
        fn any_changed_port_changes_the_hash(set in rule_set(), index: prop::sample::Index) {
            prop_assume!(!set.rules.is_empty());
            let mut other = set.clone();
            let rule = index.index(other.rules.len());
            let port = other.rules[rule].port ^ 1;
            other.rules[rule] = RelayRule { port, ..(*other.rules[rule]).clone() }.into();
            prop_assert_ne!(other.content_hash(), set.content_hash());
            prop_assert!(RuleSet::decode(&other.encode().unwrap(), set.content_hash()).is_err());
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>, hash: u64) {
            let _ = RuleSet::decode(&bytes, hash);
            if let Ok(change) = RuleSetChange::decode(&bytes) {
                prop_assert!(change.apply(&RuleSet::default(), hash).is_err());
            }
        }

        /// The difference between any two sets, encoded and applied, results in the second, and applies to no other base.
        #[test]
        fn a_change_leads_from_one_set_to_the_next(
            before in rule_set(),
            new in proptest::collection::vec(rule(), 0..4),
            kept in proptest::collection::vec(any::<bool>(), 8),
            altered in proptest::collection::vec(any::<bool>(), 8),
        ) {
            let old = before.rules.iter().zip(kept).filter(|(_, kept)| *kept).map(|(rule, _)| (**rule).clone());
            let mut rules: Vec<RelayRule> = old.chain(new).collect();
            rules.iter_mut().zip(altered).filter(|(_, altered)| *altered).for_each(|(rule, _)| rule.port ^= 1);
            let after =
                RuleSet { generation: before.generation ^ 1, own: Own::default(), rules: sorted(rules) };
            let hash = after.content_hash();
            let bytes = RuleSetChange::between(&before, &after).encode().unwrap();
            let change = RuleSetChange::decode(&bytes).unwrap();
            prop_assert_eq!(&change.clone().apply(&before, hash).unwrap(), &after);
            prop_assert_eq!(after.content_hash(), RuleSet::decode(&after.encode().unwrap(), hash).unwrap().content_hash());
            prop_assert!(change.clone().apply(&before, hash ^ 1).is_err());
            let other = RuleSet { generation: before.generation ^ 2, ..before };
            prop_assert!(change.apply(&other, hash).is_err(), "a change of another generation was applied");
        }
    }
}
