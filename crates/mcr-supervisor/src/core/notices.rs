//! Notices of state changes of rules and outputs: each change once, and many with the same cause summarized, so that
//! an interface with thousands of rules does not flood the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use mcr_control::reply::RuleState;
use mcr_rules::{Rule, RuleId};

use crate::core::actual::Actual;
use crate::core::plan::{Plan, RuleKey};
use crate::core::status::{self, ACTIVE, State};

/// Up to this number of changes with the same cause are reported one by one.
const MAX_INDIVIDUAL: usize = 8;

/// A changed state of a rule or an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateChange {
    pub(crate) id: RuleId,
    /// Which of its outputs, as displayed; `None` for the rule itself.
    pub(crate) output: Option<String>,
    pub(crate) state: RuleState,
    pub(crate) reason: Option<String>,
}

/// The last reported state of each rule, in the config's order.
#[derive(Clone, Debug, Default)]
pub(super) struct Reported {
    rules: Vec<ReportedRule>,
    /// The plan at that time, if the states depended on nothing else.
    clear: Option<Arc<Plan>>,
}

#[derive(Clone, Debug)]
struct ReportedRule {
    key: RuleKey,
    state: State,
    /// Empty if all are active.
    outputs: Vec<State>,
}

impl Reported {
    /// Returns the changes of these rules' states since the last call.
    pub(super) fn changes(&mut self, rules: &[Rule], plan: &Arc<Plan>, actual: &Actual) -> Vec<StateChange> {
        #[cfg(test)]
        let reported_in_full = self.clone().report(0, rules.iter().zip(status::rule_states(plan, actual)));
        let clear = status::is_clear(plan, actual).then(|| Arc::clone(plan));
        // If states depend on the plan only, rules with the same plan have the same state.
        let as_before = match (&self.clear, &clear) {
            (Some(then), Some(now)) => {
                let both = then.rules.iter().zip(&now.rules).take(self.rules.len());
                both.take_while(|(then, now)| Arc::ptr_eq(then, now)).count()
            }
            _ => 0,
        };
        self.clear = clear;
        let states = status::rule_states_from(as_before, plan, actual);
        let changes = self.report(as_before, rules.get(as_before..).unwrap_or_default().iter().zip(states));
        #[cfg(test)]
        assert_eq!(changes, reported_in_full, "{as_before} rules were taken to be as before");
        changes
    }

    /// Records the present states of rules from this index on, and returns the changes.
    fn report<'a>(
        &mut self,
        from: usize,
        now: impl Iterator<Item = (&'a Rule, (RuleKey, State, Vec<State>))>,
    ) -> Vec<StateChange> {
        let before = self.rules.split_off(from);
        self.rules.reserve(before.len() + 1);
        let mut elsewhere: Option<BTreeMap<RuleKey, usize>> = None;
        let mut in_place = true;
        let mut changes = Vec::new();
        for (place, (rule, (key, state, mut outputs))) in now.enumerate() {
            let was = match before.get(place) {
                Some(was) if was.key == key => Some(was),
                // All reported rules kept their index: this is an addition.
                None if in_place => None,
                _ => {
                    in_place = false;
                    let places = elsewhere.get_or_insert_with(|| {
                        before.iter().enumerate().map(|(n, was)| (was.key, n)).collect()
                    });
                    places.get(&key).and_then(|place| before.get(*place))
                }
            };
            if was.map(|was| &was.state) != Some(&state) {
                changes.push(change(key, None, &state));
            }
            // With a single output, its obstacle is the rule's.
            if outputs.len() < 2 || outputs.iter().all(|output| *output == ACTIVE) {
                outputs.clear();
            }
            let reported = was.map(|was| was.outputs.as_slice()).unwrap_or_default();
            for place in 0..outputs.len().max(reported.len()) {
                let output = outputs.get(place).unwrap_or(&ACTIVE);
                if reported.get(place).unwrap_or(&ACTIVE) != output
                    && let Some(name) = rule.outputs.get(place)
                {
                    changes.push(change(key, Some(name.to_string()), output));
                }
            }
            self.rules.push(ReportedRule { key, state, outputs });
        }
        changes
    }
}

