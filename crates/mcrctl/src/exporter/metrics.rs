//! The daemon's replies as metric families.

use std::collections::BTreeMap;
use std::time::Duration;

use mcr_control::reply::{
    HealthStats, InterfaceStatus, LatencyStats, OutputStats,
    RuleState, RuleStats, StatsReply, VersionReply, WorkerState, WorkerStats, WorkerStatus,
};
use mcr_rules::{RuleId, RuleName};

use super::exposition::Kind::{Counter, Gauge, Histogram};
use super::exposition::{Exposition, Format};
use super::snapshot::Snapshot;

/// A family of counters: its name, its help, and where the value is.
type Counted<T> = (&'static str, &'static str, fn(&T) -> u64);

/// The exposition; without a snapshot it says only that the daemon does not answer.
pub(super) fn exposition(snapshot: Option<&Snapshot>, took: Duration, format: Format) -> String {
    let mut out = Exposition::new(format);
    out.family(Gauge, "mcr_up", "Whether mcrd answered this scrape.");
    out.sample(&[], u8::from(snapshot.is_some()));
    out.family(Gauge, "mcr_scrape_duration_seconds", "How long mcrd took to answer this scrape.");
    out.sample(&[], took.as_secs_f64());
    if let Some(snapshot) = snapshot {
        build(&mut out, &snapshot.version);
        rules(&mut out, snapshot);
        arrivals(&mut out, snapshot);
        health(&mut out, &snapshot.stats);
        outputs(&mut out, snapshot);
        totals(&mut out, &snapshot.stats);
        workers(&mut out, snapshot);
        network(&mut out, snapshot);
    }
    out.finish()
}

fn build(out: &mut Exposition, version: &VersionReply) {
    out.family(Gauge, "mcr_build_info", "Version of mcrd, of its control protocol, and of this exporter.");
    let labels: [(&str, &str); 3] = [
        ("version", &version.mcrd),
        ("protocol", &version.protocol),
        ("exporter", env!("CARGO_PKG_VERSION")),
    ];
    out.sample(&labels, 1);
}

/// The label of a rule: its name, or its id if it has none.
fn title(id: RuleId, name: Option<&RuleName>) -> String {
    name.map_or_else(|| id.to_string(), ToString::to_string)
}

fn rules(out: &mut Exposition, snapshot: &Snapshot) {
    out.family(Gauge, "mcr_rule_info", "The input of each rule.");
    for rule in &snapshot.rules.rules {
        let (input, port) = (&rule.input, rule.input.port.to_string());
        let sources: Vec<String> = input.sources.iter().map(ToString::to_string).collect();
        let labels: [(&str, &str); 6] = [
            ("rule", &title(rule.id, rule.name.as_ref())),
            ("id", &rule.id.to_string()),
            ("interface", input.interface.as_str()),
            ("group", &input.group.to_string()),
            ("port", &port),
            ("sources", &sources.join(",")),
        ];
        out.sample(&labels, 1);
    }
    out.family(Gauge, "mcr_rule_active", "Whether the rule is in force; 0 while it is pending or paused.");
    for rule in &snapshot.rules.rules {
        let active = rule.state == RuleState::Active;
        out.sample(&[("rule", &title(rule.id, rule.name.as_ref()))], u8::from(active));
    }
    let families: [Counted<RuleStats>; 3] = [
        ("mcr_rule_datagrams", "Datagrams that the rule admitted.", |rule| rule.packets),
        ("mcr_rule_bytes", "Payload bytes of the datagrams that the rule admitted.", |rule| rule.bytes),
        ("mcr_rule_due", "Sends due: datagrams times outputs.", |rule| rule.due),
    ];
    for (name, help, value) in families {
        out.family(Counter, name, help);
        for rule in &snapshot.stats.rules {
            out.sample(&[("rule", &title(rule.id, rule.name.as_ref()))], value(rule));
        }
    }
}

