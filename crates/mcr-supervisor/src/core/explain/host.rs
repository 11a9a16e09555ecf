//! The host: findings that apply to every rule.

mod aggregation;

use std::collections::{BTreeMap, BTreeSet};

use mcr_control::explanation::{Finding, FindingId, HostCheck, HostReport, Severity, StepState};
use mcr_control::reply::WorkerStatus;
use mcr_link::message::IoBackend;
use mcr_rules::{EarlyDropChoice, Input, IoChoice, SandboxChoice};
use mcr_sys::link::IfIndex;

use super::facts::{Facts, HeardQuery};
use super::words::{count, counted, list, size, time};
use crate::core::actual::Process;
use crate::core::capture_buffer::{LONGEST_OUTAGE, buffer_for, frames_held, sustained_rate_pps};
use crate::core::early_drop::wanted;

/// The minimum kernel version, with every feature that is used.
const MINIMUM_KERNEL: (u32, u32) = (6, 0);
const RECOMMENDED_KERNEL: (u32, u32) = (6, 12);

/// A report being built.
#[derive(Default)]
struct Draft {
    report: HostReport,
}

impl Draft {
    fn topic(&mut self, topic: &str, found: Vec<Finding>, words: impl Into<String>) {
        let state = StepState::of(found.iter().map(|finding| finding.severity).max());
        self.report.checks.push(HostCheck { topic: topic.to_owned(), state, words: words.into() });
        self.report.findings.extend(found);
    }
}

/// Examines the host; `workers` as in `ListWorkers`.
pub(crate) fn explain_host(facts: &Facts<'_>, workers: &[WorkerStatus]) -> HostReport {
    let mut draft = Draft::default();
    kernel(facts, &mut draft);
    io(facts, &mut draft);
    buffers(facts, &mut draft);
    unwell(workers, &mut draft);
    sandbox(facts, workers, &mut draft);
    cores(facts, &mut draft);
    aggregation::examine(facts, &mut draft);
    rp_filter(facts, &mut draft);
    capabilities(facts, &mut draft);
    early_drop(facts, &mut draft);
    bridges(facts, &mut draft);
    if let Some(reason) = &facts.host.not_observed {
        draft.report.findings.push(
            Finding::new(FindingId::NotObserved, format!("the wire could not be observed: {reason}"))
                .hint("the result is based on counters only"),
        );
    }
    draft.report
}

fn kernel(facts: &Facts<'_>, draft: &mut Draft) {
    let release = &facts.host.kernel;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|word| word.parse::<u32>().ok());
    let version =
        (numbers.next().flatten().unwrap_or_default(), numbers.next().flatten().unwrap_or_default());
    let ((major, minor), (wanted, wanted_minor)) = (MINIMUM_KERNEL, RECOMMENDED_KERNEL);
    let mut found = Vec::new();
    if version < MINIMUM_KERNEL {
        found.push(
            Finding::new(FindingId::KernelOld, format!("Linux {release} is older than {major}.{minor}"))
                .with("kernel", release.clone())
                .hint(format!("workers use recvmmsg; {wanted}.{wanted_minor} or newer is recommended")),
        );
    }
    let words =
        format!("Linux {release}; minimum {major}.{minor}, recommended {wanted}.{wanted_minor} or newer");
    draft.topic("kernel", found, words);
}

