//! The kernel engine: relays what it was told last, on the interfaces whose capture sockets have the program as filter.

use std::collections::BTreeSet;
use std::sync::Arc;

use mcr_link::rule_set::{OutputSlot, RuleSlot};
use mcr_link::telemetry::{OutputSnapshot, RuleSnapshot, TotalsSnapshot};
use mcr_sys::link::IfIndex;

use super::{Page, World};
use crate::core::actual::kernel_engine::KernelRuleSet;
use crate::core::checkpoint::{KernelSlots, Key, read_kernel_slots};
use crate::core::ledger::Counters;
use crate::core::machine::KernelReport;
use crate::core::machine::{Event, Outcome};
use crate::core::plan::{RuleKey, WorkerId};
use crate::core::reconcile::Action;

/// The maps.
#[derive(Clone, Debug, Default)]
pub(super) struct KernelEngine {
    page: Page,
    /// Capture sockets with the program.
    captures: BTreeSet<WorkerId>,
    rules: Arc<KernelRuleSet>,
}

impl Counters for KernelEngine {
    fn rule(&self, slot: RuleSlot) -> RuleSnapshot {
        self.page.rule(slot)
    }

    fn output(&self, slot: OutputSlot) -> OutputSnapshot {
        self.page.output(slot)
    }
}

impl World {
    /// The attacher has loaded the programs, if it is to attach them.
    pub(super) fn load_kernel_engine(&mut self) {
        if self.kernel.is_none() || !self.machine.actual().kernel.is_present() {
            self.kernel = Some(KernelEngine::default());
            self.machine.handle(self.now, Event::Kernel(KernelReport::Present));
        }
    }

    /// The attacher is gone.
    pub(super) fn end_kernel_engine(&mut self) {
        if let Some(kernel) = self.kernel.take() {
            let totals = TotalsSnapshot::default();
            let gone = KernelReport::Gone(&kernel.page, &totals);
            self.machine.handle(self.now, Event::Kernel(gone));
            // The keeper has the maps until it is told.
            self.keeper.ended_kernel = Some(kernel);
        }
    }

    /// Decisions are not executed.
    pub(super) fn disturb_kernel_engine(&mut self, ifindex: IfIndex) {
        let report = KernelReport::NotExecuted(BTreeSet::from([ifindex]));
        self.machine.handle(self.now, Event::Kernel(report));
    }

    pub(super) fn set_capture_program(&mut self, id: &WorkerId, on: bool) {
        assert!(self.captures.contains_key(id), "{id} has no capture socket");
        let set = match &mut self.kernel {
            Some(_) if on && self.failing => Err("refused by the test".to_owned()),
            Some(kernel) if on => {
                kernel.captures.insert(id.clone());
                Ok(true)
            }
            None if on => panic!("{id}: there is no program"),
            kernel => {
                kernel.iter_mut().for_each(|kernel| _ = kernel.captures.remove(id));
                Ok(false)
            }
        };
        self.report(Outcome::CaptureProgramSet(id, set));
    }

    pub(super) fn change_kernel_rules(&mut self, action: Action) {
        match action {
            Action::SetKernelRules(set) => self.set_kernel_rules(set),
            Action::SettleKernelRules(generation) => self.settle_kernel_rules(generation),
            other => panic!("not about rules of the kernel: {other:?}"),
        }
    }

    fn set_kernel_rules(&mut self, set: Arc<KernelRuleSet>) {
        let attached = |ifindex| self.attacher.as_ref().is_some_and(|attacher| attacher.relays(ifindex));
        let mut slots = BTreeSet::new();
        for placed in set.rules.values() {
            assert!(slots.insert(placed.slot), "two rules count in {}", placed.slot);
            assert!(attached(placed.rule.to.ifindex), "the program is not attached: {placed:?}");
        }
        if let Some(kernel) = &mut self.kernel {
            kernel.rules = Arc::clone(&set);
        }
        self.report(Outcome::KernelRulesSet(set, true));
    }

    fn settle_kernel_rules(&mut self, generation: u64) {
        let page = self.kernel.as_ref().map(|kernel| kernel.page.clone());
        let page = page.as_ref().map(|page| page as _);
        self.report(Outcome::KernelRulesSettled(generation, page));
    }

    /// Whether the kernel relays a rule of a worker.
    pub(super) fn is_relayed_by_kernel(&self, id: &WorkerId, key: &RuleKey) -> bool {
        let relays = |kernel: &KernelEngine| {
            let rule = kernel.rules.rules.get(key);
            kernel.captures.contains(id)
                && rule.is_some_and(|placed| placed.rule.to.ifindex == id.interface.ifindex)
        };
        !id.interface.local && self.kernel.as_ref().is_some_and(relays)
    }

    /// The kernel relays one datagram of a rule, instead of a worker.
    pub(super) fn relay_by_kernel(&mut self, key: &RuleKey) {
        let Some(kernel) = &mut self.kernel else { return };
        let Some(placed) = kernel.rules.rules.get(key) else { return };
        let counters = kernel.page.rules.entry(RuleSlot(placed.slot)).or_default();
        counters.packets += 1;
        counters.bytes += 100;
        counters.due += placed.outputs.len() as u64;
        for slot in &placed.outputs {
            let counters = kernel.page.outputs.entry(OutputSlot(*slot)).or_default();
            counters.packets += 1;
            counters.bytes += 100;
        }
        *self.truth.entry(*key).or_default() += 1;
    }

    /// A capture socket was closed, or another one opened.
    pub(super) fn renew_capture(&mut self, id: &WorkerId) {
        self.kernel.iter_mut().for_each(|kernel| _ = kernel.captures.remove(id));
    }

    /// The supervisor dies. The next one attaches the classic filter first.
    pub(super) fn forget_captures(&mut self) {
        if let Some(ended) = self.keeper.ended_kernel.take() {
            self.kernel = Some(ended);
            // Nor does the keeper have a later attacher.
            self.attacher = None;
        }
        self.kernel.iter_mut().for_each(|kernel| kernel.captures.clear());
    }

    pub(super) fn found_kernel_engine(&self) -> Option<KernelSlots> {
        let record = self.keeper.stored.get(&Key::KernelEngine)?;
        self.kernel.as_ref().map(|_| read_kernel_slots(record).unwrap())
    }

    /// In peace, the kernel relays what is planned.
    pub(super) fn check_kernel_engine_converged(&self) {
        let kernel = &self.machine.actual().kernel;
        for planned in &self.machine.plan().rules {
            let reason = kernel.reason(planned).map(mcr_control::reply::EngineReason::name);
            let waits = [Some("starting"), Some("not_executed")].contains(&reason);
            let may = planned.input == crate::core::plan::Readiness::Ready && self.kernel.is_some();
            assert!(!waits || !may || reason == Some("not_executed"), "{planned:#?}: {reason:?}");
        }
        let relays = self.kernel.as_ref().map(|kernel| &kernel.rules).filter(|rules| !rules.rules.is_empty());
        assert_eq!(relays.map_or(0, |rules| rules.rules.len()), kernel.in_force().rules.len());
    }
}
