//! Events for subscribed clients: state changes of rules and outputs from [`notices`](crate::core::notices), and the
//! differences in workers, links and memberships since the last comparison.

use std::collections::BTreeMap;
use std::time::Duration;

use mcr_control::event::{Event, EventKind};
use mcr_control::reply::AggregationReason;
use mcr_sys::link::IfIndex;
use mcr_sys::membership::Membership;
use mcr_sys::network::Link;

use crate::core::actual::Attempt;
use crate::core::aggregation;
use crate::core::machine::Machine;
use crate::core::notices::{Notice, StateChange};
use crate::core::plan::WorkerId;
use crate::core::status::{self, CaptureFacts};

/// The name of a state, and its reason.
type Named = (&'static str, Option<String>);

/// Converts a notice to an event.
pub(crate) fn of_notice(notice: &Notice) -> Event {
    match notice {
        Notice::One(StateChange { id, output, state, reason }) => {
            let kind = if output.is_some() { EventKind::Output } else { EventKind::Rule };
            let what = output.as_ref().map_or_else(|| "rule".to_owned(), |output| format!("output {output}"));
            let words = format!("{what} is {}{}", state.name(), because(reason.as_ref()));
            Event {
                rule: Some(*id),
                output: output.clone(),
                state: Some(state.name().to_owned()),
                reason: reason.clone(),
                ..Event::new(kind, words)
            }
        }
        Notice::Many { outputs, count, state, reason } => {
            let (kind, what) =
                if *outputs { (EventKind::Output, "outputs") } else { (EventKind::Rule, "rules") };
            let words = format!("{count} {what} are {}{}", state.name(), because(reason.as_ref()));
            Event {
                state: Some(state.name().to_owned()),
                reason: reason.clone(),
                count: Some(*count as u64),
                ..Event::new(kind, words)
            }
        }
    }
}

fn because(reason: Option<&String>) -> String {
    reason.map(|reason| format!(": {reason}")).unwrap_or_default()
}

/// The state at the last comparison.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch {
    workers: BTreeMap<WorkerId, (Named, u32)>,
    sandbox_kills: BTreeMap<WorkerId, u64>,
    links: BTreeMap<IfIndex, (String, &'static str)>,
    memberships: BTreeMap<Membership, (String, Named)>,
    aggregation: BTreeMap<IfIndex, (String, Aggregated)>,
}

/// Whether an interface merges received datagrams, and why.
type Aggregated = (bool, AggregationReason);

impl Watch {
    /// Starts from the present state.
    pub(crate) fn new(machine: &Machine) -> Self {
        let mut watch = Self::default();
        watch.changes(machine);
        watch
    }

    /// Returns the differences since the last comparison.
    pub(crate) fn changes(&mut self, machine: &Machine) -> Vec<Event> {
        let mut events = Vec::new();
        self.links(machine, &mut events);
        self.workers(machine, &mut events);
        self.memberships(machine, &mut events);
        self.aggregation(machine, &mut events);
        events
    }

    fn links(&mut self, machine: &Machine, events: &mut Vec<Event>) {
        let links = machine.network().links();
        let now: BTreeMap<_, _> =
            links.map(|link| (link.ifindex, (link.name.clone(), link_state(link)))).collect();
        for (_, ((name, state), was)) in differences(&self.links, &now, |(name, _)| (name.clone(), "gone")) {
            let renamed = was.filter(|(was, _)| *was != name).map(|(was, _)| format!(" (it was {was})"));
            let words = format!("interface {name} is {}{}", words_of(state), renamed.unwrap_or_default());
            events.push(Event {
                interface: Some(name),
                state: Some(state.to_owned()),
                ..Event::new(EventKind::Link, words)
            });
        }
        self.links = now;
    }

    fn workers(&mut self, machine: &Machine, events: &mut Vec<Event>) {
        // The time only affects how long a pause is, which is not an event.
        let statuses = status::workers(machine.actual(), Duration::MAX, |_| CaptureFacts::default());
        let ids = machine.actual().workers.keys().cloned();
        let now: BTreeMap<_, _> = ids
            .zip(statuses)
            .map(|(id, status)| (id, ((status.state.name(), status.reason), status.pid)))
            .collect();
        for (id, (((state, reason), pid), _)) in differences(&self.workers, &now, |_| (("gone", None), 0)) {
            let process = if pid > 0 { format!(" (pid {pid})") } else { String::new() };
            let words = format!("{id}{process} is {state}{}", because(reason.as_ref()));
            events.push(Event {
                interface: Some(id.interface.name.to_string()),
                core: Some(id.core),
                pid: (pid > 0).then_some(pid),
                state: Some(state.to_owned()),
                reason,
                ..Event::new(EventKind::Worker, words)
            });
        }
        self.workers = now;
        self.sandbox_kills(machine, events);
    }

    /// Deaths by the sandbox: each is an event, however short the worker was away.
    fn sandbox_kills(&mut self, machine: &Machine, events: &mut Vec<Event>) {
        let kills = machine.actual().workers.iter().map(|(id, worker)| (id.clone(), worker.sandbox_kills));
        let now: BTreeMap<_, _> = kills.filter(|(_, kills)| *kills > 0).collect();
        for (id, kills) in &now {
            let new = kills.saturating_sub(self.sandbox_kills.get(id).copied().unwrap_or_default());
            if new > 0 {
                let words =
                    format!("{id} was killed by its sandbox (SIGSYS): it made a forbidden system call");
                events.push(Event {
                    interface: Some(id.interface.name.to_string()),
                    core: Some(id.core),
                    state: Some("killed_by_sandbox".to_owned()),
                    count: (new > 1).then_some(new),
                    ..Event::new(EventKind::Worker, words)
                });
            }
        }
        self.sandbox_kills = now;
    }

    /// Input interfaces that merge what they receive. Whatever is no input any more is no event.
    fn aggregation(&mut self, machine: &Machine, events: &mut Vec<Event>) {
        let all = machine.aggregation().statuses();
        let now: BTreeMap<_, _> = all
            .map(|(ifindex, name, status)| (ifindex, (name.to_owned(), (status.on, status.reason))))
            .collect();
        for (ifindex, (name, (on, reason))) in &now {
            let before = self.aggregation.get(ifindex).map(|(_, before)| *before);
            if before == Some((*on, *reason)) || (before.is_none() && !on) {
                continue;
            }
            events.push(Event {
                interface: Some(name.clone()),
                state: Some(if *on { "on" } else { "off" }.to_owned()),
                reason: Some(reason.name().to_owned()),
                ..Event::new(EventKind::Aggregation, aggregation::words(name, *on, *reason))
            });
        }
        self.aggregation = now;
    }

    fn memberships(&mut self, machine: &Machine, events: &mut Vec<Event>) {
        let held = |(membership, held): (&Membership, &Attempt)| {
            let name = match machine.plan().memberships.get(membership) {
                Some(planned) => planned.interface.to_string(),
                None => membership.ifindex.to_string(),
            };
            let state = match held {
                Attempt::Succeeded { .. } => ("joined", None),
                Attempt::Failed(failure) => ("refused", Some(failure.reason.clone())),
            };
            (*membership, (name, state))
        };
        let now: BTreeMap<_, _> = machine.actual().memberships.iter().map(held).collect();
        let left = |(name, _): &(String, Named)| (name.clone(), ("left", None));
        for (membership, ((name, (state, reason)), was)) in differences(&self.memberships, &now, left) {
            // A removed interface no longer has a name.
            if was.is_some_and(|(_, (was, _))| *was == state) {
                continue;
            }
            let from = membership.source.map(|source| format!(" from {source}")).unwrap_or_default();
            let words = format!("{}{from} on {name}: {state}{}", membership.group, because(reason.as_ref()));
            events.push(Event {
                interface: Some(name),
                group: Some(membership.group),
                source: membership.source,
                state: Some(state.to_owned()),
                reason,
                ..Event::new(EventKind::Membership, words)
            });
        }
        self.memberships = now;
    }
}

/// Returns new and changed entries, and removed ones mapped by `gone`, each with its previous value.
fn differences<'a, K: Ord + Clone, V: PartialEq + Clone>(
    before: &'a BTreeMap<K, V>,
    now: &BTreeMap<K, V>,
    gone: impl Fn(&V) -> V,
) -> Vec<(K, (V, Option<&'a V>))> {
    let other = now.iter().filter(|(key, value)| before.get(*key) != Some(*value));
    let other = other.map(|(key, value)| (key.clone(), (value.clone(), before.get(key))));
    let absent = before.iter().filter(|(key, _)| !now.contains_key(*key));
    absent.map(|(key, was)| (key.clone(), (gone(was), Some(was)))).chain(other).collect()
}

fn link_state(link: &Link) -> &'static str {
    match (link.up, link.carrier) {
        (false, _) => "down",
        (true, false) => "no_carrier",
        (true, true) => "up",
    }
}

