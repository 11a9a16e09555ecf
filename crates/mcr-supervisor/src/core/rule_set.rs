//! A worker's rule set, from its interface's plan: places in its telemetry page and numbers of its egress sockets
//! filled in.

use std::collections::BTreeSet;

use mcr_link::rule_set::{OutputSlot, RelayOutput, RelayRule, RuleSet, RuleSlot};

use crate::core::actual::ActualWorker;
use crate::core::plan::{EgressKey, OutputKey, PlannedInterface, PlannedRelay, RuleKey};

/// Makes the next rule set for a worker; `None` for the interface makes one without rules. An output whose socket
/// the worker does not have counts its datagrams as `output_down`.
pub(super) fn make(worker: &mut ActualWorker, interface: Option<&PlannedInterface>) -> RuleSet {
    worker.generation += 1;
    let generation = worker.generation;
    let relays = interface.map_or(&[][..], |interface| &interface.relays);

    let rules: BTreeSet<RuleKey> = relays.iter().map(|relay| relay.key).collect();
    worker.rule_slots.retain(generation, |key| rules.contains(key));
    let outputs: BTreeSet<(RuleKey, &OutputKey)> =
        relays.iter().flat_map(|relay| relay.outputs.iter().map(|output| (relay.key, &output.key))).collect();
    worker.output_slots.retain(generation, |(rule, output)| outputs.contains(&(*rule, output)));

    worker.out_of_slots = false;
    let rules = relays.iter().filter_map(|relay| relay_rule(worker, relay)).collect();
    RuleSet {
        generation,
        own_addresses: interface.map(|interface| interface.own_addresses.to_vec()).unwrap_or_default(),
        rules,
    }
}

/// `None` if the page has no place for the rule now; it gets one when the worker has let go of old ones.
fn relay_rule(worker: &mut ActualWorker, relay: &PlannedRelay) -> Option<RelayRule> {
    let slot = worker.rule_slots.take(&relay.key);
    let outputs: Option<Vec<RelayOutput>> = relay
        .outputs
        .iter()
        .map(|output| {
            let slot = worker.output_slots.take(&(relay.key, output.key.clone()))?;
            Some(RelayOutput {
                address: output.address,
                ttl: output.ttl,
                dscp: output.dscp,
                egress: output.egress.and_then(|key| worker.egress.get(&key).copied()),
                slot: OutputSlot(slot),
            })
        })
        .collect();
    worker.out_of_slots |= slot.is_none() || outputs.is_none();
    Some(RelayRule {
        id: relay.key.id,
        group: relay.group,
        port: relay.port,
        sources: relay.sources.clone(),
        slot: RuleSlot(slot?),
        max_pps: relay.max_pps,
        outputs: outputs?,
    })
}

/// The sockets that an interface's rules need.
pub(super) fn egress_keys(interface: &PlannedInterface) -> BTreeSet<EgressKey> {
    interface.relays.iter().flat_map(|relay| &relay.outputs).filter_map(|output| output.egress).collect()
}
