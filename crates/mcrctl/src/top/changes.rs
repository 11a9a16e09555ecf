//! The entries of the event log: the daemon's events, and what differs between two snapshots without being an event.

use std::collections::BTreeMap;

use mcr_control::event::{Event, EventKind};
use mcr_control::reply::{InterfaceStatus, RuleState, RuleStatus, WorkerState, WorkerStatus};
use mcr_rules::RuleId;

use super::snapshot::Snapshot;
use super::theme::Tone;
use crate::render::{place, rule_title};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// How many of the same kind are summarized: `12 rules: KIND`.
    pub kind: String,
    pub tone: Tone,
    pub text: String,
    /// The rule it is about.
    pub rule: Option<RuleId>,
}

impl Change {
    pub(super) fn new(kind: impl Into<String>, tone: Tone, text: impl Into<String>) -> Self {
        Self { kind: kind.into(), tone, text: text.into(), rule: None }
    }

    pub(super) fn of(mut self, rule: RuleId) -> Self {
        self.rule = Some(rule);
        self
    }
}

/// Returns the tone of a rule's state.
pub(super) const fn state_tone(state: RuleState) -> Tone {
    match state {
        RuleState::Active => Tone::Good,
        RuleState::Pending | RuleState::Paused => Tone::Warn,
    }
}

/// Returns the tone of a worker's state.
pub(super) const fn worker_tone(state: WorkerState) -> Tone {
    match state {
        WorkerState::Running | WorkerState::Updating => Tone::Good,
        WorkerState::Starting | WorkerState::Idle | WorkerState::Stopping => Tone::Plain,
        WorkerState::Restarting => Tone::Bad,
    }
}

/// Returns the state of an interface's link, and its tone.
pub(super) fn link(interface: &InterfaceStatus) -> (&'static str, Tone) {
    match interface {
        InterfaceStatus { index: None, .. } => ("missing", Tone::Bad),
        InterfaceStatus { up: false, .. } => ("down", Tone::Warn),
        InterfaceStatus { carrier: false, .. } => ("no carrier", Tone::Bad),
        InterfaceStatus { .. } => ("up", Tone::Good),
    }
}

/// A daemon's event; `None` if it only shows that the daemon is there. `title`: of the rule that it is about.
pub(super) fn of_event(event: &Event, title: Option<&str>) -> Option<Change> {
    let state = event.state.as_deref().unwrap_or_default();
    let tone = match (event.kind, state) {
        (EventKind::Subscribed | EventKind::Alive, _) => return None,
        // Every change of the rules does that.
        (EventKind::Worker, "updating") => return None,
        (EventKind::Worker, "restarting" | "killed_by_sandbox") | (EventKind::Link, "no_carrier") => {
            Tone::Bad
        }
        (EventKind::Missed, _)
        | (EventKind::Rule | EventKind::Output, "pending" | "paused")
        | (EventKind::Flow, "stopped" | "silent")
        | (EventKind::Link, "down")
        | (EventKind::Membership, "refused") => Tone::Warn,
        (_, "active" | "started" | "running" | "up") => Tone::Good,
        _ => Tone::Plain,
    };
    let because = because(event.reason.as_ref());
    let text = match (event.kind, title) {
        (EventKind::Rule, Some(title)) => format!("rule {title}: {state}{because}"),
        (EventKind::Output, Some(title)) => {
            let output = event.output.as_deref().unwrap_or_default();
            format!("rule {title}: output {output}: {state}{because}")
        }
        (_, Some(title)) => format!("rule {title}: {}", event.words),
        (_, None) => event.words.clone(),
    };
    // The daemon sums up what many have in common: none of its events stands for another.
    Some(Change { kind: text.clone(), tone, text, rule: event.rule })
}

fn because(reason: Option<&String>) -> String {
    reason.map(|reason| format!(": {reason}")).unwrap_or_default()
}

/// What differs and is no event of the daemon.
pub(super) fn between(before: &Snapshot, after: &Snapshot) -> Vec<Change> {
    let mut changes = Vec::new();
    if before.version != after.version {
        let text = format!("mcrd {} replaced mcrd {}", after.version, before.version);
        changes.push(Change::new("mcrd changed", Tone::Plain, text));
    }
    notices(before, after, &mut changes);
    let key = |interface: &InterfaceStatus| interface.name.clone();
    pairs(&before.interfaces.interfaces, &after.interfaces.interfaces, key, |was, is| {
        changes.extend(was.zip(is).and_then(|(was, is)| interface(was, is)));
    });
    let key = |worker: &WorkerStatus| (worker.place(), worker.core);
    pairs(&before.workers.workers, &after.workers.workers, key, |was, is| {
        changes.extend(was.zip(is).and_then(|(was, is)| worker(was, is)));
    });
    pairs(&before.rules.rules, &after.rules.rules, |rule| rule.id, |was, is| changes.extend(rule(was, is)));
    changes
}

