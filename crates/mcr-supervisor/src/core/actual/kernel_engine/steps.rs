//! The next steps of the kernel engine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mcr_sys::bpf::relay::{MAX_OUTPUTS, MAX_RULES};
use mcr_sys::link::IfIndex;

use super::{KernelEngine, KernelRuleSet, PlacedRule, Step, Tables, Wanted};
use crate::core::actual::{ActualWorker, Capture};
use crate::core::early_drop::EarlyDrop;
use crate::core::plan::{Plan, WorkerId};

/// What a plan wants the kernel to relay: rules that it can, of which no other rule has the destination.
pub(in crate::core) fn wanted(plan: &Plan) -> Wanted {
    let mut wanted = Wanted::new();
    if plan.interfaces.values().all(|interface| interface.kernel_rules == 0) {
        return wanted;
    }
    let mut rules: BTreeMap<(IfIndex, IpAddr, u16), usize> = BTreeMap::new();
    for (id, interface) in plan.interfaces.iter().filter(|(id, _)| !id.local) {
        for relay in &interface.relays {
            *rules.entry((id.ifindex, relay.group, relay.port)).or_default() += 1;
        }
    }
    let mut outputs = 0;
    for rule in plan.rules.iter().filter_map(|rule| rule.kernel.as_ref().ok()) {
        let to = rule.to;
        let alone = rules.get(&(to.ifindex, to.address, to.port)) == Some(&1);
        if alone && has_room(wanted.len() + 1, outputs + rule.outputs.len()) {
            outputs += rule.outputs.len();
            wanted.insert(rule.key, Arc::clone(rule));
        }
    }
    wanted
}

/// Whether there are counters for this number of rules and outputs.
pub(super) fn has_room(rules: usize, outputs: usize) -> bool {
    rules <= MAX_RULES as usize && outputs <= MAX_OUTPUTS as usize
}

impl KernelEngine {
    fn wanted_of(&mut self, plan: &Arc<Plan>) -> Arc<Wanted> {
        if let Some((known, wanted)) = &self.wanted
            && Arc::ptr_eq(known, plan)
        {
            return Arc::clone(wanted);
        }
        let mut rules = wanted(plan);
        rules.retain(|key, _| !self.traced.contains(&key.id));
        let rules = Arc::new(rules);
        self.wanted = Some((Arc::clone(plan), Arc::clone(&rules)));
        rules
    }

    /// The next steps, and when there may be others.
    pub(in crate::core) fn steps(
        &mut self,
        plan: &Arc<Plan>,
        workers: &BTreeMap<WorkerId, ActualWorker>,
        early_drop: &EarlyDrop,
        now: Duration,
    ) -> (Vec<Step>, Option<Duration>) {
        let wanted = self.wanted_of(plan);
        if wanted.is_empty()
            && self.captures.is_empty()
            && self.in_force.rules.is_empty()
            && self.settle_at.is_none()
        {
            return (Vec::new(), None);
        }
        self.not_executed.retain(|_, until| now < *until);
        let may = |ifindex: &IfIndex| {
            self.tables == Tables::Present
                && !self.not_executed.contains_key(ifindex)
                && early_drop.relays(*ifindex)
        };
        let interfaces: BTreeSet<IfIndex> = wanted.values().map(|rule| rule.to.ifindex).filter(may).collect();
        let mut wake = self.not_executed.values().min().copied();
        let mut at = |time: Duration| wake = Some(wake.map_or(time, |wake| wake.min(time)));
        let mut switches = Vec::new();
        let mut ready = interfaces.clone();
        let open = |(id, worker): &(&WorkerId, &ActualWorker)| {
            !id.interface.local && matches!(worker.capture, Capture::Open { .. })
        };
        ready.retain(|ifindex| workers.iter().filter(open).any(|(id, _)| id.interface.ifindex == *ifindex));
        for (id, _) in workers.iter().filter(open) {
            let on = interfaces.contains(&id.interface.ifindex);
            if on == self.captures.contains(id) {
                continue;
            }
            if on {
                ready.remove(&id.interface.ifindex);
            }
            match self.capture_failures.get(id).filter(|_| on).map(|failure| failure.restart.not_before()) {
                Some(not_before) if now < not_before => at(not_before),
                _ => switches.push(Step::SetCaptureProgram { worker: id.clone(), on }),
            }
        }
        if let Some(settle_at) = self.settle_at {
            if now >= settle_at {
                switches.push(Step::Settle(self.in_force.generation));
            } else {
                at(settle_at);
            }
        }
        // Rules are taken back before the filter, and written after it.
        let set = self.set_of(plan, &wanted, &ready);
        let mut steps: Vec<Step> = set.map(Step::SetRules).into_iter().collect();
        steps.extend(switches);
        (steps, wake)
    }

    /// The rules of these interfaces, if they differ from those in force.
    fn set_of(
        &mut self,
        plan: &Plan,
        wanted: &Wanted,
        ready: &BTreeSet<IfIndex>,
    ) -> Option<Arc<KernelRuleSet>> {
        let rules = wanted.values().filter(|rule| ready.contains(&rule.to.ifindex));
        let own = plan.interfaces.values().find(|interface| interface.kernel_rules > 0);
        let own = own.map(|interface| Arc::clone(&interface.own.host)).unwrap_or_default();
        let in_force = &self.in_force;
        let same = rules
            .clone()
            .map(|rule| (rule.key, rule))
            .eq(in_force.rules.iter().map(|(key, placed)| (*key, &placed.rule)));
        if same && (in_force.rules.is_empty() || own == in_force.own) {
            return None;
        }
        if self.lacks_slots && self.settle_at.is_some() {
            return None;
        }
        self.generation += 1;
        let generation = self.generation;
        let rules: Vec<_> = rules.cloned().collect();
        let keys: BTreeSet<_> = rules.iter().map(|rule| rule.key).collect();
        let outputs: BTreeSet<_> = rules
            .iter()
            .flat_map(|rule| rule.outputs.iter().map(|output| (rule.key, output.key.clone())))
            .collect();
        self.counting.rule_slots.retain(generation, |key| keys.contains(key));
        self.counting.output_slots.retain(generation, |key| outputs.contains(key));
        let mut set = KernelRuleSet { generation, own, rules: BTreeMap::new() };
        for rule in rules {
            let slot = self.counting.rule_slots.take(&rule.key);
            let outputs: Option<Vec<u32>> = rule
                .outputs
                .iter()
                .map(|output| self.counting.output_slots.take(&(rule.key, output.key.clone())))
                .collect();
            match slot.zip(outputs) {
                Some((slot, outputs)) => {
                    set.rules.insert(rule.key, PlacedRule { rule, slot, outputs });
                }
                // Those of removed rules are free soon.
                None => self.lacks_slots = true,
            }
        }
        Some(Arc::new(set))
    }
}