fn io(facts: &Facts<'_>, draft: &mut Draft) {
    let running: Vec<_> = facts
        .actual
        .workers
        .values()
        .filter_map(|worker| match &worker.process {
            Process::Running { readied, .. } => Some(readied),
            _ => None,
        })
        .collect();
    let without: Vec<_> = running.iter().filter(|readied| readied.io == IoBackend::Recvmmsg).collect();
    let sysctl = facts.host.io_uring_disabled;
    let setting = facts.config.settings.io;
    let mut found = Vec::new();
    if !without.is_empty() && setting != IoChoice::Recvmmsg {
        let why = without.iter().flat_map(|readied| &readied.notes).find(|note| note.contains("io_uring"));
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        let hint = match sysctl {
            Some(1 | 2) => "sysctl kernel.io_uring_disabled=0, then restart mcrd",
            _ => {
                "a container's seccomp profile may deny it, or MCRD_IO selects recvmmsg, which works at slightly higher CPU cost"
            }
        };
        let words = format!(
            "{} of {} run without io_uring{why}",
            without.len(),
            counted(running.len() as u64, "worker")
        );
        found.push(
            Finding::new(FindingId::IoUringUnavailable, words).with("io_uring_disabled", sysctl).hint(hint),
        );
    }
    let words = if running.is_empty() {
        "no worker runs".to_owned()
    } else {
        format!(
            "io_uring in {} of {}",
            running.len() - without.len(),
            counted(running.len() as u64, "worker")
        )
    };
    let sysctl = sysctl.map(|value| format!("; kernel.io_uring_disabled is {value}")).unwrap_or_default();
    draft.topic("io_uring", found, words + &sysctl);
}

fn buffers(facts: &Facts<'_>, draft: &mut Draft) {
    let wanted = u64::from(facts.config.settings.receive_buffer_bytes);
    let rmem_max = facts.host.rmem_max.unwrap_or_default();
    let mut found = Vec::new();
    let clamped: Vec<_> =
        facts.after.workers.iter().filter(|(_, worker)| worker.receive_buffer_bytes < wanted).collect();
    if let Some((id, worker)) = clamped.first() {
        let granted = worker.receive_buffer_bytes;
        let (rate, full) = (sustained_rate_pps(granted), sustained_rate_pps(wanted));
        let words = format!(
            "{id} (and {} more) got a receive buffer of {} instead of {}: above {} datagrams/s, instead of {}, some are lost while a stalled worker is replaced ({})",
            clamped.len() - 1,
            size(granted),
            size(wanted),
            count(rate),
            count(full),
            time(LONGEST_OUTAGE),
        );
        found.push(
            Finding::new(FindingId::BufferClamped, words)
            .with("granted_bytes", granted)
            .with("wanted_bytes", wanted)
            .with("rmem_max", rmem_max)
            .with("frames_held", frames_held(granted))
            .hint(format!("give mcrd CAP_NET_ADMIN, or sysctl net.core.rmem_max={wanted} (it is {rmem_max}), then restart mcrd")),
        );
    }
    let smallest = facts.after.workers.values().map(|worker| worker.receive_buffer_bytes).min();
    let held = smallest.unwrap_or(wanted);
    let words = format!(
        "receive buffers of {} hold {} full-size frames: {} datagrams/s for {} (10,000/s need {}); net.core.rmem_max is {rmem_max}",
        size(held),
        count(frames_held(held)),
        count(sustained_rate_pps(held)),
        time(LONGEST_OUTAGE),
        size(buffer_for(10_000)),
    );
    draft.topic("buffers", found, words);
}

fn unwell(workers: &[WorkerStatus], draft: &mut Draft) {
    let mut found = Vec::new();
    for worker in workers.iter().filter(|worker| worker.degraded || worker.drifts > 0) {
        let why = worker.reason.clone().map(|reason| format!(": {reason}")).unwrap_or_default();
        let words = format!(
            "worker {} core {} died {} times, stalled {} times, had a wrong table {} times{why}",
            worker.interface, worker.core, worker.restarts, worker.stalls, worker.drifts
        );
        found.push(
            Finding::new(FindingId::WorkerUnwell, words)
                .with("restarts", worker.restarts)
                .with("stalls", worker.stalls)
                .with("drifts", worker.drifts)
                .hint("the log says why: journalctl -u mcrd; please report it"),
        );
    }
    let restarts: u64 = workers.iter().map(|worker| worker.restarts).sum();
    draft.topic(
        "workers",
        found,
        format!("{}, {}", counted(workers.len() as u64, "worker"), counted(restarts, "restart")),
    );
}

