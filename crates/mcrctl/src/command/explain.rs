//! `explain`, `doctor`.

use std::time::Duration;

use mcr_control::method::Explain;
use mcr_rules::{RuleId, RuleName};

use super::{Daemon, Outcome};
use crate::explanation;
use crate::failure::CommandFailure;
use crate::screen::Screen;

/// An id if it reads as one, else a name: names that look like ids are found by `--json` and the id.
#[derive(Clone, Debug)]
pub(super) struct Selected {
    pub(super) id: Option<RuleId>,
    pub(super) name: Option<RuleName>,
}

pub(super) fn select(rule: &str) -> Result<Selected, CommandFailure> {
    let (id, name) = match (rule.parse().ok(), rule.parse().ok()) {
        (Some(id), _) => (Some(id), None),
        (None, Some(name)) => (None, Some(name)),
        (None, None) => {
            return Err(CommandFailure::new(format_args!("{rule:?} is neither an id nor a name"))
                .hint("`mcrctl list` shows the ids and names"));
        }
    };
    Ok(Selected { id, name })
}

pub(super) fn rule(daemon: &Daemon, screen: &Screen, rule: &str, listen: Duration) -> Outcome {
    let Selected { id, name } = select(rule)?;
    let reply = daemon.connect()?.call(&Explain { id, name, listen_ms: Some(milliseconds(listen)) })?;
    screen.show(&reply, || explanation::rules(&reply))
}

pub(super) fn doctor(daemon: &Daemon, screen: &Screen, listen: Duration) -> Outcome {
    let listen_ms = Some(milliseconds(listen));
    let reply = daemon.connect()?.call(&Explain { id: None, name: None, listen_ms })?;
    screen.show(&reply, || explanation::doctor(&reply))
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
