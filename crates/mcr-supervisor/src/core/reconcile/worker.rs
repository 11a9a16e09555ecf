//! The actions for one worker.

use std::collections::BTreeMap;
use std::sync::Arc;

use mcr_link::rule_set::{EgressId, RuleSet};

use super::{APPLY_DEADLINE, Action, READY_DEADLINE, Steps};
use crate::core::actual::{Actual, ActualWorker, Adopted, Capture, Process, SentRuleSet};
use crate::core::filter_set::{is_same, union};
use crate::core::health::RESEND_EVERY;
use crate::core::plan::{InterfaceId, Plan, PlannedInterface, WorkerId};
use crate::core::rule_set;

/// The role of a worker in the plan.
enum Role<'a> {
    /// Relays its interface's rules.
    Serve(&'a Arc<PlannedInterface>),
    /// It has no rules; it stays for good if pinned.
    Idle { pinned: bool },
    /// It is to be removed at once.
    Leave,
}

pub(super) fn reconcile_workers(plan: &Plan, actual: &mut Actual, steps: &mut Steps) {
    for (interface, planned) in &plan.interfaces {
        // A capture socket can't join its fan-out group while the interface is down.
        if planned.relays.is_empty() || !planned.up {
            continue;
        }
        for core in &planned.cores {
            let id = WorkerId { interface: interface.clone(), core: *core };
            actual.workers.entry(id).or_default();
        }
    }
    let served = fully_served(plan, actual);
    for (id, worker) in &mut actual.workers {
        let role = role(plan, &served, id, worker);
        step(plan, id, worker, role, steps);
    }
    retire_one(plan, actual, steps);
}

/// Interfaces whose planned workers all have the newest rules: their other workers may be removed.
fn fully_served(plan: &Plan, actual: &Actual) -> BTreeMap<InterfaceId, bool> {
    let mut served = BTreeMap::new();
    for (interface, planned) in &plan.interfaces {
        let all = planned.cores.iter().all(|core| {
            let id = WorkerId { interface: interface.clone(), core: *core };
            actual.workers.get(&id).is_some_and(|worker| worker.is_current(Some(planned)))
        });
        served.insert(interface.clone(), all);
    }
    served
}

fn role<'a>(
    plan: &'a Plan,
    served: &BTreeMap<InterfaceId, bool>,
    id: &WorkerId,
    worker: &ActualWorker,
) -> Role<'a> {
    if worker.orphaned {
        return Role::Leave;
    }
    match plan.interfaces.get(&id.interface) {
        None => Role::Idle { pinned: false },
        Some(planned) if planned.relays.is_empty() => {
            Role::Idle { pinned: planned.pinned && planned.cores.contains(&id.core) }
        }
        Some(planned) if planned.cores.contains(&id.core) => Role::Serve(planned),
        // Without rules its share of the fan-out would be lost, so it relays until it can be removed.
        Some(planned) if !served.get(&id.interface).is_some_and(|all| *all) => Role::Serve(planned),
        Some(_) => Role::Leave,
    }
}

fn step(plan: &Plan, id: &WorkerId, worker: &mut ActualWorker, role: Role<'_>, steps: &mut Steps) {
    let leave = match &role {
        Role::Leave => true,
        Role::Serve(_) => {
            worker.idle_since = None;
            false
        }
        Role::Idle { pinned: true } => false,
        Role::Idle { pinned: false } => {
            let since = *worker.idle_since.get_or_insert(steps.now);
            steps.is_time(since + plan.grace)
        }
    };
    if leave && !worker.leaving {
        begin_to_leave(id, worker, steps);
    }
    if worker.leaving {
        finish_leaving(id, worker, steps);
        return;
    }
    let planned = match &role {
        Role::Serve(planned) => Some(*planned),
        _ => None,
    };
    let Capture::Open { .. } = &worker.capture else {
        open_capture(id, worker, planned, steps);
        return;
    };
    let interface = plan.interfaces.get(&id.interface);
    if let Some(interface) = interface {
        resize_receive_buffer(id, worker, interface.receive_buffer_bytes, steps);
    }
    match &worker.process {
        Process::None => {
            let needed = interface.filter(|_| !matches!(role, Role::Idle { pinned: false }));
            if let Some(interface) = needed
                && steps.is_time(worker.restart.not_before())
            {
                steps.first.push(Action::Spawn { worker: id.clone(), interface: Arc::clone(interface) });
            }
        }
        Process::Starting { since, .. } => {
            if steps.is_time(*since + READY_DEADLINE) {
                kill(id, worker, "it did not get ready in time", steps);
            }
        }
        Process::Running { .. } => match worker.health.kill_reason.clone() {
            Some(reason) => kill(id, worker, &reason, steps),
            None => send_rules(id, worker, planned, steps),
        },
        Process::Ending { .. } => finish_leaving(id, worker, steps),
    }
    adjust_filter(id, worker, planned, steps);
}

