//! The configuration file.

use std::fmt;

use serde::{Deserialize, Serialize};

pub use crate::limits::{MAX_DEPTH, MAX_FILE_BYTES, MAX_OUTPUTS, MAX_OUTPUTS_PER_RULE, MAX_RULES};
use crate::{Config, Rule};

/// A place in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Location {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// One thing that is wrong with a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigError {
    /// Where in the text. `None` if there is no text, as for a rule from the control protocol.
    pub location: Option<Location>,
    /// Where in the configuration: `rules[3].outputs[0].ttl`. Empty for the whole.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it, where that is known.
    pub hint: Option<String>,
}

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

/// Reads a configuration file.
///
/// # Errors
/// Everything that is wrong with it, in order of place.
pub fn parse(text: &str) -> Result<Config, Vec<ConfigError>> {
    json5::from_str(text).map_err(|error| {
        vec![ConfigError { location: None, path: String::new(), message: error.to_string(), hint: None }]
    })
}

/// Reads one rule in the shape of the file, as the control protocol carries it.
///
/// # Errors
/// Everything that is wrong with the rule by itself.
pub fn parse_rule(json: &serde_json::Value) -> Result<Rule, Vec<ConfigError>> {
    serde_json::from_value(json.clone()).map_err(|error| {
        vec![ConfigError { location: None, path: String::new(), message: error.to_string(), hint: None }]
    })
}

/// Writes a configuration so that [`parse`] gives it back.
#[must_use]
pub fn to_json5(config: &Config) -> String {
    json5::to_string(config).unwrap_or_default()
}

/// Whether `save` would lose something of this text.
#[must_use]
pub fn has_comments(text: &str) -> bool {
    parse(text).map_or(true, |config| to_json5(&config) != text)
}
