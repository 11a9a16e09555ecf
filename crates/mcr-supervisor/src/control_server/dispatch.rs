//! From a call to a request, and from an answer to a reply. Pure.

use std::path::PathBuf;
use std::time::Duration;

use mcr_control::failure::{Failure, FailureKind};
use mcr_control::message::{Call, CallError, Reply as WireReply, encode_reply};
use mcr_control::method::DiffEnvelope;
use mcr_control::reply::{CheckReply, DiffReply, VersionReply};
use mcr_control::trace::{
    DEFAULT_TRACE_RECORDS, DEFAULT_TRACE_S, MAX_TRACE_RECORDS, MAX_TRACE_S, MAX_TRACE_SAMPLE,
};
use mcr_control::{
    DESCRIPTION, INTERFACE, MAX_CONFIRM_S, MAX_LISTEN_MS, PROTOCOL_VERSION, SERVICE_DESCRIPTION,
    SERVICE_INTERFACE, versions_agree,
};
use mcr_link::log::FACILITIES;
use mcr_rules::file;
use serde_json::json;

use super::access::Right;
use super::arguments::{Arguments, invalid};
use crate::core::trace::TraceOptions;
use crate::request::{Reply, Request, RuleSelector};

/// The daemon's version: all crates share one.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long `Explain` looks if nobody says.
const DEFAULT_LISTEN: Duration = Duration::from_secs(2);

/// What a call leads to.
#[derive(Debug)]
pub(super) enum Step {
    /// The reply is known.
    Answered(WireReply),
    /// The daemon's loop is asked once.
    Ask(Request),
    /// The daemon's loop is asked again and again, and each answer is sent.
    Watch(Request),
    /// The daemon's loop is asked for events; they are sent as they come, or only the first.
    Subscribe {
        /// All of them.
        more: bool,
    },
}

/// Works out what to do for a call of a client with this right.
///
/// # Errors
/// The reply that refuses the call.
pub(super) fn dispatch(call: Call, right: Right) -> Result<Step, CallError> {
    let (interface, method) = call.method.rsplit_once('.').unwrap_or(("", &call.method));
    if call.upgrade {
        return Err(invalid("upgrade"));
    }
    match interface {
        INTERFACE => {}
        SERVICE_INTERFACE => {
            permit(right, Right::Read, &call.method)?;
            return service(method, call.parameters).map(Step::Answered);
        }
        #[cfg(any(debug_assertions, feature = "fault-injection"))]
        "io.mcr.Faults" => {
            permit(right, Right::Own, &call.method)?;
            return faults(call);
        }
        _ => return Err(CallError::InterfaceNotFound { interface: interface.to_owned() }),
    }
    let not_found = || CallError::MethodNotFound { method: call.method.clone() };
    permit(right, needed(method).ok_or_else(not_found)?, &call.method)?;
    let mut arguments = Arguments::new(call.parameters);
    let step = match method {
        "GetVersion" => version(&mut arguments)?,
        "CheckConfig" => check(&arguments.text("config")?)?,
        "Subscribe" => Step::Subscribe { more: call.more },
        "GetStats" if call.more => Step::Watch(Request::GetStats),
        "SaveConfig" => Step::Ask(save(&mut arguments, right)?),
        "Upgrade" => Step::Ask(upgrade(&mut arguments, right)?),
        "GetTrace" => Step::Ask(get_trace(&mut arguments, right)?),
        _ => Step::Ask(request(method, &mut arguments)?.ok_or_else(not_found)?),
    };
    arguments.finish()?;
    Ok(step)
}

