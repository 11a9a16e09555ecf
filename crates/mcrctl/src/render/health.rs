//! What the streams of rules that ask for it tell of loss before this host.

use mcr_control::reply::StatsReply;

use super::rule_title;
use crate::table::Align::{Left, Right};
use crate::table::Table;

/// A line for each rule whose stream is checked.
pub(super) fn table(reply: &StatsReply) -> Table {
    let mut table = Table::new(&[
        ("STREAM", Left),
        ("CHECKED", Right),
        ("LOST", Right),
        ("REORDERED", Right),
        ("DUPLICATES", Right),
        ("JITTER", Right),
        ("CONTINUITY ERRORS", Right),
        ("MALFORMED", Right),
    ]);
    for rule in &reply.rules {
        let Some(health) = rule.health else { continue };
        table.row([
            rule_title(rule.id, rule.name.as_ref()),
            health.checked.to_string(),
            health.lost.to_string(),
            health.reordered.to_string(),
            health.duplicates.to_string(),
            format!("{}.{:03} ms", health.jitter_us / 1_000, health.jitter_us % 1_000),
            health.continuity_errors.to_string(),
            health.malformed.to_string(),
        ]);
    }
    table
}
