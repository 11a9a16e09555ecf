//! The parameters of a call, taken one by one. What is missing, of another type, or left over at the end is an
//! `org.varlink.service.InvalidParameter` that names it. Null counts as absent: some clients send it for optional
//! parameters.

use std::str::FromStr;

use mcr_control::message::{CallError, Parameters};
use serde_json::Value;

/// The parameters that were not taken yet.
pub(super) struct Arguments(Parameters);

pub(super) fn invalid(parameter: &str) -> CallError {
    CallError::InvalidParameter { parameter: parameter.to_owned() }
}

impl Arguments {
    pub(super) fn new(parameters: Parameters) -> Self {
        Self(parameters)
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// An object, without its null entries at any depth.
    pub(super) fn object(&mut self, name: &str) -> Result<Value, CallError> {
        self.take(name).filter(Value::is_object).map(without_nulls).ok_or_else(|| invalid(name))
    }

    pub(super) fn text(&mut self, name: &str) -> Result<String, CallError> {
        self.optional_text(name)?.ok_or_else(|| invalid(name))
    }

    pub(super) fn optional_text(&mut self, name: &str) -> Result<Option<String>, CallError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(invalid(name)),
        }
    }

    /// A text that is to be read as something else.
    pub(super) fn optional<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, CallError> {
        self.optional_text(name)?.map(|text| text.parse().map_err(|_| invalid(name))).transpose()
    }

    /// A whole number in this range.
    pub(super) fn optional_number(
        &mut self,
        name: &str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>, CallError> {
        let value = self.take(name);
        let number = |value: Value| value.as_u64().filter(|n| range.contains(n)).ok_or_else(|| invalid(name));
        value.map(number).transpose()
    }

    /// True or false; absent is false.
    pub(super) fn flag(&mut self, name: &str) -> Result<bool, CallError> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(value),
            Some(_) => Err(invalid(name)),
        }
    }

    /// That there are no others.
    pub(super) fn finish(self) -> Result<(), CallError> {
        self.0.keys().next().map_or(Ok(()), |unknown| Err(invalid(unknown)))
    }
}

/// The nesting is bounded by the framing.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(entries) => Value::Object(
            entries
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key, without_nulls(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn arguments(value: Value) -> Arguments {
        let Value::Object(parameters) = value else { panic!("{value}") };
        Arguments::new(parameters)
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(arguments(json!({})).text("a"), Err(invalid("a")));
        assert_eq!(arguments(json!({"a": 1})).text("a"), Err(invalid("a")));
        assert_eq!(arguments(json!({"a": "x"})).flag("a"), Err(invalid("a")));
        assert_eq!(arguments(json!({"a": "x"})).optional::<u8>("a"), Err(invalid("a")));
        for wrong in [json!(0), json!(11), json!(-1), json!(1.5), json!("1")] {
            assert_eq!(arguments(json!({"a": wrong})).optional_number("a", 1..=10), Err(invalid("a")));
        }
        assert_eq!(arguments(json!({"a": 10})).optional_number("a", 1..=10), Ok(Some(10)));
        assert_eq!(arguments(json!({"a": []})).object("a"), Err(invalid("a")));
        assert_eq!(arguments(json!({"typo": 1})).finish(), Err(invalid("typo")));
    }

    #[test]
    fn null_is_absent() {
        let mut given = arguments(json!({"a": null, "b": null, "c": null}));
        assert_eq!(given.optional_text("a"), Ok(None));
        assert_eq!(given.flag("b"), Ok(false));
        assert_eq!(given.text("c"), Err(invalid("c")));
        assert_eq!(given.finish(), Ok(()));
        let mut given = arguments(json!({"o": {"x": null, "y": [{"z": null, "w": 1}]}}));
        assert_eq!(given.object("o"), Ok(json!({"y": [{"w": 1}]})));
    }
}
