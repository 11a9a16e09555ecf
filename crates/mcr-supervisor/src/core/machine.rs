//! The supervisor without its executor: config, network, plan and actual state as one state machine.
//! [`Machine::handle`] takes every event, [`Machine::poll`] returns the next work, [`Machine::next_deadline`] the
//! time of the next poll; the time is an argument, and no other call changes state.
//!
//! A config change is a transaction (`change`). A change on trial is reverted at a deadline unless confirmed
//! (`trial`).

mod change;
mod event;
mod poll;
mod trial;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mcr_rules::{Config, InterfaceName, IoChoice, Rule, RuleId};
use mcr_sys::link::IfIndex;

use self::change::Change;
pub(crate) use self::change::Unacknowledged;
pub(crate) use self::event::{Adopted, Event, KernelReport, LastCounts, Outcome, Report};
pub(crate) use self::poll::Output;
use crate::core::actual::{Actual, ActualWorker};
use crate::core::aggregation::Aggregation;
use crate::core::cores::Cores;
use crate::core::ledger::{Ledger, RuleCount};
use crate::core::merges::Merges;
use crate::core::network::NetworkState;
use crate::core::notices::Reported;
use crate::core::other_ports::OtherPorts;
use crate::core::plan::{
    Incarnations, Inputs, Plan, Replaced, RuleKey, WorkerId, has_local_inputs, keep_source_alike, plan,
    plan_change,
};
use crate::core::rate_limits::RateLimits;
use crate::core::rejoin::Rejoins;

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    config: Config,
    incarnations: Incarnations,
    last_incarnation: u64,
    /// Increases with every config change, and when one completes or is undone.
    revision: u64,
    network: NetworkState,
    cores: Cores,
    io: Option<IoChoice>,
    plan: Arc<Plan>,
    change: Option<Change>,
    rejoins: Rejoins,
    trial: Option<trial::Trial>,
    /// Findings from workers' pages, not reported yet.
    found: VecDeque<Output>,
    rate_limits: RateLimits,
    merges: Merges,
    other_ports: OtherPorts,
    aggregation: Aggregation,
    /// The plan that the aggregation knows.
    aggregated: Option<Arc<Plan>>,
    reported: Reported,
    actual: Actual,
    ledger: Ledger,
}

