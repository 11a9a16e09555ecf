//! Workers, interfaces, memberships, and the reasons why datagrams do not pass.

use mcr_control::reply::{InterfaceStatus, WorkerStatus};

use super::meaning;
use crate::format::span;
use crate::render::aggregation;
use crate::top::changes::{link, worker_tone};
use crate::top::series::{Flow, reasons as all_reasons};
use crate::top::state::State;
use crate::top::table::{Cell, Column, Row, Table};
use crate::top::theme::Tone;

pub(super) fn workers(state: &State) -> Table {
    let columns = vec![
        Column::text("WORKER", 13, 1),
        Column::text("STATE", 10, 0),
        Column::number("PID", 7),
        Column::number("CPU %", 5),
        Column { right: true, ..Column::text("LOAD", 8, 2) },
        Column::number("in/s", 6),
        Column::number("out/s", 6),
        Column::number("lost/s", 6),
        Column::number("DIED", 5),
        Column::number("UP", 6).from(90),
        Column::text("I/O", 8, 0).from(100),
        Column::text("NOTES", 10, 4).from(110),
    ];
    let rows = state.snapshot.workers.workers.iter().map(|worker| {
        let name = format!("{} core {}", worker.place(), worker.core);
        Row { key: name.clone(), rule: None, cells: worker_cells(state, worker, name) }
    });
    let empty = "no workers: no rule has a usable input interface";
    Table { columns, rows: rows.collect(), empty }
}

fn worker_cells(state: &State, worker: &WorkerStatus, name: String) -> Vec<Cell> {
    let flow = state.measured.worker(&(worker.place(), worker.core), state.window);
    let processor = state.measured.processor(worker.pid, state.window);
    let degraded = if worker.degraded { "!" } else { "" };
    let notes: Vec<&str> = worker.reason.iter().chain(&worker.notes).map(String::as_str).collect();
    vec![
        Cell::text(name),
        Cell::text(format!("{}{degraded}", worker.state.name())).tone(worker_tone(worker.state)),
        Cell::number(worker.pid.into(), worker.pid),
        processor.map_or_else(Cell::unknown, |percent| Cell::number(percent, format!("{percent:.0}"))),
        Cell::trend(state.measured.processor_trend(worker.pid), Some(100.0)),
        Cell::rate(flow.map(|flow| flow.received)),
        Cell::rate(flow.map(|flow| flow.sent)),
        Cell::rate(flow.map(|flow| flow.lost)).bad_above_zero(),
        Cell::count(worker.restarts).bad_above_zero(),
        Cell::count(worker.uptime_s).shown_as(span(worker.uptime_s)),
        Cell::text(worker.io.as_deref().unwrap_or("-")),
        Cell::text(notes.join("; ")),
    ]
}

pub(super) fn reasons(state: &State) -> Table {
    let columns = vec![
        Column::text("KIND", 6, 0),
        Column::text("REASON", 15, 0),
        Column::number("1 s", 6),
        Column::number("10 s", 6),
        Column::number("TOTAL", 6),
        Column::text("MEANING", 20, 1),
    ];
    let mut all = all_reasons(&state.snapshot);
    // Those that there were come first.
    all.sort_by_key(|(_, count)| *count == 0);
    let rows = all.into_iter().map(|((kind, reason), count)| {
        let series = state.measured.reason(kind, &reason);
        let over =
            |window| Cell::rate(series.and_then(|s| s.over(window)).map(|[rate]| rate)).bad_above_zero();
        let tone = if count > 0 { Tone::Plain } else { Tone::Dim };
        let cells = vec![
            Cell::text(kind.name()).tone(tone),
            Cell::text(&reason).tone(tone),
            over(crate::rates::Window::Second),
            over(crate::rates::Window::TenSeconds),
            Cell::count(count),
            Cell::text(meaning(&reason)).tone(tone),
        ];
        Row { key: format!("{} {reason}", kind.name()), rule: None, cells }
    });
    Table { columns, rows: rows.collect(), empty: "no reasons" }
}

pub(super) fn interfaces(state: &State) -> Table {
    let columns = vec![
        Column::text("INTERFACE", 13, 1),
        Column::text("LINK", 10, 0),
        Column::number("MTU", 5),
        Column::number("RULES", 5),
        Column::number("in/s", 6),
        Column::number("bit/s", 6).from(100),
        Column::number("OUTPUTS", 7),
        Column::number("out/s", 6),
        Column::number("bit/s", 6).from(100),
        Column::text("AGGREGATION", 12, 1).from(110),
        Column::number("/frame", 6).from(110),
        Column::text("ADDRESSES", 14, 4),
    ];
    let rows = state.snapshot.interfaces.interfaces.iter().map(|interface| {
        let (arriving, leaving) = through(state, interface);
        let (word, tone) = link(interface);
        let per_frame = interface.aggregation.map(|status| status.per_frame).filter(|mean| *mean > 0.0);
        let cells = vec![
            Cell::text(&interface.name),
            Cell::text(word).tone(tone),
            Cell::number(interface.mtu.into(), interface.mtu),
            Cell::count(interface.inputs),
            Cell::rate(Some(arriving.datagrams)),
            Cell::rate(Some(arriving.bits)),
            Cell::count(interface.outputs),
            Cell::rate(Some(leaving.datagrams)),
            Cell::rate(Some(leaving.bits)),
            Cell::text(aggregation(interface)),
            per_frame.map_or_else(Cell::unknown, |mean| Cell::number(mean, format!("{mean:.1}"))),
            Cell::text(interface.addresses.join(" ")),
        ];
        Row { key: interface.name.clone(), rule: None, cells }
    });
    Table { columns, rows: rows.collect(), empty: "no interfaces" }
}

/// What arrives on it for rules, and what their outputs send on it.
fn through(state: &State, interface: &InterfaceStatus) -> (Flow, Flow) {
    let (mut arriving, mut leaving) = (Flow::default(), Flow::default());
    let rules = &state.snapshot.rules.rules;
    for rule in rules.iter().filter(|rule| rule.input.interface.as_str() == interface.name) {
        arriving = arriving.and(state.measured.rule(rule.id, state.window).unwrap_or_default());
    }
    for rule in rules {
        let outputs = rule.outputs.iter().enumerate();
        for (n, output) in outputs.filter(|(_, output)| output.interface.as_str() == interface.name) {
            let key = (rule.id, n, crate::render::place(&output.interface, output.group, output.port));
            leaving = leaving.and(state.measured.output(&key, state.window).unwrap_or_default());
        }
    }
    (arriving, leaving)
}

pub(super) fn memberships(state: &State) -> Table {
    let columns = vec![
        Column::text("INTERFACE", 13, 1),
        Column::text("GROUP", 18, 1),
        Column::text("SOURCE", 12, 1),
        Column::text("JOINED", 6, 0),
        Column::number("RULES", 5),
        Column::text("REASON", 12, 4),
    ];
    let rows = state.snapshot.memberships.memberships.iter().map(|membership| {
        let source = membership.source.map_or_else(|| "any".to_owned(), |source| source.to_string());
        let (joined, tone) = if membership.joined { ("yes", Tone::Good) } else { ("no", Tone::Bad) };
        let key = format!("{} {} {source}", membership.interface, membership.group);
        let cells = vec![
            Cell::text(&membership.interface),
            Cell::text(membership.group),
            Cell::text(source),
            Cell::text(joined).tone(tone),
            Cell::count(membership.rules),
            Cell::text(membership.reason.clone().unwrap_or_default()),
        ];
        Row { key, rule: None, cells }
    });
    Table { columns, rows: rows.collect(), empty: "no memberships: no rule needs one" }
}
