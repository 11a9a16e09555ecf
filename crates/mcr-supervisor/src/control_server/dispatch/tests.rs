use mcr_control::method::{GetStats, ListRules, Method};
use serde_json::Value;

use super::*;

fn call(method: &str, parameters: Value) -> Call {
    let Value::Object(parameters) = parameters else { panic!("{parameters}") };
    Call { method: method.to_owned(), parameters, ..Call::default() }
}

fn control(method: &str, parameters: Value) -> Result<Step, CallError> {
    dispatch(call(&format!("io.mcr.Control.{method}"), parameters), Right::Own)
}

#[test]
fn every_method_of_the_interface_is_dispatched() {
    for method in Request::METHODS {
        match dispatch(call(method.name, json!({})), Right::Own) {
            Ok(Step::Ask(_)) | Err(CallError::InvalidParameter { .. }) => {}
            other => panic!("{}: {other:?}", method.name),
        }
    }
}

#[test]
fn unknown_interfaces_and_methods_are_distinguished() {
    let error = |method: &str| dispatch(call(method, json!({})), Right::Own).unwrap_err();
    assert_eq!(error("io.mcr.Other.Ping"), CallError::InterfaceNotFound { interface: "io.mcr.Other".into() });
    assert_eq!(error("Ping"), CallError::InterfaceNotFound { interface: String::new() });
    for method in ["io.mcr.Control.ping", "io.mcr.Control.", "org.varlink.service.Ping"] {
        assert_eq!(error(method), CallError::MethodNotFound { method: method.into() });
    }
}

#[test]
fn rights_are_checked_before_parameters() {
    let refused = |method: &str, right| {
        let call = call(method, json!({ "garbage": 1 }));
        matches!(dispatch(call, right), Err(CallError::Failure(f)) if f.kind == FailureKind::PermissionDenied)
    };
    for method in Request::METHODS {
        assert!(refused(method.name, Right::Nothing), "{method:?}");
        assert_eq!(refused(method.name, Right::Read), method.right == Right::Change, "{method:?}");
        assert!(!refused(method.name, Right::Change), "{method:?}");
    }
    assert!(refused("org.varlink.service.GetInfo", Right::Nothing));
    assert!(!refused("org.varlink.service.GetInfo", Right::Read));
}

#[test]
fn only_root_and_the_daemons_user_name_files() {
    for (method, parameter) in [("SaveConfig", "path"), ("Upgrade", "binary")] {
        let ask = |right, parameters| dispatch(call(&format!("io.mcr.Control.{method}"), parameters), right);
        assert!(matches!(ask(Right::Change, json!({})), Ok(Step::Ask(_))));
        let Err(CallError::Failure(failure)) = ask(Right::Change, json!({ parameter: "/etc/passwd" })) else {
            panic!("{method}")
        };
        assert!(failure.message.ends_with(&format!("{method} with a {parameter}")), "{failure}");
        assert_eq!(ask(Right::Own, json!({ parameter: "a" })).unwrap_err(), invalid(parameter));
        assert!(matches!(ask(Right::Own, json!({ parameter: "/tmp/a" })), Ok(Step::Ask(_))));
    }
}

#[test]
fn a_call_does_not_change_the_protocol() {
    let upgrade = Call { upgrade: true, ..call("io.mcr.Control.Ping", json!({})) };
    assert_eq!(dispatch(upgrade, Right::Own).unwrap_err(), invalid("upgrade"));
}

#[test]
fn only_statistics_repeat() {
    let repeats = |name: &str| match dispatch(call(name, json!({})), Right::Own) {
        Ok(Step::Ask(called)) => called.repeats(),
        other => panic!("{other:?}"),
    };
    assert!(repeats(GetStats::NAME) && !repeats(ListRules::NAME));
}

#[test]
fn the_service_describes_itself() {
    let answered = |method: &str, parameters| match dispatch(
        call(&format!("org.varlink.service.{method}"), parameters),
        Right::Read,
    ) {
        Ok(Step::Answered(reply)) => reply.parameters,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        answered("GetInfo", json!({}))["interfaces"],
        json!(["org.varlink.service", "io.mcr.Control"])
    );
    let description = answered("GetInterfaceDescription", json!({ "interface": "io.mcr.Control" }));
    assert!(description["description"].as_str().unwrap().contains("interface io.mcr.Control\n"));
    let unknown = call("org.varlink.service.GetInterfaceDescription", json!({ "interface": "a.b" }));
    assert_eq!(
        dispatch(unknown, Right::Read).unwrap_err(),
        CallError::InterfaceNotFound { interface: "a.b".into() }
    );
    assert_eq!(control("Ping", json!({ "x": null })).unwrap_err(), invalid("x"));
}
