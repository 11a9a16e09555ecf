//! The table and the interface description agree, and a call is read as it was written.

use std::collections::BTreeMap;

use serde::de::value::Error;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use serde_json::{Value, json};

use super::parameter::{Ranged, RuleFilter, invalid};
use super::*;
use crate::failure::FailureKind;
use crate::{DESCRIPTION, INTERFACE};

/// The fields of a struct, as serde knows them.
pub(super) fn fields<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut fields: &[&str] = &[];
    let _ = T::deserialize(Fields(&mut fields));
    fields
}

struct Fields<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("only structs have fields"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// What the description says between the parentheses of a method: each key, and whether it may be left out.
type Keys = Vec<(String, bool)>;

/// The methods as the description has them: parameters and reply.
fn described() -> BTreeMap<String, (Keys, Keys)> {
    let without_comments: Vec<&str> = DESCRIPTION.lines().filter(|line| !line.starts_with('#')).collect();
    let text = without_comments.join(" ");
    let methods = text.split("method ").skip(1);
    methods
        .map(|method| {
            let (name, rest) = method.split_once('(').unwrap();
            let (parameters, rest) = rest.split_once(')').unwrap();
            let reply = rest.split_once("-> (").unwrap().1;
            (format!("{INTERFACE}.{name}"), (keys(parameters), keys(reply.split_once(')').unwrap().0)))
        })
        .collect()
}

fn keys(list: &str) -> Keys {
    let entries = list.split(',').filter_map(|entry| entry.split_once(':'));
    entries.map(|(key, kind)| (key.trim().to_owned(), kind.trim().starts_with('?'))).collect()
}

#[test]
fn the_description_has_the_methods_of_the_table_in_its_order() {
    let names: Vec<&str> = Request::METHODS.iter().map(|method| method.name).collect();
    let described = DESCRIPTION.lines().filter_map(|line| line.strip_prefix("method "));
    let described = described.filter_map(|rest| Some(format!("{INTERFACE}.{}", rest.split_once('(')?.0)));
    assert_eq!(described.collect::<Vec<_>>(), names);
}

#[test]
fn the_description_has_each_parameter_and_each_field_of_a_reply() {
    let described = described();
    for (method, parameters) in table::parameter_keys() {
        let parameters: Keys =
            parameters.into_iter().map(|(key, optional)| (key.to_owned(), optional)).collect();
        assert_eq!(described[method].0, parameters, "{method}");
    }
    for (method, reply) in table::reply_keys() {
        let names: Vec<&str> = described[method].1.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(names, reply, "{method}");
    }
}

#[test]
fn the_description_says_who_may_call_a_method() {
    let mut comment = String::new();
    for line in DESCRIPTION.lines() {
        if let Some(rest) = line.strip_prefix("method ") {
            let name = format!("{INTERFACE}.{}", rest.split_once('(').unwrap().0);
            let method = Request::METHODS.iter().find(|method| method.name == name).unwrap();
            assert_eq!(comment.starts_with("# Read-only."), method.right == Right::Read, "{name}: {comment}");
        }
        comment = if line.starts_with('#') { comment + line } else { String::new() };
    }
}

#[test]
fn the_description_has_the_errors_and_no_others() {
    let described: Vec<&str> = DESCRIPTION
        .lines()
        .filter_map(|line| line.strip_prefix("error "))
        .filter_map(|rest| rest.split_once(' ').map(|(name, _)| name))
        .collect();
    assert_eq!(described, FailureKind::ALL.map(FailureKind::name));
}

fn read(method: &str, parameters: Value) -> Result<Request, CallError> {
    let Value::Object(parameters) = parameters else { panic!("{parameters}") };
    Request::read(&format!("{INTERFACE}.{method}"), parameters)
}

fn rule() -> Value {
    json!({
        "name": null,
        "input": { "interface": "eth0", "group": "239.1.1.1", "port": 5000, "sources": null },
        "outputs": [{ "interface": "eth1", "group": "239.2.2.2", "port": 5001, "ttl": "decrement", "dscp": null }],
    })
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
        ("SaveConfig", json!({ "path": "a" }), "path"),
        ("SetLogLevel", json!({ "level": "loud" }), "level"),
        ("SetLogLevel", json!({ "level": "info", "facility": "disk" }), "facility"),
    ] {
        assert_eq!(read(method, parameters.clone()).unwrap_err(), invalid(named), "{method} {parameters}");
    }
}

#[test]
fn a_rule_is_read_as_in_the_config_file_and_with_all_its_errors() {
    let Ok(Request::AddRule(AddRule { rule: text })) = read("AddRule", json!({ "rule": rule() })) else {
        panic!()
    };
    let parsed = text.parse().unwrap();
    assert_eq!((parsed.input.port, parsed.outputs[0].options.ttl), (5000, mcr_rules::Ttl::Decrement));
    let mut wrong = rule();
    wrong["input"]["port"] = json!(70_000);
    wrong["outputs"][0]["ttl"] = json!(0);
    let Ok(Request::AddRule(AddRule { rule })) = read("AddRule", json!({ "rule": wrong })) else { panic!() };
    let errors = rule.parse().unwrap_err();
    let paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(paths, ["input.port", "outputs[0].ttl"]);
}

#[test]
fn a_call_is_read_as_it_was_written() {
    let enable = EnableTrace {
        rule: "studio".parse().unwrap(),
        sample: Some(Ranged::try_from(7).unwrap()),
        drops_only: Some(true),
        max_records: None,
        max_seconds: None,
    };
    let written = enable.parameters().unwrap();
    assert_eq!(Value::Object(written.clone()), json!({ "name": "studio", "sample": 7, "drops_only": true }));
    let Ok(Request::EnableTrace(read)) = Request::read(EnableTrace::NAME, written) else { panic!() };
    assert_eq!((read.rule, read.sample, read.drops_only), (enable.rule, enable.sample, enable.drops_only));
    assert!(ListFlows { rule: RuleFilter(None) }.parameters().unwrap().is_empty());
    let load =
        LoadConfig { config: "{}".to_owned().into(), replace: None, dry_run: Some(true), confirm_s: None };
    assert_eq!(load.weight(), Weight::Heavy);
    let Ok(Request::LoadConfig(read)) = Request::read(LoadConfig::NAME, load.parameters().unwrap()) else {
        panic!()
    };
    assert_eq!(*read.config.parse().unwrap(), mcr_rules::Config::default());
}
