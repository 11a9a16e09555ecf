//! Workers, their sums, and the network.

use std::fmt;

use mcr_control::reply::{InterfaceStatus, LatencyStats, StatsReply, WorkerState, WorkerStats, WorkerStatus};

use super::super::families::{Families, NO_LABELS};
use super::super::snapshot::Snapshot;
use super::Value;

/// Sums over all workers, former ones included, and the kernel: they never fall.
pub(super) fn totals(out: &mut Families, stats: &StatsReply) -> fmt::Result {
    let past = &stats.past_workers;
    let kernel = stats.kernel.clone().unwrap_or_default();
    let sum = |of: fn(&WorkerStats) -> u64| stats.workers.iter().map(of).sum::<u64>();
    for (name, help, value) in [
        (
            "mcr_received",
            "Datagrams received.",
            past.received + kernel.received + sum(|worker| worker.received),
        ),
        (
            "mcr_frames",
            "Frames received; a super-frame is one.",
            past.frames + kernel.frames + sum(|worker| worker.frames),
        ),
        (
            "mcr_matched",
            "Datagrams that matched a rule.",
            past.matched + kernel.matched + sum(|worker| worker.matched),
        ),
        ("mcr_due", "Sends due.", past.due + kernel.due + sum(|worker| worker.due)),
        ("mcr_sent", "Datagrams sent.", past.sent + kernel.sent + sum(|worker| worker.sent)),
        (
            "mcr_kernel_drops",
            "Frames that the kernel dropped because a capture queue was full.",
            past.kernel_drops + sum(|worker| worker.kernel_drops),
        ),
        (
            "mcr_fragments",
            "Frames with fragments that were put together, or were to be.",
            past.fragments + sum(|worker| worker.fragments),
        ),
        (
            "mcr_reassembled",
            "Datagrams put together from fragments.",
            past.reassembled + sum(|worker| worker.reassembled),
        ),
    ] {
        out.counter(name, help, [(NO_LABELS, value)])?;
    }
    let skips = stats.skips.iter().map(|(reason, n)| ([("reason", reason)], *n));
    out.counter("mcr_skips", "Datagrams received and not matched to a rule, by reason.", skips)?;
    let drops = stats.drops.iter().map(|(reason, n)| ([("reason", reason)], *n));
    out.counter("mcr_drops", "Datagrams due on an output that were not sent, by reason.", drops)
}

fn label(interface: impl fmt::Display, core: u16) -> (&'static str, String) {
    ("worker", format!("{interface}/{core}"))
}

pub(super) fn workers(out: &mut Families, snapshot: &Snapshot) -> fmt::Result {
    let counted: [Value<WorkerStats>; 5] = [
        ("mcr_worker_received", "Datagrams received by the worker.", |worker| worker.received),
        ("mcr_worker_matched", "Datagrams that matched a rule.", |worker| worker.matched),
        ("mcr_worker_due", "Sends due.", |worker| worker.due),
        ("mcr_worker_sent", "Datagrams sent.", |worker| worker.sent),
        (
            "mcr_worker_kernel_drops",
            "Frames that the kernel dropped because the worker's capture queue was full.",
            |worker| worker.kernel_drops,
        ),
    ];
    let measured = || snapshot.stats.workers.iter().map(|one| ([label(one.place(), one.core)], one));
    for (name, help, value) in counted {
        out.counter(name, help, measured().map(|(labels, worker)| (labels, value(worker))))?;
    }
    let help = "Time from the kernel's receive timestamp of a frame to the end of its sends, sampled.";
    let latencies = measured().map(|(labels, worker)| {
        let latency = &worker.latency;
        (labels, from_us(latency.sum_us), latency.samples, buckets(latency))
    });
    out.histogram("mcr_worker_latency_seconds", help, latencies)?;
    states(out, &snapshot.workers.workers)
}

