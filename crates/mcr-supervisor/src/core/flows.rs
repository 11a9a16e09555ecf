//! Whether datagrams of a rule come: seen in its counter, sample by sample. "Link up, joined, silent" is an alarm.

use std::collections::BTreeMap;
use std::time::Duration;

use mcr_control::event::{Event, EventKind};
use mcr_rules::Config;

use crate::core::ledger::RuleCount;
use crate::core::plan::{Plan, RuleKey};

/// A rule that got nothing for this long is silent.
pub const SILENCE: Duration = Duration::from_secs(10);
/// So many that began or ceased at once are told one by one; more in one sentence.
const MOST_ALONE: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Flow {
    packets: u64,
    last: Option<Duration>,
    flowing: bool,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Flows {
    rules: BTreeMap<RuleKey, Flow>,
}

impl Flows {
    /// Takes a sample of all rules. Gives what began or ceased.
    pub fn sample(
        &mut self,
        now: Duration,
        config: &Config,
        plan: &Plan,
        counts: &BTreeMap<RuleKey, RuleCount>,
    ) -> Vec<Event> {
        let before = std::mem::take(&mut self.rules);
        let (mut started, mut stopped) = (Vec::new(), Vec::new());
        for (rule, planned) in config.rules.iter().zip(&plan.rules) {
            let packets = counts.get(&planned.key).map_or(0, |count| count.packets);
            let was = before.get(&planned.key).copied();
            let mut flow = was.unwrap_or(Flow { packets: 0, last: None, flowing: false });
            if packets != flow.packets {
                flow.last = Some(now);
            }
            flow.packets = packets;
            let flowing = flow.last.is_some_and(|last| now.saturating_sub(last) < SILENCE);
            if flowing != flow.flowing {
                flow.flowing = flowing;
                if flowing { &mut started } else { &mut stopped }.push((rule, planned.key.id));
            }
            self.rules.insert(planned.key, flow);
        }
        let mut events = Vec::new();
        for (which, state, what) in
            [(started, "started", "datagrams come"), (stopped, "stopped", "no datagram for 10 s")]
        {
            if which.len() > MOST_ALONE {
                let words = format!("{what}: {} rules", which.len());
                let count = Some(which.len() as u64);
                events.push(Event {
                    count,
                    state: Some(state.to_owned()),
                    ..Event::new(EventKind::Flow, words)
                });
                continue;
            }
            events.extend(which.into_iter().map(|(rule, id)| Event {
                rule: Some(id),
                interface: Some(rule.input.interface.to_string()),
                group: Some(rule.input.group),
                state: Some(state.to_owned()),
                ..Event::new(EventKind::Flow, format!("{what} ({})", rule.input))
            }));
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::machine::Machine;
    use crate::core::plan::samples::{config, rule};

    fn machine(rules: u16) -> Machine {
        let mut machine = Machine::new([0]);
        machine.start_with(config((1..=rules).map(|port| rule("eth0", "239.1.1.1", port, "eth1"))));
        machine
    }

    fn sample(flows: &mut Flows, machine: &Machine, seconds: u64, packets: u64) -> Vec<Event> {
        let count = RuleCount { packets, ..RuleCount::default() };
        let counts = machine.plan().rules.iter().map(|rule| (rule.key, count.clone())).collect();
        flows.sample(Duration::from_secs(seconds), machine.config(), machine.plan(), &counts)
    }

    #[test]
    fn a_flow_starts_with_its_first_datagram_and_stops_after_silence() {
        let (machine, mut flows) = (machine(1), Flows::default());
        let mut told = |seconds, packets| -> Vec<_> {
            sample(&mut flows, &machine, seconds, packets)
                .into_iter()
                .filter_map(|event| event.state)
                .collect()
        };
        assert_eq!(told(100, 0), [""; 0], "it never came");
        assert_eq!(told(101, 5), ["started"]);
        assert_eq!(told(110, 5), [""; 0]);
        assert_eq!(told(111, 5), ["stopped"]);
        assert_eq!(told(150, 5), [""; 0]);
        assert_eq!(told(151, 6), ["started"]);
    }

    #[test]
    fn many_at_once_are_one_event() {
        let (machine, mut flows) = (machine(100), Flows::default());
        let told = sample(&mut flows, &machine, 1, 1);
        assert_eq!(
            (told.len(), told[0].count, told[0].words.as_str()),
            (1, Some(100), "datagrams come: 100 rules")
        );
    }
}
