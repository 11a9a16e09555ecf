//! The rules in force, laid out for one lookup per datagram.
//!
//! ```text
//!  (group, port) ─hash─▶ destination ─┬─▶ rules that admit any source
//!                                     └─▶ (source, rule) sorted by source ─binary search─▶ rules
//! ```

mod audit;
#[cfg(any(debug_assertions, feature = "fault-injection"))]
mod faults;
mod fragments;
mod legs;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::ops::Range;
use std::rc::Rc;

use mcr_link::rule_set::{EgressId, OutputSlot, RelayOutput, RuleSet, RuleSlot, SharedRule};
use mcr_link::telemetry::{MAX_OUTPUTS, MAX_RULES};
use mcr_rules::{Dscp, OutputOptions, RuleId, RuleOptions, SourceAddress, StreamFormat};
use mcr_sys::mmsg::SocketAddress;
use mcr_wire::AddressBits;

use super::current_flow::CurrentFlow;
use super::index::{DestinationIndex, DestinationKey};
use super::origin::{Origin, Senders};
use super::path::{EgressSocket, Path};
use super::rate_limit::RateLimit;
use super::segmentation::Segmentation;

pub(crate) use self::audit::Audit;
pub(crate) use self::legs::TableMerge;

/// The most rules that a frame which is not relayed is counted for; one group and port may have thousands.
const MAX_CONCERNED: usize = 16;

/// A rule set that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TableError {
    /// An output names a socket that was not passed.
    #[error("rule {rule}: the egress socket {egress} was not passed")]
    UnknownEgress { rule: mcr_rules::RuleId, egress: u32 },
    /// A telemetry slot is outside the page or used twice.
    #[error("rule {rule}: the {kind} slot {slot} is outside the telemetry page or used twice")]
    Slot { rule: mcr_rules::RuleId, kind: &'static str, slot: u32 },
}

/// A rule of the table.
#[derive(Debug)]
pub(crate) struct TableRule {
    pub(crate) id: RuleId,
    pub(crate) slot: RuleSlot,
    /// The flow of its last datagram.
    pub(crate) flow: CurrentFlow,
    pub(crate) outputs: Box<[TableOutput]>,
    /// An output decrements the TTL: datagrams that are sent together must have equal TTLs.
    pub(crate) by_ttl: bool,
    /// An output keeps the DSCP: datagrams that are sent together must have equal DSCPs.
    pub(crate) by_dscp: bool,
    /// An output keeps the sender: datagrams sent together must have the same.
    pub(crate) senders: Option<Rc<Senders>>,
    /// The format of the stream whose numbering is checked.
    pub(crate) stream: Option<StreamFormat>,
    /// The rate limit.
    pub(crate) limit: RateLimit,
    /// Fragments for it are put together.
    pub(crate) reassemble: bool,
    /// Its legs, if it is merged.
    pub(crate) merge: Option<Box<TableMerge>>,
}

/// An output of a rule.
#[derive(Debug)]
pub(crate) struct TableOutput {
    pub(crate) target: Target,
    pub(crate) ttl: OutputTtl,
    pub(crate) keep_dscp: bool,
    pub(crate) keep_source: bool,
}

/// The TTL of an output's datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputTtl {
    /// That of the socket.
    Socket,
    /// One less than the arriving one.
    Decrement,
    /// This, if the arriving one is higher; else one less than that, and at least 1.
    AtMost(NonZeroU8),
}

/// The target of an output.
#[derive(Debug)]
pub(crate) enum Target {
    /// The output can't send.
    Down {
        slot: OutputSlot,
        address: SocketAddr,
    },
    Up(Rc<Path>),
}

impl TableOutput {
    fn new(output: &RelayOutput, target: Target) -> Self {
        // A fixed TTL or DSCP, a fixed source address without port and the loop are set on the socket; see also `Origin`.
        let OutputOptions { ttl, dscp, source, source_port: _, loopback: _ } = output.options;
        Self {
            target,
            ttl: match ttl.fixed().and_then(NonZeroU8::new) {
                None => OutputTtl::Decrement,
                Some(most) if output.limits_ttl() => OutputTtl::AtMost(most),
                Some(_) => OutputTtl::Socket,
            },
            keep_dscp: dscp == Dscp::Keep,
            keep_source: source == Some(SourceAddress::Keep),
        }
    }

    /// The output's counters.
    #[inline]
    pub(crate) fn slot(&self) -> OutputSlot {
        match &self.target {
            Target::Down { slot, .. } => *slot,
            Target::Up(path) => path.slot,
        }
    }
}

