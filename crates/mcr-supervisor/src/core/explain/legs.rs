//! The legs of a merged rule: each is walked from its interface to the merge, as the input of a rule of its own.

use mcr_control::explanation::{Finding, FindingId, Severity, Stage};
use mcr_rules::{Merge, Rule};

use super::facts::Subject;
use super::words::datagrams;
use super::{Account, arrival, input};
use crate::core::plan::PlannedRule;

/// Examines each leg. A leg that delivers nothing is no error while another one delivers.
pub(super) fn examine(subject: &Subject<'_>, merge: &Merge, account: &mut Account) {
    let inputs: Vec<_> = subject.rule.inputs().cloned().collect();
    let legs: Vec<(Account, String)> = inputs
        .into_iter()
        .enumerate()
        .map(|(index, input)| {
            let name = format!("leg {} ({input})", index + 1);
            let rule = Rule { merge: None, input, ..subject.rule.clone() };
            let planned = planned_leg(subject, index, &rule);
            let leg = Subject::of_leg(subject.facts, &rule, &planned, index);
            let mut account = Account::default();
            input::examine(&leg, &mut account);
            input::examine_join(&leg, &mut account);
            arrival::examine(&leg, &mut account);
            (account, name)
        })
        .collect();
    let fails = |account: &Account| account.worst_of(|_| true) == Some(Severity::Error);
    let one_works = legs.iter().any(|(account, _)| !fails(account));
    for (leg, name) in legs {
        for mut finding in leg.findings {
            if one_works {
                finding.severity = finding.severity.min(Severity::Warning);
            }
            finding.words = format!("{name}: {}", finding.words);
            account.find(finding);
        }
        let told = leg.known.into_iter().filter(|(.., words)| !words.is_empty());
        account.known.extend(
            told.map(|(stage, state, words)| {
                (stage, state.filter(|_| !one_works), format!("{name}: {words}"))
            }),
        );
    }
    merged(subject, merge, account);
}

/// The plan of a leg by itself.
fn planned_leg(subject: &Subject<'_>, index: usize, rule: &Rule) -> PlannedRule {
    let planned = subject.planned;
    let link = subject.facts.network.link(rule.input.interface.as_str());
    let ifindex = link.map(|link| link.ifindex);
    let ready = planned.legs.get(index).cloned().unwrap_or_else(|| planned.input.clone());
    PlannedRule {
        input: ready,
        legs: Vec::new(),
        installed: planned.installed.clone().filter(|_| link.is_some()),
        memberships: planned
            .memberships
            .iter()
            .filter(|membership| Some(membership.ifindex) == ifindex && membership.group == rule.input.group)
            .copied()
            .collect(),
        absorber: planned.absorbers().find(|absorber| {
            Some(absorber.ifindex) == ifindex
                && (absorber.address, absorber.port) == (rule.input.group, rule.input.port)
        }),
        more_absorbers: Vec::new(),
        ..planned.clone()
    }
}

/// What the merge itself shows.
fn merged(subject: &Subject<'_>, merge: &Merge, account: &mut Account) {
    let Some(moved) = subject.merged() else { return };
    let window_ms = merge.options.window_ms;
    for (number, (leg, input)) in (1_u32..).zip(moved.legs.iter().zip(subject.rule.inputs())) {
        if leg.too_late > 0 {
            let words = format!(
                "leg {number} ({input}): {} {} came after the window of {window_ms} ms",
                datagrams(leg.too_late),
                subject.meanwhile()
            );
            account.find(
                Finding::new(FindingId::LegLate, words)
                    .with("too_late", leg.too_late)
                    .with("skew_us", leg.skew_us)
                    .hint("raise `window_ms` above the delay between the legs, or shorten the longer path"),
            );
        }
    }
    if moved.differing > 0 {
        let words = format!("copies have different payloads {}", subject.meanwhile());
        account.find(
            Finding::new(FindingId::LegsDiffer, words)
                .with("differing", moved.differing)
                .hint("the legs carry different streams under the same numbers: compare their senders"),
        );
    }
    if moved.lost > 0 {
        let words = format!("{} missing on all legs {}", datagrams(moved.lost), subject.meanwhile());
        account.find(
            Finding::new(FindingId::LegsLost, words)
                .with("lost", moved.lost)
                .hint("the legs lose at the same time: look for what their paths have in common"),
        );
    }
    let skews = moved.legs.iter().zip(subject.rule.inputs()).map(|(leg, _)| leg.skew_us).max();
    let words = format!("{}, legs {} µs apart", merge.options, skews.unwrap_or_default());
    account.know(Stage::Match, words);
}
