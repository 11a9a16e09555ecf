//! Upstream loss, from the stream's sequence numbers, for rules with `stream`.

use mcr_control::explanation::{Finding, FindingId};
use mcr_rules::StreamFormat;

use super::Account;
use super::facts::Subject;
use super::words::{count, counted, datagrams};

pub(super) fn examine(subject: &Subject<'_>, account: &mut Account) {
    let Some(kind) = subject.rule.options.stream else { return };
    let name = &subject.rule.input.interface;
    let found = subject.health();
    let format = match kind {
        StreamFormat::Rtp => "RTP",
        StreamFormat::MpegTs => "an MPEG transport stream",
    };
    if found.malformed > 0 {
        let share = if found.malformed == found.checked { "none" } else { "not all" };
        let words = format!(
            "{share} of the {} {} are {format}, as the rule's `stream` says: {} are something else",
            datagrams(found.checked),
            subject.meanwhile(),
            count(found.malformed),
        );
        account.find(
            Finding::new(FindingId::OtherFormat, words)
                .with("malformed", found.malformed)
                .with("checked", found.checked)
                .hint("correct the rule's `stream`, or check the sender; they are relayed nevertheless"),
        );
    }
    let words = match kind {
        StreamFormat::Rtp if found.lost > 0 => format!(
            "{} of {} lost upstream, {}",
            count(found.lost),
            counted(found.lost + found.checked, "RTP packet"),
            subject.meanwhile()
        ),
        StreamFormat::MpegTs if found.continuity > 0 => format!(
            "{} of the transport stream {}: packets were lost upstream",
            counted(found.continuity, "continuity error"),
            subject.meanwhile()
        ),
        _ => return,
    };
    account.find(
        Finding::new(FindingId::StreamLoss, words)
        .with("lost", found.lost)
        .with("continuity_errors", found.continuity)
        .with("reordered", found.reordered)
        .with("duplicates", found.duplicates)
        .with("checked", found.checked)
        .hint(format!("lost on the path from the sender, or in the receive buffer if queue_overflow is reported, too: check the switches' counters and `ethtool -S {name}`; `mcrctl flows` shows the affected sender")),
    );
}
