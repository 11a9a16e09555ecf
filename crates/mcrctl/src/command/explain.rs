//! `explain`, `doctor`.

use std::time::Duration;

use mcr_control::explanation::ExplainReply;
use mcr_control::method::Explain;
use mcr_control::method::parameter::{Ranged, RuleFilter, RuleSelector};

use super::{Daemon, Outcome};
use crate::failure::CommandFailure;
use crate::screen::Screen;

/// The rule that the operator names.
pub(super) fn select(rule: &str) -> Result<RuleSelector, CommandFailure> {
    rule.parse().map_err(|error| CommandFailure::new(error).hint("`mcrctl list` shows the ids and names"))
}

/// Explains the rules, and shows it as `text`.
pub(super) fn explain(
    daemon: &Daemon,
    screen: &Screen,
    rule: RuleFilter,
    listen: Duration,
    text: fn(&ExplainReply) -> String,
) -> Outcome {
    let listen_ms = u64::try_from(listen.as_millis()).unwrap_or(u64::MAX);
    daemon.show(screen, &Explain { rule, listen_ms: Some(Ranged::clamp(listen_ms)) }, text)
}
