//! Whether input interfaces merge received datagrams, and what keeps them from it.

use mcr_control::explanation::{Finding, FindingId};
use mcr_control::reply::{AggregationReason, AggregationStatus};
use mcr_rules::AggregateChoice;

use super::super::facts::Facts;
use super::super::words::list;
use super::Draft;
use crate::core::aggregation::{command, words};

pub(super) fn examine(facts: &Facts<'_>, draft: &mut Draft) {
    let choice = facts.config.settings.aggregate;
    let statuses: Vec<_> = facts.aggregation.statuses().collect();
    let found =
        statuses.iter().filter_map(|(_, name, status)| finding(facts, name, *status, choice)).collect();
    let told = list(statuses.iter().map(|(_, name, status)| {
        format!("{name}: {} ({})", if status.on { "on" } else { "off" }, status.reason)
    }));
    let told =
        if told.is_empty() { "there is no input interface that merges frames".to_owned() } else { told };
    let super_frames = match facts.host.super_frames {
        Some(false) => {
            "this kernel loses UDP super-frames (Linux before 6.2), and super_frame_lost counts them"
        }
        Some(true) | None => "super-frames are split into their datagrams",
    };
    draft.topic("aggregation", found, format!("{told}; {super_frames}"));
}

fn finding(
    facts: &Facts<'_>,
    name: &str,
    status: AggregationStatus,
    choice: AggregateChoice,
) -> Option<Finding> {
    let command = command(name);
    let (id, hint) = match status.reason {
        AggregationReason::NotPermitted => (
            FindingId::AggregationNotPermitted,
            format!("`{command}`, at every boot; or give mcrd CAP_NET_ADMIN; or settings.aggregate: \"off\""),
        ),
        AggregationReason::KernelTooOld => {
            (FindingId::AggregationUnsupported, format!("Linux 6.2 or newer; this is {}", facts.host.kernel))
        }
        AggregationReason::Unsupported => {
            (FindingId::AggregationUnsupported, format!("`{command}` shows the error of the device"))
        }
        AggregationReason::Operator if !status.on && choice != AggregateChoice::Off => (
            FindingId::AggregationOverridden,
            format!(
                "`{command}`; mcrd decides again once the interface has had no rule for a moment, or settings.aggregate has changed"
            ),
        ),
        _ => return None,
    };
    let finding = Finding::new(id, words(name, status.on, status.reason));
    Some(finding.with("interface", name).with("aggregate", choice.name()).hint(hint))
}