fn begin_to_leave(id: &WorkerId, worker: &mut ActualWorker, steps: &mut Steps) {
    worker.leaving = true;
    if worker.leave(steps.now) {
        steps.last.push(Action::Stop(id.clone()));
    }
}

/// Workers with another program or other settings than planned are replaced one at a time, each when all others relay
/// as planned; the replacement inherits the capture socket, where datagrams are queued meanwhile.
fn retire_one(plan: &Plan, actual: &mut Actual, steps: &mut Steps) {
    let is_outdated = |id: &WorkerId, worker: &ActualWorker| {
        let planned = plan.interfaces.get(&id.interface);
        !worker.leaving && worker.is_outdated(planned.map(Arc::as_ref))
    };
    let Some(next) = actual.workers.iter().find(|(id, worker)| is_outdated(id, worker)) else { return };
    let next = next.0.clone();
    let settled = |id: &WorkerId, worker: &ActualWorker| {
        let planned = plan.interfaces.get(&id.interface).filter(|planned| !planned.relays.is_empty());
        matches!(worker.process, Process::Running { .. }) && worker.is_current(planned)
    };
    // A worker that does not relay anyway loses nothing while another is replaced.
    let not_relaying = |worker: &ActualWorker| {
        let failing = worker.restart.is_pausing() || matches!(worker.capture, Capture::Closed(Some(_)));
        worker.leaving || worker.orphaned || (worker.process == Process::None && failing)
    };
    if !actual.workers.iter().all(|(id, worker)| settled(id, worker) || not_relaying(worker)) {
        return;
    }
    if let Some(worker) = actual.workers.get_mut(&next)
        && worker.leave(steps.now)
    {
        worker.retiring = true;
        steps.last.push(Action::Stop(next));
    }
}

fn finish_leaving(id: &WorkerId, worker: &mut ActualWorker, steps: &mut Steps) {
    match &worker.process {
        Process::None => steps.last.push(Action::Discard(id.clone())),
        Process::Ending { kill_at: Some(at), .. } if steps.is_time(*at) => {
            kill(id, worker, "it did not end in time", steps);
        }
        _ => {}
    }
}

fn kill(id: &WorkerId, worker: &mut ActualWorker, reason: &str, steps: &mut Steps) {
    if let (Some(pid), Some(since)) = (worker.process.pid(), worker.process.since()) {
        worker.process = Process::Ending { pid, since, kill_at: None, ready_at: worker.process.ready_at() };
        worker.last_failure = Some(format!("killed: {reason}"));
        steps.last.push(Action::Kill { worker: id.clone(), reason: reason.to_owned() });
    }
}

fn open_capture(
    id: &WorkerId,
    worker: &ActualWorker,
    planned: Option<&Arc<PlannedInterface>>,
    steps: &mut Steps,
) {
    let Capture::Closed(failure) = &worker.capture else { return };
    if let Some(planned) = planned
        && planned.up
        && steps.may_retry(failure.as_ref())
    {
        let receive_buffer_bytes = planned.receive_buffer_bytes;
        let wanted = Arc::clone(&planned.accepted);
        steps.first.push(Action::OpenCapture { worker: id.clone(), wanted, receive_buffer_bytes });
    }
}

fn resize_receive_buffer(id: &WorkerId, worker: &ActualWorker, bytes: u32, steps: &mut Steps) {
    if let Capture::Open { receive_buffer_bytes, .. } = worker.capture
        && receive_buffer_bytes != Some(bytes)
    {
        steps.first.push(Action::ResizeReceiveBuffer { worker: id.clone(), bytes });
    }
}