#[derive(Debug)]
struct Destination {
    key: DestinationKey,
    /// This host sends to it with source addresses of others.
    keeps_source: bool,
    any_source: Range<u32>,
    by_source: Range<u32>,
}

/// The rules that match a datagram, as two ranges of the table's lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AdmittingRules {
    any_source: Range<u32>,
    by_source: Range<u32>,
}

/// The result of looking up the addresses of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    Admitted(AdmittingRules),
    /// Admitted unless the frame is from a MAC address of this host, which has the source address on another interface, or
    /// sends to the destination with source addresses of others.
    HostAddress(AdmittingRules),
    NoRule,
    OwnSource,
    SourceExcluded,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Table {
    /// Generation of the rule set it was built from.
    pub(crate) generation: u64,
    /// Content hash of the rule set it was built from.
    pub(crate) hash: u64,
    own_addresses: Box<[AddressBits]>,
    host_addresses: Box<[AddressBits]>,
    host_macs: Box<[[u8; 6]]>,
    index: DestinationIndex,
    destinations: Box<[Destination]>,
    any_source: Box<[u32]>,
    by_source: Box<[(AddressBits, u32)]>,
    rules: Box<[TableRule]>,
    limited: bool,
    /// Destination and source of the fragments that are put together, sorted; `None`: any source.
    reassembled: Box<[(AddressBits, Option<AddressBits>)]>,
}

fn as_index(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn range<'a, T>(list: &'a [T], range: &Range<u32>) -> std::slice::Iter<'a, T> {
    list.get(range.start as usize..range.end as usize).unwrap_or_default().iter()
}

impl Table {
    /// A table without rules.
    pub(crate) fn empty() -> Self {
        Self {
            generation: 0,
            hash: 0,
            own_addresses: Box::default(),
            host_addresses: Box::default(),
            host_macs: Box::default(),
            index: DestinationIndex::build(&[]),
            destinations: Box::default(),
            any_source: Box::default(),
            by_source: Box::default(),
            rules: Box::default(),
            limited: false,
            reassembled: Box::default(),
        }
    }

    /// Builds the table of a rule set; `socket` finds an egress socket that was passed.
    pub(crate) fn build(
        set: &RuleSet,
        socket: impl Fn(EgressId) -> Option<Rc<EgressSocket>>,
    ) -> Result<Self, TableError> {
        let rules = lay_out(&set.rules, socket)?;
        let mut by_destination: Vec<(DestinationKey, u32)> = (0_u32..)
            .zip(&set.rules)
            .flat_map(|(index, rule)| {
                let destinations = rule.destinations().into_iter();
                destinations.map(move |(address, port)| (DestinationKey { address, port }, index))
            })
            .collect();
        by_destination.sort_unstable();
        by_destination.dedup();
        let kept: BTreeSet<DestinationKey> =
            set.own.kept_source.iter().map(|(address, port)| DestinationKey::new(*address, *port)).collect();
        let (mut destinations, mut any_source, mut by_source) = (Vec::new(), Vec::new(), Vec::new());
        for here in by_destination.chunk_by(|one, other| one.0 == other.0) {
            let starts = (as_index(any_source.len()), as_index(by_source.len()));
            let mut pairs: Vec<(AddressBits, u32)> = Vec::new();
            for (_, index) in here {
                let sources = set.rules.get(*index as usize).map(|rule| rule.looked_up_sources());
                match sources.unwrap_or_default() {
                    [] => any_source.push(*index),
                    sources => pairs.extend(sources.iter().map(|source| ((*source).into(), *index))),
                }
            }
            pairs.sort_unstable();
            // A duplicate source must not duplicate datagrams.
            pairs.dedup();
            by_source.append(&mut pairs);
            destinations.extend(here.first().map(|(key, _)| Destination {
                key: *key,
                keeps_source: kept.contains(key),
                any_source: starts.0..as_index(any_source.len()),
                by_source: starts.1..as_index(by_source.len()),
            }));
        }
        let keys: Vec<_> = destinations.iter().map(|destination| destination.key).collect();
        let distinct = |list: &[IpAddr]| -> Box<[AddressBits]> {
            let keys: BTreeSet<AddressBits> = list.iter().map(|address| (*address).into()).collect();
            keys.into_iter().collect()
        };
        let macs: BTreeSet<[u8; 6]> = set.own.macs.iter().copied().collect();
        Ok(Self {
            generation: set.generation,
            hash: set.content_hash(),
            own_addresses: distinct(&set.own.addresses),
            host_addresses: distinct(&set.own.host),
            host_macs: macs.into_iter().collect(),
            index: DestinationIndex::build(&keys),
            destinations: destinations.into(),
            any_source: any_source.into(),
            by_source: by_source.into(),
            limited: rules.iter().any(|rule| rule.limit.max_pps() > 0),
            reassembled: fragments::senders(&set.rules),
            rules,
        })
    }

