//! Which fragments are put together: those that a rule may want. All but the first have no ports.

use mcr_link::reason::SkipReason;
use mcr_link::rule_set::SharedRule;

use super::{AddressBits, DestinationKey, Lookup, Table};

impl Table {
    /// Why a fragment between these addresses is not put together. Its ports are unknown, unless it is the first one.
    pub(crate) fn refuses_fragment(&self, to: AddressBits, from: AddressBits) -> Option<SkipReason> {
        let admits = |source| self.reassembled.binary_search(&(to, source)).is_ok();
        if self.concerned(to, None).next().is_none() {
            Some(SkipReason::NoRule)
        } else if self.own_addresses.binary_search(&from).is_ok() {
            Some(SkipReason::OwnSource)
        } else if admits(None) || admits(Some(from)) {
            None
        } else {
            let next = self.reassembled.partition_point(|(address, _)| *address < to);
            let others = self.reassembled.get(next).is_some_and(|(address, _)| *address == to);
            Some(if others { SkipReason::SourceExcluded } else { SkipReason::Fragment })
        }
    }

    /// Whether no rule of those that admit a datagram relays what was put together.
    pub(crate) fn refuses_reassembled(&self, destination: DestinationKey, source: AddressBits) -> bool {
        match self.look_up(destination, source) {
            Lookup::Admitted(rules) | Lookup::HostAddress(rules) => {
                !self.admitting(&rules).any(|index| self.rule(index).is_some_and(|rule| rule.reassemble))
            }
            _ => false,
        }
    }
}

/// Destination and source of the fragments that rules want; `None`: any source. Sorted.
pub(super) fn senders(rules: &[SharedRule]) -> Box<[(AddressBits, Option<AddressBits>)]> {
    let mut all = Vec::new();
    for rule in rules.iter().filter(|rule| rule.reassemble) {
        for (group, _) in rule.destinations() {
            let sources = rule.looked_up_sources();
            if sources.is_empty() {
                all.push((group, None));
            }
            all.extend(sources.iter().map(|source| (group, Some(AddressBits::from(*source)))));
        }
    }
    all.sort_unstable();
    all.dedup();
    all.into()
}
