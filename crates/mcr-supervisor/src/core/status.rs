//! The state of rules, workers, memberships and interfaces, in terms of the control protocol: plan and actual
//! state combined.

mod fast_path;

use std::sync::Arc;
use std::time::Duration;

use mcr_control::reply::{
    Engine, InterfaceStatus, MembershipStatus, OutputStatus, RuleState, RuleStatus, WorkerState, WorkerStatus,
};
use mcr_rules::{Config, EarlyDropChoice, InterfaceName, Rule, SandboxChoice};
use mcr_sys::link::IfIndex;
use mcr_sys::network::LinkKind;

use self::fast_path::FastPath;
use crate::core::actual::{Actual, ActualWorker, Attempt, Capture, Process, Readied, SentRuleSet};
use crate::core::aggregation::Aggregation;
use crate::core::merge_findings;
use crate::core::network::NetworkState;
use crate::core::plan::{Absorber, EgressKey, InterfaceId, Plan, PlannedRule, Readiness, RuleKey, WorkerId};

/// A state, and the reason if it is not active.
pub(crate) type State = (RuleState, Option<String>);

pub(in crate::core) const ACTIVE: State = (RuleState::Active, None);

fn pending(reason: impl Into<String>) -> State {
    (RuleState::Pending, Some(reason.into()))
}

/// Whether a reason is transient, caused by the supervisor's own pending actions.
pub(crate) fn is_passing(reason: &str) -> bool {
    [ABOUT_TO_JOIN, ABOUT_TO_START, ABOUT_TO_APPLY, STARTING].contains(&reason)
}

/// Why a unicast input without another program has no socket.
const DROPPED_EARLY: &str = "its port is free: what arrives is dropped early";
const ABOUT_TO_JOIN: &str = "its group is about to be joined";
const ABOUT_TO_START: &str = "its worker is about to be started";
const ABOUT_TO_APPLY: &str = "its worker is about to apply it";
const STARTING: &str = "its worker is starting";

/// The state of every rule and of its outputs, in the config's order.
pub(crate) fn rule_states<'a>(
    plan: &'a Plan,
    actual: &'a Actual,
) -> impl Iterator<Item = (RuleKey, State, Vec<State>)> {
    rule_states_from(0, plan, actual)
}

/// The same, from this rule on.
pub(in crate::core) fn rule_states_from<'a>(
    first: usize,
    plan: &'a Plan,
    actual: &'a Actual,
) -> impl Iterator<Item = (RuleKey, State, Vec<State>)> {
    states_knowing(FastPath::of(plan, actual), plan.rules.get(first..).unwrap_or_default(), plan, actual)
}

/// Whether states depend on the plan only.
pub(in crate::core) fn is_clear(plan: &Plan, actual: &Actual) -> bool {
    let without_remarks = actual.above_limit.is_empty()
        && actual.port_holders.is_empty()
        && !plan.rules.iter().any(|rule| !rule.legs.is_empty());
    without_remarks && FastPath::of(plan, actual).is_all(plan)
}

fn states_knowing<'a>(
    known: FastPath<'a>,
    rules: &'a [Arc<PlannedRule>],
    plan: &'a Plan,
    actual: &'a Actual,
) -> impl Iterator<Item = (RuleKey, State, Vec<State>)> {
    rules.iter().map(move |rule| {
        let outputs: Vec<State> = outputs(rule, actual, &known);
        (rule.key, state(rule, plan, actual, &known, &outputs), outputs)
    })
}

/// The same as [`rule_states`], without the fast path.
#[cfg(test)]
pub(in crate::core) fn rule_states_one_by_one<'a>(
    plan: &'a Plan,
    actual: &'a Actual,
) -> impl Iterator<Item = (RuleKey, State, Vec<State>)> {
    states_knowing(FastPath::default(), &plan.rules, plan, actual)
}