    /// Finds the rules that match a datagram with these addresses.
    #[inline(always)]
    pub(crate) fn look_up(&self, destination: DestinationKey, source: AddressBits) -> Lookup {
        let Some(entry) = self.find(destination).and_then(|index| self.destinations.get(index as usize))
        else {
            return Lookup::NoRule;
        };
        if self.own_addresses.binary_search(&source).is_ok() {
            return Lookup::OwnSource;
        }
        let by_source = self.pairs_of(&entry.by_source, source);
        if by_source.is_empty() && entry.any_source.is_empty() {
            return Lookup::SourceExcluded;
        }
        let rules = AdmittingRules { any_source: entry.any_source.clone(), by_source };
        if entry.keeps_source || self.host_addresses.binary_search(&source).is_ok() {
            Lookup::HostAddress(rules)
        } else {
            Lookup::Admitted(rules)
        }
    }

    /// The part of a destination's pairs of source and rule that has this source.
    #[inline(always)]
    fn pairs_of(&self, pairs: &Range<u32>, source: AddressBits) -> Range<u32> {
        // Most rules admit any source.
        if pairs.is_empty() {
            return 0..0;
        }
        let first = pairs.start as usize;
        let pairs = self.by_source.get(first..pairs.end as usize).unwrap_or_default();
        let start = pairs.partition_point(|(address, _)| *address < source);
        let end = pairs.partition_point(|(address, _)| *address <= source);
        as_index(first + start)..as_index(first + end)
    }

    /// Whether a MAC address is one of this host.
    pub(crate) fn is_host_mac(&self, mac: &[u8; 6]) -> bool {
        self.host_macs.binary_search(mac).is_ok()
    }

    /// The index of a destination.
    #[inline]
    fn find(&self, destination: DestinationKey) -> Option<u32> {
        self.index.find(destination, |index| {
            self.destinations.get(index as usize).is_some_and(|entry| entry.key == destination)
        })
    }

    /// The indices of the rules that match a datagram, each once.
    #[inline]
    pub(crate) fn admitting(&self, admitting: &AdmittingRules) -> impl Iterator<Item = u32> + '_ {
        range(&self.any_source, &admitting.any_source)
            .copied()
            .chain(range(&self.by_source, &admitting.by_source).map(|(_, rule)| *rule))
    }

    /// The rules for a destination, whatever sources they admit; without a port, those for any port of the address. The
    /// first [`MAX_CONCERNED`] of many.
    pub(crate) fn concerned(
        &self,
        address: AddressBits,
        port: Option<u16>,
    ) -> impl Iterator<Item = &TableRule> {
        let here = move |destination: &Destination| {
            (destination.key.address, port.map_or(0, |_| destination.key.port))
        };
        let wanted = (address, port.unwrap_or_default());
        let start = self.destinations.partition_point(|destination| here(destination) < wanted);
        let destinations = self.destinations.get(start..).unwrap_or_default().iter();
        let all =
            destinations.take_while(move |destination| here(destination) == wanted).flat_map(move |entry| {
                let by_source = range(&self.by_source, &entry.by_source).map(|(_, rule)| *rule);
                range(&self.any_source, &entry.any_source).copied().chain(by_source)
            });
        let mut seen = [u32::MAX; MAX_CONCERNED];
        let mut count = 0;
        // A rule with several sources is in the list several times.
        all.filter_map(move |index| {
            if seen.iter().take(count).any(|other| *other == index) {
                return None;
            }
            *seen.get_mut(count)? = index;
            count += 1;
            self.rule(index)
        })
        .take(MAX_CONCERNED)
    }

    /// The number of rules.
    pub(crate) fn rule_count(&self) -> usize {
        self.rules.len()
    }

    pub(crate) fn rules(&self) -> &[TableRule] {
        &self.rules
    }

    #[inline]
    pub(crate) fn rule(&self, index: u32) -> Option<&TableRule> {
        self.rules.get(index as usize)
    }

    /// The counters of the outputs that send through a socket.
    pub(crate) fn slots_of(&self, socket: EgressId) -> impl Iterator<Item = OutputSlot> + '_ {
        let outputs = self.rules.iter().flat_map(|rule| &rule.outputs);
        outputs.filter_map(move |output| match &output.target {
            Target::Up(path) if path.socket.id == socket => Some(path.slot),
            _ => None,
        })
    }

    /// Continues the rate limits of an earlier table that did not change.
    pub(crate) fn keep_limits_of(&self, before: &Self) {
        let limited = |table: &Self| -> BTreeMap<(u32, u32), u32> {
            let limits = (0_u32..).zip(&table.rules).filter(|(_, rule)| rule.limit.max_pps() > 0);
            limits.map(|(index, rule)| ((rule.slot.0, rule.limit.max_pps()), index)).collect()
        };
        if !(self.limited && before.limited) {
            return;
        }
        let old = limited(before);
        for (key, index) in limited(self) {
            let old = old.get(&key).and_then(|index| before.rule(*index));
            if let (Some(rule), Some(old)) = (self.rule(index), old) {
                rule.limit.continue_from(&old.limit);
            }
        }
    }
}

