//! What can be wrong although each value is well-formed.

use serde::{Deserialize, Serialize};

use crate::config::Config;

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Where: `rules[3].outputs[0].ttl`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it, where that is known.
    pub hint: Option<String>,
}

/// Everything that is wrong with a configuration; empty if it may run.
#[must_use]
pub fn check(config: &Config) -> Vec<Violation> {
    let _ = config;
    Vec::new()
}