fn words_of(state: &'static str) -> &'static str {
    if state == "no_carrier" { "up, without carrier" } else { state }
}

#[cfg(test)]
mod tests {
    use mcr_control::reply::RuleState;
    use mcr_rules::RuleId;

    use super::*;
    use crate::core::machine::{Event as Input, Outcome};
    use crate::core::plan::samples::{config, host_address, link, rule};

    const NOW: std::time::Duration = std::time::Duration::ZERO;

    fn words(events: Vec<Event>) -> Vec<String> {
        events.into_iter().map(|event| event.words).collect()
    }

    #[test]
    fn links_workers_and_memberships_are_compared_with_the_last_look() {
        let mut machine = Machine::new([0], None);
        machine.handle(
            NOW,
            Input::NetworkDump {
                links: vec![link(10, "eth0")],
                addresses: vec![host_address(10, "10.0.0.2")],
            },
        );
        machine.handle(NOW, Input::start(config([rule("eth0", "239.1.1.1", 5000, "eth1")])));
        let mut watch = Watch::new(&machine);
        assert_eq!(watch.changes(&machine), []);
        let membership = *machine.plan().memberships.keys().next().unwrap();
        machine.handle(NOW, Outcome::Joined(membership, Ok(0)));
        machine.handle(
            NOW,
            Input::NetworkDump {
                links: vec![Link { carrier: false, ..link(10, "eth0") }, link(11, "eth1")],
                addresses: Vec::new(),
            },
        );
        assert_eq!(
            words(watch.changes(&machine)),
            ["interface eth0 is up, without carrier", "interface eth1 is up", "239.1.1.1 on eth0: joined"]
        );
        // Joined again after the carrier came back: no event.
        machine.handle(NOW, Outcome::Joined(membership, Ok(1)));
        assert_eq!(watch.changes(&machine), []);
        machine.handle(NOW, Outcome::Left(membership));
        machine.handle(NOW, Input::NetworkDump { links: vec![link(11, "lan")], addresses: Vec::new() });
        let told = watch.changes(&machine);
        assert_eq!(told[0].state.as_deref(), Some("gone"));
        assert_eq!(
            words(told),
            ["interface eth0 is gone", "interface lan is up (it was eth1)", "239.1.1.1 on eth0: left"]
        );
    }

    #[test]
    fn notices_are_events() {
        let reason = Some("eth0 is down".to_owned());
        let id = RuleId::from_bits(7);
        let one = StateChange { id, output: None, state: RuleState::Pending, reason: reason.clone() };
        let event = of_notice(&Notice::One(one));
        assert_eq!(
            (event.kind, event.rule, event.words.as_str()),
            (EventKind::Rule, Some(id), "rule is pending: eth0 is down")
        );
        let many = Notice::Many { outputs: true, count: 9, state: RuleState::Active, reason: None };
        let event = of_notice(&many);
        assert_eq!(
            (event.kind, event.count, event.words.as_str()),
            (EventKind::Output, Some(9), "9 outputs are active")
        );
    }
}
