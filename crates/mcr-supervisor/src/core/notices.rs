//! What people are told of rules and outputs whose state changed: each change once, and many that have one cause in one
//! sentence, so that an interface with thousands of rules does not flood the log.

use std::collections::BTreeMap;

use mcr_control::reply::RuleState;
use mcr_rules::RuleId;

/// So many changes with one cause are told one by one.
const MOST_ALONE: usize = 8;

/// A rule or an output whose state is another than it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// Which rule.
    pub id: RuleId,
    /// Which of its outputs, as people write it; `None` for the rule itself.
    pub output: Option<String>,
    /// What it is now.
    pub state: RuleState,
    /// Why.
    pub reason: Option<String>,
}

/// What is told at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// One change.
    One(StateChange),
    /// Changes that are alike in all but whom they concern.
    Many {
        /// Outputs, not rules.
        outputs: bool,
        /// How many.
        count: usize,
        /// What they are now.
        state: RuleState,
        /// Why.
        reason: Option<String>,
    },
}

/// Sums changes up, in the order in which their causes came first.
#[must_use]
pub fn sum_up(changes: Vec<StateChange>) -> Vec<Notice> {
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
        Some(first) if group.len() > MOST_ALONE => vec![Notice::Many {
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
    fn few_are_told_one_by_one_and_many_by_their_cause() {
        let few = [change(1, None, Some("eth1 is down")), change(2, Some("eth2"), None)];
        assert_eq!(sum_up(few.to_vec()), few.clone().map(Notice::One));
        let many = (0..10_000).map(|id| change(id, None, Some("eth1 is down")));
        let all = many.chain(few).chain((0..20).map(|id| change(id, Some("eth1"), Some("eth1 is down"))));
        let told = sum_up(all.collect());
        let reason = Some("eth1 is down".to_owned());
        let state = RuleState::Pending;
        assert_eq!(
            told,
            [
                Notice::Many { outputs: false, count: 10_001, state, reason: reason.clone() },
                Notice::One(change(2, Some("eth2"), None)),
                Notice::Many { outputs: true, count: 20, state, reason },
            ]
        );
    }
}
