//! The supervisor without its executor: config, network, plan and actual state behind one face. The shell feeds events
//! in, runs [`Machine::actions`] until there are none, and asks [`Machine::next_deadline`] when to come back.
//!
//! A change of the config is a transaction: `change`. A change on trial goes back later unless it is confirmed: `trial`.

mod change;
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mcr_rules::{Config, InterfaceName, IoChoice, Rule, RuleId};
use mcr_sys::link::IfIndex;
use mcr_sys::network::{Address, Link, NetworkEvent};

use self::change::Change;
pub(crate) use self::change::Unacknowledged;
use crate::core::actual::Actual;
use crate::core::cores::Cores;
use crate::core::ledger::{Ledger, RuleCount};
use crate::core::network::NetworkState;
use crate::core::notices::{StateChange, Told};
use crate::core::plan::{Incarnations, Inputs, Plan, Replaced, RuleKey, plan, plan_change};
use crate::core::rate_limits::RateLimits;
use crate::core::reconcile::{Action, reconcile};
use crate::core::rejoin::Rejoins;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    config: Config,
    incarnations: Incarnations,
    last_incarnation: u64,
    /// Grows with every change of the config, and when one is done or undone.
    revision: u64,
    network: NetworkState,
    cores: Cores,
    io: Option<IoChoice>,
    plan: Arc<Plan>,
    change: Option<Change>,
    rejoins: Rejoins,
    trial: Option<trial::Trial>,
    /// What stood in the way of a change that was kept all the same.
    remark: Option<String>,
    rate_limits: RateLimits,
    told: Told,
    /// What the shell has told; it notes outcomes here.
    pub(crate) actual: Actual,
    /// Counters of the past.
    pub(crate) ledger: Ledger,
}

impl Machine {
    /// A machine without rules, on these cores. `io` overrides the config's setting.
    #[must_use]
    pub(crate) fn new(online_cores: impl IntoIterator<Item = u16>, io: Option<IoChoice>) -> Self {
        Self { cores: Cores::new(online_cores), io, ..Self::default() }
    }

    /// The running config.
    #[must_use]
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Tells whether the config has changed since: grows with each change, and when one is done or undone.
    #[must_use]
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// The newest incarnation of any rule.
    #[must_use]
    pub(crate) fn last_incarnation(&self) -> u64 {
        self.last_incarnation
    }

    /// The cores of interfaces that are not pinned.
    #[must_use]
    pub(crate) fn assigned_cores(&self) -> &BTreeMap<InterfaceName, u16> {
        self.cores.assigned()
    }

    /// The rules of the config that lasts, in its order, with their incarnations.
    #[must_use]
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

    /// Goes on where another machine ended: rules of the config to come keep their incarnations and cores.
    pub(super) fn resume_at(
        &mut self,
        incarnations: Incarnations,
        last_incarnation: u64,
        cores: BTreeMap<InterfaceName, u16>,
    ) {
        self.incarnations = incarnations;
        self.last_incarnation = last_incarnation;
        self.cores.resume(cores);
    }

    /// The network as it is known.
    #[must_use]
    pub(crate) fn network(&self) -> &NetworkState {
        &self.network
    }

    /// The goal.
    #[must_use]
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Pinned cores that this process may not use.
    #[must_use]
    pub(crate) fn missing_cores(&self) -> BTreeSet<u16> {
        self.cores.missing(&self.config)
    }

    /// The next things to do; to be asked again after they were done, until there are none.
    pub(crate) fn actions(&mut self, now: Duration) -> Vec<Action> {
        self.echo(now);
        reconcile(&self.plan, &mut self.actual, now)
    }

    /// When to ask for actions again if nothing else happens.
    #[must_use]
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let change = self.change.as_ref().map(|change| change.deadline);
        let own = [self.actual.next_deadline(), change, self.rejoins.next(), self.trial_deadline()];
        own.into_iter().flatten().min()
    }

    /// Whether a change is under way.
    #[must_use]
    pub(crate) fn is_changing(&self) -> bool {
        self.change.is_some()
    }

    /// Whether the change under way is being undone.
    #[must_use]
    pub(crate) fn is_undoing(&self) -> bool {
        self.change.as_ref().is_some_and(|change| change.undone.is_some())
    }

    /// Why a change that was kept was not acknowledged by everybody; told once.
    pub(crate) fn take_remark(&mut self) -> Option<String> {
        self.remark.take()
    }

    /// Takes another config in and plans for it. Gives what was before.
    fn set_config(&mut self, config: Config) -> (Config, Incarnations) {
        let replaced = Replaced::between(&self.config.rules, &config.rules);
        let incarnations = self.incarnations.clone();
        let before = std::mem::replace(&mut self.config, config);
        self.revision += 1;
        let cores = self.cores.clone();
        self.cores.assign(&self.config);
        // What is known is that of the config before, and the other rules are planned as they were.
        let in_step = incarnations.len() == before.rules.len() && self.plan.rules.len() == before.rules.len();
        let alike = before.pinning == self.config.pinning
            && before.settings == self.config.settings
            && cores == self.cores;
        if in_step && alike && replaced.are_few() {
            let gone = before.rules.get(replaced.gone.clone()).unwrap_or_default();
            let gone: BTreeSet<RuleId> = gone.iter().map(mcr_rules::Rule::id).collect();
            self.renew_incarnations(replaced.new.clone(), |id| !gone.contains(id));
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

    /// Gives the rules at these places of the config their incarnations; those that they have already they keep. Others keep
    /// theirs if `stays` says so.
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
        let Self { config, incarnations, network, cores, io, .. } = self;
        Inputs { config, incarnations, network, cores, io: *io }
    }

    /// Plans anew. What did not change stays the same piece of memory, so that comparing it costs nothing.
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

    /// Takes over a complete dump of the network. Gives whether anything was different.
    pub(crate) fn network_dump(&mut self, links: Vec<Link>, addresses: Vec<Address>) -> bool {
        let changed = self.network.replace(links, addresses);
        self.network_changed(&changed)
    }

    /// Folds events of the network in. Gives whether anything is different.
    pub(crate) fn network_events(&mut self, events: impl IntoIterator<Item = NetworkEvent>) -> bool {
        let changed: BTreeSet<IfIndex> =
            events.into_iter().filter_map(|event| self.network.apply(event)).collect();
        self.network_changed(&changed)
    }

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

    /// Notes carriers that came back, and plans to join again where the time for that has come.
    fn echo(&mut self, now: Duration) {
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

    /// Looks at the counters for rules that get more than their `max_pps`. Gives whether that changed for one.
    pub(crate) fn sample_rate_limits(
        &mut self,
        now: Duration,
        counts: &BTreeMap<RuleKey, RuleCount>,
    ) -> bool {
        let above = self.rate_limits.sample(now, &self.plan, counts);
        let changed = above != self.actual.above_limit;
        self.actual.above_limit = above;
        changed
    }

    /// Rules and outputs whose state changed since this was asked last, for the log: each change once.
    pub(crate) fn state_changes(&mut self) -> Vec<StateChange> {
        self.told.news(&self.config.rules, &self.plan, &self.actual)
    }

    /// The rule with this id and its present incarnation.
    #[must_use]
    pub(crate) fn key_of(&self, id: RuleId) -> Option<RuleKey> {
        self.incarnations.get(&id).map(|incarnation| RuleKey { id, incarnation: *incarnation })
    }
}

#[cfg(test)]
mod tests;
