//! The rows of each page.

mod glossary;
mod host;
mod streams;

pub(in crate::top) use glossary::meaning;
pub(in crate::top) use streams::rule_outputs;

use super::{State, Tab};
use crate::format::time_of_day;
use crate::top::table::{Cell, Column, Row, Table};
use crate::top::theme::Tone;

/// A page's table, unfiltered, in the daemon's order.
pub(in crate::top) fn table(state: &State, tab: Tab) -> Table {
    match tab {
        Tab::Rules => streams::rules(state),
        Tab::Outputs => streams::outputs(state),
        Tab::Drops => host::reasons(state),
        Tab::Workers => host::workers(state),
        Tab::Interfaces => host::interfaces(state),
        Tab::Groups => host::memberships(state),
        Tab::Events => events(state),
    }
}

fn events(state: &State) -> Table {
    let rows = state.log.newest().map(|event| Row {
        key: event.number.to_string(),
        rule: event.rule,
        cells: vec![
            Cell::text(time_of_day(event.wall)).tone(Tone::Dim),
            Cell::text(&event.text).tone(event.tone),
        ],
    });
    Table {
        columns: vec![Column::text("UTC", 8, 0), Column::text("EVENT", 40, 1)],
        rows: rows.collect(),
        empty: "nothing has happened yet",
    }
}
