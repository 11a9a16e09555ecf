//! `explain`, `doctor`.

use std::time::Duration;

use mcr_control::explanation::ExplainReply;
use mcr_control::method::Explain;
use mcr_control::method::parameter::{Ranged, RuleFilter, RuleSelector};

use super::{Daemon, Outcome};
use crate::explanation;
use crate::failure::CommandFailure;
use crate::screen::Screen;

/// The rule that the operator names.
pub(super) fn select(rule: &str) -> Result<RuleSelector, CommandFailure> {
    rule.parse().map_err(|error| CommandFailure::new(error).hint("`mcrctl list` shows the ids and names"))
}

pub(super) fn rule(daemon: &Daemon, screen: &Screen, rule: &str, listen: Duration) -> Outcome {
    let reply = explain(daemon, select(rule)?.into(), listen)?;
    screen.show(&reply, || explanation::rules(&reply))
}

pub(super) fn doctor(daemon: &Daemon, screen: &Screen, listen: Duration) -> Outcome {
    let reply = explain(daemon, RuleFilter::default(), listen)?;
    screen.show(&reply, || explanation::doctor(&reply))
}

fn explain(daemon: &Daemon, rule: RuleFilter, listen: Duration) -> Result<ExplainReply, CommandFailure> {
    let listen_ms = u64::try_from(listen.as_millis()).unwrap_or(u64::MAX);
    Ok(daemon.connect()?.call(&Explain { rule, listen_ms: Some(Ranged::clamp(listen_ms)) })?)
}