/// The used slots of the telemetry page.
struct Slots(Box<[bool]>);

impl Slots {
    fn unused(slots: u32) -> Self {
        Self(vec![false; slots as usize].into())
    }

    /// Marks a slot as used. Returns whether it is in the page and was unused.
    fn claim(&mut self, slot: u32) -> bool {
        self.0.get_mut(slot as usize).is_some_and(|used| !std::mem::replace(used, true))
    }
}

fn lay_out(
    rules: &[SharedRule],
    socket: impl Fn(EgressId) -> Option<Rc<EgressSocket>>,
) -> Result<Box<[TableRule]>, TableError> {
    let mut table_rules = Vec::with_capacity(rules.len());
    let (mut rule_slots, mut output_slots) = (Slots::unused(MAX_RULES), Slots::unused(MAX_OUTPUTS));
    let serialized = serialized_sockets(rules);
    let senders: OnceCell<Rc<Senders>> = OnceCell::new();
    for rule in rules {
        let slot_error = |kind, slot| TableError::Slot { rule: rule.id, kind, slot };
        if !rule_slots.claim(rule.slot.0) {
            return Err(slot_error("rule", rule.slot.0));
        }
        let mut outputs = Vec::with_capacity(rule.outputs.len());
        for output in &rule.outputs {
            if !output_slots.claim(output.slot.0) {
                return Err(slot_error("output", output.slot.0));
            }
            let target = match output.egress {
                None => Target::Down { slot: output.slot, address: output.address },
                Some(id) => Target::Up(Rc::new(Path {
                    slot: output.slot,
                    socket: socket(id).ok_or(TableError::UnknownEgress { rule: rule.id, egress: id.0 })?,
                    address: SocketAddress::new(output.address),
                    serialized: serialized.contains(&id),
                    segmentation: match output.options.source_port {
                        None => Segmentation::default(),
                        Some(_) => Segmentation::unsupported(),
                    },
                    origin: Origin::of_output(output, || Rc::clone(senders.get_or_init(Rc::default))),
                })),
            };
            outputs.push(TableOutput::new(output, target));
        }
        let RuleOptions { max_pps, stream } = rule.options;
        table_rules.push(TableRule {
            id: rule.id,
            slot: rule.slot,
            flow: CurrentFlow::default(),
            outputs: outputs.into(),
            by_ttl: rule.outputs.iter().any(RelayOutput::depends_on_ttl),
            by_dscp: rule.outputs.iter().any(|output| output.options.dscp == Dscp::Keep),
            senders: rule
                .outputs
                .iter()
                .any(|output| output.options.keeps_sender())
                .then(|| Rc::clone(senders.get_or_init(Rc::default))),
            stream,
            limit: RateLimit::new(max_pps),
            reassemble: rule.reassemble,
            merge: rule.merge.as_ref().map(|merge| Box::new(TableMerge::new(merge))),
        });
    }
    Ok(table_rules.into())
}

/// The sockets with several destinations of which at least one is unicast, and can answer with errors: those to a kept source
/// go to that, and a raw socket gets none.
fn serialized_sockets(rules: &[SharedRule]) -> BTreeSet<EgressId> {
    let mut destinations: BTreeMap<EgressId, BTreeSet<SocketAddr>> = BTreeMap::new();
    for output in rules.iter().flat_map(|rule| &rule.outputs) {
        let OutputOptions { source, source_port, .. } = output.options;
        if source != Some(SourceAddress::Keep)
            && source_port.is_none()
            && let Some(id) = output.egress
        {
            destinations
                .entry(id)
                .or_default()
                .insert(SocketAddr::new(output.address.ip(), output.address.port()));
        }
    }
    destinations.retain(|_, all| all.len() > 1 && all.iter().any(|to| !to.ip().is_multicast()));
    destinations.into_keys().collect()
}

#[cfg(test)]
pub(super) mod tests;
