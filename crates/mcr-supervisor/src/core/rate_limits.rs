//! Rules that exceed their `max_pps`: detected by what their workers dropped for it, and reported once until it has
//! been over for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mcr_link::reason::DropReason;

use crate::core::ledger::RuleCount;
use crate::core::plan::{Plan, RuleKey};

/// A rule without such drops for this long is within its limit again: a source that exceeds it now and then is one
/// event, not many.
pub(crate) const CALM: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
struct Seen {
    dropped: u64,
    last_drop: Option<Duration>,
}

/// See the module documentation.
#[derive(Clone, Debug, Default)]
pub(crate) struct RateLimits {
    seen: BTreeMap<RuleKey, Seen>,
    /// The next sample shows what an earlier supervisor has reported.
    is_reported: bool,
}

impl RateLimits {
    /// For a supervisor that adopts the counters of an earlier one, which has reported the drops that they show.
    pub(crate) fn adopted() -> Self {
        Self { is_reported: true, ..Self::default() }
    }

    /// Samples the counters of the rules that have a limit. Returns those that are above it.
    pub(crate) fn sample(
        &mut self,
        now: Duration,
        plan: &Plan,
        counts: &BTreeMap<RuleKey, RuleCount>,
    ) -> BTreeSet<RuleKey> {
        let before = std::mem::take(&mut self.seen);
        let is_reported = std::mem::take(&mut self.is_reported);
        for rule in plan.rules.iter().filter(|rule| rule.options.max_pps.is_some()) {
            let dropped = counts.get(&rule.key).map(dropped).unwrap_or_default();
            let seen = match before.get(&rule.key) {
                Some(seen) if seen.dropped == dropped => *seen,
                None if dropped == 0 || is_reported => Seen { dropped, last_drop: None },
                _ => Seen { dropped, last_drop: Some(now) },
            };
            self.seen.insert(rule.key, seen);
        }
        let above = |seen: &Seen| seen.last_drop.is_some_and(|at| now.saturating_sub(at) < CALM);
        self.seen.iter().filter(|(_, seen)| above(seen)).map(|(key, _)| *key).collect()
    }
}

fn dropped(count: &RuleCount) -> u64 {
    count.outputs.iter().map(|(_, output)| output.drops[DropReason::RateLimited.index()]).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::machine::{Event, Machine};
    use crate::core::plan::OutputKey;
    use crate::core::plan::samples::{config, rule};
    use mcr_control::reply::RuleState;
    use mcr_link::telemetry::OutputSnapshot;
    use mcr_rules::{Rule, RuleOptions};
    use std::num::NonZeroU32;

    fn limited() -> Rule {
        let options = RuleOptions { max_pps: NonZeroU32::new(100), stream: None };
        Rule { options, ..rule("eth0", "239.1.1.1", 5000, "eth1") }
    }

    fn counts(machine: &Machine, dropped: u64) -> BTreeMap<RuleKey, RuleCount> {
        let mut output = OutputSnapshot::default();
        output.drops[DropReason::RateLimited.index()] = dropped;
        let rules = machine.config().rules.iter();
        rules
            .map(|rule| {
                let outputs = OutputKey::all_of(rule).into_iter().map(|key| (key, output)).collect();
                let count = RuleCount { outputs, ..RuleCount::default() };
                (machine.key_of(rule.id()).unwrap(), count)
            })
            .collect()
    }

    #[test]
    fn a_trip_is_reported_once_and_ends_after_a_while_of_calm() {
        let mut machine = Machine::new([0], None);
        machine.handle(
            Duration::ZERO,
            Event::start(config([limited(), rule("eth0", "239.1.1.2", 5000, "eth1")])),
        );
        let told: Vec<bool> =
            [(1, 0), (2, 7), (3, 9), (4, 9), (9, 12), (18, 12), (19, 12), (20, 12), (21, 13)]
                .map(|(second, dropped)| {
                    let counts = counts(&machine, dropped);
                    machine.handle(Duration::from_secs(second), Event::Counted(&counts))
                })
                .into();
        assert_eq!(told, [false, true, false, false, false, false, true, false, true]);
        let above: Vec<u64> = machine.actual().above_limit.iter().map(|key| key.id.to_bits()).collect();
        assert_eq!(above, [limited().id().to_bits()], "the rule without a limit can't exceed it");
    }

    #[test]
    fn drops_before_an_adoption_are_no_trip() {
        let mut machine = Machine::new([0], None);
        machine.handle(Duration::ZERO, Event::start(config([limited()])));
        let mut limits = RateLimits::adopted();
        let mut is_above = |second, dropped| {
            !limits.sample(Duration::from_secs(second), machine.plan(), &counts(&machine, dropped)).is_empty()
        };
        assert!(!is_above(1, 700));
        assert!(!is_above(2, 700));
        assert!(is_above(3, 701));
    }

    #[test]
    fn a_rule_above_its_limit_is_active_with_a_reason() {
        let mut world = crate::core::simulation::World::with(config([limited()]));
        world.states.clear();
        let counts = counts(&world.machine, 5);
        assert!(world.machine.handle(world.now, Event::Counted(&counts)));
        world.settle();
        let changes = std::mem::take(&mut world.states);
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].state, RuleState::Active);
        let reason = changes[0].reason.as_deref().unwrap();
        assert!(reason.contains("max_pps (100)"), "{reason}");
    }
}
