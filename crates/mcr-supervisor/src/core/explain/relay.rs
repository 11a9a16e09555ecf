//! The worker that relays the rule.

use mcr_control::explanation::{Finding, FindingId, Stage};
use mcr_control::reply::Engine;
use mcr_link::reason::DropReason;

use super::Account;
use super::facts::Subject;
use super::words::{about_limit, datagrams, list, rate};
use crate::core::actual::Process;
use crate::core::status;

pub(super) fn examine(subject: &Subject<'_>, account: &mut Account) {
    let facts = subject.facts;
    dropped(subject, account);
    let Some(interface) = &subject.planned.installed else {
        let why =
            if subject.link.is_none() { "without the interface" } else { "while the input can't receive" };
        account.mark_unknown(Stage::Relay, format!("no worker {why}"));
        return;
    };
    if account.is_stopped_before(Stage::Join) {
        account.mark_unknown(Stage::Relay, "nothing to relay");
        return;
    }
    if let Some(reason) = status::worker_obstacle(subject.planned, interface, facts.plan, facts.actual) {
        let hint = about_limit(&reason).unwrap_or("details in the log: journalctl -u mcrd");
        account.find(
            Finding::new(FindingId::WorkerDown, reason)
                .hint(format!("`mcrctl workers` shows its state; {hint}")),
        );
        return;
    }
    let ours = facts.actual.workers.iter().filter(|(id, _)| id.interface == *interface);
    let workers = ours.map(|(id, worker)| match &worker.process {
        Process::Running { pid, readied, .. } => {
            format!("worker {} core {} (pid {pid}, {})", id.interface.name, id.core, readied.io.name())
        }
        _ => id.to_string(),
    });
    let mut workers = list(workers);
    let reason = facts.actual.kernel.reason(subject.planned);
    if status::engine_of(subject.planned, facts.actual) == Engine::Kernel {
        workers = format!("the kernel, with {workers} for what it leaves,");
    } else if let Some(reason) = reason {
        workers = format!("{workers}, not the kernel ({reason}),");
    }
    match subject.seconds().filter(|_| subject.packets() > 0) {
        Some(seconds) => {
            account.know(Stage::Relay, format!("{workers} relays {}/s", rate(subject.packets(), seconds)));
        }
        None => account.know(Stage::Relay, format!("{workers} has the rule")),
    }
}

/// Drops by the worker itself.
fn dropped(subject: &Subject<'_>, account: &mut Account) {
    let all = |reason: DropReason| subject.outputs().map(|output| output.drops(reason)).sum::<u64>();
    let limited = all(DropReason::RateLimited);
    if limited > 0 {
        let max_pps = subject.rule.options.max_pps.map_or(0, std::num::NonZeroU32::get);
        let words = format!(
            "{} dropped {}: the rule receives more than its max_pps of {max_pps}",
            datagrams(limited),
            subject.meanwhile()
        );
        account.find(
            Finding::new(FindingId::RateLimited, words)
                .with("dropped", limited)
                .with("max_pps", max_pps)
                .hint("raise max_pps, or look for a forwarding loop through another relay"),
        );
    }
    let no_buffer = all(DropReason::NoBuffer);
    if no_buffer > 0 {
        let words = format!(
            "{} dropped {}: the worker had no free send slot",
            datagrams(no_buffer),
            subject.meanwhile()
        );
        account.find(
            Finding::new(FindingId::NoBuffer, words)
                .with("dropped", no_buffer)
                .hint("raise ring_buffers in the settings, or give the interface more cores (`pinning`)"),
        );
    }
    let died = all(DropReason::WorkerDied);
    if died > 0 {
        let words = format!("{} lost {} with a worker that died", datagrams(died), subject.meanwhile());
        account.find(
            Finding::new(FindingId::WorkerDied, words)
                .with("dropped", died)
                .hint("the log has the reason: journalctl -u mcrd; `mcrctl workers` counts restarts"),
        );
    }
}