impl Machine {
    /// Creates a machine without rules, on these cores. `io` overrides the config's setting.
    pub(crate) fn new(online_cores: impl IntoIterator<Item = u16>, io: Option<IoChoice>) -> Self {
        Self { cores: Cores::new(online_cores), io, ..Self::default() }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The config's revision: increases with each change, and when one completes or is undone.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// The newest incarnation of any rule.
    pub(crate) fn last_incarnation(&self) -> u64 {
        self.last_incarnation
    }

    /// The cores of interfaces that are not pinned.
    pub(crate) fn assigned_cores(&self) -> &BTreeMap<InterfaceName, u16> {
        self.cores.assigned()
    }

    /// The rules of the persistent config, in its order, with their incarnations.
    pub(crate) fn lasting_rules(&self) -> Vec<(&Rule, u64)> {
        let (config, incarnations) = self.lasting_config();
        if std::ptr::eq(config, &raw const self.config) && self.plan.rules.len() == config.rules.len() {
            let planned = self.plan.rules.iter().map(|planned| planned.key.incarnation);
            return config.rules.iter().zip(planned).collect();
        }
        config
            .rules
            .iter()
            .map(|rule| (rule, incarnations.get(&rule.id()).copied().unwrap_or_default()))
            .collect()
    }

    pub(crate) fn actual(&self) -> &Actual {
        &self.actual
    }

    pub(crate) fn worker(&self, id: &WorkerId) -> Option<&ActualWorker> {
        self.actual.workers.get(id)
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(crate) fn network(&self) -> &NetworkState {
        &self.network
    }

    pub(crate) fn aggregation(&self) -> &Aggregation {
        &self.aggregation
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Pinned cores that this process may not use.
    pub(crate) fn missing_cores(&self) -> BTreeSet<u16> {
        self.cores.missing(&self.config)
    }

    pub(crate) fn is_changing(&self) -> bool {
        self.change.is_some()
    }

    /// The config that a replacement of this process must run, with the incarnations of its rules: a change that is
    /// pending or on trial does not count yet.
    pub(crate) fn lasting_config(&self) -> (&Config, &Incarnations) {
        let trial = self.trial.as_ref().map(|trial| &trial.before);
        let undecided = |change: &&Change| change.unacknowledged == Unacknowledged::Undo;
        let change = self.change.as_ref().filter(undecided).map(|change| &change.before);
        let (config, incarnations) = trial
            .or(change)
            .map_or((&self.config, &self.incarnations), |(config, incarnations)| (config, incarnations));
        (config, incarnations)
    }

    /// Replaces the config and plans for it. Returns the previous one.
    fn set_config(&mut self, config: Config) -> (Config, Incarnations) {
        let replaced = Replaced::between(&self.config.rules, &config.rules);
        let incarnations = self.incarnations.clone();
        let before = std::mem::replace(&mut self.config, config);
        self.revision += 1;
        let cores = self.cores.clone();
        self.cores.assign(&self.config);
        // The plan is that of the previous config, with all other rules planned the same way.
        let in_step = incarnations.len() == before.rules.len() && self.plan.rules.len() == before.rules.len();
        let alike = before.pinning == self.config.pinning
            && before.settings == self.config.settings
            && cores == self.cores
            // All sockets depend on it.
            && has_local_inputs(&before) == has_local_inputs(&self.config)
            // All workers depend on it.
            && keep_source_alike(&before, &self.config);
        if in_step && alike && replaced.are_few() {
            let removed = before.rules.get(replaced.removed.clone()).unwrap_or_default();
            let removed: BTreeSet<RuleId> = removed.iter().map(mcr_rules::Rule::id).collect();
            self.renew_incarnations(replaced.new.clone(), |id| !removed.contains(id));
            let new = plan_change(&self.plan, &replaced, self.inputs());
            #[cfg(test)]
            assert_eq!(new, plan(self.inputs()), "{replaced:?}");
            self.plan = Arc::new(new);
        } else {
            self.renew_incarnations(0..self.config.rules.len(), |_| false);
            self.replan();
        }
        (before, incarnations)
    }

    /// Assigns incarnations to the rules in this range of the config. Those that have one keep it; rules outside the
    /// range keep theirs if `stays` returns true.
    fn renew_incarnations(&mut self, new: std::ops::Range<usize>, stays: impl Fn(&RuleId) -> bool) {
        let new = self.config.rules.get(new).unwrap_or_default();
        let new: BTreeSet<RuleId> = new.iter().map(mcr_rules::Rule::id).collect();
        self.incarnations.retain(|id, _| stays(id) || new.contains(id));
        for id in new {
            self.incarnations.entry(id).or_insert_with(|| {
                self.last_incarnation += 1;
                self.last_incarnation
            });
        }
    }

    fn inputs(&self) -> Inputs<'_> {
        let Self { config, incarnations, network, cores, io, other_ports, .. } = self;
        Inputs { config, incarnations, network, cores, io: *io, closed: other_ports.closed() }
    }

    /// Recomputes the plan. Unchanged parts keep their allocation, so that comparing them is a pointer comparison.
    fn replan(&mut self) {
        self.cores.assign(&self.config);
        let mut new = plan(self.inputs());
        for (id, interface) in &mut new.interfaces {
            let Some(old) = self.plan.interfaces.get(id) else { continue };
            if old == interface {
                *interface = Arc::clone(old);
            } else {
                Arc::make_mut(interface).share_with(old);
            }
        }
        self.plan = Arc::new(new);
    }

    /// Returns whether anything changed.
    fn network_changed(&mut self, changed: &BTreeSet<IfIndex>) -> bool {
        if changed.is_empty() {
            return false;
        }
        let network = &self.network;
        self.actual.interfaces_changed(changed, |id| {
            network.link_by_index(id.ifindex).is_some_and(|link| link.name == id.name.as_str())
        });
        self.replan();
        true
    }

    /// Records carriers that came back, and schedules joins that are due after them.
    fn rejoin(&mut self, now: Duration) {
        let returned = self.network.take_returned();
        if !returned.is_empty() {
            self.rejoins.returned(&returned, now);
        }
        let due = self.rejoins.take_due(now);
        if !due.is_empty() {
            due.into_iter().for_each(|ifindex| self.network.renew(ifindex));
            self.replan();
        }
    }

    /// Compares the counters with their limits. Returns whether anything changed.
    fn sample(&mut self, now: Duration, counts: &BTreeMap<RuleKey, RuleCount>) -> bool {
        let other_ports = self.other_ports.sample(now, &self.plan, counts);
        if other_ports {
            self.replan();
        }
        let merges = self.sample_merges(now, counts);
        self.sample_rate_limits(now, counts) || other_ports || merges
    }

    /// Looks for what is wrong with the legs of merged rules. Returns whether that changed.
    fn sample_merges(&mut self, now: Duration, counts: &BTreeMap<RuleKey, RuleCount>) -> bool {
        let found = self.merges.sample(now, &self.plan, counts);
        let changed = found != self.actual.merge_findings;
        self.actual.merge_findings = found;
        changed
    }

    /// Compares the counters with each rule's `max_pps`. Returns whether a rule changed sides.
    fn sample_rate_limits(&mut self, now: Duration, counts: &BTreeMap<RuleKey, RuleCount>) -> bool {
        let above = self.rate_limits.sample(now, &self.plan, counts);
        let changed = above != self.actual.above_limit;
        self.actual.above_limit = above;
        changed
    }

    /// The rule with this id, in its present incarnation.
    pub(crate) fn key_of(&self, id: RuleId) -> Option<RuleKey> {
        self.incarnations.get(&id).map(|incarnation| RuleKey { id, incarnation: *incarnation })
    }
}

#[cfg(test)]
mod tests;
