//! Changes between two snapshots: the entries of the event log.

use std::collections::BTreeMap;

use mcr_control::reply::{
    InterfaceStatus, MembershipStatus, OutputStatus, RuleState, RuleStatus, WorkerState, WorkerStatus,
};
use mcr_rules::RuleId;

use super::snapshot::{Snapshot, rule_title};
use super::theme::Tone;
use crate::render::place;

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

/// Returns all changes, causes first: interfaces, memberships, workers, rules.
pub(super) fn between(before: &Snapshot, after: &Snapshot) -> Vec<Change> {
    let mut changes = Vec::new();
    if before.version != after.version {
        let text = format!("mcrd {} replaced mcrd {}", after.version, before.version);
        changes.push(Change::new("mcrd changed", Tone::Plain, text));
    }
    notices(before, after, &mut changes);
    let key = |interface: &InterfaceStatus| interface.name.clone();
    pairs(&before.interfaces.interfaces, &after.interfaces.interfaces, key, |was, is| {
        changes.extend(interface(was, is));
    });
    let key = |m: &MembershipStatus| (m.interface.to_string(), m.group, m.source);
    pairs(&before.memberships.memberships, &after.memberships.memberships, key, |was, is| {
        changes.extend(membership(was, is));
    });
    let key = |worker: &WorkerStatus| (worker.interface.to_string(), worker.core);
    pairs(&before.workers.workers, &after.workers.workers, key, |was, is| changes.extend(worker(was, is)));
    let key = |rule: &RuleStatus| rule.id;
    pairs(&before.rules.rules, &after.rules.rules, key, |was, is| rule(was, is, &mut changes));
    changes
}

/// Returns the problems in the first snapshot.
pub(super) fn at_first(first: &Snapshot) -> Vec<Change> {
    let nothing = Snapshot { version: first.version.clone(), ..Snapshot::default() };
    let well = |change: &Change| matches!(change.tone, Tone::Plain | Tone::Good);
    let mut changes: Vec<Change> = Vec::new();
    notices(&nothing, first, &mut changes);
    for rule in &first.rules.rules {
        // Compare with an active rule.
        let mut before = rule.clone();
        (before.state, before.reason) = (RuleState::Active, None);
        for output in &mut before.outputs {
            (output.state, output.reason) = (RuleState::Active, None);
        }
        self::rule(Some(&before), Some(rule), &mut changes);
    }
    changes.retain(|change| !well(change));
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

fn interface(was: Option<&InterfaceStatus>, is: Option<&InterfaceStatus>) -> Option<Change> {
    let told = |name: &str, what: &str, tone| {
        Some(Change::new(format!("interfaces {what}"), tone, format!("interface {name}: {what}")))
    };
    match (was, is) {
        (None, Some(is)) => told(&is.name, link(is).0, link(is).1),
        (Some(was), None) => told(&was.name, "gone", Tone::Plain),
        (Some(was), Some(is)) if link(was) != link(is) => told(&is.name, link(is).0, link(is).1),
        (Some(was), Some(is)) if was.mtu != is.mtu => {
            let text = format!("interface {}: MTU {} (was {})", is.name, is.mtu, was.mtu);
            Some(Change::new("interfaces with another MTU", Tone::Plain, text))
        }
        (Some(was), Some(is)) if was.addresses != is.addresses => {
            let addresses = if is.addresses.is_empty() { "none".to_owned() } else { is.addresses.join(" ") };
            let text = format!("interface {}: addresses {addresses}", is.name);
            Some(Change::new("interfaces with other addresses", Tone::Plain, text))
        }
        _ => None,
    }
}

fn membership(was: Option<&MembershipStatus>, is: Option<&MembershipStatus>) -> Option<Change> {
    let is = is?;
    let joined_before = was.map(|was| was.joined);
    if joined_before == Some(is.joined) {
        return None;
    }
    let what = format!("{} on {}", is.group, is.interface);
    Some(match (is.joined, &is.reason) {
        (true, _) => Change::new("groups joined", Tone::Plain, format!("group {what}: joined")),
        (false, Some(reason)) => {
            Change::new("groups not joined", Tone::Warn, format!("group {what}: not joined: {reason}"))
        }
        (false, None) => Change::new("groups not joined", Tone::Warn, format!("group {what}: not joined")),
    })
}

fn worker(was: Option<&WorkerStatus>, is: Option<&WorkerStatus>) -> Option<Change> {
    let name = |worker: &WorkerStatus| format!("worker {} core {}", worker.interface, worker.core);
    let Some(is) = is else {
        return was.map(|was| Change::new("workers ended", Tone::Plain, format!("{}: ended", name(was))));
    };
    let relays = |state| matches!(state, WorkerState::Running | WorkerState::Updating);
    let state = |why: &str| {
        let reason = is.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let text = format!("{}: {}{reason}{why}", name(is), is.state.name());
        Some(Change::new(format!("workers {}", is.state.name()), worker_tone(is.state), text))
    };
    let Some(was) = was else { return state("") };
    if is.restarts > was.restarts {
        let stalled = if is.stalls > was.stalls { " after it stalled" } else { "" };
        let back = is.recovery_ms.filter(|_| relays(is.state));
        let back = back.map(|ms| format!(", back after {ms} ms")).unwrap_or_default();
        let text = format!("{}: died{stalled}{back} ({} so far)", name(is), is.restarts);
        return Some(Change::new("workers died", Tone::Bad, text));
    }
    if is.drifts > was.drifts {
        let text = format!("{}: its table had drifted and was repaired", name(is));
        return Some(Change::new("workers drifted", Tone::Warn, text));
    }
    if was.state == is.state || (relays(was.state) && relays(is.state)) {
        return (is.pid != was.pid && is.pid != 0).then(|| state(&format!(", process {}", is.pid))).flatten();
    }
    state("")
}

fn rule(was: Option<&RuleStatus>, is: Option<&RuleStatus>, changes: &mut Vec<Change>) {
    let (is, was) = match (was, is) {
        (Some(was), None) => {
            let text = format!("rule {}: removed", rule_title(was.id, was.name.as_ref()));
            return changes.push(Change::new("rules removed", Tone::Plain, text).of(was.id));
        }
        (was, Some(is)) => (is, was),
        (None, None) => return,
    };
    let title = rule_title(is.id, is.name.as_ref());
    let because = |reason: &Option<String>| reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
    let told = |added: &str| {
        let text = format!("rule {title}: {added}{}{}", is.state.name(), because(&is.reason));
        let kind = format!("rules {added}{}", is.state.name());
        Change::new(kind, state_tone(is.state), text).of(is.id)
    };
    let Some(was) = was else { return changes.push(told("added, ")) };
    if (was.state, &was.reason) != (is.state, &is.reason) {
        changes.push(told(""));
    }
    for (was, output) in was.outputs.iter().zip(&is.outputs).filter(|(was, is)| differs(was, is)) {
        // The rule says the same already.
        if output.reason.is_some() && output.reason == is.reason && was.state != output.state {
            continue;
        }
        let place = place(&output.interface, output.group, output.port);
        let text =
            format!("rule {title}: output {place}: {}{}", output.state.name(), because(&output.reason));
        let kind = format!("outputs {}", output.state.name());
        changes.push(Change::new(kind, state_tone(output.state), text).of(is.id));
    }
}

/// Whether it is the same output, and fares otherwise.
fn differs(was: &OutputStatus, is: &OutputStatus) -> bool {
    let place = |output: &OutputStatus| (output.interface.clone(), output.group, output.port);
    place(was) == place(is) && (was.state, &was.reason) != (is.state, &is.reason)
}

#[cfg(test)]
mod tests;