/// When datagrams came, and who sends them.
fn arrivals(out: &mut Exposition, snapshot: &Snapshot) {
    type Time = fn(&RuleStats) -> Option<u64>;
    let times: [(&str, &str, Time); 2] = [
        ("mcr_rule_first_datagram_timestamp_seconds", "When the rule's first datagram came.", |rule| {
            rule.first_ms
        }),
        ("mcr_rule_last_datagram_timestamp_seconds", "When the rule's last datagram came.", |rule| {
            rule.last_ms
        }),
    ];
    for (name, help, time) in times {
        out.family(Gauge, name, help);
        for rule in &snapshot.stats.rules {
            if let Some(at_ms) = time(rule) {
                out.sample(&[("rule", &title(rule.id, rule.name.as_ref()))], seconds(at_ms));
            }
        }
    }
    let help =
        "Whether the rule is ready, its groups are joined, and nothing came for settings.flow_silence_s.";
    out.family(Gauge, "mcr_rule_silent", help);
    for rule in &snapshot.stats.rules {
        out.sample(&[("rule", &title(rule.id, rule.name.as_ref()))], u8::from(rule.silent));
    }
    out.family(
        Gauge,
        "mcr_rule_flows",
        "Sources whose datagrams the rule got within settings.flow_silence_s.",
    );
    let mut flowing: BTreeMap<RuleId, u64> = BTreeMap::new();
    for flow in snapshot.flows.flows.iter().filter(|flow| flow.flowing) {
        *flowing.entry(flow.rule).or_default() += 1;
    }
    for rule in &snapshot.stats.rules {
        let count = flowing.get(&rule.id).copied().unwrap_or_default();
        out.sample(&[("rule", &title(rule.id, rule.name.as_ref()))], count);
    }
    out.family(Counter, "mcr_unlisted_flow_datagrams", "Datagrams of flows that found no room in the list.");
    out.sample(&[], snapshot.flows.unlisted);
}

