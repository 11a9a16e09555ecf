//! Rules and outputs.

use mcr_control::reply::{OutputStats, OutputStatus, RuleState, RuleStats, RuleStatus};

use crate::rates::Window;
use crate::render::{place, rule_title};
use crate::top::changes::state_tone;
use crate::top::series::Flow;
use crate::top::state::State;
use crate::top::table::{Cell, Column, Row, Table};
use crate::top::theme::Tone;

/// The cells that every stream has: datagrams and bits per second over the window, datagrams over the other one.
fn rates(now: Option<Flow>, other: Option<Flow>) -> [Cell; 3] {
    [
        Cell::rate(now.map(|flow| flow.datagrams)),
        Cell::rate(other.map(|flow| flow.datagrams)),
        Cell::rate(now.map(|flow| flow.bits)),
    ]
}

/// Their headings; the other window's only where there is room.
fn rate_columns(window: Window) -> [Column; 3] {
    let other = match window {
        Window::Second => "10 s",
        Window::TenSeconds => "1 s",
    };
    [Column::number("dgram/s", 7), Column::number(other, 6).from(100), Column::number("bit/s", 6)]
}

/// Rules with their statistics. The two replies may be of different moments; a rule without statistics has none yet.
fn paired(state: &State) -> impl Iterator<Item = (&RuleStatus, Option<&RuleStats>)> {
    let stats: std::collections::BTreeMap<_, _> =
        state.snapshot.stats.rules.iter().map(|rule| (rule.id, rule)).collect();
    state.snapshot.rules.rules.iter().map(move |rule| (rule, stats.get(&rule.id).copied()))
}

pub(super) fn rules(state: &State) -> Table {
    let mut columns =
        vec![Column::text("RULE", 16, 1), Column::text("STATE", 7, 0), Column::text("INPUT", 22, 2)];
    columns.extend(rate_columns(state.window));
    columns.push(Column::number("/frame", 6).from(110));
    columns.push(Column::number("sent/s", 6).from(100));
    columns.push(Column::number("drop/s", 6));
    columns.push(Column { right: true, ..Column::text("TREND", 8, 5) });
    let rows = paired(state).map(|(rule, stats)| {
        let input = &rule.input;
        let over = |window| state.measured.rule(rule.id, window);
        let now = over(state.window);
        let mut cells = vec![
            Cell::text(rule_title(rule.id, rule.name.as_ref())),
            rule_state(rule),
            Cell::text(place(&input.interface, input.group, input.port)),
        ];
        cells.extend(rates(now, over(state.window.other())));
        let per_frame = stats.map(|stats| stats.per_frame).filter(|mean| *mean > 0.0);
        cells.push(per_frame.map_or_else(Cell::unknown, |mean| Cell::number(mean, format!("{mean:.1}"))));
        let sent = stats.and_then(|stats| state.measured.outputs_of(stats, state.window));
        cells.push(Cell::rate(sent.map(|flow| flow.datagrams)));
        cells.push(Cell::rate(now.map(|flow| flow.drops)).bad_above_zero());
        cells.push(Cell::trend(state.measured.rule_trend(rule.id), None));
        Row { key: rule.id.to_string(), rule: Some(rule.id), cells }
    });
    Table { columns, rows: rows.collect(), empty: "no rules: `mcrctl add` adds one" }
}

/// A rule's state; with a mark if one of its outputs does not work although the rule does.
fn rule_state(rule: &RuleStatus) -> Cell {
    let flawed = rule.reason.is_some() || rule.outputs.iter().any(|output| output.state != RuleState::Active);
    if rule.state == RuleState::Active && flawed {
        return Cell::text(format!("{}!", rule.state.name())).tone(Tone::Warn);
    }
    Cell::text(rule.state.name()).tone(state_tone(rule.state))
}

pub(super) fn outputs(state: &State) -> Table {
    let mut columns = vec![Column::text("RULE", 13, 1)];
    columns.extend(output_columns(state.window));
    let rows = paired(state).flat_map(|(rule, stats)| {
        output_rows(state, rule, stats).map(move |mut row| {
            row.cells.insert(0, Cell::text(rule_title(rule.id, rule.name.as_ref())));
            row
        })
    });
    Table { columns, rows: rows.collect(), empty: "no outputs: there are no rules" }
}

/// The outputs of one rule.
pub(in crate::top) fn rule_outputs(state: &State, rule: &RuleStatus) -> Table {
    let stats = state.snapshot.stats.rules.iter().find(|stats| stats.id == rule.id);
    let mut columns = output_columns(state.window);
    columns.splice(2..2, [Column::number("TTL", 9), Column::number("DSCP", 4)]);
    let rows = output_rows(state, rule, stats).zip(&rule.outputs).map(|(mut row, output)| {
        let options = output.options;
        row.cells.splice(2..2, [Cell::text(options.ttl.to_string()), Cell::text(options.dscp.to_string())]);
        row
    });
    Table { columns, rows: rows.collect(), empty: "no outputs" }
}

fn output_columns(window: Window) -> Vec<Column> {
    let mut columns = vec![Column::text("OUTPUT", 24, 2), Column::text("STATE", 7, 0)];
    columns.extend(rate_columns(window));
    columns.extend([
        Column::number("drop/s", 6),
        Column::number("SENT", 6).from(100),
        Column::number("DROPS", 6),
        Column::text("REASON", 12, 5).from(100),
    ]);
    columns
}

fn output_rows<'a>(
    state: &'a State,
    rule: &'a RuleStatus,
    stats: Option<&'a RuleStats>,
) -> impl Iterator<Item = Row> + 'a {
    rule.outputs.iter().enumerate().map(move |(n, output)| {
        let place = place(&output.interface, output.group, output.port);
        let key = (rule.id, n, place.clone());
        let now = state.measured.output(&key, state.window);
        let counted = stats.and_then(|stats| stats.outputs.get(n));
        let mut cells =
            vec![Cell::text(&place), Cell::text(output.state.name()).tone(state_tone(output.state))];
        cells.extend(rates(now, state.measured.output(&key, state.window.other())));
        cells.extend([
            Cell::rate(now.map(|flow| flow.drops)).bad_above_zero(),
            counted.map_or_else(Cell::unknown, |counted| Cell::count(counted.packets)),
            counted.map_or_else(Cell::unknown, |counted| Cell::count(counted.errors).bad_above_zero()),
            Cell::text(why(output, counted)),
        ]);
        Row { key: format!("{} {n} {place}", rule.id), rule: Some(rule.id), cells }
    })
}

/// Why an output does not work, or what its last failed send said.
fn why(output: &OutputStatus, counted: Option<&OutputStats>) -> String {
    let failed = counted.filter(|counted| counted.errors > 0);
    let last = failed.and_then(|counted| counted.last_error.clone());
    output.reason.clone().or(last).unwrap_or_default()
}
