//! How a parameter is read and written. Serde reads each value, one key at a time, so that an error names the key. Null
//! counts as absent: some clients send it for optional parameters.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use mcr_rules::file::{self, ConfigError, to_json5};
use mcr_rules::{Config, Rule, RuleId, RuleName};
use serde::de::DeserializeOwned;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::message::{CallError, Parameters};

/// A parameter as it stands in a call; `None` if it is left out.
pub type Entry = Result<Option<(&'static str, Value)>, serde_json::Error>;

/// A parameter of a method.
pub trait Parameter: Sized {
    /// Takes it out of the parameters of a call.
    ///
    /// # Errors
    /// [`CallError::InvalidParameter`]: missing, or of a wrong type or value.
    fn take(from: &mut Parameters, name: &'static str) -> Result<Self, CallError>;

    /// How it stands in a call.
    fn entry(&self, name: &'static str) -> Entry;

    /// Its keys in a call, and whether they may be left out.
    #[cfg(test)]
    fn keys(name: &'static str) -> Vec<(&'static str, bool)> {
        vec![(name, Self::take(&mut Parameters::new(), name).is_ok())]
    }
}

impl<T: Serialize + DeserializeOwned> Parameter for T {
    fn take(from: &mut Parameters, name: &'static str) -> Result<Self, CallError> {
        serde_json::from_value(from.remove(name).unwrap_or_default()).map_err(|_| invalid(name))
    }

    fn entry(&self, name: &'static str) -> Entry {
        Ok(Some((name, serde_json::to_value(self)?)).filter(|(_, value)| !value.is_null()))
    }
}

/// The error for a parameter that is missing, unknown, or has a wrong type or value.
#[must_use]
pub fn invalid(parameter: &str) -> CallError {
    CallError::InvalidParameter { parameter: parameter.to_owned() }
}

/// Refuses what is left of the parameters of a call when all known ones have been taken.
///
/// # Errors
/// [`CallError::InvalidParameter`] names one.
pub fn no_others(parameters: &Parameters) -> Result<(), CallError> {
    parameters.keys().next().map_or(Ok(()), |unknown| Err(invalid(unknown)))
}

/// The rule that a call is about: the parameter `id` or `name`, exactly one of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleSelector {
    /// By id.
    Id(RuleId),
    /// By name.
    Name(RuleName),
}

impl RuleSelector {
    /// Whether it selects this rule.
    #[must_use]
    pub fn selects(&self, rule: &Rule) -> bool {
        match self {
            Self::Id(id) => rule.id() == *id,
            Self::Name(name) => rule.name.as_ref() == Some(name),
        }
    }
}

impl fmt::Display for RuleSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "id {id}"),
            Self::Name(name) => write!(f, "name {name:?}", name = name.to_string()),
        }
    }
}

impl FromStr for RuleSelector {
    type Err = String;

    /// An id if it reads as one, else a name.
    fn from_str(text: &str) -> Result<Self, String> {
        let name = || text.parse().map(Self::Name);
        text.parse()
            .map(Self::Id)
            .or_else(|_| name())
            .map_err(|_| format!("{text:?} is neither an id nor a name"))
    }
}

impl Parameter for RuleSelector {
    fn take(from: &mut Parameters, name: &'static str) -> Result<Self, CallError> {
        RuleFilter::take(from, name)?.0.ok_or_else(|| invalid("id"))
    }

    fn entry(&self, _: &'static str) -> Entry {
        Ok(Some(match self {
            Self::Id(id) => ("id", id.to_string().into()),
            Self::Name(name) => ("name", name.to_string().into()),
        }))
    }

    #[cfg(test)]
    fn keys(name: &'static str) -> Vec<(&'static str, bool)> {
        RuleFilter::keys(name)
    }
}

/// The rules that a call is about: one, given as [`RuleSelector`], or all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleFilter(pub Option<RuleSelector>);

impl RuleFilter {
    /// Whether it selects this rule.
    #[must_use]
    pub fn selects(&self, rule: &Rule) -> bool {
        self.0.as_ref().is_none_or(|selector| selector.selects(rule))
    }
}

impl From<RuleSelector> for RuleFilter {
    fn from(selector: RuleSelector) -> Self {
        Self(Some(selector))
    }
}

impl Parameter for RuleFilter {
    fn take(from: &mut Parameters, _: &'static str) -> Result<Self, CallError> {
        Ok(Self(match (Parameter::take(from, "id")?, Parameter::take(from, "name")?) {
            (Some(id), None) => Some(RuleSelector::Id(id)),
            (None, Some(name)) => Some(RuleSelector::Name(name)),
            (None, None) => None,
            (Some(_), Some(_)) => return Err(invalid("name")),
        }))
    }

    fn entry(&self, name: &'static str) -> Entry {
        self.0.as_ref().map_or(Ok(None), |selector| selector.entry(name))
    }

    #[cfg(test)]
    fn keys(_: &'static str) -> Vec<(&'static str, bool)> {
        vec![("id", true), ("name", true)]
    }
}

/// A whole number in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Ranged<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Ranged<MIN, MAX> {
    /// The number, or the bound of the range that is next to it.
    #[must_use]
    pub fn clamp(number: u64) -> Self {
        Self(number.clamp(MIN, MAX))
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> TryFrom<u64> for Ranged<MIN, MAX> {
    type Error = &'static str;

    fn try_from(number: u64) -> Result<Self, &'static str> {
        if (MIN..=MAX).contains(&number) { Ok(Self(number)) } else { Err("the number is out of range") }
    }
}