fn states(out: &mut Families, workers: &[WorkerStatus]) -> fmt::Result {
    let counted: [Value<WorkerStatus>; 5] = [
        ("mcr_worker_restarts", "Processes of this worker that died.", |worker| worker.restarts),
        ("mcr_worker_stalls", "Of these, processes that stalled.", |worker| worker.stalls),
        ("mcr_worker_sandbox_kills", "Of these, processes that their sandbox killed (SIGSYS).", |worker| {
            worker.sandbox_kills
        }),
        ("mcr_worker_drifts", "Times the worker's rule table differed from its rule set.", |worker| {
            worker.drifts
        }),
        (
            "mcr_worker_rolled_over",
            "Frames that were passed to other workers because this worker's queue was full.",
            |worker| worker.rolled_over,
        ),
    ];
    let relays = |state| matches!(state, WorkerState::Running | WorkerState::Updating | WorkerState::Idle);
    let running = move |worker: &WorkerStatus| u64::from(relays(worker.state));
    let labelled = || workers.iter().map(|one| (label(one.place(), one.core), one));
    for (name, help, value) in counted {
        out.counter(name, help, labelled().map(|(label, worker)| ([label], value(worker))))?;
    }
    let running = labelled().map(|(label, worker)| ([label], running(worker)));
    out.gauge("mcr_worker_running", "Whether the worker relays.", running)?;
    let degraded = labelled().map(|(label, worker)| ([label], u64::from(worker.degraded)));
    out.gauge("mcr_worker_degraded", "Whether the worker died more than once recently.", degraded)?;
    let uptime = labelled().map(|(label, worker)| ([label], worker.uptime_s));
    out.gauge("mcr_worker_uptime_seconds", "Uptime of the worker's process.", uptime)?;
    let info = labelled().map(|(label, worker)| {
        let uid = worker.uid.map_or_else(String::new, |uid| uid.to_string());
        ([label, ("io", worker.io.clone().unwrap_or_default()), ("uid", uid)], 1_u64)
    });
    out.gauge("mcr_worker_info", "I/O backend and user of the worker.", info)?;
    let layers = labelled().flat_map(|(label, worker)| {
        let layers = worker.sandbox.iter().flatten();
        // Without the version of Landlock, so that the label is the same on all kernels.
        let name = |layer: &String| layer.split_whitespace().next().unwrap_or_default().to_owned();
        layers.map(move |layer| ([label.clone(), ("layer", name(layer))], 1_u64)).collect::<Vec<_>>()
    });
    out.gauge("mcr_worker_sandbox_layer", "Layers of the worker's sandbox that are in force.", layers)
}

/// Upper bounds in microseconds: a query over time needs the same ones in each scrape.
const LATENCY_BOUNDS_US: [u64; 9] = [16, 64, 128, 256, 512, 1_024, 4_096, 16_384, 65_536];

/// Returns the samples between each bound and the one before.
fn buckets(latency: &LatencyStats) -> Vec<(f64, u64)> {
    let mut below = 0;
    let mut buckets = Vec::with_capacity(LATENCY_BOUNDS_US.len() + 1);
    for bound in LATENCY_BOUNDS_US {
        let up_to = latency.buckets.iter().filter(|bucket| bucket.le_us.is_some_and(|le_us| le_us <= bound));
        let up_to = up_to.map(|bucket| bucket.count).sum::<u64>();
        buckets.push((from_us(bound), up_to - below));
        below = up_to;
    }
    buckets.push((f64::INFINITY, latency.samples.saturating_sub(below)));
    buckets
}

#[expect(clippy::cast_precision_loss, reason = "bounds are small, and a sum may be rounded")]
fn from_us(us: u64) -> f64 {
    us as f64 / 1e6
}

pub(super) fn network(out: &mut Families, snapshot: &Snapshot) -> fmt::Result {
    let joined = snapshot.memberships.memberships.iter().map(|membership| {
        let source = membership.source.map_or_else(String::new, |source| source.to_string());
        let labels = [
            ("interface", membership.interface.to_string()),
            ("group", membership.group.to_string()),
            ("source", source),
        ];
        (labels, u64::from(membership.joined))
    });
    out.gauge("mcr_membership_joined", "Whether a group that rules need is joined.", joined)?;
    let families: [Value<InterfaceStatus>; 2] = [
        ("mcr_interface_present", "Whether an interface used by rules exists.", |one| {
            u64::from(one.index.is_some())
        }),
        ("mcr_interface_carrier", "Whether the interface is up and has a carrier.", |one| {
            u64::from(one.up && one.carrier)
        }),
    ];
    for (name, help, value) in families {
        let used = snapshot.interfaces.interfaces.iter().filter(|one| one.inputs + one.outputs > 0);
        out.gauge(name, help, used.map(|one| ([("interface", &one.name)], value(one))))?;
    }
    let inputs = || snapshot.interfaces.interfaces.iter().filter_map(|one| Some((one, one.aggregation?)));
    let on = inputs().map(|(one, status)| {
        let labels = [("interface", one.name.clone()), ("reason", status.reason.name().to_owned())];
        (labels, u64::from(status.on))
    });
    out.gauge("mcr_interface_aggregation", "Whether the interface merges received datagrams, and why.", on)?;
    let means = inputs().map(|(one, status)| ([("interface", &one.name)], status.per_frame));
    out.gauge("mcr_interface_datagrams_per_frame", "Datagrams per frame, over the last second.", means)?;
    let spared = || snapshot.interfaces.interfaces.iter().filter(|one| one.early_drop.is_some());
    let help = "Whether what rules take from the interface is dropped behind the capture, unless a socket receives it.";
    let on =
        spared().map(|one| ([("interface", &one.name)], u64::from(one.early_drop.as_deref() == Some("on"))));
    out.gauge("mcr_interface_early_drop", help, on)?;
    let help = "Datagrams dropped there: the host's IP input is spared them.";
    out.counter("mcr_early_drops", help, spared().map(|one| ([("interface", &one.name)], one.early_drops)))
}
