//! The kernel engine: rules that a program at ingress relays instead of workers. Which they are is part of the plan
//! ([`kernel`](crate::core::plan::kernel)); here is what is in force, and the way there.
//!
//! ```text
//!  plan: rules that the kernel can relay ─▶ attacher: program at ingress ─▶ Step::SetCaptureProgram: the capture sockets'
//!  filter becomes the program that decides ─▶ Step::SetRules ─▶ counters, settled into the ledger
//! ```
//!
//! Each step by itself changes nothing about what is relayed: without decisions, workers get all frames, which they have the
//! rules for in any case. The last one, and its reversal, switch a rule by one write of the kernel's memory.

mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mcr_control::reply::EngineReason;
use mcr_rules::RuleId;
use mcr_sys::bpf::relay::{MAX_OUTPUTS, MAX_RULES};
use mcr_sys::link::IfIndex;

use super::{ActualWorker, Failure, Released};
pub(crate) use crate::core::plan::kernel::{KernelOutput, KernelRule, Port};
use crate::core::plan::{InterfaceId, OutputKey, Plan, PlannedRule, RuleKey, WorkerId};
use crate::core::slots::Slots;

/// Programs that run while rules are changed have counted after this time.
const SETTLE_AFTER: Duration = Duration::from_millis(200);
/// An interface where decisions are not executed is tried again after this time.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// A rule with the slots of its counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlacedRule {
    pub(crate) rule: Arc<KernelRule>,
    pub(crate) slot: u32,
    /// Of its outputs, in its order.
    pub(crate) outputs: Vec<u32>,
}

/// All that the kernel relays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KernelRuleSet {
    pub(crate) generation: u64,
    pub(crate) rules: BTreeMap<RuleKey, PlacedRule>,
    /// Addresses of this host: frames from them are left to workers.
    pub(crate) own: Arc<[IpAddr]>,
}

impl KernelRuleSet {
    /// Interfaces on which it relays.
    pub(crate) fn interfaces(&self) -> BTreeSet<IfIndex> {
        self.rules.values().map(|placed| placed.rule.to.ifindex).collect()
    }
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::core) enum Step {
    /// Make the program the filter of a capture socket, or the classic filter.
    SetCaptureProgram { worker: WorkerId, on: bool },
    /// Relay these rules, and no others.
    SetRules(Arc<KernelRuleSet>),
    /// Read the counters of rules before this generation.
    Settle(u64),
}

/// Whether there are maps to write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tables {
    Present,
    /// The reason, if there was an attempt to have them.
    Absent(Option<EngineReason>),
}

/// The actual state.
#[derive(Clone, Debug)]
pub(crate) struct KernelEngine {
    tables: Tables,
    /// The slots of the counters: to the ledger, the kernel is one more worker.
    counting: ActualWorker,
    generation: u64,
    /// Capture sockets whose filter is the program.
    captures: BTreeSet<WorkerId>,
    capture_failures: BTreeMap<WorkerId, Failure>,
    in_force: Arc<KernelRuleSet>,
    /// Rules wait for the slots of removed ones.
    lacks_slots: bool,
    /// When counters of removed rules have been written for the last time.
    settle_at: Option<Duration>,
    /// Until when nothing is decided on an interface.
    not_executed: BTreeMap<IfIndex, Duration>,
    traced: BTreeSet<RuleId>,
    /// The rules that a plan wants, for the last plan.
    wanted: Option<(Arc<Plan>, Arc<Wanted>)>,
}

/// The rules of a plan that the kernel is to relay.
pub(in crate::core) type Wanted = BTreeMap<RuleKey, Arc<KernelRule>>;

impl Default for KernelEngine {
    fn default() -> Self {
        Self {
            tables: Tables::Absent(None),
            counting: counting(Slots::new(MAX_RULES), Slots::new(MAX_OUTPUTS)),
            generation: 0,
            captures: BTreeSet::new(),
            capture_failures: BTreeMap::new(),
            in_force: Arc::default(),
            lacks_slots: false,
            settle_at: None,
            not_executed: BTreeMap::new(),
            traced: BTreeSet::new(),
            wanted: None,
        }
    }
}

fn counting(rules: Slots<RuleKey>, outputs: Slots<(RuleKey, OutputKey)>) -> ActualWorker {
    ActualWorker { rule_slots: rules, output_slots: outputs, ..ActualWorker::default() }
}

/// What the ledger knows the kernel by: no interface has this index.
pub(crate) fn ledger_id() -> WorkerId {
    let name = "kernel".parse().unwrap_or_else(|_| unreachable!("a valid name"));
    WorkerId {
        interface: InterfaceId { name, ifindex: IfIndex::new(0), local: false, linked: Vec::new() },
        core: 0,
    }
}

