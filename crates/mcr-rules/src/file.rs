//! The configuration file: JSON5 text to [`Config`] and back.
//!
//! ```text
//! text ─scan─▶ limits, places ─json5─▶ tree ─schema─▶ draft ─check─▶ Config
//!        │                       │              │               │
//!        └ too big, too deep     └ syntax       └ keys, types   └ meaning        all errors, in order of place
//! ```
//!
//! A syntax error ends the reading, because nothing after it can be trusted. All other errors are reported at once.

mod error;
mod print;
mod scan;
mod schema;
mod suggestion;
mod syntax;
#[cfg(test)]
mod tests;
mod tree;

pub use crate::limits::{
    MAX_DEPTH, MAX_ERRORS, MAX_FILE_BYTES, MAX_FILE_VALUES, MAX_OUTPUTS, MAX_OUTPUTS_PER_RULE, MAX_RULES,
    MAX_SOURCES, MAX_SOURCES_PER_RULE,
};
pub use error::{ConfigError, Location};
pub use print::to_json5;

use serde::Deserialize;

use crate::check::{check_draft, check_rule};
use crate::config::Config;
use crate::path::Path;
use crate::rule::Rule;
use error::Findings;
use tree::Node;

/// Reads a configuration file.
///
/// # Errors
/// All of its errors (the first [`MAX_ERRORS`]), in order of place. A text over [`MAX_FILE_BYTES`],
/// [`MAX_FILE_VALUES`] or [`MAX_DEPTH`] is refused before it is parsed.
pub fn parse(text: &str) -> Result<Config, Vec<ConfigError>> {
    let tree = syntax::read(text).map_err(|error| vec![*error])?;
    let mut findings = Findings::default();
    let draft = schema::read_config(&tree, &mut findings);
    check_draft(&draft, &mut |path, message, hint| {
        findings.add(tree.place_of(path), path, message, hint.map(str::to_owned));
    });
    match draft.finish() {
        Some(config) if findings.is_empty() => Ok(config),
        _ => Err(findings.into_errors(Some(text))),
    }
}

/// The text of a file's bytes.
///
/// # Errors
/// The first byte that is not UTF-8, with its line and column.
pub fn decode(bytes: Vec<u8>) -> Result<String, Vec<ConfigError>> {
    String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        let before = error.as_bytes().get(..place).and_then(|bytes| std::str::from_utf8(bytes).ok());
        let mut findings = Findings::default();
        let hint = Some("save the file as UTF-8".to_owned());
        findings.add(u32::try_from(place).ok(), &Path::ROOT, "this byte is not UTF-8", hint);
        findings.into_errors(before)
    })
}

/// Reads one rule in the shape of the file, as the control protocol carries it.
///
/// # Errors
/// All errors of the rule by itself, with paths relative to the rule (`outputs[0].ttl`). Whether it fits the
/// other rules is for [`check`](fn@crate::check) of the configuration with it.
pub fn parse_rule(json: &serde_json::Value) -> Result<Rule, Vec<ConfigError>> {
    let mut findings = Findings::default();
    let nests = tree::nests_within(json, MAX_DEPTH);
    let Some(tree) = nests.then(|| Node::deserialize(json).ok()).flatten() else {
        findings.add(None, &Path::ROOT, syntax::too_deep(), None);
        return Err(findings.into_errors(None));
    };
    let draft = schema::read_rule(&tree, &Path::ROOT, &mut findings);
    check_rule(&draft, &Path::ROOT, &mut |path, message, hint| {
        findings.add(None, path, message, hint.map(str::to_owned));
    });
    match draft.finish() {
        Some(rule) if findings.is_empty() => Ok(rule),
        _ => Err(findings.into_errors(None)),
    }
}

/// Returns whether `save` over this text would lose something: comments, or a layout that [`to_json5`] would not reproduce.
/// A text that can't be read has something to lose, unless it is blank.
#[must_use]
pub fn has_comments(text: &str) -> bool {
    match parse(text) {
        Ok(config) => to_json5(&config) != text,
        Err(_) => !text.trim().is_empty(),
    }
}
