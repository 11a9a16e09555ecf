//! Super-frames that the kernel discarded when the worker read them (decision 025).

use mcr_control::explanation::{Finding, FindingId, Severity};
use mcr_link::reason::SkipReason;

use super::Account;
use super::facts::Subject;
use super::words::counted;

/// Super-frames that the kernel discarded, in the interval or before. They can't be assigned to a rule: every rule of the
/// interface tells of them.
pub(super) fn examine(subject: &Subject<'_>, account: &mut Account) {
    let place = SkipReason::SuperFrameLost.index();
    let now: u64 = subject.workers().map(|(_, worker)| worker.skips[place]).sum();
    let so_far: u64 = subject.workers_so_far().map(|worker| worker.skips[place]).sum();
    let (lost, when, severity) = match (now, so_far) {
        (_, 0) => return,
        (0, _) if subject.has_relayed() => (so_far, "so far".to_owned(), Severity::Note),
        (0, _) => (so_far, "so far".to_owned(), Severity::Warning),
        _ if subject.packets() == 0 => (now, subject.meanwhile(), Severity::Error),
        _ => (now, subject.meanwhile(), Severity::Warning),
    };
    let name = &subject.rule.input.interface;
    let words = format!(
        "{} of several datagrams each, for this rule or another one, arrived on {name} and were lost {when}: this kernel can't give UDP super-frames to a packet socket (Linux before 6.2)",
        counted(lost, "frame"),
    );
    account.find(
        Finding::new(FindingId::SuperFramesLost, words)
            .severity(severity)
            .with("frames", lost)
            .with("frames_so_far", so_far)
            .with("kernel", subject.facts.host.kernel.clone())
            .hint(format!(
                "a sender in a container or namespace of this host segments: there, `ethtool -K IF tx-udp-segmentation off` on its interface; or {name} merges: `ethtool -K {name} rx-udp-gro-forwarding off rx-gro-list off`; or Linux 6.2 or newer"
            )),
    );
}