impl<const MIN: u64, const MAX: u64> From<Ranged<MIN, MAX>> for u64 {
    fn from(number: Ranged<MIN, MAX>) -> Self {
        number.0
    }
}

/// An absolute path: the daemon works in a directory of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PathBuf", into = "PathBuf")]
pub struct AbsolutePath(PathBuf);

impl TryFrom<PathBuf> for AbsolutePath {
    type Error = &'static str;

    fn try_from(path: PathBuf) -> Result<Self, &'static str> {
        if path.is_absolute() { Ok(Self(path)) } else { Err("the path is not absolute") }
    }
}

impl From<AbsolutePath> for PathBuf {
    fn from(path: AbsolutePath) -> Self {
        path.0
    }
}

impl AsRef<Path> for AbsolutePath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

/// A config: a client writes its text; the server reads what the text says, so that it is parsed with the call and off
/// the daemon's loop.
#[derive(Clone, Debug)]
pub struct ConfigText(Content);

#[derive(Clone, Debug)]
enum Content {
    Written(String),
    Read(Parsed<Config>),
}

type Parsed<T> = Result<Box<T>, Vec<ConfigError>>;

impl ConfigText {
    /// The config, or everything that is wrong with the text.
    pub fn parse(self) -> Parsed<Config> {
        match self.0 {
            Content::Written(text) => file::parse(&text).map(Box::new),
            Content::Read(parsed) => parsed,
        }
    }
}

impl From<String> for ConfigText {
    fn from(text: String) -> Self {
        Self(Content::Written(text))
    }
}

impl Serialize for ConfigText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Content::Written(text) => serializer.serialize_str(text),
            Content::Read(Ok(config)) => serializer.serialize_str(&to_json5(config)),
            Content::Read(Err(_)) => Err(S::Error::custom("the config is not valid")),
        }
    }
}

impl<'de> Deserialize<'de> for ConfigText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Self(Content::Read(file::parse(&text).map(Box::new))))
    }
}

/// A rule in the shape that it has in a config file.
#[derive(Clone, Debug)]
pub struct RuleText(Parsed<Rule>);

impl RuleText {
    /// The rule, or everything that is wrong with it.
    pub fn parse(self) -> Parsed<Rule> {
        self.0
    }
}

impl From<Rule> for RuleText {
    fn from(rule: Rule) -> Self {
        Self(Ok(Box::new(rule)))
    }
}

impl Serialize for RuleText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_ref().map_err(|_| S::Error::custom("the rule is not valid"))?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RuleText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let rule = serde_json::Map::deserialize(deserializer)?;
        Ok(Self(file::parse_rule(&without_nulls(rule.into())).map(Box::new)))
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

    fn take<T: Parameter>(parameters: Value) -> Result<T, CallError> {
        let Value::Object(mut parameters) = parameters else { panic!("{parameters}") };
        let taken = T::take(&mut parameters, "a");
        assert!(taken.is_err() || parameters.is_empty(), "{parameters:?}");
        taken
    }

    #[test]
    fn a_wrong_value_is_named() {
        assert_eq!(take::<String>(json!({})), Err(invalid("a")));
        assert_eq!(take::<String>(json!({ "a": 1 })), Err(invalid("a")));
        assert_eq!(take::<Option<bool>>(json!({ "a": "x" })), Err(invalid("a")));
        for wrong in [json!(0), json!(11), json!(-1), json!(1.5), json!("1")] {
            assert_eq!(take::<Option<Ranged<1, 10>>>(json!({ "a": wrong })), Err(invalid("a")));
        }
        assert_eq!(take::<Ranged<1, 10>>(json!({ "a": 10 })).map(Ranged::get), Ok(10));
        assert_eq!(take::<AbsolutePath>(json!({ "a": "b/c" })), Err(invalid("a")));
        assert!(take::<RuleText>(json!({ "a": [] })).is_err());
    }

    #[test]
    fn null_is_absent() {
        assert_eq!(take::<Option<String>>(json!({ "a": null })), Ok(None));
        assert_eq!(take::<String>(json!({ "a": null })), Err(invalid("a")));
        assert_eq!(
            without_nulls(json!({ "x": null, "y": [{ "z": null, "w": 1 }] })),
            json!({ "y": [{ "w": 1 }] })
        );
    }

    #[test]
    fn a_rule_is_selected_by_one_of_id_and_name() {
        let id: RuleId = "0123456789abcdef".parse().unwrap();
        assert_eq!(take(json!({ "id": id, "name": null })), Ok(RuleSelector::Id(id)));
        assert_eq!(take(json!({ "name": "a" })), Ok(RuleSelector::Name("a".parse().unwrap())));
        assert_eq!(take::<RuleSelector>(json!({})), Err(invalid("id")));
        assert_eq!(take::<RuleFilter>(json!({})), Ok(RuleFilter(None)));
        assert_eq!(take::<RuleFilter>(json!({ "id": id, "name": "a" })), Err(invalid("name")));
        assert_eq!("0123456789abcdef".parse(), Ok(RuleSelector::Id(id)));
        assert!("".parse::<RuleSelector>().is_err());
    }
}
