//! The legs of a merged rule, in the table of a worker of linked interfaces.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::hash::Hasher;

use mcr_link::rule_set::table_hash::Fact;
use mcr_link::rule_set::{RelayLeg, RelayMerge, RuleSlot};
use mcr_rules::MergeOptions;
use mcr_wire::AddressBits;

use super::super::index::DestinationKey;
use super::as_index;

/// The legs of a rule, and how they are merged.
#[derive(Debug)]
pub(crate) struct TableMerge {
    pub(crate) options: MergeOptions,
    pub(crate) legs: Box<[TableLeg]>,
    /// The region of its state; `None` if the page has no more.
    pub(crate) region: Cell<Option<usize>>,
}

/// A leg.
#[derive(Debug)]
pub(crate) struct TableLeg {
    pub(crate) socket: Option<u8>,
    /// Sorted.
    pub(crate) destinations: Box<[DestinationKey]>,
    /// Sorted; empty: any.
    pub(crate) sources: Box<[AddressBits]>,
}

impl TableMerge {
    pub(crate) fn new(merge: &RelayMerge) -> Self {
        let leg = |leg: &RelayLeg| {
            let groups = leg.more_groups.iter().chain([&leg.group]);
            let destinations: BTreeSet<DestinationKey> =
                groups.map(|group| DestinationKey::new(*group, leg.port)).collect();
            let sources: BTreeSet<AddressBits> = leg.sources.iter().map(|source| (*source).into()).collect();
            TableLeg {
                socket: leg.socket,
                destinations: destinations.into_iter().collect(),
                sources: sources.into_iter().collect(),
            }
        };
        Self { options: merge.options, legs: merge.legs.iter().map(leg).collect(), region: Cell::new(None) }
    }

    /// The leg that a datagram is of, by capture socket, destination and source.
    pub(crate) fn leg_of(
        &self,
        socket: u8,
        destination: DestinationKey,
        source: AddressBits,
    ) -> Option<usize> {
        self.legs.iter().position(|leg| {
            leg.socket == Some(socket)
                && leg.destinations.binary_search(&destination).is_ok()
                && (leg.sources.is_empty() || leg.sources.binary_search(&source).is_ok())
        })
    }

    /// What identifies how it is merged, other than 0: its state is continued by a merge with the same.
    pub(crate) fn parameters(&self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write_u8(self.options.by as u8);
        hasher.write_u16(self.options.window_ms);
        for leg in &self.legs {
            hasher.write_usize(leg.destinations.len());
            for DestinationKey { address, port } in &leg.destinations {
                hasher.write_u128(address.bits);
                hasher.write_u32(u32::from(*port) << 1 | u32::from(address.ipv6));
            }
        }
        hasher.finish() | 1
    }

    /// Number of facts.
    pub(super) fn facts(&self) -> usize {
        1 + self.legs.iter().map(TableLeg::facts).sum::<usize>()
    }

    /// A fact by its index.
    pub(super) fn fact(&self, rule: RuleSlot, index: usize) -> Option<Fact> {
        let Some(mut at) = index.checked_sub(1) else {
            return Some(Fact::Merge { rule, options: self.options });
        };
        for (number, leg) in self.legs.iter().enumerate() {
            let Some(behind) = at.checked_sub(leg.facts()) else {
                let each = leg.sources.len().max(1);
                let DestinationKey { address: group, port } = *leg.destinations.get(at / each)?;
                let source = leg.sources.get(at % each).copied();
                let leg_number = u8::try_from(as_index(number)).unwrap_or(u8::MAX);
                return Some(Fact::Leg { rule, leg: leg_number, socket: leg.socket, group, port, source });
            };
            at = behind;
        }
        None
    }
}

impl TableLeg {
    fn facts(&self) -> usize {
        self.destinations.len() * self.sources.len().max(1)
    }
}
