//! `add`, `remove`, `list`.

use mcr_control::method::parameter::RuleSelector;
use mcr_control::method::{AddRule, ListRules, RemoveRule};
use mcr_control::reply::{RuleState, RuleStatus, RulesReply, StatusReply};
use mcr_rules::{Input, InputOptions, Merge, MergeOptions, Output, Rule, RuleOptions};
use serde::Serialize;

use super::{Daemon, Outcome, print_notices, resolve_altnames};
use crate::arguments::{AddArguments, RemoveArguments};
use crate::failure::{CommandFailure, printable};
use crate::output_list::InterfaceError;
use crate::render;
use crate::screen::Screen;

pub(super) fn add(daemon: &Daemon, screen: &Screen, arguments: AddArguments) -> Outcome {
    let failed = |error| interface_failure(daemon, &error);
    let interface = arguments.input_interface.map_err(failed)?;
    let outputs: Vec<_> =
        arguments.outputs.into_iter().map(|list| list.0).collect::<Result<_, _>>().map_err(failed)?;
    let legs: Vec<_> =
        arguments.leg.into_iter().map(|list| list.0).collect::<Result<_, _>>().map_err(failed)?;
    let (window_ms, order) = (arguments.window_ms, arguments.order);
    let merge = arguments.merge.map(|by| Merge {
        more: legs.into_iter().flatten().map(|leg| leg_of(&leg)).collect(),
        options: MergeOptions { by, window_ms, order },
    });
    let mut sources = arguments.source;
    sources.sort_unstable();
    sources.dedup();
    let rule = Rule {
        name: arguments.name,
        input: Input {
            interface,
            group: arguments.input_group,
            port: arguments.input_port,
            sources,
            options: InputOptions {
                promiscuous: arguments.promiscuous,
                local: arguments.local,
                hold_port: !arguments.no_hold_port,
                reassemble: !arguments.no_reassemble,
            },
        },
        merge,
        outputs: outputs.into_iter().flatten().collect(),
        options: RuleOptions { max_pps: arguments.max_pps, stream: arguments.stream },
        engine: None,
    };
    let mut client = daemon.connect()?;
    let reply = client
        .call(&AddRule { rule: rule.into() })
        .map_err(|error| CommandFailure::client(error, Some("rule")))?;
    let rules = client.call(&ListRules {})?.rules;
    let Some(added) = rules.into_iter().find(|rule| rule.id == reply.id) else {
        return screen.show(&reply, || format!("{}\n", reply.id));
    };
    not_relaying(&added).iter().for_each(|what| screen.say(format_args!("notice: {}", printable(what))));
    screen.show(&added, || format!("{}\n", reply.id))
}

/// A leg that was given in the form of an output.
fn leg_of(place: &Output) -> Input {
    let Output { interface, group, port, .. } = place;
    Input {
        interface: interface.clone(),
        group: *group,
        port: *port,
        sources: Vec::new(),
        options: InputOptions::default(),
    }
}

/// The failure for a name that is too long for an interface, with the interface that it means.
fn interface_failure(daemon: &Daemon, error: &InterfaceError) -> CommandFailure {
    let mut errors = [error.to_config_error()];
    resolve_altnames(daemon, &mut errors);
    let [error] = errors;
    error.hint.into_iter().fold(CommandFailure::usage(&error.message), CommandFailure::hint)
}

/// What of a rule does not relay, and why.
pub(super) fn not_relaying(rule: &RuleStatus) -> Vec<String> {
    let name = rule.name.as_ref().map_or_else(|| rule.id.to_string(), ToString::to_string);
    let because =
        |reason: &Option<String>| reason.as_deref().map_or_else(String::new, |why| format!(": {why}"));
    if rule.state != RuleState::Active {
        return vec![format!("{name} is {}{}", rule.state.name(), because(&rule.reason))];
    }
    let outputs = rule.outputs.iter().filter(|output| output.state != RuleState::Active);
    let words = outputs.map(|output| {
        let address = std::net::SocketAddr::new(output.group, output.port);
        format!(
            "{name}: the output {address} on {} is {}{}",
            output.interface,
            output.state.name(),
            because(&output.reason)
        )
    });
    words.collect()
}

pub(super) fn remove(daemon: &Daemon, screen: &Screen, arguments: RemoveArguments) -> Outcome {
    let RemoveArguments { id, name } = arguments;
    let rule = id.map(RuleSelector::Id).or(name.map(RuleSelector::Name));
    let rule = rule.ok_or_else(|| CommandFailure::new("--id or --name is needed"))?;
    daemon.show(screen, &RemoveRule { rule }, |reply| format!("{}\n", reply.id))
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