fn sandbox(facts: &Facts<'_>, workers: &[WorkerStatus], draft: &mut Draft) {
    let off = facts.config.settings.sandbox == SandboxChoice::Off;
    let mut found = Vec::new();
    for worker in workers.iter().filter(|worker| worker.sandbox_kills > 0) {
        let words = format!(
            "the sandbox killed worker {} core {} {} times (SIGSYS): it made a system call that workers never make",
            worker.interface, worker.core, worker.sandbox_kills
        );
        let hint = "the kernel's log has the number of the call (journalctl -k --grep 'comm=\"mcrd\"|type=1326'); if no other program \
                    was attacked, it is a fault of MCR: please report it, and set sandbox: \"off\" until it is fixed";
        found.push(
            Finding::new(FindingId::WorkerKilledBySandbox, words)
                .with("kills", worker.sandbox_kills)
                .hint(hint),
        );
    }
    let missing: BTreeSet<&str> = workers
        .iter()
        .flat_map(|worker| &worker.notes)
        .map(String::as_str)
        .filter(|note| note.contains("sandbox") || note.contains("could send"))
        .collect();
    if off {
        let words =
            "the sandbox is off: a compromised worker can use every system call that needs no privilege";
        found.push(Finding::new(FindingId::SandboxIncomplete, words).hint("settings: { sandbox: \"auto\" }"));
    } else if !missing.is_empty() {
        let words = list(missing.iter().map(|note| (*note).to_owned()));
        let hint = "a newer kernel, or Landlock in its list of security modules (lsm=), has all layers";
        found.push(Finding::new(FindingId::SandboxIncomplete, words).hint(hint));
    }
    let layers: BTreeSet<String> =
        workers.iter().filter_map(|worker| Some(worker.sandbox.as_ref()?.join(", "))).collect();
    let words = match (off, layers.is_empty()) {
        (true, _) => "off".to_owned(),
        (false, true) => "no worker runs".to_owned(),
        (false, false) => Vec::from_iter(layers).join("; "),
    };
    draft.topic("sandbox", found, words);
}

fn cores(facts: &Facts<'_>, draft: &mut Draft) {
    let mut found = Vec::new();
    let mut of_core: BTreeMap<u16, BTreeSet<&str>> = BTreeMap::new();
    for id in facts.actual.workers.keys() {
        of_core.entry(id.core).or_default().insert(id.interface.name.as_str());
    }
    let pinned = |core: u16| facts.config.pinning.values().any(|cores| cores.contains(&core));
    for (core, names) in of_core.iter().filter(|(core, names)| names.len() > 1 && pinned(**core)) {
        let words = format!("core {core} is shared by {}", list(names.iter().map(|name| (*name).to_owned())));
        found.push(
            Finding::new(FindingId::CoreShared, words)
                .with("core", *core)
                .hint("if one of them is busy, give them separate cores in `pinning`"),
        );
    }
    let mut steering = Vec::new();
    for (id, planned) in facts.plan.interfaces.iter().filter(|(_, planned)| !planned.relays.is_empty()) {
        let queues = facts.host.descriptions.get(&id.ifindex).and_then(|one| one.receive_queues);
        let steered = facts.host.steered.get(&id.ifindex);
        let rps = match steered {
            Some(true) => ", RPS on",
            Some(false) => ", RPS off",
            None => "",
        };
        let queues_told =
            queues.map_or_else(String::new, |n| format!(", {}", counted(n.into(), "receive queue")));
        steering.push(format!(
            "{}: {}{queues_told}{rps}",
            id.name,
            counted(planned.cores.len() as u64, "core")
        ));
        if planned.cores.len() > 1 && queues == Some(1) && steered == Some(&false) {
            let name = &id.name;
            let words = format!(
                "{name} has {} workers, but one receive queue and no RPS: all frames go to one of them",
                planned.cores.len()
            );
            found.push(
                Finding::new(FindingId::OneCoreGetsAll, words)
                .with("workers", planned.cores.len())
                .with("receive_queues", 1)
                .hint(format!("ethtool -L {name} combined N, or echo a mask of cores into /sys/class/net/{name}/queues/rx-0/rps_cpus")),
            );
        }
    }
    let words = if steering.is_empty() { "there is no input interface".to_owned() } else { list(steering) };
    draft.topic("cores", found, words);
}

