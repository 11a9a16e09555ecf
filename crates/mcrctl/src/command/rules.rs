//! `add`, `remove`, `list`.

use mcr_control::method::parameter::RuleSelector;
use mcr_control::method::{AddRule, ListRules, RemoveRule};
use mcr_control::reply::{RulesReply, StatusReply};
use mcr_rules::{Input, Rule, RuleOptions};
use serde::Serialize;

use super::{Daemon, Outcome, print_notices};
use crate::arguments::{AddArguments, RemoveArguments};
use crate::failure::CommandFailure;
use crate::render;
use crate::screen::Screen;

pub(super) fn add(daemon: &Daemon, screen: &Screen, arguments: AddArguments) -> Outcome {
    let mut sources = arguments.source;
    sources.sort_unstable();
    sources.dedup();
    let rule = Rule {
        name: arguments.name,
        input: Input {
            interface: arguments.input_interface,
            group: arguments.input_group,
            port: arguments.input_port,
            sources,
        },
        outputs: arguments.outputs,
        options: RuleOptions { max_pps: arguments.max_pps, stream: arguments.stream },
    };
    let reply = daemon
        .connect()?
        .call(&AddRule { rule: rule.into() })
        .map_err(|error| CommandFailure::client(error, Some("rule")))?;
    screen.show(&reply, || format!("{}\n", reply.id))
}

pub(super) fn remove(daemon: &Daemon, screen: &Screen, arguments: RemoveArguments) -> Outcome {
    let RemoveArguments { id, name } = arguments;
    let rule = id.map(RuleSelector::Id).or(name.map(RuleSelector::Name));
    let rule = rule.ok_or_else(|| CommandFailure::new("--id or --name is needed"))?;
    let reply = daemon.connect()?.call(&RemoveRule { rule })?;
    screen.show(&reply, || format!("{}\n", reply.id))
}

/// The result of `list --json`.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    rules: RulesReply,
    #[serde(flatten)]
    status: StatusReply,
}

pub(super) fn list(daemon: &Daemon, screen: &Screen) -> Outcome {
    let mut client = daemon.connect()?;
    let rules = client.call(&ListRules {})?;
    let status = client.status()?;
    if !screen.json {
        print_notices(screen, &status);
    }
    let listed = Listed { rules, status };
    screen.show(&listed, || render::rules(&listed.rules))
}