/// Sends sockets and then the rule set. Never while a set is unacknowledged: with its answer the worker closes every
/// socket that the set does not reference.
fn send_rules(
    id: &WorkerId,
    worker: &mut ActualWorker,
    planned: Option<&Arc<PlannedInterface>>,
    steps: &mut Steps,
) {
    if let Some(sent) = &worker.in_flight {
        if steps.is_time(sent.at + APPLY_DEADLINE) {
            kill(id, worker, "it did not answer its rule set in time", steps);
        }
        return;
    }
    if let Some(failure) = worker.refuses(planned)
        && !steps.is_time(failure.restart.not_before())
    {
        return;
    }
    if let Some(planned) = planned {
        let sockets = missing_sockets(worker, planned, steps);
        if !sockets.is_empty() {
            steps.then.push(Action::SendEgress { worker: id.clone(), sockets });
            return;
        }
    }
    let up_to_date = worker.made_from.as_ref().is_some_and(|(made, revision)| {
        *revision == worker.egress_revision && crate::core::actual::same_plan(made.as_ref(), planned)
    });
    let refused = worker.refusal.as_ref().map(|(hash, failure)| (*hash, failure.restart.not_before()));
    let try_again = refused.is_some_and(|(_, at)| steps.is_time(at));
    let again = worker.health.resend || is_old(worker, steps);
    if up_to_date && !try_again && !again {
        return;
    }
    worker.health.resend = false;
    worker.made_from = Some((planned.cloned(), worker.egress_revision));
    let set = Arc::new(rule_set::make(worker, planned.map(Arc::as_ref)));
    let named = rule_set::named_egress(worker, planned.map(Arc::as_ref), &set);
    let hash = set.content_hash();
    if !again && worker.applied.as_ref().is_some_and(|applied| applied.hash == hash) {
        worker.refusal = None;
        return;
    }
    if let Some((generation, _)) = worker.adopted.set.filter(|(_, adopted)| *adopted == hash) {
        // The adopted worker has exactly this set.
        worker.adopted = Adopted::default();
        let table_hash = set.table_hash();
        let set = Arc::new(RuleSet { generation, ..(*set).clone() });
        let wanted = planned.map(|planned| Arc::clone(&planned.wanted)).unwrap_or_default();
        worker.applied =
            Some(SentRuleSet { set, hash, table_hash, named, wanted, at: steps.now, as_change: false });
        return;
    }
    if !try_again && refused.is_some_and(|(refused, _)| refused == hash) {
        return;
    }
    let wanted = planned.map(|planned| Arc::clone(&planned.wanted)).unwrap_or_default();
    let table_hash = set.table_hash();
    let in_force = worker.applied.as_ref().map(|applied| Arc::clone(&applied.set));
    let since = in_force.filter(|_| !again && !try_again);
    worker.in_flight = Some(SentRuleSet {
        set: Arc::clone(&set),
        hash,
        table_hash,
        named,
        wanted,
        at: steps.now,
        as_change: since.is_some(),
    });
    steps.wake_at(steps.now + APPLY_DEADLINE);
    // The filter is widened here rather than afterwards, so that the set never precedes its filter.
    adjust_filter(id, worker, planned, steps);
    steps.then.push(Action::SendRuleSet { worker: id.clone(), set, hash, since });
}

/// Whether the set in force was sent so long ago that it is sent again, whatever the worker's state.
fn is_old(worker: &ActualWorker, steps: &mut Steps) -> bool {
    let applied = worker.applied.as_ref().filter(|_| worker.refusal.is_none());
    let sent = applied.filter(|applied| !applied.set.rules.is_empty()).map(|applied| applied.at);
    sent.is_some_and(|at| steps.is_time(at + RESEND_EVERY))
}

fn missing_sockets(
    worker: &mut ActualWorker,
    planned: &PlannedInterface,
    steps: &mut Steps,
) -> Vec<(EgressId, crate::core::plan::EgressKey)> {
    let mut sockets = Vec::new();
    for key in &planned.egress {
        if !worker.egress.contains_key(key) && steps.may_retry(worker.egress_failures.get(key)) {
            sockets.push((EgressId(worker.next_egress), *key));
            worker.next_egress += 1;
        }
    }
    sockets
}

/// The filter accepts what any planned, unacknowledged or applied rule set needs: it is widened before a set is sent
/// and narrowed after the answer.
fn adjust_filter(
    id: &WorkerId,
    worker: &ActualWorker,
    planned: Option<&Arc<PlannedInterface>>,
    steps: &mut Steps,
) {
    let Capture::Open { filter, failure, .. } = &worker.capture else { return };
    let under_way = [&worker.in_flight, &worker.applied].into_iter().flatten().map(|sent| &sent.wanted);
    let adopted = Some(&worker.adopted.wanted).filter(|wanted| !wanted.is_empty());
    // What is not needed any more goes at once, not in parts.
    let before = worker.in_flight.as_ref().map(|_| filter);
    let target = union(
        planned.map(|planned| &planned.accepted).into_iter().chain(under_way).chain(adopted).chain(before),
    );
    let action = Action::AttachFilter { worker: id.clone(), wanted: Arc::clone(&target) };
    if !is_same(filter, &target) && !steps.then.contains(&action) && steps.may_retry(failure.as_ref()) {
        steps.then.push(action);
    }
}