/// What a method of `io.mcr.Control` takes; `None` if there is no such method.
fn needed(method: &str) -> Option<Right> {
    Some(match method {
        "GetVersion" | "Ping" | "ListRules" | "GetConfig" | "CheckConfig" | "DiffConfig" | "ListWorkers"
        | "ListInterfaces" | "ListMemberships" | "GetStats" | "ListFlows" | "GetStatus" | "Explain"
        | "Subscribe" | "GetTrace" | "GetLogLevels" => Right::Read,
        "AddRule" | "RemoveRule" | "LoadConfig" | "Confirm" | "SaveConfig" | "SetLogLevel" | "Upgrade"
        | "EnableTrace" | "DisableTrace" => Right::Change,
        _ => return None,
    })
}

fn permit(right: Right, needed: Right, what: &str) -> Result<(), CallError> {
    if right >= needed {
        return Ok(());
    }
    Err(Failure::new(FailureKind::PermissionDenied, format!("this user may not call {what}"))
        .with_hint(needed.hint())
        .into())
}

fn request(method: &str, arguments: &mut Arguments) -> Result<Option<Request>, CallError> {
    Ok(Some(match method {
        "Ping" => Request::Ping,
        "AddRule" => {
            let rule = file::parse_rule(&arguments.object("rule")?).map_err(Failure::invalid)?;
            Request::AddRule(Box::new(rule))
        }
        "RemoveRule" => Request::RemoveRule(selector(arguments)?.ok_or_else(|| invalid("id"))?),
        "ListRules" => Request::ListRules,
        "GetConfig" => Request::GetConfig,
        "DiffConfig" => {
            let config = arguments.optional_text("config")?.map(|text| parse(&text)).transpose()?;
            Request::DiffConfig { config }
        }
        "LoadConfig" => Request::LoadConfig {
            config: parse(&arguments.text("config")?)?,
            replace: arguments.flag("replace")?,
            dry_run: arguments.flag("dry_run")?,
            confirm_within: arguments
                .optional_number("confirm_s", 1..=MAX_CONFIRM_S)?
                .map(Duration::from_secs),
        },
        "Confirm" => Request::Confirm { revert: arguments.flag("revert")? },
        "GetStatus" => Request::GetStatus,
        "ListWorkers" => Request::ListWorkers,
        "ListInterfaces" => Request::ListInterfaces,
        "ListMemberships" => Request::ListMemberships,
        "GetStats" => Request::GetStats,
        "ListFlows" => Request::ListFlows { rule: selector(arguments)? },
        "Explain" => Request::Explain {
            rule: selector(arguments)?,
            listen: arguments
                .optional_number("listen_ms", 0..=MAX_LISTEN_MS)?
                .map_or(DEFAULT_LISTEN, Duration::from_millis),
        },
        "EnableTrace" => {
            let rule = selector(arguments)?.ok_or_else(|| invalid("id"))?;
            Request::EnableTrace { rule, options: trace_options(arguments)? }
        }
        "DisableTrace" => Request::DisableTrace { rule: selector(arguments)?.ok_or_else(|| invalid("id"))? },
        "GetLogLevels" => Request::GetLogLevels,
        "SetLogLevel" => Request::SetLogLevel {
            level: arguments.optional("level")?.ok_or_else(|| invalid("level"))?,
            facility: facility(arguments.optional_text("facility")?)?,
        },
        _ => return Ok(None),
    }))
}

fn trace_options(arguments: &mut Arguments) -> Result<TraceOptions, CallError> {
    let sample = arguments.optional_number("sample", 1..=MAX_TRACE_SAMPLE)?.unwrap_or(1);
    let seconds = arguments.optional_number("max_seconds", 1..=MAX_TRACE_S)?.unwrap_or(DEFAULT_TRACE_S);
    Ok(TraceOptions {
        sample: u32::try_from(sample).map_err(|_| invalid("sample"))?,
        drops_only: arguments.flag("drops_only")?,
        max_records: arguments
            .optional_number("max_records", 1..=MAX_TRACE_RECORDS)?
            .unwrap_or(DEFAULT_TRACE_RECORDS),
        max_time: Duration::from_secs(seconds),
    })
}

