//! What the streams of rules that ask for it tell of loss before this host.

use mcr_control::reply::{HealthStats, RuleStats, StatsReply};

use super::rule_title;
use crate::table::Align::{Left, Right};
use crate::table::{Column, Table};

/// A line for each rule whose stream is checked.
pub(super) fn table(reply: &StatsReply) -> Table {
    let columns: &[Column<(String, HealthStats)>] = &[
        ("STREAM", Left, |(rule, _)| rule.clone()),
        ("CHECKED", Right, |(_, health)| health.checked.to_string()),
        ("LOST", Right, |(_, health)| health.lost.to_string()),
        ("REORDERED", Right, |(_, health)| health.reordered.to_string()),
        ("DUPLICATES", Right, |(_, health)| health.duplicates.to_string()),
        ("JITTER", Right, |(_, health)| {
            format!("{}.{:03} ms", health.jitter_us / 1_000, health.jitter_us % 1_000)
        }),
        ("CONTINUITY ERRORS", Right, |(_, health)| health.continuity_errors.to_string()),
        ("MALFORMED", Right, |(_, health)| health.malformed.to_string()),
    ];
    let title = |rule: &RuleStats| rule_title(rule.id, rule.name.as_ref());
    let checked: Vec<_> = reply.rules.iter().filter_map(|rule| Some((title(rule), rule.health?))).collect();
    Table::of(&checked, columns)
}
