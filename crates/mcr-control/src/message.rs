//! Calls and replies as they stand on the wire (<https://varlink.org/Method-Call>).

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::failure::{Failure, FailureKind};
use crate::{INTERFACE, MAX_REPLY_VALUES, MAX_REQUEST_VALUES, SERVICE_INTERFACE, strict_json};

/// Named parameters.
pub type Parameters = Map<String, Value>;

/// A method call.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Call {
    /// The method with its interface, e.g. `io.mcr.Control.Ping`.
    pub method: String,
    /// Its parameters.
    pub parameters: Parameters,
    /// No reply is wanted.
    #[serde(skip_serializing_if = "is_false")]
    pub oneway: bool,
    /// Several replies are wanted.
    #[serde(skip_serializing_if = "is_false")]
    pub more: bool,
    /// The connection is to change to another protocol after the reply.
    #[serde(skip_serializing_if = "is_false")]
    pub upgrade: bool,
}

/// One reply to a call.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Reply {
    /// What the method returns, or what the error tells.
    pub parameters: Parameters,
    /// More replies to the same call follow.
    #[serde(skip_serializing_if = "is_false")]
    pub continues: bool,
    /// The error's name with its interface, if the call failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde requires")]
fn is_false(value: &bool) -> bool {
    !value
}

/// The fields of a message, taken out of its value without a copy: replies can be large.
struct Fields(Parameters);

impl Fields {
    fn parse(message: &[u8], max_values: usize) -> Result<Self, serde_json::Error> {
        match strict_json::parse(message, max_values)? {
            Value::Object(fields) => Ok(Self(fields)),
            _ => Err(wrong("not an object")),
        }
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, serde_json::Error> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(format_args!("{name:?} is not a string"))),
        }
    }

    fn flag(&mut self, name: &str) -> Result<bool, serde_json::Error> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(value)) => Ok(value),
            Some(_) => Err(wrong(format_args!("{name:?} is neither true nor false"))),
        }
    }

    fn parameters(&mut self) -> Result<Parameters, serde_json::Error> {
        match self.0.remove("parameters") {
            None | Some(Value::Null) => Ok(Parameters::new()),
            Some(Value::Object(parameters)) => Ok(parameters),
            Some(_) => Err(wrong("\"parameters\" is not an object")),
        }
    }
}

fn wrong(message: impl std::fmt::Display) -> serde_json::Error {
    serde::de::Error::custom(message)
}

impl Call {
    /// Reads a message.
    ///
    /// # Errors
    /// Not JSON, a key twice, more than [`MAX_REQUEST_VALUES`] values, or not a call.
    pub fn parse(message: &[u8]) -> Result<Self, serde_json::Error> {
        let mut fields = Fields::parse(message, MAX_REQUEST_VALUES)?;
        Ok(Self {
            method: fields.text("method")?.ok_or_else(|| wrong("\"method\" is missing"))?,
            parameters: fields.parameters()?,
            oneway: fields.flag("oneway")?,
            more: fields.flag("more")?,
            upgrade: fields.flag("upgrade")?,
        })
    }
}

impl Reply {
    /// Reads a message.
    ///
    /// # Errors
    /// Not JSON, a key twice, more than [`MAX_REPLY_VALUES`] values, or not a reply.
    pub fn parse(message: &[u8]) -> Result<Self, serde_json::Error> {
        let mut fields = Fields::parse(message, MAX_REPLY_VALUES)?;
        Ok(Self {
            parameters: fields.parameters()?,
            continues: fields.flag("continues")?,
            error: fields.text("error")?,
        })
    }

    /// A successful reply.
    ///
    /// # Errors
    /// The value is not written as a JSON object.
    pub fn of<T: Serialize>(value: &T) -> Result<Self, serde_json::Error> {
        match serde_json::to_value(value)? {
            Value::Object(parameters) => Ok(Self { parameters, continues: false, error: None }),
            _ => Err(wrong("parameters are an object")),
        }
    }
}

/// What a successful reply holds.
pub trait ReplyBody: Serialize + DeserializeOwned + Send + 'static {
    /// Number of entries that the length of its JSON grows with: rules, outputs, flows, records.
    fn items(&self) -> usize {
        0
    }
}

/// A message and its NUL, ready to be written.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = serde_json::to_vec(message)?;
    bytes.push(0);
    Ok(bytes)
}

/// The bytes of a successful reply, written straight from the value: as [`Reply::of`] and [`encode`], for replies that
/// can be large.
pub fn encode_reply<T: Serialize>(value: &T, continues: bool) -> Result<Vec<u8>, serde_json::Error> {
    #[derive(Serialize)]
    struct Successful<'a, T> {
        parameters: &'a T,
        #[serde(skip_serializing_if = "is_false")]
        continues: bool,
    }
    encode(&Successful { parameters: value, continues })
}