/// Payload is for those who could send it elsewhere anyway.
fn get_trace(arguments: &mut Arguments, right: Right) -> Result<Request, CallError> {
    Ok(Request::GetTrace {
        rule: selector(arguments)?.ok_or_else(|| invalid("id"))?,
        after: arguments.optional("after")?,
        frames: right >= Right::Change,
    })
}

/// The rule that is meant, by id or by name.
fn selector(arguments: &mut Arguments) -> Result<Option<RuleSelector>, CallError> {
    Ok(match (arguments.optional("id")?, arguments.optional("name")?) {
        (Some(id), None) => Some(RuleSelector::Id(id)),
        (None, Some(name)) => Some(RuleSelector::Name(name)),
        (None, None) => None,
        (Some(_), Some(_)) => return Err(invalid("name")),
    })
}

/// The hidden control of tests, in no description.
#[cfg(any(debug_assertions, feature = "fault-injection"))]
fn faults(call: Call) -> Result<Step, CallError> {
    if call.method != "io.mcr.Faults.Inject" {
        return Err(CallError::MethodNotFound { method: call.method });
    }
    let mut arguments = Arguments::new(call.parameters);
    let request = Request::InjectFault {
        interface: arguments.optional("interface")?.ok_or_else(|| invalid("interface"))?,
        fault: arguments.optional("fault")?.ok_or_else(|| invalid("fault"))?,
    };
    arguments.finish()?;
    Ok(Step::Ask(request))
}

fn parse(text: &str) -> Result<Box<mcr_rules::Config>, CallError> {
    file::parse(text).map(Box::new).map_err(|errors| Failure::invalid(errors).into())
}

fn facility(name: Option<String>) -> Result<Option<String>, CallError> {
    if name.as_deref().is_none_or(|name| FACILITIES.contains(&name)) {
        Ok(name)
    } else {
        Err(invalid("facility"))
    }
}

/// A file anywhere, written by root for a member of group `mcr`, would make that member root.
fn save(arguments: &mut Arguments, right: Right) -> Result<Request, CallError> {
    let path = arguments.optional_text("path")?.map(PathBuf::from);
    if let Some(path) = &path {
        permit(right, Right::Own, "io.mcr.Control.SaveConfig with a path")?;
        if !path.is_absolute() {
            return Err(invalid("path"));
        }
    }
    Ok(Request::SaveConfig { path })
}

/// A program anywhere, run by root for a member of group `mcr`, would make that member root.
fn upgrade(arguments: &mut Arguments, right: Right) -> Result<Request, CallError> {
    let binary = arguments.optional_text("binary")?.map(PathBuf::from);
    if let Some(binary) = &binary {
        permit(right, Right::Own, "io.mcr.Control.Upgrade with a binary")?;
        if !binary.is_absolute() {
            return Err(invalid("binary"));
        }
    }
    Ok(Request::Upgrade { binary })
}

fn version(arguments: &mut Arguments) -> Result<Step, CallError> {
    if let Some(theirs) = arguments.optional_text("protocol")?
        && !versions_agree(PROTOCOL_VERSION, &theirs)
    {
        let message = format!(
            "mcrd {VERSION} speaks version {PROTOCOL_VERSION} of {INTERFACE}, and the client version {theirs:?}"
        );
        return Err(Failure::new(FailureKind::VersionMismatch, message)
            .with_hint("use the mcrctl that came with this mcrd, and restart mcrd after an upgrade")
            .into());
    }
    let reply = VersionReply { mcrd: VERSION.to_owned(), protocol: PROTOCOL_VERSION.to_owned() };
    Ok(Step::Answered(wire(WireReply::of(&reply))?))
}

fn check(text: &str) -> Result<Step, CallError> {
    let reply = match file::parse(text) {
        Ok(config) => {
            CheckReply { rules: u64::try_from(config.rules.len()).unwrap_or(u64::MAX), errors: Vec::new() }
        }
        Err(errors) => CheckReply { rules: 0, errors },
    };
    Ok(Step::Answered(wire(WireReply::of(&reply))?))
}