/// What relays a rule.
pub(crate) fn engine_of(rule: &PlannedRule, actual: &Actual) -> Engine {
    if actual.kernel.relays(&rule.key) { Engine::Kernel } else { Engine::Worker }
}

/// Every rule of the config with its state.
pub(crate) fn rules(config: &Config, plan: &Plan, actual: &Actual) -> Vec<RuleStatus> {
    let states = rule_states(plan, actual);
    config
        .rules
        .iter()
        .zip(&plan.rules)
        .zip(states)
        .map(|((rule, planned), (key, (state, reason), outputs))| RuleStatus {
            id: key.id,
            name: rule.name.clone(),
            state,
            reason,
            engine: engine_of(planned, actual),
            engine_reason: actual.kernel.reason(planned),
            options: rule.options,
            health: rule.options.stream,
            port_holder: planned.absorber.and_then(|absorber| port_holder(&absorber, actual)),
            input: rule.input.clone(),
            inputs: rule.inputs().cloned().collect(),
            merge: rule.merge.as_ref().map(|merge| merge.options),
            outputs: output_statuses(rule, engine_of(planned, actual), outputs),
        })
        .collect()
}

fn output_statuses(rule: &Rule, engine: Engine, states: Vec<State>) -> Vec<OutputStatus> {
    rule.outputs
        .iter()
        .zip(states)
        .map(|(output, (state, reason))| OutputStatus {
            interface: output.interface.clone(),
            group: output.group,
            port: output.port,
            options: output.options,
            state,
            reason,
            engine,
        })
        .collect()
}

/// The first obstacle on a datagram's path.
fn state(rule: &PlannedRule, plan: &Plan, actual: &Actual, known: &FastPath<'_>, outputs: &[State]) -> State {
    if let Readiness::Waiting(reason) = &rule.input {
        return pending(reason);
    }
    let Some(interface) = &rule.installed else { return pending("its interface is not ready") };
    if !known.joined
        && let Some(obstacle) = join_obstacle(rule, actual)
    {
        return obstacle;
    }
    if !known.served.contains(interface)
        && let Some(reason) = worker_obstacle(rule, interface, plan, actual)
    {
        return pending(reason);
    }
    match outputs {
        [(RuleState::Pending, Some(reason)), rest @ ..]
            if rest.iter().all(|(s, _)| *s != RuleState::Active) =>
        {
            pending(if rest.is_empty() { reason.clone() } else { format!("no output can send: {reason}") })
        }
        _ => (RuleState::Active, remarks(rule, actual)),
    }
}

/// Whether a rule's groups are joined.
pub(in crate::core) fn is_joined(rule: &PlannedRule, actual: &Actual) -> bool {
    join_obstacle(rule, actual).is_none()
}

/// What is wrong with a rule that relays.
fn remarks(rule: &PlannedRule, actual: &Actual) -> Option<String> {
    let max_pps = rule.options.max_pps.filter(|_| actual.above_limit.contains(&rule.key));
    let ports = rule.absorbers().filter_map(|absorber| port_remark(&absorber, actual));
    let of_legs = merge_findings::remarks(rule, actual.merge_findings.get(&rule.key));
    let all = max_pps.map(above_limit).into_iter().chain(ports).chain(of_legs);
    all.reduce(|one, other| format!("{one}; {other}"))
}

/// Why the absorber of a unicast input is not open. Its worker captures the datagrams in any case.
pub(in crate::core) fn port_remark(absorber: &Absorber, actual: &Actual) -> Option<String> {
    let Absorber { address, port, .. } = absorber;
    match (actual.port_holders.get(absorber), actual.absorbers.get(absorber)) {
        (Some(holder), _) => {
            Some(format!("port {port} of {address} is held by {holder}, which gets the datagrams, too"))
        }
        (None, Some(Attempt::Failed(failure))) => {
            Some(format!("{}: the kernel may answer senders with ICMP port unreachable", failure.reason))
        }
        (None, _) => None,
    }
}

