//! Faults of datagrams that would otherwise match a rule.

use mcr_control::explanation::{Finding, FindingId, Severity};
use mcr_link::observation::Flow;
use mcr_link::reason::SkipReason;

use super::super::Account;
use super::super::facts::Subject;
use super::super::words::{count, counted, time};
use super::{Seen, frames, sources};

/// Faults of datagrams that would otherwise match the rule.
pub(super) fn faults(subject: &Subject<'_>, seen: &Seen<'_>, account: &mut Account) {
    let name = &subject.rule.input.interface;
    let sum = |counter: fn(&Flow) -> u64| seen.ours.iter().map(|flow| counter(flow)).sum::<u64>();
    let kinds: [(FindingId, &[SkipReason], u64, &str, &str); 4] = [
        (
            FindingId::Fragments,
            &[SkipReason::Fragment],
            if subject.rule.input.options.reassemble { 0 } else { sum(|flow| flow.fragments) },
            "are fragments, which are not put together (`reassemble: false`)",
            "without `reassemble: false` on the rule's input they are put together and relayed; or make the sender's datagrams smaller (ST 2110, RTP and MPEG-TS senders have a setting), or raise the MTU",
        ),
        (
            FindingId::BadChecksum,
            &[SkipReason::BadChecksum],
            sum(|flow| flow.bad_checksums),
            "have a wrong checksum; relaying would give corrupt data a valid one",
            "a faulty link, switch or sender: check the error counters of the ports on the path (ethtool -S)",
        ),
        (
            FindingId::TtlZero,
            &[SkipReason::TtlZero],
            sum(|flow| flow.ttl_zero),
            "have TTL 0 and must not be forwarded",
            "raise the TTL at the sender; it expires on the path",
        ),
        (
            FindingId::Malformed,
            &[SkipReason::BadLength, SkipReason::BadHeader, SkipReason::Truncated],
            sum(|flow| flow.malformed),
            "have inconsistent lengths or headers",
            "capture some with `tcpdump -w` and check the sender",
        ),
    ];
    for (id, skips, seen_frames, what, hint) in kinds {
        let observed = !seen.ours.is_empty();
        let counted_frames = skips.iter().map(|skip| subject.skipped(*skip)).sum::<u64>().max(seen_frames);
        if counted_frames == 0 {
            account
                .findings
                .extend(earlier_fault(subject, id, skips, what).map(|finding| finding.hint(hint)));
            continue;
        }
        let all = frames(&seen.ours).max(counted_frames);
        let whose = if observed { format!(" from {}", sources(&seen.ours)) } else { String::new() };
        let words = format!(
            "{} of {} that arrived on {name}{whose} {what}",
            count(counted_frames),
            counted(all, "frame")
        );
        account.find(
            Finding::new(id, words)
                .severity(if subject.packets() == 0 { Severity::Error } else { Severity::Warning })
                .with("frames", counted_frames)
                .with("of_frames", all)
                .hint(hint),
        );
    }
}

/// Faults that were counted before the interval, the last of them recently.
fn earlier_fault(subject: &Subject<'_>, id: FindingId, skips: &[SkipReason], what: &str) -> Option<Finding> {
    let (last, ago) = subject.recent_skip().filter(|(last, _)| skips.contains(&last.reason))?;
    let n = skips.iter().map(|skip| subject.skipped_so_far(*skip)).sum::<u64>();
    let words = format!(
        "{} for the rule {what}; the last arrived {} ago from {}",
        counted(n, "frame"),
        time(ago),
        last.source
    );
    Some(
        Finding::new(id, words)
            .severity(if subject.has_relayed() { Severity::Warning } else { Severity::Error })
            .with("frames", n)
            .with("source", last.source.to_string())
            .with("ago_ms", u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
    )
}
