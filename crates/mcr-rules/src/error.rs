//! Errors in a configuration.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::NameError;
use crate::path::quoted;

/// The hint for a name of more than 15 bytes as long as nobody knows of which interface it is an altname.
const ALTNAME_HINT: &str =
    "for an altname, write the interface's name, which `ip link show dev ALTNAME` shows";

/// A place in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Location {
    /// Line, from 1. Lines end as JSON5 has it: LF, CR, CR LF, U+2028, U+2029.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// An error in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigError {
    /// Where in the text. `None` if there is no text, as for a rule from the control protocol.
    pub location: Option<Location>,
    /// Where in the configuration: `rules[3].outputs[0].ttl`. Empty for the whole and for errors of syntax.
    pub path: String,
    /// The error.
    pub message: String,
    /// How to correct it, if known.
    pub hint: Option<String>,
    /// The text, if it is longer than the name of an interface; it may be an altname.
    #[serde(skip)]
    pub long_name: Option<String>,
}

impl ConfigError {
    /// A text that is not the name of an interface, without its place.
    #[must_use]
    pub fn interface_name(text: &str, error: &NameError) -> Self {
        let is_long = matches!(error, NameError::TooLongForInterface { .. });
        Self {
            location: None,
            path: String::new(),
            message: format!("{} is not an interface name: {error}", quoted(text)),
            hint: is_long.then(|| ALTNAME_HINT.to_owned()),
            long_name: is_long.then(|| text.to_owned()),
        }
    }

    /// Names the interface that is meant by a name of more than 15 bytes, of which only altnames consist (ip-link(8),
    /// `property add altname`); `interface_of` returns the name of the interface that has an altname.
    pub fn resolve_altname(&mut self, interface_of: impl FnOnce(&str) -> Option<String>) {
        if let Some(name) = &self.long_name
            && let Some(interface) = interface_of(name)
        {
            self.hint = Some(format!("it is an altname of {interface}: write {interface:?}"));
        }
    }
}

/// `line:column: path: message`, without what is unknown.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Location { line, column }) = self.location {
            write!(f, "{line}:{column}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}