/// What holds the port of a unicast input; `None` for a group, or if nothing does: no socket is needed where its datagrams are
/// dropped early.
fn port_holder(absorber: &Absorber, actual: &Actual) -> Option<String> {
    let holder = actual.port_holders.get(absorber).map(ToString::to_string);
    let own = matches!(actual.absorbers.get(absorber), Some(Attempt::Succeeded { .. }));
    holder.or_else(|| own.then(|| "mcrd".to_owned()))
}

fn join_obstacle(rule: &PlannedRule, actual: &Actual) -> Option<State> {
    let mut held = rule.memberships.iter().map(|membership| actual.memberships.get(membership));
    // One leg is enough.
    let is_joined = |held: Option<&Attempt>| matches!(held, Some(Attempt::Succeeded { .. }));
    if !rule.legs.is_empty() && held.clone().any(is_joined) {
        return None;
    }
    held.find_map(|held| match held {
        Some(Attempt::Succeeded { .. }) => None,
        Some(Attempt::Failed(failure)) => Some(pending(&failure.reason)),
        None => Some(pending(ABOUT_TO_JOIN)),
    })
}

fn above_limit(max_pps: std::num::NonZeroU32) -> String {
    format!("it gets more than its max_pps ({max_pps}): the excess is dropped as rate_limited; a loop?")
}

pub(in crate::core) fn worker_obstacle(
    rule: &PlannedRule,
    interface: &InterfaceId,
    plan: &Plan,
    actual: &Actual,
) -> Option<String> {
    let planned = plan.interfaces.get(interface)?;
    planned.cores.iter().find_map(|core| {
        let id = WorkerId { interface: interface.clone(), core: *core };
        let Some(worker) = actual.workers.get(&id) else {
            return Some(ABOUT_TO_START.to_owned());
        };
        let in_set =
            |sent: &SentRuleSet| sent.set.rules.binary_search_by_key(&rule.key.id, |relay| relay.id).is_ok();
        // A set in flight may be in force already, so a rule must be in both.
        let has_rule = |worker: &ActualWorker| {
            worker.applied.as_ref().is_some_and(in_set) && worker.in_flight.as_ref().is_none_or(in_set)
        };
        match (&worker.capture, &worker.process) {
            (Capture::Closed(Some(failure)), _) => Some(failure.reason.clone()),
            (Capture::Open { failure: Some(failure), .. }, _) => Some(failure.reason.clone()),
            (_, Process::Running { .. }) if has_rule(worker) => None,
            (_, Process::Running { .. }) => Some(match &worker.refusal {
                Some((_, failure)) => format!("its worker refuses the rules: {}", failure.reason),
                None => ABOUT_TO_APPLY.to_owned(),
            }),
            (_, Process::None) if worker.last_failure.is_some() => {
                // Constant while it lasts, so that it is logged once.
                let how = if worker.restart.is_pausing() { "keeps dying" } else { "died" };
                Some(format!("its worker {how} and is restarted: {}", worker.last_failure.as_deref()?))
            }
            _ => Some(STARTING.to_owned()),
        }
    })
}

fn outputs(rule: &PlannedRule, actual: &Actual, known: &FastPath<'_>) -> Vec<State> {
    rule.outputs
        .iter()
        .zip(&rule.egress)
        .map(|(readiness, egress)| match readiness {
            Readiness::Waiting(reason) => pending(reason),
            Readiness::Ready if known.sockets => ACTIVE,
            Readiness::Ready => egress_obstacle(rule, *egress, actual).map_or(ACTIVE, pending),
        })
        .collect()
}