fn inputs<'a>(facts: &'a Facts<'_>) -> impl Iterator<Item = (IfIndex, &'a str)> {
    facts.plan.interfaces.keys().map(|id| (id.ifindex, id.name.as_str()))
}

fn rp_filter(facts: &Facts<'_>, draft: &mut Draft) {
    let on: Vec<_> = inputs(facts)
        .filter_map(|(_, name)| {
            facts.host.rp_filter.get(name).filter(|value| **value > 0).map(|value| (name, *value))
        })
        .collect();
    let mut found = Vec::new();
    if !on.is_empty() {
        let told = list(on.iter().map(|(name, value)| format!("{name}: {value}")));
        found.push(
            Finding::new(FindingId::RpFilter, format!("reverse path filtering is on ({told}); relaying is not affected: frames are captured below it"))
                .with("interfaces", on.len())
                .hint("no action needed, unless a querier's address is not routed through its interface: then `explain` says querier_filtered"),
        );
    }
    let words = if on.is_empty() { "off on all inputs" } else { "on, harmless" };
    draft.topic("rp_filter", found, words);
}

fn early_drop(facts: &Facts<'_>, draft: &mut Draft) {
    let wanted = wanted(facts.plan);
    let state = &facts.actual.early_drop;
    let mut found = Vec::new();
    let name = |ifindex: &IfIndex| {
        let planned = facts.plan.interfaces.keys().find(|id| id.ifindex == *ifindex);
        planned.map_or_else(|| ifindex.to_string(), |id| id.name.to_string())
    };
    if let (Some((reason, no_permission)), false) = (state.absence(), wanted.is_empty()) {
        let words = format!("the host's IP input gets what rules take, too, and that costs CPU: {reason}");
        let hint = match no_permission {
            true => {
                "give the service CAP_BPF and CAP_NET_ADMIN: the drop-in early-drop.conf in /usr/share/doc/mcr/examples; or settings: { early_drop: \"off\" }"
            }
            false => "mcrd tries again; its log says more",
        };
        found.push(Finding::new(FindingId::NoEarlyDrop, words).hint(hint));
    }
    for (ifindex, state) in wanted.keys().filter_map(|ifindex| Some((ifindex, state.state(*ifindex)?))) {
        let obstacles: BTreeSet<&str> =
            state.obstacles.iter().flatten().map(|obstacle| obstacle.words()).collect();
        if !obstacles.is_empty() {
            let why = list(obstacles.into_iter().map(str::to_owned));
            let words =
                format!("the host's IP input gets what rules take from {}, too: {why}", name(ifindex));
            let hint = "that is right while something else than a socket takes it";
            found.push(
                Finding::new(FindingId::NoEarlyDrop, words).with("interface", name(ifindex)).hint(hint),
            );
        }
    }
    let on = wanted.keys().filter_map(|ifindex| state.state(*ifindex));
    let on = on.filter(|state| state.obstacles.iter().any(Option::is_none)).count();
    let words = match facts.config.settings.early_drop {
        EarlyDropChoice::Off => "off".to_owned(),
        EarlyDropChoice::Auto => format!("on {on} of {}", counted(wanted.len() as u64, "input interface")),
    };
    draft.topic("early_drop", found, words);
}