impl KernelEngine {
    /// The state of an earlier supervisor, whose maps were adopted. Nothing is known to be in force.
    pub(in crate::core) fn adopted(rules: Slots<RuleKey>, outputs: Slots<(RuleKey, OutputKey)>) -> Self {
        let generation = rules.newest_leaving().max(outputs.newest_leaving());
        let counting = counting(rules, outputs);
        Self { tables: Tables::Present, counting, generation, ..Self::default() }
    }

    /// Whether the kernel relays a rule now.
    pub(crate) fn relays(&self, key: &RuleKey) -> bool {
        self.in_force.rules.contains_key(key)
    }

    /// Why a worker relays a rule for which the kernel was asked; `None` if it was not, or the kernel does.
    pub(crate) fn reason(&self, rule: &PlannedRule) -> Option<EngineReason> {
        if self.relays(&rule.key) {
            return None;
        }
        let planned = match &rule.kernel {
            Err(reason) => return *reason,
            Ok(planned) => planned,
        };
        if self.traced.contains(&rule.key.id) {
            return Some(EngineReason::Traced);
        }
        if let Tables::Absent(Some(reason)) = self.tables {
            return Some(reason);
        }
        if self.not_executed.contains_key(&planned.to.ifindex) {
            return Some(EngineReason::NotExecuted);
        }
        let Some((_, wanted)) = self.wanted.as_ref().filter(|(_, wanted)| !wanted.contains_key(&rule.key))
        else {
            return Some(EngineReason::Starting);
        };
        let outputs: usize = wanted.values().map(|rule| rule.outputs.len()).sum();
        let has_room = steps::has_room(wanted.len() + 1, outputs + planned.outputs.len());
        Some(if has_room { EngineReason::SharedDestination } else { EngineReason::TooManyRules })
    }

    /// The slots of its counters.
    pub(crate) fn counting(&self) -> &ActualWorker {
        &self.counting
    }

    /// Rules that workers relay because they are traced.
    pub(crate) fn traced(&self) -> &BTreeSet<RuleId> {
        &self.traced
    }

    /// Whether there are maps.
    #[cfg(test)]
    pub(crate) fn is_present(&self) -> bool {
        self.tables == Tables::Present
    }

    /// What is in force.
    #[cfg(test)]
    pub(crate) fn in_force(&self) -> &Arc<KernelRuleSet> {
        &self.in_force
    }

    /// The attacher has loaded the programs, and passed the maps.
    pub(in crate::core) fn present(&mut self) {
        self.tables = Tables::Present;
    }

    /// It can't, for this reason.
    pub(in crate::core) fn unavailable(&mut self, reason: EngineReason) {
        self.tables = Tables::Absent(Some(reason));
    }

    /// The attacher is gone, and with it what it has attached. The counters are the caller's to add before.
    pub(in crate::core) fn gone(&mut self) {
        let (captures, traced) = (std::mem::take(&mut self.captures), std::mem::take(&mut self.traced));
        *self = Self { captures, traced, generation: self.generation, ..Self::default() };
    }

    /// On these interfaces, decisions are not executed.
    pub(in crate::core) fn not_executed(&mut self, interfaces: &BTreeSet<IfIndex>, now: Duration) {
        let until = now + TRY_AGAIN_AFTER;
        self.not_executed.extend(interfaces.iter().map(|ifindex| (*ifindex, until)));
    }

    /// These rules are traced, which workers do.
    pub(in crate::core) fn trace(&mut self, rules: BTreeSet<RuleId>) {
        self.traced = rules;
        self.wanted = None;
    }

    /// A capture socket's filter became the program, or the classic filter, or that failed.
    pub(in crate::core) fn capture_set(&mut self, id: &WorkerId, set: Result<bool, String>, now: Duration) {
        match set {
            Ok(true) => {
                self.captures.insert(id.clone());
                self.capture_failures.remove(id);
            }
            Ok(false) => _ = self.captures.remove(id),
            Err(reason) => {
                let before = self.capture_failures.remove(id);
                self.capture_failures.insert(id.clone(), Failure::again(before, reason, now));
            }
        }
    }

    /// A capture socket was closed, or opened anew with the classic filter.
    pub(in crate::core) fn capture_renewed(&mut self, id: &WorkerId) {
        self.captures.remove(id);
        self.capture_failures.remove(id);
    }

    /// The rules were written, or could not be.
    pub(in crate::core) fn rules_set(&mut self, set: Arc<KernelRuleSet>, done: bool, now: Duration) {
        if done {
            self.in_force = set;
            self.settle_at = Some(now + SETTLE_AFTER);
        } else {
            // Nothing is decided any more.
            self.in_force =
                Arc::new(KernelRuleSet { generation: set.generation, ..KernelRuleSet::default() });
            self.tables = Tables::Absent(Some(EngineReason::KernelTooOld));
        }
    }

    /// The counters of rules before a generation were written for the last time. Returns those of slots that become free.
    pub(in crate::core) fn settled(&mut self, generation: u64) -> Released {
        (self.settle_at, self.lacks_slots) = (None, false);
        self.counting.acknowledged(generation)
    }
}