pub(in crate::core) fn egress_obstacle(
    rule: &PlannedRule,
    egress: Option<EgressKey>,
    actual: &Actual,
) -> Option<String> {
    let (interface, key) = (rule.installed.as_ref()?, egress?);
    let first = WorkerId { interface: interface.clone(), core: 0 };
    let workers = actual.workers.range(first..).take_while(|(id, _)| id.interface == *interface);
    workers
        .filter_map(|(_, worker)| worker.egress_failures.get(&key))
        .map(|failure| failure.reason.clone())
        .next()
}

/// Facts about a worker's capture socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CaptureFacts {
    /// The size of its receive buffer that the kernel granted, as `SO_RCVBUF` reports it.
    pub(crate) receive_buffer_bytes: u64,
    /// Frames of its share taken by other workers of its interface.
    pub(crate) rolled_over: u64,
    /// Deviations from its requested settings.
    pub(crate) note: Option<String>,
    /// It can't send.
    pub(crate) send_locked: bool,
}

/// The layer of a worker's sandbox that its capture socket has.
const SEND_LOCKED: &str = "tx-locked";

/// The layers of a worker's sandbox, those of its capture socket first; `None` while it is not ready, or if it has none.
fn sandbox_layers(readied: Option<&Readied>, capture: &CaptureFacts) -> Option<Vec<String>> {
    let layers = &readied?.sandbox;
    let locked = capture.send_locked.then(|| SEND_LOCKED.to_owned());
    Some(locked.into_iter().chain(layers.iter().cloned()).collect())
}

/// What is missing of a worker's sandbox.
fn sandbox_notes(worker: &ActualWorker, readied: Option<&Readied>, capture: &CaptureFacts) -> Vec<String> {
    let confined = worker.settings.is_none_or(|settings| settings.sandbox != SandboxChoice::Off);
    let Some(readied) = readied.filter(|_| confined) else { return Vec::new() };
    let unlocked = (!capture.send_locked).then(|| {
        "the capture socket could send: an earlier version opened it, or the kernel has no packet rings; it is locked when it is \
         opened again"
            .to_owned()
    });
    readied.sandbox_notes.iter().cloned().chain(unlocked).collect()
}

/// Every worker; `capture` returns the facts about its socket.
pub(crate) fn workers(
    actual: &Actual,
    now: Duration,
    capture: impl Fn(&WorkerId) -> CaptureFacts,
) -> Vec<WorkerStatus> {
    actual.workers.iter().map(|(id, worker)| worker_status(id, worker, now, capture(id))).collect()
}

/// Number of deaths, without a minute of health in between, from which a worker is degraded: a single one is
/// tolerated.
const DEGRADED_FROM: u32 = 2;

fn is_degraded(worker: &ActualWorker, now: Duration) -> bool {
    worker.restart.failures(now, worker.process.ready_at()) >= DEGRADED_FROM
}

