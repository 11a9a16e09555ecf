//! Datagrams to a rule's group on another port: a capture filter passes them, so that they are counted for the rule and
//! [`explain`](super::explain) knows them after they are over. A group where they are many is closed for a while, so that
//! they cost the worker no more than a second in a minute, then in longer times.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use mcr_link::reason::SkipReason;

use super::ledger::RuleCount;
use super::plan::{ClosedGroups, InterfaceId, Plan, RuleKey};

/// More such datagrams than this in a sample close the group: above what accompanies a stream (RTCP, RFC 3550 section 6.2).
const MOST_PER_SAMPLE: u64 = 100;
/// How long a group is closed at first. The time doubles with each of [`MAX_DOUBLINGS`] if the group does not stay open.
const CLOSED_FOR: Duration = Duration::from_secs(60);
/// About an hour at most.
const MAX_DOUBLINGS: u32 = 6;

/// See the module documentation.
#[derive(Clone, Debug, Default)]
pub(crate) struct OtherPorts {
    /// `None` before the first sample, which has what workers counted before this supervisor adopted them.
    counted: Option<BTreeMap<RuleKey, u64>>,
    flooded: BTreeMap<(InterfaceId, IpAddr), Flooded>,
    closed: ClosedGroups,
}

/// A group with too many datagrams to other ports.
#[derive(Clone, Copy, Debug)]
struct Flooded {
    until: Duration,
    times: u32,
}

impl Flooded {
    fn closed_for(times: u32) -> Duration {
        CLOSED_FOR * (1 << times.min(MAX_DOUBLINGS))
    }
}

impl OtherPorts {
    /// The groups that are closed.
    pub(crate) fn closed(&self) -> &ClosedGroups {
        &self.closed
    }

    /// Samples the counters. Returns whether a group was closed or opened.
    pub(crate) fn sample(
        &mut self,
        now: Duration,
        plan: &Plan,
        counts: &BTreeMap<RuleKey, RuleCount>,
    ) -> bool {
        let counted: BTreeMap<RuleKey, u64> = counts
            .iter()
            .filter_map(|(key, count)| {
                Some((*key, count.skips.as_ref()?.of(SkipReason::NoRule))).filter(|(_, n)| *n > 0)
            })
            .collect();
        let before = self.counted.take().unwrap_or_else(|| counted.clone());
        let flooding: BTreeSet<RuleKey> = counted
            .iter()
            .filter(|(key, n)| {
                n.saturating_sub(before.get(key).copied().unwrap_or_default()) > MOST_PER_SAMPLE
            })
            .map(|(key, _)| *key)
            .collect();
        self.counted = Some(counted);
        if !flooding.is_empty() {
            self.close(now, plan, &flooding);
        }
        // One that stays open as long as it was closed has recovered.
        self.flooded.retain(|_, flooded| now < flooded.until + Flooded::closed_for(flooded.times));
        let closed = self.flooded.iter().filter(|(_, flooded)| now < flooded.until);
        let closed: ClosedGroups = closed.map(|(group, _)| group.clone()).collect();
        std::mem::replace(&mut self.closed, closed) != self.closed
    }

    fn close(&mut self, now: Duration, plan: &Plan, flooding: &BTreeSet<RuleKey>) {
        for (id, interface) in &plan.interfaces {
            for relay in interface.relays.iter().filter(|relay| flooding.contains(&relay.key)) {
                let times = match self.flooded.get(&(id.clone(), relay.group)) {
                    // What was under way when it was closed, or another rule of the group.
                    Some(flooded) if now < flooded.until => continue,
                    Some(flooded) => flooded.times + 1,
                    None => 0,
                };
                let until = now + Flooded::closed_for(times);
                self.flooded.insert((id.clone(), relay.group), Flooded { until, times });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mcr_link::telemetry::skips::RuleSkips;
    use mcr_sys::filter::{ANY_PORT, FilterDestination};

    use super::*;
    use crate::core::machine::Event;
    use crate::core::plan::samples::{address, config, rule};
    use crate::core::simulation::World;

    /// A world with a rule, in which datagrams to another port arrive while the filter passes them.
    struct Wire {
        world: World,
        counted: u64,
    }

    impl Wire {
        fn new() -> Self {
            let world = World::with(config([rule("eth0", "239.1.1.1", 5000, "eth1")]));
            let mut wire = Self { world, counted: 5_000 };
            assert_eq!(wire.run(2, 0), 0, "what was counted before the first sample");
            wire
        }

        /// What the capture socket's filter passes.
        fn passes(&self, port: u16) -> bool {
            let wanted = FilterDestination { address: address("239.1.1.1"), port, promiscuous: false };
            self.world.captures.values().next().unwrap().contains(&wanted)
        }

        /// `pps` datagrams to another port for some seconds. Returns for how many of these the filter dropped them.
        fn run(&mut self, seconds: u32, pps: u64) -> u32 {
            let mut dropped = 0;
            for _ in 0..seconds {
                if self.passes(ANY_PORT) {
                    self.counted += pps;
                } else {
                    dropped += 1;
                }
                let mut skips = RuleSkips::default();
                skips.counts[SkipReason::NoRule.index()] = self.counted;
                let count = RuleCount { skips: Some(Box::new(skips)), ..RuleCount::default() };
                let counts = BTreeMap::from([(self.world.machine.plan().rules[0].key, count)]);
                self.world.now += Duration::from_secs(1);
                self.world.machine.handle(self.world.now, Event::Counted(&counts));
                self.world.calm();
                assert!(self.passes(5000), "the rule's own port");
            }
            dropped
        }
    }

    #[test]
    fn few_datagrams_to_other_ports_pass_for_ever() {
        assert_eq!(Wire::new().run(300, MOST_PER_SAMPLE), 0);
    }

    #[test]
    fn many_pass_for_a_second_a_minute_and_then_ever_more_rarely() {
        let mut wire = Wire::new();
        assert_eq!(wire.run(61, 10_000), 60);
        assert_eq!(wire.run(121, 10_000), 120);
        assert_eq!(wire.run(24 * 3_600, 10_000), 24 * 3_600 - 26, "about an hour at last");
    }

    #[test]
    fn a_group_that_recovers_starts_anew() {
        let mut wire = Wire::new();
        assert_eq!(wire.run(61, 101), 60);
        assert_eq!(wire.run(1 + 120 + 120, 101), 240 - 1);
    }
}
