//! Planning of merged rules: a worker of its own for each set of interfaces of legs, with one capture socket per interface.
//!
//! A leg whose interface does not exist is left out: the others deliver. The set of interfaces then is another one, and so is the worker.

use std::collections::BTreeSet;
use std::sync::Arc;

use mcr_control::reply::EngineReason;
use mcr_link::rule_set::{RelayLeg, RelayMerge};
use mcr_rules::{EngineChoice, Input, InputOptions, Merge, Rule};
use mcr_sys::network::Link;

use super::draft::{Draft, more_groups, plan_outputs};
use super::{
    InterfaceId, LinkedInterface, PlannedMerge, PlannedRelay, PlannedRule, Readiness, RuleKey, readiness,
};
use crate::core::network::NetworkState;

impl Draft<'_> {
    pub(super) fn merged_rule(&mut self, key: RuleKey, rule: &Rule, merge: &Merge) -> Arc<PlannedRule> {
        let network = self.inputs.network;
        let (outputs, of_outputs) = plan_outputs(rule, &self.inputs, self.marked);
        let legs: Vec<(&Input, Option<&Link>, Readiness)> = rule
            .inputs()
            .map(|input| {
                let (link, ready) = readiness::input(input, network);
                (input, link, ready)
            })
            .collect();
        let present = || legs.iter().filter_map(|(input, link, _)| Some((*input, (*link)?)));
        let linked: BTreeSet<LinkedInterface> =
            present().map(|(input, link)| linked_of(input, link)).collect();
        let relay_merge = RelayMerge { options: merge.options, legs: relay_legs(&legs, &linked, network) };
        let mut planned = PlannedRule {
            key,
            installed: InterfaceId::of_legs(linked.clone()),
            memberships: Vec::new(),
            absorber: None,
            more_absorbers: Vec::new(),
            input: any_ready(&legs),
            legs: legs.iter().map(|(_, _, ready)| ready.clone()).collect(),
            outputs: of_outputs,
            kernel: Err(self.wants_kernel(rule).then_some(EngineReason::Merge)),
            egress: outputs.iter().map(|output| output.egress).collect(),
            options: rule.options,
        };
        let Some(id) = planned.installed.clone() else { return Arc::new(planned) };
        let options = |input: &Input| input.options;
        let relay = PlannedRelay {
            key,
            group: rule.input.group,
            more_groups: relay_merge.legs.first().map(|leg| leg.more_groups.clone()).unwrap_or_default(),
            port: rule.input.port,
            sources: rule.input.sources.clone(),
            input: InputOptions {
                reassemble: rule.inputs().any(|input| options(input).reassemble),
                ..InputOptions::default()
            },
            options: rule.options,
            merge: Some(PlannedMerge {
                relay: relay_merge,
                promiscuous: rule.inputs().map(|input| options(input).promiscuous).collect(),
            }),
            outputs,
        };
        let links: Vec<&Link> =
            linked.iter().filter_map(|linked| network.link_by_index(linked.ifindex)).collect();
        if let Some(touched) = self.linked_interface(id, &links) {
            touched.new.push(Arc::new(relay));
        }
        let mut absorbers = Vec::new();
        for (input, link) in present() {
            let LinkedInterface { name, ifindex } = linked_of(input, link);
            let (memberships, absorber) = self.joins(input, &name, ifindex);
            planned.memberships.extend(memberships);
            absorbers.extend(absorber);
        }
        let mut absorbers = absorbers.into_iter();
        planned.absorber = absorbers.next();
        planned.more_absorbers = absorbers.collect();
        Arc::new(planned)
    }
}

impl Draft<'_> {
    fn wants_kernel(&self, rule: &Rule) -> bool {
        rule.engine.unwrap_or(self.inputs.config.settings.engine) != EngineChoice::Worker
    }
}

/// The interface of a leg.
fn linked_of(input: &Input, link: &Link) -> LinkedInterface {
    let InterfaceId { name, ifindex, .. } = InterfaceId::of(&input.interface, link);
    LinkedInterface { name, ifindex }
}

/// The legs as the worker needs them, each with the number of its capture socket.
fn relay_legs(
    legs: &[(&Input, Option<&Link>, Readiness)],
    linked: &BTreeSet<LinkedInterface>,
    network: &NetworkState,
) -> Vec<RelayLeg> {
    let socket_of = |wanted: &LinkedInterface| {
        linked.iter().position(|linked| linked == wanted).and_then(|index| u8::try_from(index).ok())
    };
    let leg = |(input, link, _): &(&Input, Option<&Link>, Readiness)| RelayLeg {
        socket: link.and_then(|link| socket_of(&linked_of(input, link))),
        group: input.group,
        more_groups: link.map(|link| more_groups(input, link, network)).unwrap_or_default(),
        port: input.port,
        sources: input.sources.clone(),
    };
    legs.iter().map(leg).collect()
}

/// Ready if a leg is.
fn any_ready(legs: &[(&Input, Option<&Link>, Readiness)]) -> Readiness {
    let ready = legs.iter().map(|(_, _, ready)| ready).find(|ready| **ready == Readiness::Ready);
    ready.or_else(|| legs.first().map(|(_, _, ready)| ready)).cloned().unwrap_or(Readiness::Ready)
}