fn worker_status(id: &WorkerId, worker: &ActualWorker, now: Duration, capture: CaptureFacts) -> WorkerStatus {
    let (state, reason) = match &worker.process {
        Process::Ending { .. } => (WorkerState::Stopping, None),
        _ if worker.leaving => (WorkerState::Stopping, None),
        Process::None => match &worker.capture {
            Capture::Closed(failure) => (WorkerState::Starting, failure.as_ref().map(|f| f.reason.clone())),
            Capture::Open { .. } if worker.restarts > 0 => (WorkerState::Restarting, next_try(worker, now)),
            Capture::Open { .. } => (WorkerState::Starting, worker.last_failure.clone()),
        },
        Process::Starting { .. } => (WorkerState::Starting, worker.last_failure.clone()),
        Process::Running { .. } if worker.refusal.is_some() => {
            (WorkerState::Updating, worker.refusal.as_ref().map(|(_, failure)| failure.reason.clone()))
        }
        Process::Running { .. } if worker.in_flight.is_some() || worker.applied.is_none() => {
            (WorkerState::Updating, None)
        }
        Process::Running { .. } if worker.applied.as_ref().is_some_and(|a| a.set.rules.is_empty()) => {
            (WorkerState::Idle, None)
        }
        Process::Running { .. } => (WorkerState::Running, None),
    };
    let readied = match &worker.process {
        Process::Running { readied, .. } => Some(readied),
        _ => None,
    };
    WorkerStatus {
        interface: id.interface.name.clone(),
        core: id.core,
        interfaces: id.interface.captured().map(|(name, _)| name.clone()).collect(),
        local: id.interface.local,
        pid: worker.process.pid().unwrap_or_default(),
        state,
        reason,
        generation: worker.applied.as_ref().map(|a| a.set.generation).unwrap_or_default(),
        ruleset_hash: format!("{:016x}", worker.applied.as_ref().map(|a| a.hash).unwrap_or_default()),
        restarts: worker.restarts,
        uptime_s: worker.process.since().map(|since| now.saturating_sub(since).as_secs()).unwrap_or_default(),
        io: readied.map(|r| r.io.name().to_owned()),
        ring_buffers: worker.settings.map(|settings| settings.ring_buffers),
        latency_budget_us: worker.settings.map(|settings| settings.latency_budget_us),
        uid: readied.map(|r| r.uid),
        sandbox: sandbox_layers(readied, &capture),
        sandbox_kills: worker.sandbox_kills,
        notes: readied
            .into_iter()
            .flat_map(|r| r.notes.clone())
            .chain(sandbox_notes(worker, readied, &capture))
            .chain(capture.note)
            .collect(),
        degraded: is_degraded(worker, now),
        stalls: worker.health.stalls,
        drifts: worker.health.drifts,
        rolled_over: capture.rolled_over,
        recovery_ms: worker.recovery.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
    }
}

fn next_try(worker: &ActualWorker, now: Duration) -> Option<String> {
    let failure = worker.last_failure.as_ref()?;
    let pause = worker.restart.not_before().saturating_sub(now);
    Some(if pause.is_zero() { failure.clone() } else { format!("{failure}; next try in {pause:.1?}") })
}

/// Every membership and absorber needed by rules.
pub(crate) fn memberships(plan: &Plan, actual: &Actual) -> Vec<MembershipStatus> {
    let reason = |held: Option<&Attempt>| match held {
        Some(Attempt::Succeeded { .. }) => None,
        Some(Attempt::Failed(failure)) => Some(failure.reason.clone()),
        None => Some("about to be joined".to_owned()),
    };
    let joined = plan.memberships.iter().map(|(membership, planned)| {
        let reason = reason(actual.memberships.get(membership));
        MembershipStatus {
            interface: planned.interface.clone(),
            group: membership.group,
            source: membership.source,
            joined: reason.is_none(),
            reason,
            port: None,
            held_by: None,
            rules: planned.rules,
        }
    });
    let absorbed = plan.absorbers.iter().map(|(absorber, interface)| {
        let dropped = actual.is_port_free(absorber) && !actual.needs_absorber(absorber);
        let reason = match actual.is_port_free(absorber) {
            true if dropped => Some(DROPPED_EARLY.to_owned()),
            true => reason(actual.absorbers.get(absorber)),
            false => port_remark(absorber, actual),
        };
        MembershipStatus {
            interface: interface.clone(),
            group: absorber.address,
            source: None,
            joined: dropped || reason.is_none(),
            reason,
            port: Some(absorber.port),
            held_by: port_holder(absorber, actual),
            rules: plan.rules.iter().filter(|rule| rule.absorber == Some(*absorber)).count() as u64,
        }
    });
    joined.chain(absorbed).collect()
}