/// What the streams of rules that ask for it tell.
fn health(out: &mut Exposition, stats: &StatsReply) {
    let counted: [Counted<HealthStats>; 5] = [
        ("mcr_stream_checked_datagrams", "Datagrams whose contents were checked.", |found| found.checked),
        ("mcr_stream_reordered_packets", "RTP packets that came after a later one.", |found| found.reordered),
        ("mcr_stream_duplicate_packets", "RTP packets that came twice.", |found| found.duplicates),
        (
            "mcr_stream_continuity_errors",
            "MPEG-TS packets whose continuity counter does not follow.",
            |found| found.continuity_errors,
        ),
        ("mcr_stream_malformed_datagrams", "Datagrams that are no such stream.", |found| found.malformed),
    ];
    let checked =
        || stats.rules.iter().filter_map(|rule| Some((title(rule.id, rule.name.as_ref()), rule.health?)));
    for (name, help, value) in counted {
        out.family(Counter, name, help);
        for (rule, found) in checked() {
            out.sample(&[("rule", &rule)], value(&found));
        }
    }
    // It falls when one comes late, so it is no counter.
    out.family(Gauge, "mcr_stream_lost_packets", "RTP packets that have not come.");
    for (rule, found) in checked() {
        out.sample(&[("rule", &rule)], found.lost);
    }
    out.family(Gauge, "mcr_stream_jitter_seconds", "Interarrival jitter of RTP.");
    for (rule, found) in checked() {
        out.sample(&[("rule", &rule)], seconds(found.jitter_us) / 1_000.0);
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit into 53 bits")]
fn seconds(at_ms: u64) -> f64 {
    at_ms as f64 / 1000.0
}

/// The outputs of a rule with their labels: outputs that are alike are numbered from the second on.
fn labelled(outputs: &[OutputStats]) -> Vec<(String, &OutputStats)> {
    let mut alike: BTreeMap<String, u32> = BTreeMap::new();
    let label = |output: &OutputStats| {
        let place = std::net::SocketAddr::new(output.group, output.port);
        let label = format!("{} {place}", output.interface);
        let n = alike.entry(label.clone()).and_modify(|n| *n += 1).or_insert(1);
        if *n > 1 { format!("{label} #{n}") } else { label }
    };
    outputs.iter().map(label).collect::<Vec<_>>().into_iter().zip(outputs).collect()
}

fn outputs(out: &mut Exposition, snapshot: &Snapshot) {
    let all: Vec<_> = snapshot
        .stats
        .rules
        .iter()
        .flat_map(|rule| {
            let rule_title = title(rule.id, rule.name.as_ref());
            labelled(&rule.outputs)
                .into_iter()
                .map(move |(label, output)| (rule_title.clone(), label, output))
        })
        .collect();
    let families: [Counted<OutputStats>; 2] = [
        ("mcr_output_datagrams", "Datagrams sent on the output.", |output| output.packets),
        ("mcr_output_bytes", "Payload bytes sent on the output.", |output| output.bytes),
    ];
    for (name, help, value) in families {
        out.family(Counter, name, help);
        for (rule, label, output) in &all {
            out.sample(&[("rule", rule), ("output", label)], value(output));
        }
    }
    let help = "Datagrams that were due on the output and did not leave, by reason.";
    out.family(Counter, "mcr_output_drops", help);
    for (rule, label, output) in &all {
        for (reason, drops) in &output.drops {
            out.sample(&[("rule", rule), ("output", label), ("reason", reason)], drops);
        }
    }
    out.family(Gauge, "mcr_output_active", "Whether the output can send.");
    // Both replies have the config's order; a change in between only lacks what it brought.
    let states: BTreeMap<RuleId, Vec<RuleState>> = (snapshot.rules.rules.iter())
        .map(|rule| (rule.id, rule.outputs.iter().map(|output| output.state).collect()))
        .collect();
    for rule in &snapshot.stats.rules {
        let Some(states) = states.get(&rule.id).filter(|states| states.len() == rule.outputs.len()) else {
            continue;
        };
        for ((label, _), state) in labelled(&rule.outputs).iter().zip(states) {
            let labels: [(&str, &str); 2] =
                [("rule", &title(rule.id, rule.name.as_ref())), ("output", label)];
            out.sample(&labels, u8::from(*state == RuleState::Active));
        }
    }
}

/// Sums over all workers, those that have left among them: they never fall.
fn totals(out: &mut Exposition, stats: &StatsReply) {
    let past = &stats.past_workers;
    let sum = |of: fn(&WorkerStats) -> u64| stats.workers.iter().map(of).sum::<u64>();
    for (name, help, value) in [
        ("mcr_received", "Datagrams received.", past.received + sum(|worker| worker.received)),
        ("mcr_frames", "Frames received; a super-frame is one.", past.frames + sum(|worker| worker.frames)),
        ("mcr_matched", "Datagrams that some rule admitted.", past.matched + sum(|worker| worker.matched)),
        ("mcr_due", "Sends due.", past.due + sum(|worker| worker.due)),
        ("mcr_sent", "Datagrams sent.", past.sent + sum(|worker| worker.sent)),
        (
            "mcr_kernel_drops",
            "Frames that the kernel dropped because a capture queue was full.",
            past.kernel_drops + sum(|worker| worker.kernel_drops),
        ),
    ] {
        out.family(Counter, name, help);
        out.sample(&[], value);
    }
    for (name, help, reasons) in [
        ("mcr_skips", "Datagrams received and not matched to a rule, by reason.", &stats.skips),
        ("mcr_drops", "Datagrams that were due on an output and did not leave, by reason.", &stats.drops),
    ] {
        out.family(Counter, name, help);
        for (reason, n) in reasons {
            out.sample(&[("reason", reason)], n);
        }
    }
}

/// Bounds that are always told, in microseconds: a query over time needs the same ones in each scrape.
const LATENCY_BOUNDS_US: [u64; 9] = [16, 64, 128, 256, 512, 1_024, 4_096, 16_384, 65_536];

fn latency(out: &mut Exposition, worker: &str, latency: &LatencyStats) {
    const SECOND_US: f64 = 1e6;
    #[expect(clippy::cast_precision_loss, reason = "bounds are small, and a sum for people may be rounded")]
    let seconds = |us: u64| us as f64 / SECOND_US;
    let up_to = |bound: u64| {
        let below = latency.buckets.iter().filter(|bucket| bucket.le_us.is_some_and(|le_us| le_us <= bound));
        below.map(|bucket| bucket.count).sum::<u64>()
    };
    let buckets = LATENCY_BOUNDS_US.map(|bound| (seconds(bound), up_to(bound)));
    out.histogram(&[("worker", worker)], &buckets, latency.samples, seconds(latency.sum_us));
}

fn workers(out: &mut Exposition, snapshot: &Snapshot) {
    let label = |interface: &str, core: u16| format!("{interface}/{core}");
    let counted: [Counted<WorkerStats>; 5] = [
        ("mcr_worker_received", "Datagrams received by the worker.", |worker| worker.received),
        ("mcr_worker_matched", "Datagrams that some rule admitted.", |worker| worker.matched),
        ("mcr_worker_due", "Sends due.", |worker| worker.due),
        ("mcr_worker_sent", "Datagrams sent.", |worker| worker.sent),
        (
            "mcr_worker_kernel_drops",
            "Frames that the kernel dropped because the worker's capture queue was full.",
            |worker| worker.kernel_drops,
        ),
    ];
    for (name, help, value) in counted {
        out.family(Counter, name, help);
        for worker in &snapshot.stats.workers {
            out.sample(&[("worker", &label(worker.interface.as_str(), worker.core))], value(worker));
        }
    }
    out.family(
        Histogram,
        "mcr_worker_latency_seconds",
        "From the kernel's taking a frame off the device to the end of its sends, of some frames per second.",
    );
    for worker in &snapshot.stats.workers {
        latency(out, &label(worker.interface.as_str(), worker.core), &worker.latency);
    }
    type Value = fn(&WorkerStatus) -> u64;
    let told: [(_, &str, &str, Value); 7] = [
        (Counter, "mcr_worker_restarts", "Processes of this worker that died.", |worker| worker.restarts),
        (Counter, "mcr_worker_stalls", "Of these, processes that stalled.", |worker| worker.stalls),
        (Counter, "mcr_worker_drifts", "Times its table was not what it had been given.", |worker| {
            worker.drifts
        }),
        (
            Counter,
            "mcr_worker_rolled_over",
            "Frames of its share that other workers took because it did not keep up.",
            |worker| worker.rolled_over,
        ),
        (Gauge, "mcr_worker_running", "Whether it relays.", |worker| {
            u64::from(matches!(
                worker.state,
                WorkerState::Running | WorkerState::Updating | WorkerState::Idle
            ))
        }),
        (Gauge, "mcr_worker_degraded", "Whether it died more than once lately.", |worker| {
            u64::from(worker.degraded)
        }),
        (Gauge, "mcr_worker_uptime_seconds", "How long its process runs.", |worker| worker.uptime_s),
    ];
    for (kind, name, help, value) in told {
        out.family(kind, name, help);
        for worker in &snapshot.workers.workers {
            out.sample(&[("worker", &label(worker.interface.as_str(), worker.core))], value(worker));
        }
    }
    out.family(Gauge, "mcr_worker_info", "How the worker receives and sends, and as which user.");
    for worker in &snapshot.workers.workers {
        let uid = worker.uid.map_or_else(String::new, |uid| uid.to_string());
        let labels: [(&str, &str); 3] = [
            ("worker", &label(worker.interface.as_str(), worker.core)),
            ("io", worker.io.as_deref().unwrap_or_default()),
            ("uid", &uid),
        ];
        out.sample(&labels, 1);
    }
}

fn network(out: &mut Exposition, snapshot: &Snapshot) {
    out.family(Gauge, "mcr_membership_joined", "Whether a group that rules need is joined.");
    for membership in &snapshot.memberships.memberships {
        let source = membership.source.map_or_else(String::new, |source| source.to_string());
        let labels: [(&str, &str); 3] = [
            ("interface", membership.interface.as_str()),
            ("group", &membership.group.to_string()),
            ("source", &source),
        ];
        out.sample(&labels, u8::from(membership.joined));
    }
    let used = || snapshot.interfaces.interfaces.iter().filter(|one| one.inputs + one.outputs > 0);
    type Value = fn(&InterfaceStatus) -> bool;
    let told: [(&str, &str, Value); 2] = [
        ("mcr_interface_present", "Whether an interface that rules name exists.", |one| one.index.is_some()),
        ("mcr_interface_carrier", "Whether it is up and has a carrier.", |one| one.up && one.carrier),
    ];
    for (name, help, value) in told {
        out.family(Gauge, name, help);
        for one in used() {
            out.sample(&[("interface", &one.name)], u8::from(value(one)));
        }
    }
}
