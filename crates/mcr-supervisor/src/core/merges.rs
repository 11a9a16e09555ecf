//! What is wrong with the legs of merged rules, by their counters: reported as a remark on the rule until it has been over for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mcr_link::telemetry::merges::MergeSnapshot;

use crate::core::ledger::RuleCount;
use crate::core::merge_findings::MergeFinding;
use crate::core::plan::{Plan, PlannedRule, Readiness, RuleKey};

/// A finding stays for this long after its last sign: a leg that loses now and then is one event, not many.
const CALM: Duration = Duration::from_secs(10);
/// A leg is silent if nothing has come on it for this long, and on another leg since.
const SILENCE_NS: u64 = 1_500_000_000;

#[derive(Clone, Debug, Default)]
struct Seen {
    counts: MergeSnapshot,
    last_sign: BTreeMap<MergeFinding, Duration>,
}

/// See the module documentation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Merges {
    seen: BTreeMap<RuleKey, Seen>,
}

impl Merges {
    /// Samples the counters of merged rules. Returns what is wrong.
    pub(crate) fn sample(
        &mut self,
        now: Duration,
        plan: &Plan,
        counts: &BTreeMap<RuleKey, RuleCount>,
    ) -> BTreeMap<RuleKey, BTreeSet<MergeFinding>> {
        let mut before = std::mem::take(&mut self.seen);
        let mut found = BTreeMap::new();
        for rule in plan.rules.iter().filter(|rule| !rule.legs.is_empty()) {
            let Some(merge) = counts.get(&rule.key).and_then(|count| count.merge.as_deref()) else {
                continue;
            };
            let known = before.remove(&rule.key);
            let mut seen = known.unwrap_or_else(|| Seen { counts: *merge, ..Seen::default() });
            for sign in signs(rule, &seen.counts, merge) {
                seen.last_sign.insert(sign, now);
            }
            seen.last_sign.retain(|_, at| now.saturating_sub(*at) < CALM);
            seen.counts = *merge;
            if !seen.last_sign.is_empty() {
                found.insert(rule.key, seen.last_sign.keys().copied().collect());
            }
            self.seen.insert(rule.key, seen);
        }
        found
    }
}

fn signs(rule: &PlannedRule, before: &MergeSnapshot, now: &MergeSnapshot) -> Vec<MergeFinding> {
    let mut signs = Vec::new();
    let newest = now.legs.iter().map(|leg| leg.last_ns).max().unwrap_or_default();
    let moving = before.legs.iter().map(|leg| leg.last_ns).max().unwrap_or_default() < newest;
    for (index, ready) in rule.legs.iter().enumerate() {
        let (Some(old), Some(new)) = (before.legs.get(index), now.legs.get(index)) else { continue };
        if *ready == Readiness::Ready && moving && newest.saturating_sub(new.last_ns) > SILENCE_NS {
            signs.push(MergeFinding::Silent(index));
        }
        if new.too_late > old.too_late {
            signs.push(MergeFinding::Late(index));
        }
    }
    if now.differing > before.differing {
        signs.push(MergeFinding::Differ);
    }
    if now.lost > before.lost {
        signs.push(MergeFinding::Lost);
    }
    signs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::machine::{Event, Machine};
    use crate::core::merge_findings::remarks;
    use crate::core::plan::samples::{config, merged_rule};
    use mcr_link::telemetry::merges::LegSnapshot;

    /// A machine with a merged rule, and its plan.
    fn plan() -> Plan {
        let mut machine = Machine::new([0], None);
        machine.handle(Duration::ZERO, Event::start(config([merged_rule(&["eth0", "eth1"], "eth2")])));
        let mut plan = machine.plan().clone();
        let mut rule = (*plan.rules[0]).clone();
        rule.legs = vec![Readiness::Ready; 2];
        plan.rules = vec![rule.into()];
        plan
    }

    fn counts(plan: &Plan, merge: MergeSnapshot) -> BTreeMap<RuleKey, RuleCount> {
        let count = RuleCount { merge: Some(Box::new(merge)), ..RuleCount::default() };
        BTreeMap::from([(plan.rules[0].key, count)])
    }

    #[test]
    fn each_finding_has_its_sign_and_is_over_after_a_while() {
        let plan = plan();
        let leg = |last_s: u64| LegSnapshot { last_ns: last_s * 1_000_000_000, ..LegSnapshot::default() };
        let mut merges = Merges::default();
        let mut now = MergeSnapshot::default();
        let mut at = |now: MergeSnapshot, s: u64| -> Vec<String> {
            let found = merges.sample(Duration::from_secs(s), &plan, &counts(&plan, now));
            remarks(&plan.rules[0], found.get(&plan.rules[0].key)).collect()
        };
        (now.legs[0], now.legs[1]) = (leg(100), leg(100));
        assert!(at(now, 100).is_empty());
        (now.legs[0], now.legs[1]) = (leg(103), leg(101));
        assert_eq!(at(now, 103), ["leg 2 is silent"]);
        (now.legs[0], now.legs[1]) = (leg(104), leg(104));
        now.legs[1].too_late = 3;
        (now.lost, now.differing) = (5, 1);
        assert_eq!(at(now, 104).len(), 4);
        assert_eq!(at(now, 113).len(), 3, "no longer silent");
        assert!(at(now, 115).is_empty());
    }
}