/// Why a call failed, as told by the other side.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CallError {
    /// An error of `io.mcr.Control`.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// No such interface.
    #[error("the service has no interface {interface:?}")]
    InterfaceNotFound {
        /// Its name.
        interface: String,
    },
    /// No such method.
    #[error("the service has no method {method:?}")]
    MethodNotFound {
        /// Its name, with the interface.
        method: String,
    },
    /// A parameter is missing, unknown, or of the wrong type or value.
    #[error("the parameter {parameter:?} is missing, unknown or has a wrong value")]
    InvalidParameter {
        /// Its name.
        parameter: String,
    },
    /// An error that this version does not know.
    #[error("{name}: {}", Value::Object(parameters.clone()))]
    Other {
        /// Its name, with the interface.
        name: String,
        /// What it tells.
        parameters: Parameters,
    },
}

impl CallError {
    /// The reply that tells this error.
    #[must_use]
    pub fn into_reply(self) -> Reply {
        let one = |error: &str, key: &str, value: String| {
            let parameters = Parameters::from_iter([(key.to_owned(), Value::String(value))]);
            (format!("{SERVICE_INTERFACE}.{error}"), parameters)
        };
        let (name, parameters) = match self {
            Self::Failure(failure) => {
                let told = Reply::of(&failure).unwrap_or_default();
                (format!("{INTERFACE}.{}", failure.kind), told.parameters)
            }
            Self::InterfaceNotFound { interface } => one("InterfaceNotFound", "interface", interface),
            Self::MethodNotFound { method } => one("MethodNotFound", "method", method),
            Self::InvalidParameter { parameter } => one("InvalidParameter", "parameter", parameter),
            Self::Other { name, parameters } => (name, parameters),
        };
        Reply { parameters, continues: false, error: Some(name) }
    }

    /// The error that a reply tells; `None` if the call succeeded.
    #[must_use]
    pub fn from_reply(reply: &Reply) -> Option<Self> {
        let name = reply.error.as_deref()?;
        let told = |key: &str| reply.parameters.get(key)?.as_str().map(str::to_owned);
        let known = || {
            Some(match name.rsplit_once('.')? {
                (INTERFACE, error) => {
                    let kind = FailureKind::named(error)?;
                    let told = serde_json::from_value(Value::Object(reply.parameters.clone()));
                    Self::Failure(Failure { kind, ..told.ok()? })
                }
                (SERVICE_INTERFACE, "InterfaceNotFound") => {
                    Self::InterfaceNotFound { interface: told("interface")? }
                }
                (SERVICE_INTERFACE, "MethodNotFound") => Self::MethodNotFound { method: told("method")? },
                (SERVICE_INTERFACE, "InvalidParameter") => {
                    Self::InvalidParameter { parameter: told("parameter")? }
                }
                _ => return None,
            })
        };
        let other = || Self::Other { name: name.to_owned(), parameters: reply.parameters.clone() };
        Some(known().unwrap_or_else(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_call_needs_only_a_method() {
        let call = Call::parse(br#"{"method":"io.mcr.Control.Ping"}"#).unwrap();
        assert_eq!(call, Call { method: "io.mcr.Control.Ping".into(), ..Call::default() });
        let call = Call::parse(br#"{"method":"a.B","parameters":null,"more":true,"later":{}}"#).unwrap();
        assert!(call.more && call.parameters.is_empty());
    }

    #[test]
    fn what_is_no_call_is_an_error() {
        for text in [
            "",
            "{}",
            "[]",
            r#"{"method":1}"#,
            r#"{"method":"a","parameters":[]}"#,
            r#"{"method":"a","more":1}"#,
        ] {
            assert!(Call::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Call::parse(br#"{"method":"a","method":"b"}"#).is_err());
    }

    #[test]
    fn a_reply_is_written_alike_from_the_value() {
        let value = serde_json::json!({ "a": [1, { "b": null }] });
        for continues in [false, true] {
            let reply = Reply { continues, ..Reply::of(&value).unwrap() };
            let bytes = encode_reply(&value, continues).unwrap();
            assert_eq!(bytes, encode(&reply).unwrap());
            assert_eq!(Reply::parse(bytes.strip_suffix(b"\0").unwrap()).unwrap(), reply);
        }
        assert!(Reply::of(&7).is_err());
    }

    #[test]
    fn errors_survive_the_wire() {
        let failure = |kind| Failure::new(kind, "no").with_hint("do this");
        let mut errors: Vec<CallError> =
            FailureKind::ALL.into_iter().map(|kind| CallError::Failure(failure(kind))).collect();
        errors.extend([
            CallError::InterfaceNotFound { interface: "a.b".into() },
            CallError::MethodNotFound { method: "a.b.C".into() },
            CallError::InvalidParameter { parameter: "rule".into() },
            CallError::Other { name: "x.y.Z".into(), parameters: Parameters::new() },
        ]);
        for error in errors {
            let bytes = serde_json::to_vec(&error.clone().into_reply()).unwrap();
            assert_eq!(CallError::from_reply(&Reply::parse(&bytes).unwrap()), Some(error));
        }
        assert_eq!(CallError::from_reply(&Reply::default()), None);
    }

    #[test]
    fn a_known_error_without_its_parameters_is_still_told() {
        let reply = Reply::parse(br#"{"error":"io.mcr.Control.RuleNotFound"}"#).unwrap();
        assert!(matches!(CallError::from_reply(&reply), Some(CallError::Other { .. })));
    }

    proptest! {
        #[test]
        fn garbage_replies_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(reply) = Reply::parse(&bytes) {
                let _ = CallError::from_reply(&reply);
            }
        }
    }
}
