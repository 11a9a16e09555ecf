//! Replies as plain tables for people.

mod flows;
mod health;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use mcr_control::event::Event;
use mcr_control::reply::{
    DiffReply, Engine, InterfaceStatus, InterfacesReply, KernelStats, LogLevelsReply, MembershipStatus,
    MembershipsReply, RuleStats, RuleStatus, RulesReply, StatsReply, WorkerStats, WorkerStatus, WorkersReply,
};
use mcr_rules::{InputOptions, Rule, RuleId, RuleName, RuleOptions};

pub(crate) use self::flows::flows;
use crate::failure::printable;
use crate::format;
use crate::rates::{RuleRate, RuleRates, Window};
use crate::table::Align::{Left, Right};
use crate::table::{Column, Table};

/// Shown for a missing value.
const NONE: &str = "-";

pub(crate) fn place(interface: impl std::fmt::Display, group: IpAddr, port: u16) -> String {
    format!("{interface} {}", mcr_rules::destination::with_port(group, port))
}

fn or_none<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(|| NONE.to_owned(), ToString::to_string)
}

fn yes(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

/// `list`: one line per output.
pub(crate) fn rules(reply: &RulesReply) -> String {
    if reply.rules.is_empty() {
        return "no rules\n".to_owned();
    }
    let mut columns = vec![
        ("ID", Left),
        ("NAME", Left),
        ("STATE", Left),
        ("INPUT", Left),
        ("SOURCES", Left),
        ("OUTPUT", Left),
        ("TTL", Right),
        ("DSCP", Right),
    ];
    // Where the kernel is asked for, it is said of each rule.
    let engines =
        reply.rules.iter().any(|rule| rule.engine != Engine::Worker || rule.engine_reason.is_some());
    if engines {
        columns.push(("ENGINE", Left));
    }
    columns.push(("REASON", Left));
    let mut table = Table::new(&columns);
    for rule in &reply.rules {
        let sources: Vec<String> = rule.input.sources.iter().map(ToString::to_string).collect();
        let sources = if sources.is_empty() { "any".to_owned() } else { sources.join(",") };
        let sources = match rule.input.options.to_string() {
            options if options.is_empty() => sources,
            options => format!("{sources}  {options}"),
        };
        let head = [
            rule.id.to_string(),
            or_none(rule.name.as_ref()),
            rule.state.name().to_owned(),
            place(&rule.input.interface, rule.input.group, rule.input.port),
            sources,
        ];
        for (n, output) in rule.outputs.iter().enumerate() {
            let blank = std::array::from_fn(|_| String::new());
            let reason = match (n, &rule.reason, &output.reason) {
                (0, Some(reason), None) => reason.clone(),
                (0, Some(rule), Some(output)) if rule != output => format!("{rule}; {output}"),
                (_, _, Some(output)) => output.clone(),
                (_, _, None) => String::new(),
            };
            let mut tail = vec![
                place(&output.interface, output.group, output.port),
                output.options.ttl.to_string(),
                output.options.dscp.to_string(),
            ];
            if engines {
                tail.push(if n == 0 { engine(rule) } else { String::new() });
            }
            tail.push(reason);
            table.row(if n == 0 { head.clone() } else { blank }.into_iter().chain(tail));
        }
        for leg in rule.inputs.iter().skip(1) {
            let sources: Vec<String> = leg.sources.iter().map(ToString::to_string).collect();
            let sources = if sources.is_empty() { "any".to_owned() } else { sources.join(",") };
            let mut cells = vec![String::new(); columns.len()];
            (cells[3], cells[4]) = (place(&leg.interface, leg.group, leg.port), sources);
            table.row(cells);
        }
    }
    table.to_string()
}

/// The input of a rule, or its legs and how they are merged.
fn inputs(rule: &Rule) -> String {
    let all = rule.inputs().map(ToString::to_string).collect::<Vec<_>>().join(" + ");
    rule.merge.as_ref().map_or(all.clone(), |merge| format!("{all}  {}", merge.options))
}

/// What relays a rule, and why not the kernel.
pub(crate) fn engine(rule: &RuleStatus) -> String {
    let reason = rule.engine_reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    format!("{}{reason}", rule.engine)
}

/// `diff` and `load`.
pub(crate) fn diff(diff: &DiffReply) -> String {
    let mut text = String::new();
    let lines = (diff.removed.iter().map(|rule| ('-', rule)))
        .chain(diff.changed.iter().flat_map(|changed| [('<', &changed.old), ('>', &changed.new)]))
        .chain(diff.added.iter().map(|rule| ('+', rule)));
    for (sign, entry) in lines {
        text.push_str(&format!("{sign} {}\n", rule_line(&entry.rule)));
    }
    if diff.settings_changed {
        text.push_str("~ settings\n");
    }
    if diff.pinning_changed {
        text.push_str("~ pinning\n");
    }
    if text.is_empty() { "no difference\n".to_owned() } else { text }
}

fn rule_line(rule: &Rule) -> String {
    let mut line = format!("{}  {}  {}", rule.id(), or_none(rule.name.as_ref()), inputs(rule));
    if rule.input.options != InputOptions::default() {
        let _ = write!(line, "  {}", rule.input.options);
    }
    for (n, output) in rule.outputs.iter().enumerate() {
        // Writing to a String does not fail.
        let _ = write!(line, "{} {output} {}", if n == 0 { "  to" } else { "," }, output.options);
    }
    if rule.options != RuleOptions::default() {
        let _ = write!(line, "  {}", rule.options);
    }
    line
}

/// `stats`.
pub(crate) fn stats(reply: &StatsReply) -> String {
    let rate =
        |rule: &RuleStats| vec![format!("{:.0}", rule.pps), bit_rate(rule.bps), per_frame(rule.per_frame)];
    stats_with(reply, &["PPS", "RATE", "PER FRAME"], rate)
}

/// `stats --watch`: rates over both windows, from the counters.
pub(crate) fn watched_stats(reply: &StatsReply, rates: &RuleRates) -> String {
    let rate = |rule: &RuleStats| {
        let [second, ten] = [Window::Second, Window::TenSeconds].map(|window| rates.over(rule.id, window));
        let pps = |rate: Option<RuleRate>| rate.map_or_else(|| NONE.to_owned(), |r| format!("{:.0}", r.pps));
        let bps = |rate: Option<RuleRate>| rate.map_or_else(|| NONE.to_owned(), |r| bit_rate(r.bps));
        vec![pps(second), pps(ten), bps(second), bps(ten), per_frame(rule.per_frame)]
    };
    stats_with(reply, &["PPS 1 s", "PPS 10 s", "RATE 1 s", "RATE 10 s", "PER FRAME"], rate)
}

/// Datagrams per frame; nothing where none came.
pub(crate) fn per_frame(mean: f64) -> String {
    if mean > 0.0 { format!("{mean:.1}") } else { NONE.to_owned() }
}

/// Whether an input interface merges what it receives, and why.
pub(crate) fn aggregation(interface: &InterfaceStatus) -> String {
    interface.aggregation.as_ref().map_or_else(
        || NONE.to_owned(),
        |status| format!("{} ({})", if status.on { "on" } else { "off" }, status.reason),
    )
}

fn stats_with(
    reply: &StatsReply,
    rate_titles: &[&'static str],
    rates: impl Fn(&RuleStats) -> Vec<String>,
) -> String {
    let mut columns = vec![("RULE", Left), ("PACKETS", Right), ("BYTES", Right)];
    columns.extend(rate_titles.iter().map(|title| (*title, Right)));
    columns.extend([("FIRST", Right), ("LAST", Right)]);
    columns.extend([("OUTPUT", Left), ("SENT", Right), ("ERRORS", Right), ("DROPS", Left)]);
    let mut rules = Table::new(&columns);
    for rule in &reply.rules {
        rule_rows(&mut rules, rule, rates(rule));
    }
    let columns: &[Column<WorkerStats>] = &[
        ("WORKER", Left, |worker| format!("{} core {}", worker.place(), worker.core)),
        ("PID", Right, |worker| worker.pid.to_string()),
        ("RECEIVED", Right, |worker| worker.received.to_string()),
        ("MATCHED", Right, |worker| worker.matched.to_string()),
        ("DUE", Right, |worker| worker.due.to_string()),
        ("SENT", Right, |worker| worker.sent.to_string()),
        ("KERNEL DROPS", Right, |worker| worker.kernel_drops.to_string()),
        ("P50", Right, |worker| microseconds(worker.latency.p50_us)),
        ("P99", Right, |worker| microseconds(worker.latency.p99_us)),
    ];
    let workers = Table::of(&reply.workers, columns);
    let mut text = if rules.is_empty() { "no rules\n".to_owned() } else { rules.to_string() };
    let skips = rule_skips(reply);
    if !skips.is_empty() {
        text = format!("{text}\n{skips}");
    }
    let health = health::table(reply);
    if !health.is_empty() {
        text = format!("{text}\n{health}");
    }
    if let Some(kernel) = &reply.kernel {
        let KernelStats { received, frames, matched, due, sent, drops } = kernel;
        let drops = by_reason(drops);
        text = format!(
            "{text}\nkernel: received {received} in {frames} frames, matched {matched}, due {due}, sent {sent}{}{drops}\n",
            if drops.is_empty() { "" } else { ", dropped " }
        );
    }
    if !workers.is_empty() {
        text = format!("{text}\n{workers}");
    }
    for (title, reasons) in [("dropped", &reply.drops), ("skipped", &reply.skips)] {
        let listed = by_reason(reasons);
        if !listed.is_empty() {
            text = format!("{text}\n{title}: {listed}\n");
        }
    }
    text
}

/// What rules did not relay of what came for them.
fn rule_skips(reply: &StatsReply) -> Table {
    let mut table = Table::new(&[("RULE", Left), ("SKIPS", Left), ("LAST", Left)]);
    for rule in reply.rules.iter().filter(|rule| !rule.skips.is_empty()) {
        let last = rule.last_skip.as_ref().map(|last| {
            format!("{} from {}, {}", last.reason, last.source, flows::date_and_time(last.at_ms))
        });
        table.row([rule_title(rule.id, rule.name.as_ref()), by_reason(&rule.skips), or_none(last.as_ref())]);
    }
    table
}

fn rule_rows(table: &mut Table, rule: &RuleStats, rates: Vec<String>) {
    let mut head =
        vec![rule_title(rule.id, rule.name.as_ref()), rule.packets.to_string(), rule.bytes.to_string()];
    head.extend(rates);
    head.push(rule.first_ms.map_or_else(|| NONE.to_owned(), flows::date_and_time));
    head.push(match rule.last_ms {
        Some(last_ms) if rule.silent => format!("{} silent", flows::date_and_time(last_ms)),
        Some(last_ms) => flows::date_and_time(last_ms),
        None if rule.silent => "silent".to_owned(),
        None => NONE.to_owned(),
    });
    for (n, output) in rule.outputs.iter().enumerate() {
        let drops = match &output.last_error {
            Some(error) if output.errors > 0 => format!("{} ({error})", by_reason(&output.drops)),
            _ => by_reason(&output.drops),
        };
        let tail = [
            place(&output.interface, output.group, output.port),
            output.packets.to_string(),
            output.errors.to_string(),
            drops,
        ];
        let blank = vec![String::new(); head.len()];
        table.row(if n == 0 { head.clone() } else { blank }.into_iter().chain(tail));
    }
}

/// A rule's name, or its id if it has none.
pub(crate) fn rule_title(id: RuleId, name: Option<&RuleName>) -> String {
    name.map_or_else(|| id.to_string(), ToString::to_string)
}

fn by_reason(reasons: &BTreeMap<String, u64>) -> String {
    let counted = reasons.iter().filter(|(_, n)| **n > 0).map(|(reason, n)| format!("{reason} {n}"));
    counted.collect::<Vec<_>>().join(", ")
}

fn bit_rate(bps: f64) -> String {
    match bps {
        _ if bps >= 1e9 => format!("{:.2} Gbit/s", bps / 1e9),
        _ if bps >= 1e6 => format!("{:.2} Mbit/s", bps / 1e6),
        _ if bps >= 1e3 => format!("{:.2} kbit/s", bps / 1e3),
        _ => format!("{bps:.0} bit/s"),
    }
}

/// `events --text`: one line.
pub(crate) fn event(event: &Event) -> String {
    let rule = event.rule.map(|rule| format!("{rule} ")).unwrap_or_default();
    format!("{}  {}{}", time_of_day(event.at_ms), rule, printable(&event.words))
}

/// The time of day of milliseconds since 1970, UTC.
fn time_of_day(at_ms: u64) -> String {
    format!("{}.{:03}Z", format::time_of_day(at_ms / 1000), at_ms % 1000)
}

/// `workers`.
pub(crate) fn workers(reply: &WorkersReply) -> String {
    if reply.workers.is_empty() {
        return "no workers: no rule has a usable input interface\n".to_owned();
    }
    let columns: &[Column<WorkerStatus>] = &[
        ("INTERFACE", Left, |worker| worker.place()),
        ("CORE", Right, |worker| worker.core.to_string()),
        ("PID", Right, |worker| worker.pid.to_string()),
        ("STATE", Left, |worker| {
            format!("{}{}", worker.state, if worker.degraded { " (degraded)" } else { "" })
        }),
        ("GENERATION", Right, |worker| worker.generation.to_string()),
        ("RULE SET", Left, |worker| worker.ruleset_hash.clone()),
        ("RESTARTS", Right, |worker| worker.restarts.to_string()),
        ("UPTIME", Right, |worker| format!("{} s", worker.uptime_s)),
        ("IO", Left, |worker| or_none(worker.io.as_ref())),
        ("UID", Right, |worker| or_none(worker.uid.as_ref())),
        ("SANDBOX", Left, |worker| {
            let layers = worker.sandbox.as_ref().map(|layers| layers.join(","));
            or_none(layers.filter(|layers| !layers.is_empty()).as_ref())
        }),
        ("NOTES", Left, notes),
    ];
    Table::of(&reply.workers, columns).to_string()
}

fn notes(worker: &WorkerStatus) -> String {
    let counted = [
        (worker.sandbox_kills, "killed by sandbox"),
        (worker.stalls, "stalls"),
        (worker.drifts, "drifts"),
        (worker.rolled_over, "rolled over"),
    ];
    let counted = counted.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{what}: {n}"));
    worker.reason.iter().chain(&worker.notes).cloned().chain(counted).collect::<Vec<_>>().join("; ")
}

/// `memberships`.
pub(crate) fn memberships(reply: &MembershipsReply) -> String {
    if reply.memberships.is_empty() {
        return "no memberships: no rule needs one\n".to_owned();
    }
    let columns: &[Column<MembershipStatus>] = &[
        ("INTERFACE", Left, |one| one.interface.to_string()),
        ("GROUP", Left, |one| match one.port {
            Some(port) => SocketAddr::new(one.group, port).to_string(),
            None => one.group.to_string(),
        }),
        ("SOURCE", Left, |one| one.source.map_or_else(|| "any".to_owned(), |source| source.to_string())),
        ("JOINED", Left, |one| yes(one.joined)),
        ("RULES", Right, |one| one.rules.to_string()),
        ("REASON", Left, |one| one.reason.clone().unwrap_or_default()),
    ];
    Table::of(&reply.memberships, columns).to_string()
}

/// `interfaces`.
pub(crate) fn interfaces(reply: &InterfacesReply) -> String {
    let columns: &[Column<InterfaceStatus>] = &[
        ("INTERFACE", Left, |one| one.name.clone()),
        ("INDEX", Right, |one| or_none(one.index.as_ref())),
        ("KIND", Left, |one| one.kind.clone()),
        ("MTU", Right, |one| one.mtu.to_string()),
        ("UP", Left, |one| yes(one.up)),
        ("CARRIER", Left, |one| yes(one.carrier)),
        ("MULTICAST", Left, |one| yes(one.multicast)),
        ("INPUTS", Right, |one| one.inputs.to_string()),
        ("OUTPUTS", Right, |one| one.outputs.to_string()),
        ("AGGREGATION", Left, aggregation),
        ("PER FRAME", Right, |one| {
            one.aggregation.map_or_else(|| NONE.to_owned(), |it| per_frame(it.per_frame))
        }),
        ("EARLY DROP", Left, |one| or_none(one.early_drop.as_ref())),
        ("DROPPED", Right, |one| match one.early_drop {
            Some(_) => one.early_drops.to_string(),
            None => NONE.to_owned(),
        }),
        ("ADDRESSES", Left, |one| one.addresses.join(" ")),
        ("ALTNAMES", Left, |one| one.altnames.join(" ")),
    ];
    let mut text = Table::of(&reply.interfaces, columns).to_string();
    for one in &reply.interfaces {
        if let Some(reason) = &one.early_drop_reason {
            text += &format!("{}: early drop: {reason}\n", one.name);
        }
    }
    text
}

/// `log-level`.
pub(crate) fn log_levels(reply: &LogLevelsReply) -> String {
    let mut table = Table::new(&[("FACILITY", Left), ("LEVEL", Left)]);
    table.row(["(default)".to_owned(), reply.default.to_string()]);
    for (facility, level) in &reply.facilities {
        table.row([facility.to_string(), level.to_string()]);
    }
    table.to_string()
}

/// A bound of the latency, or nothing where nothing was measured.
fn microseconds(us: Option<u64>) -> String {
    us.map_or_else(|| NONE.to_owned(), |us| format!("≤ {us} µs"))
}

#[cfg(test)]
mod tests;