/// Root lacks a capability because somebody took it away. Of another user it is a deliberate choice (the service file gives
/// two, and its sysctl settings replace CAP_NET_ADMIN, SECURITY.md), and a finding only where a rule needs it.
fn capabilities(facts: &Facts<'_>, draft: &mut Draft) {
    let missing = &facts.host.missing_capabilities;
    let mut found = Vec::new();
    for name in missing.iter().filter(|name| facts.host.is_root || is_needed(name, facts)) {
        let what = match *name {
            "CAP_NET_ADMIN" => "receive buffers are limited to net.core.rmem_max",
            BIND_SERVICE => "ports below 1024 of unicast inputs are not held",
            _ => "workers run as mcrd's user instead of nobody",
        };
        found.push(
            Finding::new(FindingId::CapabilityMissing, format!("mcrd lacks {name}: {what}"))
                .with("capability", *name)
                .hint(format!(
                    "add the capability (container: --cap-add {}), or run mcrd by its service file",
                    name.trim_start_matches("CAP_")
                )),
        );
    }
    let names = list(missing.iter().map(|name| (*name).to_owned()));
    let words = match (missing.is_empty(), facts.host.is_root) {
        (true, _) => "all present".to_owned(),
        (false, true) => format!("without {names}"),
        (false, false) => format!("without {names}: mcrd does not run as root"),
    };
    draft.topic("capabilities", found, words);
}

const BIND_SERVICE: &str = "CAP_NET_BIND_SERVICE";
/// Lower ports are privileged (ip(7), `ip_unprivileged_port_start`).
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

fn is_needed(capability: &str, facts: &Facts<'_>) -> bool {
    let privileged = |input: &Input| !input.group.is_multicast() && input.port < FIRST_UNPRIVILEGED_PORT;
    capability == BIND_SERVICE && facts.config.rules.iter().any(|rule| privileged(&rule.input))
}

/// Bridges that rules use, directly or by a port.
fn bridges(facts: &Facts<'_>, draft: &mut Draft) {
    let named = facts.config.rules.iter().flat_map(|rule| {
        rule.inputs().map(|input| &input.interface).chain(rule.outputs.iter().map(|output| &output.interface))
    });
    let used: BTreeSet<IfIndex> = named
        .filter_map(|name| facts.network.link(name.as_str()))
        .flat_map(|link| {
            let master = facts.host.descriptions.get(&link.ifindex).and_then(|described| described.master);
            [Some(link.ifindex), master].into_iter().flatten()
        })
        .collect();
    let mut found = Vec::new();
    let mut told = Vec::new();
    for (ifindex, bridge) in
        used.iter().filter_map(|ifindex| Some((*ifindex, facts.host.descriptions.get(ifindex)?.bridge?)))
    {
        let name = facts
            .network
            .link_by_index(ifindex)
            .map_or_else(|| ifindex.to_string(), |link| link.name.clone());
        let heard = facts.queries.other_querier(facts.after.at, ifindex, false, &bridge);
        let (snooping, querier) =
            (if bridge.snooping { "on" } else { "off" }, if bridge.querier { "on" } else { "off" });
        told.push(format!(
            "{name}: snooping {snooping}, querier {querier}{}",
            if heard { ", another querier present" } else { "" }
        ));
        if bridge.snooping && !bridge.querier && !heard {
            let now = facts.after.at;
            let timeout = HeardQuery::querier_timeout(None);
            let long = facts.queries.listening(now, ifindex).is_some_and(|listening| listening >= timeout);
            let words = format!(
                "the snooping bridge {name} has no querier: it floods every group to all ports, and snooping switches behind it may prune groups"
            );
            found.push(
                Finding::new(FindingId::SnoopingWithoutQuerier, words)
                    .severity(if long { Severity::Warning } else { Severity::Note })
                    .with("bridge", name.clone())
                    .hint(format!(
                        "ip link set {name} type bridge mcast_querier 1, or a querier in that network"
                    )),
            );
        }
    }
    let words = if told.is_empty() { "no rule uses one".to_owned() } else { list(told) };
    draft.topic("bridges", found, words);
}
