//! Outputs of rules.

use std::collections::BTreeMap;
use std::fmt;

use mcr_control::reply::{OutputStats, RuleState};
use mcr_rules::RuleId;

use super::super::families::Families;
use super::super::snapshot::Snapshot;
use super::Value;
use crate::render::{place, rule_title};

pub(super) fn outputs(out: &mut Families, snapshot: &Snapshot) -> fmt::Result {
    // Both replies are in the order of the config. A rule that changed between them has no states.
    let mut states: BTreeMap<RuleId, Vec<RuleState>> = (snapshot.rules.rules.iter())
        .map(|rule| (rule.id, rule.outputs.iter().map(|output| output.state).collect()))
        .collect();
    states.retain(|id, states| {
        let rule = snapshot.stats.rules.iter().find(|rule| rule.id == *id);
        rule.is_some_and(|rule| rule.outputs.len() == states.len())
    });
    let mut all = Vec::new();
    for rule in &snapshot.stats.rules {
        let title = rule_title(rule.id, rule.name.as_ref());
        let mut states = states.get(&rule.id).into_iter().flatten().copied();
        for (label, output) in labelled(&rule.outputs) {
            all.push(([("rule", title.clone()), ("output", label)], output, states.next()));
        }
    }
    let families: [Value<OutputStats>; 3] = [
        ("mcr_output_datagrams", "Datagrams sent on the output.", |output| output.packets),
        ("mcr_output_bytes", "Payload bytes sent on the output.", |output| output.bytes),
        ("mcr_output_replies", "Datagrams that came back to the output's socket.", |output| output.replies),
    ];
    for (name, help, value) in families {
        out.counter(name, help, all.iter().map(|(labels, output, _)| (&labels[..], value(output))))?;
    }
    let drops = all.iter().flat_map(|(labels, output, _)| {
        output.drops.iter().map(move |(reason, n)| ((&labels[..], [("reason", reason)]), *n))
    });
    let help = "Datagrams due on the output that were not sent, by reason.";
    out.counter("mcr_output_drops", help, drops)?;
    let active = all
        .iter()
        .filter_map(|(labels, _, state)| Some((&labels[..], u64::from((*state)? == RuleState::Active))));
    out.gauge("mcr_output_active", "Whether the output can send.", active)
}

/// Returns the outputs of a rule with their labels: of outputs with the same label, the second and later are numbered.
fn labelled(outputs: &[OutputStats]) -> impl Iterator<Item = (String, &OutputStats)> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    outputs.iter().map(move |output| {
        let label = place(&output.interface, output.group, output.port);
        let n = seen.entry(label.clone()).and_modify(|n| *n += 1).or_insert(1);
        (if *n > 1 { format!("{label} #{n}") } else { label }, output)
    })
}