fn service(method: &str, parameters: mcr_control::message::Parameters) -> Result<WireReply, CallError> {
    let mut arguments = Arguments::new(parameters);
    let reply = match method {
        "GetInfo" => json!({
            "vendor": "MCR",
            "product": "mcrd: userspace multicast relay",
            "version": VERSION,
            "url": "https://varlink.org",
            "interfaces": [SERVICE_INTERFACE, INTERFACE],
        }),
        "GetInterfaceDescription" => match arguments.text("interface")?.as_str() {
            INTERFACE => json!({ "description": DESCRIPTION }),
            SERVICE_INTERFACE => json!({ "description": SERVICE_DESCRIPTION }),
            other => return Err(CallError::InterfaceNotFound { interface: other.to_owned() }),
        },
        _ => return Err(CallError::MethodNotFound { method: format!("{SERVICE_INTERFACE}.{method}") }),
    };
    arguments.finish()?;
    wire(WireReply::of(&reply))
}

/// The bytes of the reply for an answer of the daemon's loop.
///
/// # Errors
/// The value can't be written as JSON.
pub(super) fn reply(answer: Reply, continues: bool) -> Result<Vec<u8>, serde_json::Error> {
    match answer {
        Reply::Done => encode_reply(&json!({}), continues),
        Reply::Rule(value) => encode_reply(&value, continues),
        Reply::Rules(value) => encode_reply(&value, continues),
        Reply::Config(value) => encode_reply(&value, continues),
        Reply::Diff(diff) => encode_reply(&DiffEnvelope { diff }, continues),
        Reply::Loaded(value) => encode_reply(&value, continues),
        Reply::Saved(value) => encode_reply(&value, continues),
        Reply::Status(value) => encode_reply(&value, continues),
        Reply::Workers(value) => encode_reply(&value, continues),
        Reply::Interfaces(value) => encode_reply(&value, continues),
        Reply::Memberships(value) => encode_reply(&value, continues),
        // Told by the connection, event by event.
        Reply::Subscribed(_) => encode_reply(&json!({}), continues),
        Reply::Explained(value) => encode_reply(&*value, continues),
        Reply::Trace(value) => encode_reply(&*value, continues),
        Reply::Stats(value) => encode_reply(&value, continues),
        Reply::Flows(value) => encode_reply(&value, continues),
        Reply::LogLevels(value) => encode_reply(&value, continues),
        Reply::Upgraded(value) => encode_reply(&value, continues),
    }
}

/// How many rules and outputs an answer holds: what its JSON grows with.
pub(super) fn items(answer: &Reply) -> usize {
    match answer {
        Reply::Rules(value) => value.rules.iter().map(|rule| 1 + rule.outputs.len()).sum(),
        Reply::Stats(value) => value.rules.iter().map(|rule| 1 + rule.outputs.len()).sum(),
        Reply::Flows(value) => value.flows.len(),
        Reply::Diff(diff) => changes(diff),
        Reply::Loaded(value) => changes(&value.diff),
        Reply::Memberships(value) => value.memberships.len(),
        Reply::Trace(value) => value.records.len(),
        // Seven stages each.
        Reply::Explained(value) => value.rules.len() * 4,
        _ => 0,
    }
}

fn changes(diff: &DiffReply) -> usize {
    let plain = diff.added.iter().chain(&diff.removed);
    let changed = diff.changed.iter().flat_map(|changed| [&changed.old, &changed.new]);
    plain.chain(changed).map(|rule| 1 + rule.outputs.len()).sum()
}

fn wire(reply: Result<WireReply, serde_json::Error>) -> Result<WireReply, CallError> {
    reply.map_err(|error| {
        Failure::new(FailureKind::Unavailable, format!("the answer can't be written: {error}")).into()
    })
}

#[cfg(test)]
mod tests;
