//! Builds a worker's rule set from its interface's plan, with telemetry slots and egress socket numbers filled in.
//! Unchanged rules are shared with the previous set.

use std::collections::BTreeSet;
use std::sync::Arc;

use mcr_link::rule_set::{
    EgressId, OutputSlot, Own as RelayOwn, RelayOutput, RelayRule, RuleSet, RuleSlot, SharedRule,
};

use crate::core::actual::{ActualWorker, MadeRule};
use crate::core::plan::{OutputKey, Own, PlannedInterface, PlannedRelay, RuleKey, distinct};

/// Builds the next rule set of a worker; without an interface, an empty one. An output whose socket the worker lacks
/// counts its datagrams as `output_down`.
pub(super) fn make(worker: &mut ActualWorker, interface: Option<&PlannedInterface>) -> RuleSet {
    #[cfg(test)]
    let mut afresh = ActualWorker { made: None, ..worker.clone() };
    let set = make_next(worker, interface);
    #[cfg(test)]
    {
        assert_eq!(set, make_next(&mut afresh, interface), "what is shared is not what would be made afresh");
        assert!(
            worker.rule_slots.is_alike(&afresh.rule_slots)
                && worker.output_slots.is_alike(&afresh.output_slots)
        );
    }
    set
}

fn make_next(worker: &mut ActualWorker, interface: Option<&PlannedInterface>) -> RuleSet {
    worker.generation += 1;
    let generation = worker.generation;
    let relays = interface.map_or(&[][..], |interface| &interface.relays);
    let before = worker.made.take();
    if before.is_none() {
        retain_slots(worker, relays);
    }
    worker.out_of_slots = false;
    let mut before = before.unwrap_or_default().into_iter().peekable();
    let mut made = Vec::with_capacity(relays.len());
    for relay in relays {
        if let Some(same) = before.next_if(|old| old.complete && Arc::ptr_eq(&old.relay, relay)) {
            made.push(same);
            continue;
        }
        while let Some(gone) = before.next_if(|old| old.relay.key < relay.key) {
            release(worker, &gone.relay, None);
        }
        if let Some(changed) = before.next_if(|old| old.relay.key == relay.key) {
            release(worker, &changed.relay, Some(relay));
        }
        made.push(make_rule(worker, relay));
    }
    before.for_each(|gone| release(worker, &gone.relay, None));
    let set = RuleSet {
        generation,
        own: interface.map(|interface| own(&interface.own)).unwrap_or_default(),
        rules: made.iter().filter_map(|made| made.rule.clone()).collect(),
    };
    worker.made = Some(made);
    set
}

fn own(own: &Own) -> RelayOwn {
    let Own { addresses, host, macs, kept_source } = own;
    RelayOwn {
        addresses: addresses.to_vec(),
        host: host.to_vec(),
        macs: macs.to_vec(),
        kept_source: kept_source.to_vec(),
    }
}

/// The egress sockets referenced by a set just built from this plan.
pub(super) fn named_egress(
    worker: &ActualWorker,
    interface: Option<&PlannedInterface>,
    set: &RuleSet,
) -> BTreeSet<EgressId> {
    let in_set =
        || distinct(set.rules.iter().flat_map(|rule| &rule.outputs).filter_map(|output| output.egress));
    match interface {
        // It contains all rules, so it references everything that they need.
        Some(interface) if !worker.out_of_slots => {
            let named = interface.egress.iter().filter_map(|key| worker.egress.get(key).copied()).collect();
            #[cfg(test)]
            assert_eq!(named, in_set());
            named
        }
        _ => in_set(),
    }
}

/// Releases all slots that belong to none of these rules.
fn retain_slots(worker: &mut ActualWorker, relays: &[Arc<PlannedRelay>]) {
    let generation = worker.generation;
    let rules: BTreeSet<RuleKey> = relays.iter().map(|relay| relay.key).collect();
    worker.rule_slots.retain(generation, |key| rules.contains(key));
    let outputs: BTreeSet<(RuleKey, &OutputKey)> =
        relays.iter().flat_map(|relay| relay.outputs.iter().map(|output| (relay.key, &output.key))).collect();
    worker.output_slots.retain(generation, |(rule, output)| outputs.contains(&(*rule, output)));
}

/// Releases the slots of a rule that its replacement does not use.
fn release(worker: &mut ActualWorker, gone: &PlannedRelay, replacement: Option<&PlannedRelay>) {
    let generation = worker.generation;
    if replacement.is_none() {
        worker.rule_slots.leave(generation, &gone.key);
    }
    let kept: BTreeSet<&OutputKey> =
        replacement.iter().flat_map(|relay| &relay.outputs).map(|output| &output.key).collect();
    for output in gone.outputs.iter().filter(|output| !kept.contains(&output.key)) {
        worker.output_slots.leave(generation, &(gone.key, output.key.clone()));
    }
}

/// If the page has no free slot for the rule, it gets one once the worker has released old ones.
fn make_rule(worker: &mut ActualWorker, relay: &Arc<PlannedRelay>) -> MadeRule {
    let rule = relay_rule(worker, relay);
    worker.out_of_slots |= rule.is_none();
    let has_sockets = |rule: &RelayRule| {
        let mut outputs = relay.outputs.iter().zip(&rule.outputs);
        outputs.all(|(planned, output)| planned.egress.is_some() == output.egress.is_some())
    };
    let complete = rule.as_ref().is_some_and(has_sockets);
    MadeRule { relay: Arc::clone(relay), rule: rule.map(SharedRule::from), complete }
}

fn relay_rule(worker: &mut ActualWorker, relay: &PlannedRelay) -> Option<RelayRule> {
    let slot = worker.rule_slots.take(&relay.key);
    let outputs: Option<Vec<RelayOutput>> = relay
        .outputs
        .iter()
        .map(|output| {
            let slot = worker.output_slots.take(&(relay.key, output.key.clone()))?;
            Some(RelayOutput {
                address: output.address,
                options: output.options,
                source: output.source,
                egress: output.egress.and_then(|key| worker.egress.get(&key).copied()),
                slot: OutputSlot(slot),
            })
        })
        .collect();
    Some(RelayRule {
        id: relay.key.id,
        group: relay.group,
        more_groups: relay.more_groups.clone(),
        port: relay.port,
        sources: relay.sources.clone(),
        reassemble: relay.input.reassemble,
        slot: RuleSlot(slot?),
        options: relay.options,
        merge: relay.merge.as_ref().map(|merge| merge.relay.clone()),
        outputs: outputs?,
    })
}
