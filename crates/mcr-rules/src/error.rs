//! Errors in a configuration.

use std::fmt;

use serde::{Deserialize, Serialize};

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