/// The host's interfaces, then those named by rules that do not exist.
pub(crate) fn interfaces(
    config: &Config,
    plan: &Plan,
    actual: &Actual,
    network: &NetworkState,
    aggregation: &Aggregation,
) -> Vec<InterfaceStatus> {
    let inputs = |names: &[&str]| {
        config
            .rules
            .iter()
            .filter(|rule| rule.inputs().any(|input| names.contains(&input.interface.as_str())))
            .count() as u64
    };
    let outputs = |names: &[&str]| {
        let all = config.rules.iter().flat_map(|rule| &rule.outputs);
        all.filter(|output| names.contains(&output.interface.as_str())).count() as u64
    };
    let present = network.links().map(|link| InterfaceStatus {
        name: link.name.clone(),
        altnames: link.altnames.clone(),
        index: Some(link.ifindex.to_raw()),
        kind: match link.kind {
            LinkKind::Ethernet => "ethernet",
            LinkKind::Loopback => "loopback",
            LinkKind::NoHeader => "no_header",
            LinkKind::Other(_) => "other",
        }
        .to_owned(),
        mtu: link.mtu,
        up: link.up,
        carrier: link.carrier,
        multicast: link.multicast,
        addresses: network
            .addresses(link.ifindex)
            .iter()
            .map(|a| format!("{}/{}", a.address, a.prefix))
            .collect(),
        inputs: inputs(&link.names().collect::<Vec<_>>()),
        outputs: outputs(&link.names().collect::<Vec<_>>()),
        aggregation: aggregation.status(link.ifindex),
        ..early_drop(config, plan, actual, link.ifindex)
    });
    let named = config.rules.iter().flat_map(|rule| {
        rule.inputs().map(|input| &input.interface).chain(rule.outputs.iter().map(|output| &output.interface))
    });
    let missing: std::collections::BTreeSet<&str> =
        named.map(InterfaceName::as_str).filter(|name| network.link(name).is_none()).collect();
    let absent = missing.into_iter().map(|name| InterfaceStatus {
        name: name.to_owned(),
        altnames: Vec::new(),
        index: None,
        kind: "missing".to_owned(),
        mtu: 0,
        up: false,
        carrier: false,
        multicast: false,
        addresses: Vec::new(),
        inputs: inputs(&[name]),
        outputs: outputs(&[name]),
        ..InterfaceStatus::default()
    });
    present.chain(absent).collect()
}

/// What is dropped early on an interface; the other fields are empty.
fn early_drop(config: &Config, plan: &Plan, actual: &Actual, ifindex: IfIndex) -> InterfaceStatus {
    let early_drop = &actual.early_drop;
    let (early_drops, early_drop_bytes) = early_drop.dropped(ifindex);
    let counted = InterfaceStatus { early_drops, early_drop_bytes, ..InterfaceStatus::default() };
    let planned = plan.interfaces.iter().find(|(id, _)| id.ifindex == ifindex && !id.local);
    let Some((_, planned)) = planned.filter(|(_, planned)| !planned.relays.is_empty()) else {
        return counted;
    };
    let said = |word: &str, reason: Option<String>| InterfaceStatus {
        early_drop: Some(word.to_owned()),
        early_drop_reason: reason,
        ..counted.clone()
    };
    if !planned.early_drop {
        let off = config.settings.early_drop == EarlyDropChoice::Off;
        let reason = if off { "the setting early_drop is off" } else { "it is no Ethernet interface" };
        return said("off", Some(reason.to_owned()));
    }
    match (early_drop.absence(), early_drop.state(ifindex)) {
        (Some((reason, _)), _) => said("off", Some(reason.to_owned())),
        (None, None) => said("off", Some("it is about to begin".to_owned())),
        (None, Some(state)) => match state.obstacles {
            [None, None] => said("on", None),
            [None, Some(v6)] => said("ipv4", Some(format!("IPv6: {}", v6.words()))),
            [Some(v4), None] => said("ipv6", Some(format!("IPv4: {}", v4.words()))),
            [Some(v4), Some(v6)] if v4 == v6 => said("off", Some(v4.words().to_owned())),
            [Some(v4), Some(v6)] => said("off", Some(format!("IPv4: {}; IPv6: {}", v4.words(), v6.words()))),
        },
    }
}
