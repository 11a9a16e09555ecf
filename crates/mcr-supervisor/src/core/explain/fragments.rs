//! Datagrams that arrived in fragments and were not put together.

use mcr_control::explanation::{Finding, FindingId, Severity};
use mcr_link::reason::SkipReason;

use super::Account;
use super::facts::Subject;
use super::words::{count, datagrams, list, time};

/// Why datagrams were given up, and the words for it.
const REASONS: [(SkipReason, &str); 4] = [
    (SkipReason::FragmentIncomplete, "incomplete after a second"),
    (SkipReason::FragmentOverlap, "with fragments that overlap"),
    (SkipReason::FragmentEvicted, "that gave way to newer ones"),
    (SkipReason::FragmentInvalid, "with fragments of impossible length"),
];

pub(super) fn examine(subject: &Subject<'_>, account: &mut Account) {
    let name = &subject.rule.input.interface;
    let of_last = REASONS.map(|(reason, _)| reason);
    let last = subject.recent_skip().filter(|(last, _)| of_last.contains(&last.reason));
    let lost = |how: &dyn Fn(SkipReason) -> u64| {
        REASONS.map(|(reason, words)| (how(reason), words)).into_iter().filter(|(n, _)| *n > 0).collect()
    };
    let now: Vec<(u64, &str)> = lost(&|reason| subject.skipped(reason));
    let (by_reason, when) = match (now.is_empty(), &last) {
        (false, _) => (now, subject.meanwhile()),
        (true, Some(_)) => (lost(&|reason| subject.skipped_so_far(reason)), "so far".to_owned()),
        (true, None) => return,
    };
    let all: u64 = by_reason.iter().map(|(n, _)| n).sum();
    let reasons = list(by_reason.into_iter().map(|(n, words)| format!("{} {words}", count(n))));
    let from =
        last.as_ref().map(|(last, ago)| format!("; the last from {}, {} ago", last.source, time(*ago)));
    let words = format!(
        "{} for the rule arrived on {name} in fragments and were lost {when}: {reasons}{}",
        datagrams(all),
        from.unwrap_or_default()
    );
    let arrives = subject.packets() > 0 || subject.has_relayed();
    let finding = Finding::new(FindingId::FragmentsLost, words)
        .severity(if arrives { Severity::Warning } else { Severity::Error })
        .with("datagrams", all)
        .hint(
            "fragments are lost on the path or in the receive buffer (`kernel_drops`), or arrive through several queues of the interface; datagrams that fit the MTU avoid it",
        );
    account.find(match last {
        Some((last, _)) => finding.with("source", last.source.to_string()),
        None => finding,
    });
}