fn change(key: RuleKey, output: Option<String>, (state, reason): &State) -> StateChange {
    StateChange { id: key.id, output, state: *state, reason: reason.clone() }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    One(StateChange),
    /// Several changes that differ only in their rule or output.
    Many {
        /// Outputs, not rules.
        outputs: bool,
        count: usize,
        state: RuleState,
        reason: Option<String>,
    },
}

/// Summarizes changes, in the order in which their causes first occur.
pub(crate) fn sum_up(changes: Vec<StateChange>) -> Vec<Notice> {
    let mut places: BTreeMap<(bool, &'static str, Option<String>), usize> = BTreeMap::new();
    let mut groups: Vec<Vec<StateChange>> = Vec::new();
    for change in changes {
        let cause = (change.output.is_some(), change.state.name(), change.reason.clone());
        let place = *places.entry(cause).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.push(change),
            None => groups.push(vec![change]),
        }
    }
    groups.into_iter().flat_map(notices).collect()
}

fn notices(group: Vec<StateChange>) -> Vec<Notice> {
    match group.first() {
        Some(first) if group.len() > MAX_INDIVIDUAL => vec![Notice::Many {
            outputs: first.output.is_some(),
            count: group.len(),
            state: first.state,
            reason: first.reason.clone(),
        }],
        _ => group.into_iter().map(Notice::One).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(id: u64, output: Option<&str>, reason: Option<&str>) -> StateChange {
        StateChange {
            id: RuleId::from_bits(id),
            output: output.map(str::to_owned),
            state: if reason.is_some() { RuleState::Pending } else { RuleState::Active },
            reason: reason.map(str::to_owned),
        }
    }

    #[test]
    fn rules_that_come_go_and_change_places_are_reported_only_if_their_state_changed() {
        use crate::core::plan::samples::rule;
        let rules: Vec<Rule> = (0..5).map(|n| rule("eth0", "239.1.1.1", n, "eth1")).collect();
        let mut reported = Reported::default();
        let mut tell = |order: &[(usize, bool)]| -> Vec<(u64, bool)> {
            let now = order.iter().map(|(n, active)| {
                let key = RuleKey { id: RuleId::from_bits(*n as u64), incarnation: 1 };
                let state = if *active { ACTIVE } else { (RuleState::Pending, Some("why".to_owned())) };
                (&rules[*n], (key, state, vec![ACTIVE]))
            });
            let changes = reported.report(0, now);
            changes.into_iter().map(|change| (change.id.to_bits(), change.reason.is_none())).collect()
        };
        assert_eq!(tell(&[(0, true), (1, false)]), [(0, true), (1, false)]);
        assert_eq!(tell(&[(0, true), (1, false), (2, true)]), [(2, true)]);
        assert_eq!(tell(&[(1, false), (2, false), (3, true)]), [(2, false), (3, true)]);
        assert_eq!(tell(&[(3, true), (2, false), (1, true)]), [(1, true)]);
        assert_eq!(tell(&[]), []);
    }

    #[test]
    fn few_are_reported_one_by_one_and_many_by_their_cause() {
        let few = [change(1, None, Some("eth1 is down")), change(2, Some("eth2"), None)];
        assert_eq!(sum_up(few.to_vec()), few.clone().map(Notice::One));
        let many = (0..10_000).map(|id| change(id, None, Some("eth1 is down")));
        let all = many.chain(few).chain((0..20).map(|id| change(id, Some("eth1"), Some("eth1 is down"))));
        let reported = sum_up(all.collect());
        let reason = Some("eth1 is down".to_owned());
        let state = RuleState::Pending;
        assert_eq!(
            reported,
            [
                Notice::Many { outputs: false, count: 10_001, state, reason: reason.clone() },
                Notice::One(change(2, Some("eth2"), None)),
                Notice::Many { outputs: true, count: 20, state, reason },
            ]
        );
    }
}