/// Returns the problems in the first snapshot.
pub(super) fn at_first(first: &Snapshot) -> Vec<Change> {
    let nothing = Snapshot { version: first.version.clone(), ..Snapshot::default() };
    let mut changes: Vec<Change> = Vec::new();
    notices(&nothing, first, &mut changes);
    for rule in &first.rules.rules {
        let title = rule_title(rule.id, rule.name.as_ref());
        let told = |state: RuleState, reason: &Option<String>, what: String, of: &str| {
            let text = format!("rule {title}: {what}{}{}", state.name(), because(reason.as_ref()));
            Change::new(format!("{of} {}", state.name()), state_tone(state), text).of(rule.id)
        };
        if rule.state != RuleState::Active || rule.reason.is_some() {
            changes.push(told(rule.state, &rule.reason, String::new(), "rules"));
        }
        for output in rule.outputs.iter().filter(|output| output.state != RuleState::Active) {
            // The rule says the same already.
            if output.reason.is_none() || output.reason != rule.reason {
                let place = place(&output.interface, output.group, output.port);
                changes.push(told(output.state, &output.reason, format!("output {place}: "), "outputs"));
            }
        }
    }
    for rule in first.stats.rules.iter().filter(|rule| rule.silent) {
        let text = format!("rule {}: silent, nothing arrives", rule_title(rule.id, rule.name.as_ref()));
        changes.push(Change::new("rules silent", Tone::Warn, text).of(rule.id));
    }
    changes.retain(|change| !matches!(change.tone, Tone::Plain | Tone::Good));
    changes
}

/// Calls `each` with each item before and after.
fn pairs<T, K: Ord>(
    before: &[T],
    after: &[T],
    key: impl Fn(&T) -> K,
    mut each: impl FnMut(Option<&T>, Option<&T>),
) {
    let mut old: BTreeMap<K, &T> = before.iter().map(|thing| (key(thing), thing)).collect();
    for is in after {
        each(old.remove(&key(is)), Some(is));
    }
    old.into_values().for_each(|was| each(Some(was), None));
}

fn notices(before: &Snapshot, after: &Snapshot, changes: &mut Vec<Change>) {
    // A countdown changes the numbers of a notice, not the notice.
    let same = |notice: &str| notice.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    let (was, is) = (&before.status.notices, &after.status.notices);
    let missing = |notice: &str, among: &[String]| among.iter().all(|other| same(other) != same(notice));
    for notice in is.iter().filter(|notice| missing(notice, was)) {
        changes.push(Change::new("notices", Tone::Warn, format!("notice: {notice}")));
    }
    for notice in was.iter().filter(|notice| missing(notice, is)) {
        changes.push(Change::new("notices over", Tone::Plain, format!("no longer: {notice}")));
    }
}

fn interface(was: &InterfaceStatus, is: &InterfaceStatus) -> Option<Change> {
    // An interface that comes up gets its addresses: that is one event.
    if link(was) != link(is) {
        return None;
    }
    if was.mtu != is.mtu {
        let text = format!("interface {}: MTU {} (was {})", is.name, is.mtu, was.mtu);
        return Some(Change::new("interfaces with another MTU", Tone::Plain, text));
    }
    (was.addresses != is.addresses).then(|| {
        let addresses = if is.addresses.is_empty() { "none".to_owned() } else { is.addresses.join(" ") };
        let text = format!("interface {}: addresses {addresses}", is.name);
        Change::new("interfaces with other addresses", Tone::Plain, text)
    })
}

fn worker(was: &WorkerStatus, is: &WorkerStatus) -> Option<Change> {
    let name = format!("worker {} core {}", is.place(), is.core);
    if is.restarts > was.restarts {
        let stalled = if is.stalls > was.stalls { " after it stalled" } else { "" };
        let relays = matches!(is.state, WorkerState::Running | WorkerState::Updating);
        let back = is.recovery_ms.filter(|_| relays);
        let back = back.map(|ms| format!(", replaced after {ms} ms")).unwrap_or_default();
        let text = format!("{name}: died{stalled}{back} (restarts: {})", is.restarts);
        return Some(Change::new("workers died", Tone::Bad, text));
    }
    (is.drifts > was.drifts).then(|| {
        let text = format!("{name}: its table had drifted and was repaired");
        Change::new("workers drifted", Tone::Warn, text)
    })
}

fn rule(was: Option<&RuleStatus>, is: Option<&RuleStatus>) -> Option<Change> {
    let (rule, what) = match (was, is) {
        (Some(was), None) => (was, "removed"),
        (None, Some(is)) => (is, "added"),
        _ => return None,
    };
    let text = format!("rule {}: {what}", rule_title(rule.id, rule.name.as_ref()));
    Some(Change::new(format!("rules {what}"), Tone::Plain, text).of(rule.id))
}

#[cfg(test)]
mod tests;
