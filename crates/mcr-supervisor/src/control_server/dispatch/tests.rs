use mcr_control::method;
use serde_json::Value;

use super::*;

fn call(method: &str, parameters: Value) -> Call {
    let Value::Object(parameters) = parameters else { panic!("{parameters}") };
    Call { method: method.to_owned(), parameters, ..Call::default() }
}

fn control(method: &str, parameters: Value) -> Result<Step, CallError> {
    dispatch(call(&format!("io.mcr.Control.{method}"), parameters), Right::Own)
}

fn request_of(method: &str, parameters: Value) -> Request {
    match control(method, parameters) {
        Ok(Step::Ask(request)) => request,
        other => panic!("{method}: {other:?}"),
    }
}

fn rule() -> Value {
    json!({
        "name": null,
        "input": { "interface": "eth0", "group": "239.1.1.1", "port": 5000, "sources": null },
        "outputs": [{ "interface": "eth1", "group": "239.2.2.2", "port": 5001, "ttl": "decrement", "dscp": null }],
    })
}

#[test]
fn every_method_of_the_interface_needs_a_right_and_is_understood() {
    for name in method::NAMES {
        assert!(needed(name).is_some(), "{name}");
        match control(name, json!({})) {
            Ok(_) | Err(CallError::InvalidParameter { .. }) => {}
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn unknown_interfaces_and_methods_are_told_apart() {
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
    for name in method::NAMES {
        let method = format!("io.mcr.Control.{name}");
        let changes = needed(name) == Some(Right::Change);
        assert!(refused(&method, Right::Nothing), "{method}");
        assert_eq!(refused(&method, Right::Read), changes, "{method}");
        assert!(!refused(&method, Right::Change), "{method}");
    }
    assert!(refused("org.varlink.service.GetInfo", Right::Nothing));
    assert!(!refused("org.varlink.service.GetInfo", Right::Read));
}

#[test]
fn only_root_and_the_daemons_user_name_files() {
    let save = |right, parameters| dispatch(call("io.mcr.Control.SaveConfig", parameters), right);
    assert!(matches!(save(Right::Change, json!({})), Ok(Step::Ask(Request::SaveConfig { path: None }))));
    assert!(matches!(save(Right::Change, json!({"path": "/etc/passwd"})), Err(CallError::Failure(_))));
    assert_eq!(save(Right::Own, json!({"path": "a"})).unwrap_err(), invalid("path"));
    let Ok(Step::Ask(Request::SaveConfig { path })) = save(Right::Own, json!({"path": "/tmp/a"})) else {
        panic!()
    };
    assert_eq!(path, Some(PathBuf::from("/tmp/a")));
}

#[test]
fn who_may_only_read_gets_no_payload() {
    let get = |right| {
        let call = call("io.mcr.Control.GetTrace", json!({ "name": "a", "after": "1:2,3" }));
        let Ok(Step::Ask(Request::GetTrace { frames, after: Some(after), .. })) = dispatch(call, right)
        else {
            panic!()
        };
        assert_eq!((after.trace, after.next), (1, vec![2, 3]));
        frames
    };
    assert_eq!([Right::Read, Right::Change, Right::Own].map(get), [false, true, true]);
}

#[test]
fn a_trace_has_limits_if_nobody_says() {
    let Request::EnableTrace { options, .. } = request_of("EnableTrace", json!({ "name": "a" })) else {
        panic!()
    };
    let expected =
        TraceOptions { sample: 1, drops_only: false, max_records: 10_000, max_time: Duration::from_secs(60) };
    assert_eq!(options, expected);
}

#[test]
fn a_rule_is_read_as_in_the_config_file() {
    let Request::AddRule(rule) = request_of("AddRule", json!({ "rule": rule() })) else { panic!() };
    assert_eq!(rule.input.port, 5000);
    assert_eq!(rule.outputs[0].ttl, mcr_rules::Ttl::Decrement);
    assert_eq!(rule.outputs[0].dscp, mcr_rules::Dscp::default());
}

#[test]
fn a_wrong_rule_is_told_with_all_its_errors() {
    let mut wrong = rule();
    wrong["input"]["port"] = json!(70_000);
    wrong["outputs"][0]["ttl"] = json!(0);
    let error = control("AddRule", json!({ "rule": wrong })).unwrap_err();
    let CallError::Failure(failure) = error else { panic!("{error:?}") };
    assert_eq!(failure.kind, FailureKind::InvalidConfig);
    let paths: Vec<&str> = failure.errors.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(paths, ["input.port", "outputs[0].ttl"]);
}

#[test]
fn wrong_parameters_are_named() {
    for (method, parameters, named) in [
        ("Ping", json!({ "x": 1 }), "x"),
        ("AddRule", json!({}), "rule"),
        ("AddRule", json!({ "rule": [] }), "rule"),
        ("AddRule", json!({ "rule": rule(), "now": true }), "now"),
        ("RemoveRule", json!({}), "id"),
        ("EnableTrace", json!({}), "id"),
        ("EnableTrace", json!({ "name": "a", "sample": 0 }), "sample"),
        ("EnableTrace", json!({ "name": "a", "max_seconds": 86_401 }), "max_seconds"),
        ("EnableTrace", json!({ "name": "a", "max_records": 0 }), "max_records"),
        ("GetTrace", json!({ "name": "a", "after": "now" }), "after"),
        ("RemoveRule", json!({ "id": "xyz" }), "id"),
        ("RemoveRule", json!({ "id": "0123456789abcdef", "name": "a" }), "name"),
        ("LoadConfig", json!({ "config": 7 }), "config"),
        ("LoadConfig", json!({ "config": "{}", "replace": "yes" }), "replace"),
        ("LoadConfig", json!({ "config": "{}", "dryrun": true }), "dryrun"),
        ("SetLogLevel", json!({ "level": "loud" }), "level"),
        ("SetLogLevel", json!({ "level": "info", "facility": "disk" }), "facility"),
    ] {
        assert_eq!(control(method, parameters.clone()).unwrap_err(), invalid(named), "{method} {parameters}");
    }
    let upgrade = Call { upgrade: true, ..call("io.mcr.Control.Ping", json!({})) };
    assert_eq!(dispatch(upgrade, Right::Own).unwrap_err(), invalid("upgrade"));
}

#[test]
fn requests_carry_their_parameters() {
    let Request::RemoveRule(selector) = request_of("RemoveRule", json!({ "name": "a", "id": null })) else {
        panic!()
    };
    assert_eq!(selector, RuleSelector::Name("a".parse().unwrap()));
    let load = request_of("LoadConfig", json!({ "config": "{}", "replace": true }));
    assert!(matches!(load, Request::LoadConfig { replace: true, dry_run: false, .. }));
    assert!(matches!(request_of("DiffConfig", json!({})), Request::DiffConfig { config: None }));
    let set = request_of("SetLogLevel", json!({ "level": "debug", "facility": "control" }));
    assert!(matches!(set, Request::SetLogLevel { level: mcr_link::log::Level::Debug, facility: Some(_) }));
}

#[test]
fn more_makes_a_stream_of_statistics_only() {
    let more = |method: &str| dispatch(Call { more: true, ..call(method, json!({})) }, Right::Own).unwrap();
    assert!(matches!(more("io.mcr.Control.GetStats"), Step::Watch(Request::GetStats)));
    assert!(matches!(more("io.mcr.Control.ListRules"), Step::Ask(Request::ListRules)));
    assert!(matches!(control("GetStats", json!({})), Ok(Step::Ask(Request::GetStats))));
}

#[test]
fn versions_must_agree_on_the_major_number() {
    let version = |protocol: Value| control("GetVersion", json!({ "protocol": protocol }));
    for fine in [Value::Null, json!("1.0"), json!("1.99")] {
        assert!(
            matches!(version(fine), Ok(Step::Answered(reply)) if reply.parameters["protocol"] == PROTOCOL_VERSION)
        );
    }
    for wrong in [json!("2.0"), json!("x")] {
        let Err(CallError::Failure(failure)) = version(wrong) else { panic!() };
        assert_eq!(failure.kind, FailureKind::VersionMismatch);
        assert!(failure.hint.is_some());
    }
}

#[test]
fn a_config_is_checked_without_the_daemon() {
    let checked = |text: &str| match control("CheckConfig", json!({ "config": text })) {
        Ok(Step::Answered(reply)) => reply.parameters,
        other => panic!("{other:?}"),
    };
    assert_eq!(checked("{}")["errors"], json!([]));
    let errors = checked("{\n  typo: 1 }");
    assert_eq!(errors["errors"][0]["location"]["line"], 2, "{errors:?}");
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
}
