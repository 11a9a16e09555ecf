//! A place in a configuration: `rules[3].outputs[0].ttl`.

use std::fmt;

/// Longest key shown in a path, in characters: a hostile file must not inflate its own error report.
const SHOWN_KEY_CHARS: usize = 48;

/// One step from an object or a list to what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// A path as a list that grows at its end and lives on the stack, so that walking a configuration costs nothing
/// until there is an error to report.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path<'a> {
    parent: Option<(&'a Path<'a>, Step<'a>)>,
}

impl<'a> Path<'a> {
    /// The whole.
    pub(crate) const ROOT: Path<'static> = Path { parent: None };

    pub(crate) const fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some((self, Step::Key(key))) }
    }

    pub(crate) const fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some((self, Step::Index(index))) }
    }

    /// The path without its last step, and that step.
    pub(crate) const fn split(&self) -> Option<(&'a Path<'a>, Step<'a>)> {
        self.parent
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((parent, step)) = self.parent else { return Ok(()) };
        parent.fmt(f)?;
        match step {
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) if !is_identifier(key) => write!(f, "[{}]", quoted(key)),
            Step::Key(key) if parent.parent.is_none() => f.write_str(key),
            Step::Key(key) => write!(f, ".{key}"),
        }
    }
}

/// Whether a key needs no quotes, in a path as in JSON5 (of which this is the ASCII part).
pub(crate) fn is_identifier(key: &str) -> bool {
    key.len() <= SHOWN_KEY_CHARS
        && key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// An untrusted text, quoted, escaped, and cut if it is long.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(SHOWN_KEY_CHARS) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_like_the_file() {
        let rules = Path::ROOT.key("rules");
        let rule = rules.index(3);
        let outputs = rule.key("outputs");
        assert_eq!(outputs.index(0).key("ttl").to_string(), "rules[3].outputs[0].ttl");
        assert_eq!(Path::ROOT.to_string(), "");
        assert_eq!(Path::ROOT.key("pinning").key("eth0.100").to_string(), "pinning[\"eth0.100\"]");
        assert_eq!(Path::ROOT.key("a\nb").to_string(), "[\"a\\nb\"]");
        assert_eq!(Path::ROOT.key(&"é".repeat(99)).to_string(), format!("[\"{}\"…]", "é".repeat(48)));
    }
}
