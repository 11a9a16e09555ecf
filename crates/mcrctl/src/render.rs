//! Replies as plain tables for people.

mod flows;
mod health;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use mcr_control::event::Event;
use mcr_control::reply::{
    DiffReply, InterfacesReply, LogLevelsReply, MembershipsReply, RuleStats, RulesReply, StatsReply,
    WorkersReply,
};
use mcr_rules::{Rule, RuleId, RuleName, RuleOptions};

pub(crate) use self::flows::flows;
use crate::failure::printable;
use crate::rates::{RuleRate, RuleRates, Window};
use crate::table::Align::{Left, Right};
use crate::table::Table;

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
    let mut table = Table::new(&[
        ("ID", Left),
        ("NAME", Left),
        ("STATE", Left),
        ("INPUT", Left),
        ("SOURCES", Left),
        ("OUTPUT", Left),
        ("TTL", Right),
        ("DSCP", Right),
        ("REASON", Left),
    ]);
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
            let tail = [
                place(&output.interface, output.group, output.port),
                output.options.ttl.to_string(),
                output.options.dscp.to_string(),
                reason,
            ];
            table.row(if n == 0 { head.clone() } else { blank }.into_iter().chain(tail));
        }
    }
    table.to_string()
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
    let mut line = format!("{}  {}  {}", rule.id(), or_none(rule.name.as_ref()), rule.input);
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
    let rate = |rule: &RuleStats| vec![format!("{:.0}", rule.pps), bit_rate(rule.bps)];
    stats_with(reply, &["PPS", "RATE"], rate)
}

/// `stats --watch`: rates over both windows, from the counters.
pub(crate) fn watched_stats(reply: &StatsReply, rates: &RuleRates) -> String {
    let rate = |rule: &RuleStats| {
        let [second, ten] = [Window::Second, Window::TenSeconds].map(|window| rates.over(rule.id, window));
        let pps = |rate: Option<RuleRate>| rate.map_or_else(|| NONE.to_owned(), |r| format!("{:.0}", r.pps));
        let bps = |rate: Option<RuleRate>| rate.map_or_else(|| NONE.to_owned(), |r| bit_rate(r.bps));
        vec![pps(second), pps(ten), bps(second), bps(ten)]
    };
    stats_with(reply, &["PPS 1 s", "PPS 10 s", "RATE 1 s", "RATE 10 s"], rate)
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
    let mut workers = Table::new(&[
        ("WORKER", Left),
        ("PID", Right),
        ("RECEIVED", Right),
        ("MATCHED", Right),
        ("DUE", Right),
        ("SENT", Right),
        ("KERNEL DROPS", Right),
        ("P50", Right),
        ("P99", Right),
    ]);
    for worker in &reply.workers {
        workers.row([
            format!("{} core {}", worker.place(), worker.core),
            worker.pid.to_string(),
            worker.received.to_string(),
            worker.matched.to_string(),
            worker.due.to_string(),
            worker.sent.to_string(),
            worker.kernel_drops.to_string(),
            microseconds(worker.latency.p50_us),
            microseconds(worker.latency.p99_us),
        ]);
    }
    let mut text = if rules.is_empty() { "no rules\n".to_owned() } else { rules.to_string() };
    let health = health::table(reply);
    if !health.is_empty() {
        text = format!("{text}\n{health}");
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

fn rule_title(id: RuleId, name: Option<&RuleName>) -> String {
    name.map_or_else(|| id.to_string(), ToString::to_string)
}

fn by_reason(reasons: &BTreeMap<String, u64>) -> String {
    let told: Vec<String> =
        reasons.iter().filter(|(_, n)| **n > 0).map(|(reason, n)| format!("{reason} {n}")).collect();
    told.join(", ")
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
    let seconds = at_ms / 1000;
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{:03}Z", seconds % 60, at_ms % 1000)
}

/// `workers`.
pub(crate) fn workers(reply: &WorkersReply) -> String {
    if reply.workers.is_empty() {
        return "no workers: no rule has a usable input interface\n".to_owned();
    }
    let mut table = Table::new(&[
        ("INTERFACE", Left),
        ("CORE", Right),
        ("PID", Right),
        ("STATE", Left),
        ("GENERATION", Right),
        ("RULE SET", Left),
        ("RESTARTS", Right),
        ("UPTIME", Right),
        ("IO", Left),
        ("UID", Right),
        ("NOTES", Left),
    ]);
    for worker in &reply.workers {
        let counted =
            [(worker.stalls, "stalls"), (worker.drifts, "drifts"), (worker.rolled_over, "rolled over")];
        let counted = counted.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{what}: {n}"));
        let notes: Vec<String> = worker.reason.iter().chain(&worker.notes).cloned().chain(counted).collect();
        table.row([
            worker.place(),
            worker.core.to_string(),
            worker.pid.to_string(),
            format!("{}{}", worker.state.name(), if worker.degraded { " (degraded)" } else { "" }),
            worker.generation.to_string(),
            worker.ruleset_hash.clone(),
            worker.restarts.to_string(),
            format!("{} s", worker.uptime_s),
            or_none(worker.io.as_ref()),
            or_none(worker.uid.as_ref()),
            notes.join("; "),
        ]);
    }
    table.to_string()
}

/// `memberships`.
pub(crate) fn memberships(reply: &MembershipsReply) -> String {
    if reply.memberships.is_empty() {
        return "no memberships: no rule needs one\n".to_owned();
    }
    let mut table = Table::new(&[
        ("INTERFACE", Left),
        ("GROUP", Left),
        ("SOURCE", Left),
        ("JOINED", Left),
        ("RULES", Right),
        ("REASON", Left),
    ]);
    for membership in &reply.memberships {
        table.row([
            membership.interface.to_string(),
            membership.group.to_string(),
            membership.source.map_or_else(|| "any".to_owned(), |source| source.to_string()),
            yes(membership.joined),
            membership.rules.to_string(),
            membership.reason.clone().unwrap_or_default(),
        ]);
    }
    table.to_string()
}

/// `interfaces`.
pub(crate) fn interfaces(reply: &InterfacesReply) -> String {
    let mut table = Table::new(&[
        ("INTERFACE", Left),
        ("INDEX", Right),
        ("KIND", Left),
        ("MTU", Right),
        ("UP", Left),
        ("CARRIER", Left),
        ("MULTICAST", Left),
        ("INPUTS", Right),
        ("OUTPUTS", Right),
        ("ADDRESSES", Left),
    ]);
    for interface in &reply.interfaces {
        table.row([
            interface.name.clone(),
            or_none(interface.index.as_ref()),
            interface.kind.clone(),
            interface.mtu.to_string(),
            yes(interface.up),
            yes(interface.carrier),
            yes(interface.multicast),
            interface.inputs.to_string(),
            interface.outputs.to_string(),
            interface.addresses.join(" "),
        ]);
    }
    table.to_string()
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
    us.map_or_else(|| "-".to_owned(), |us| format!("≤ {us} µs"))
}

#[cfg(test)]
mod tests;
