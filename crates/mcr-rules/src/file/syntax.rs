//! Text to tree, or the first syntax error.

use json5::ErrorCode;

use super::error::{ConfigError, Location, Locator};
use super::scan::{Excess, Scan, scan};
use super::tree::Node;
use crate::limits::{MAX_DEPTH, MAX_FILE_BYTES, MAX_FILE_VALUES};

/// Reads a text into a tree in which every node knows its place.
pub(super) fn read(text: &str) -> Result<Node, Box<ConfigError>> {
    let scan = scan(text).map_err(|excess| Box::new(describe_excess(text, &excess)))?;
    match json5::from_str::<Node>(text) {
        Ok(mut tree) => {
            tree.place(&mut scan.starts.iter().copied());
            Ok(tree)
        }
        Err(error) => Err(Box::new(describe(text, &scan, &error))),
    }
}

/// The message for nesting beyond [`MAX_DEPTH`].
pub(super) fn too_deep() -> String {
    format!("nested deeper than {MAX_DEPTH} levels")
}

fn describe_excess(text: &str, excess: &Excess) -> ConfigError {
    let (place, message) = match excess {
        Excess::Bytes => {
            (0, format!("the file has {} bytes, at most {MAX_FILE_BYTES} are allowed", text.len()))
        }
        Excess::Depth(place) => (*place, too_deep()),
        Excess::Values(place) => (*place, format!("more than {MAX_FILE_VALUES} keys and values")),
    };
    let location = Some(Locator::new(text).locate(place));
    ConfigError { location, path: String::new(), message, hint: None, long_name: None }
}

fn describe(text: &str, scan: &Scan, error: &json5::Error) -> ConfigError {
    let end = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let at_end = error.code().is_some_and(ends_early);
    let location = match error.position() {
        // For an early end, the parser reports the place of the enclosing bracket, or none.
        Some(position) if !at_end => {
            Location { line: one_based(position.line), column: one_based(position.column) }
        }
        _ => Locator::new(text).locate(end),
    };
    let (message, hint) = match error.code() {
        _ if text.trim().is_empty() => {
            ("the file is empty".to_owned(), Some("a configuration without rules is `{}`"))
        }
        Some(code) => explain(code),
        None => (error.to_string(), None),
    };
    let mut hint = foreign_syntax(text, location).or(hint).map(str::to_owned);
    if at_end && let Some(open) = scan.open.last() {
        let Location { line, column } = Locator::new(text).locate(*open);
        let bracket = text.as_bytes().get(*open as usize).copied().map_or('{', char::from);
        hint = Some(format!("the `{bracket}` at {line}:{column} is not closed"));
    }
    ConfigError { location: Some(location), path: String::new(), message, hint, long_name: None }
}

/// A hint if the text is in another language, judged by its first line and by what the error is at.
fn foreign_syntax(text: &str, location: Location) -> Option<&'static str> {
    let line = text.lines().nth(location.line.checked_sub(1)? as usize)?;
    if line.chars().nth(location.column.checked_sub(1)? as usize) == Some('#') {
        return Some("comments begin with `//` or `/*`");
    }
    let first = text.lines().find(|line| !matches!(line.trim_start().chars().next(), None | Some('#')))?;
    let is_yaml = first.starts_with("---")
        || first.starts_with("- ")
        || first.trim_end().ends_with(':') && !first.starts_with(['{', '"', '\'']);
    is_yaml.then_some("this looks like YAML; a configuration is JSON5: `{ rules: [ { … } ] }`")
}

fn one_based(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX).saturating_add(1)
}

fn ends_early(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::EofParsingArray
            | ErrorCode::EofParsingBool
            | ErrorCode::EofParsingComment
            | ErrorCode::EofParsingEscapeSequence
            | ErrorCode::EofParsingIdentifier
            | ErrorCode::EofParsingNull
            | ErrorCode::EofParsingNumber
            | ErrorCode::EofParsingObject
            | ErrorCode::EofParsingString
            | ErrorCode::EofParsingValue
    )
}

fn explain(code: ErrorCode) -> (String, Option<&'static str>) {
    let (message, hint) = match code {
        ErrorCode::EofParsingComment => {
            ("the text ends within a comment", Some("close the comment with `*/`"))
        }
        ErrorCode::EofParsingString | ErrorCode::EofParsingEscapeSequence => {
            ("the text ends within a string", Some("close the string with its quote"))
        }
        ErrorCode::EofParsingArray => ("the text ends within a list", None),
        ErrorCode::EofParsingObject | ErrorCode::EofParsingIdentifier => {
            ("the text ends within an object", None)
        }
        ErrorCode::EofParsingBool
        | ErrorCode::EofParsingNull
        | ErrorCode::EofParsingNumber
        | ErrorCode::EofParsingValue => ("the text ends where a value is expected", None),
        ErrorCode::ExpectedComma => ("a comma or a closing bracket is expected here", None),
        ErrorCode::ExpectedColon => ("a colon is expected here, between key and value", None),
        ErrorCode::ExpectedComment => ("unexpected `/`", Some("comments begin with `//` or `/*`")),
        ErrorCode::ExpectedClosingBrace => ("a comma or `}` is expected here", None),
        ErrorCode::ExpectedClosingBracket => ("a comma or `]` is expected here", None),
        ErrorCode::ExpectedIdentifier | ErrorCode::InvalidKey => {
            ("a key is expected here", Some("quote keys that are not plain words"))
        }
        ErrorCode::ExpectedValue
        | ErrorCode::ExpectedBool
        | ErrorCode::ExpectedNull
        | ErrorCode::ExpectedNumber
        | ErrorCode::ExpectedString
        | ErrorCode::ExpectedStringOrObject => {
            ("a value is expected here", Some("strings and addresses need quotes"))
        }
        ErrorCode::LeadingZero => ("a number may not begin with 0", Some("remove the leading zeros")),
        ErrorCode::LineTerminatorInString => {
            ("the line ends within a string", Some("close the string with its quote"))
        }
        ErrorCode::InvalidEscapeSequence => ("invalid escape sequence", Some("write a backslash as `\\\\`")),
        ErrorCode::OverflowParsingNumber => ("the number is too large", None),
        ErrorCode::TrailingCharacters => ("unexpected text after the end of the configuration", None),
        other => return (other.to_string(), None),
    };
    (message.to_owned(), hint)
}
