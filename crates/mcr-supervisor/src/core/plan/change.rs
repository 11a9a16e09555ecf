//! The plan of a config that differs from the previous one in a few rules, derived from the previous plan: with
//! thousands of rules, adding one must not cost as much as planning all. The result equals that of
//! [`plan`](super::plan); tests compare.

use std::ops::Range;
use std::sync::Arc;

use mcr_rules::Rule;

use super::draft::Draft;
use super::{Inputs, Plan, PlannedRule, RuleKey};

/// With more differing rules than this, the plan is computed from scratch.
const FEW: usize = 256;

/// The range in which two lists of rules differ: what precedes and follows is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replaced {
    /// The indexes of the removed rules, in the old list.
    pub(crate) removed: Range<usize>,
    /// The indexes of their replacements, in the new list.
    pub(crate) new: Range<usize>,
}

impl Replaced {
    /// Compares two lists.
    pub(crate) fn between(before: &[Rule], after: &[Rule]) -> Self {
        let same = |(one, other): &(&Rule, &Rule)| one == other;
        let start = before.iter().zip(after).take_while(same).count();
        let rest = [before, after].map(|rules| rules.get(start..).unwrap_or_default());
        let end = rest[0].iter().rev().zip(rest[1].iter().rev()).take_while(same).count();
        Self { removed: start..before.len() - end, new: start..after.len() - end }
    }

    /// Whether keeping the plan of the other rules pays off.
    pub(crate) fn are_few(&self) -> bool {
        self.removed.len() + self.new.len() <= FEW
    }
}

/// Returns the plan for these inputs. `before` is the plan of a config that differs in these rules only, with the
/// same network and cores.
pub(crate) fn plan_change(before: &Plan, replaced: &Replaced, inputs: Inputs<'_>) -> Plan {
    let Inputs { config, incarnations, .. } = inputs;
    let mut draft = Draft::new(inputs, before.clone());
    let removed = before.rules.get(replaced.removed.clone()).unwrap_or_default();
    removed.iter().for_each(|rule| draft.forget(rule));
    let new = config.rules.get(replaced.new.clone()).unwrap_or_default();
    let new: Vec<Arc<PlannedRule>> =
        new.iter().map(|rule| draft.rule(RuleKey::of(rule, incarnations), rule)).collect();
    draft.plan.rules.splice(replaced.removed.clone(), new);
    let rules = &draft.plan.rules;
    for absorber in removed.iter().flat_map(|rule| rule.absorbers()) {
        if !rules.iter().any(|rule| rule.absorbers().any(|other| other == absorber)) {
            draft.plan.absorbers.remove(&absorber);
        }
    }
    draft.finish()
}

impl Draft<'_> {
    /// Removes what a rule needed, except its absorber, which others may need.
    fn forget(&mut self, rule: &PlannedRule) {
        for id in rule.installed.iter().flat_map(|id| [id.clone(), id.local()]) {
            if let Some(touched) = self.touched(&id)
                && let Ok(place) = touched.planned.relays.binary_search_by_key(&rule.key, |relay| relay.key)
            {
                touched.planned.relays.remove(place);
                touched.planned.kernel_rules -= usize::from(rule.kernel.is_ok() && !id.local);
                touched.shrunk = true;
            }
        }
        for membership in &rule.memberships {
            if let Some(planned) = self.plan.memberships.get_mut(membership) {
                planned.rules -= 1;
                if planned.rules == 0 {
                    self.plan.memberships.remove(membership);
                }
            }
        }
    }
}
