//! Maps a call to the step that handles it. Pure.

use mcr_control::failure::{Failure, FailureKind};
use mcr_control::message::{Call, CallError, Parameters, Reply};
use mcr_control::method::parameter::{Parameter, invalid, no_others};
use mcr_control::method::{Request, Right};
use mcr_control::{DESCRIPTION, INTERFACE, SERVICE_DESCRIPTION, SERVICE_INTERFACE};
use serde_json::json;

use super::access::hint;
use crate::request::Called;

/// The handling of a call.
#[derive(Debug)]
pub(super) enum Step {
    /// Reply without the daemon's loop.
    Answered(Reply),
    /// Forward to the daemon's loop.
    Ask(Called),
}

/// Returns the step for a call of a client with this right, or the reply that refuses it.
pub(super) fn dispatch(call: Call, right: Right) -> Result<Step, CallError> {
    let Call { method, parameters, upgrade, .. } = call;
    let (interface, name) = method.rsplit_once('.').unwrap_or(("", &method));
    if upgrade {
        return Err(invalid("upgrade"));
    }
    match interface {
        INTERFACE => {
            let description = Request::METHODS.iter().find(|described| described.name == method);
            let needed = description.map(|described| described.right);
            permit(
                right,
                needed.ok_or_else(|| CallError::MethodNotFound { method: method.clone() })?,
                &method,
            )?;
            let request = Request::read(&method, parameters)?;
            if let Some(parameter) = request.owner_parameter() {
                permit(right, Right::Own, &format!("{method} with a {parameter}"))?;
            }
            Ok(Step::Ask(Called::Method(request)))
        }
        SERVICE_INTERFACE => {
            permit(right, Right::Read, &method)?;
            service(name, parameters).map(Step::Answered)
        }
        #[cfg(any(debug_assertions, feature = "fault-injection"))]
        "io.mcr.Faults" => {
            permit(right, Right::Own, &method)?;
            fault(&method, parameters).map(Step::Ask)
        }
        _ => Err(CallError::InterfaceNotFound { interface: interface.to_owned() }),
    }
}

fn permit(right: Right, needed: Right, what: &str) -> Result<(), CallError> {
    if right >= needed {
        return Ok(());
    }
    Err(Failure::new(FailureKind::PermissionDenied, format!("this user may not call {what}"))
        .with_hint(hint(needed))
        .into())
}

/// The hidden method for tests, absent from the interface description.
#[cfg(any(debug_assertions, feature = "fault-injection"))]
fn fault(method: &str, mut parameters: Parameters) -> Result<Called, CallError> {
    if method != "io.mcr.Faults.Inject" {
        return Err(CallError::MethodNotFound { method: method.to_owned() });
    }
    let mut text = |name| String::take(&mut parameters, name);
    Ok(Called::Fault {
        interface: text("interface")?.parse().map_err(|_| invalid("interface"))?,
        fault: text("fault")?.parse().map_err(|_| invalid("fault"))?,
    })
}

fn service(method: &str, mut parameters: Parameters) -> Result<Reply, CallError> {
    let reply = match method {
        "GetInfo" => json!({
            "vendor": "MCR",
            "product": "mcrd: userspace multicast relay",
            "version": env!("CARGO_PKG_VERSION"),
            "url": "https://varlink.org",
            "interfaces": [SERVICE_INTERFACE, INTERFACE],
        }),
        "GetInterfaceDescription" => match String::take(&mut parameters, "interface")?.as_str() {
            INTERFACE => json!({ "description": DESCRIPTION }),
            SERVICE_INTERFACE => json!({ "description": SERVICE_DESCRIPTION }),
            other => return Err(CallError::InterfaceNotFound { interface: other.to_owned() }),
        },
        _ => return Err(CallError::MethodNotFound { method: format!("{SERVICE_INTERFACE}.{method}") }),
    };
    no_others(&parameters)?;
    Reply::of(&reply).map_err(|error| {
        Failure::new(FailureKind::Unavailable, format!("the answer can't be written: {error}")).into()
    })
}

#[cfg(test)]
mod tests;
