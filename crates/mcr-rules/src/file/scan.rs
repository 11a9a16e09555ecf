//! The first pass over a text, before the JSON5 parser: limits, and where each key and value begins.
//!
//! The JSON5 parser recurses for each `{` and `[`, so the depth has to be bounded before. And it reports no places of values,
//! so they are collected here: in a valid text, every token that is neither punctuation nor comment is a key or a value, and an
//! opening bracket is the beginning of one. So their order is that of a walk through the parsed tree, and no grammar is
//! needed to know which is which. On an invalid text the result means nothing, but it is still bounded.

use std::iter::Peekable;
use std::str::CharIndices;

use json5::char::{is_json5_line_terminator, is_json5_whitespace};

use crate::limits::{MAX_DEPTH, MAX_FILE_BYTES, MAX_FILE_VALUES};

/// What the scan found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Where each key and value begins, in bytes.
    pub(super) starts: Vec<u32>,
    /// Brackets that the text opens and doesn't close, in bytes.
    pub(super) open: Vec<u32>,
}

/// A limit that the text exceeds, at a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Excess {
    Bytes,
    Depth(u32),
    Values(u32),
}

/// Scans a text.
pub(super) fn scan(text: &str) -> Result<Scan, Excess> {
    scan_within(text, MAX_FILE_BYTES, MAX_FILE_VALUES)
}

fn scan_within(text: &str, max_bytes: usize, max_values: usize) -> Result<Scan, Excess> {
    if text.len() > max_bytes {
        return Err(Excess::Bytes);
    }
    let mut found = Scan::default();
    let mut chars = text.char_indices().peekable();
    while let Some((offset, c)) = chars.next() {
        // MAX_FILE_BYTES is far below 4 GiB.
        let offset = u32::try_from(offset).unwrap_or(u32::MAX);
        match c {
            '}' | ']' => {
                found.open.pop();
                continue;
            }
            ',' | ':' => continue,
            '/' => {
                skip_comment(&mut chars);
                continue;
            }
            c if is_json5_whitespace(c) => continue,
            _ => {}
        }
        if found.starts.len() == max_values {
            return Err(Excess::Values(offset));
        }
        found.starts.push(offset);
        match c {
            '{' | '[' if found.open.len() == MAX_DEPTH => return Err(Excess::Depth(offset)),
            '{' | '[' => found.open.push(offset),
            '"' | '\'' => skip_string(&mut chars, c),
            _ => while chars.next_if(|(_, c)| !ends_word(*c)).is_some() {},
        }
    }
    Ok(found)
}

fn ends_word(c: char) -> bool {
    matches!(c, '{' | '}' | '[' | ']' | ',' | ':' | '"' | '\'' | '/') || is_json5_whitespace(c)
}

fn skip_comment(chars: &mut Peekable<CharIndices<'_>>) {
    match chars.next() {
        Some((_, '/')) => {
            for (_, c) in chars.by_ref() {
                if is_json5_line_terminator(c) {
                    return;
                }
            }
        }
        Some((_, '*')) => {
            let mut previous = ' ';
            for (_, c) in chars.by_ref() {
                if previous == '*' && c == '/' {
                    return;
                }
                previous = c;
            }
        }
        _ => {}
    }
}

fn skip_string(chars: &mut Peekable<CharIndices<'_>>, delimiter: char) {
    while let Some((_, c)) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            c if c == delimiter => return,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_and_value_has_its_place() {
        let text = "// { \u{2028}{ a: [1,'],'], \"b\\\"\": /* : ** */ true, c\\u0061: -0x1F, }";
        let starts: Vec<&str> = scan(text).unwrap().starts.iter().map(|at| &text[*at as usize..]).collect();
        let expected = ["{ a", "a:", "[1", "1,", "'],'", "\"b\\", "true", "c\\u", "-0x1F"];
        assert_eq!(starts.len(), expected.len());
        for (found, beginning) in starts.iter().zip(expected) {
            assert!(found.starts_with(beginning), "{found} {beginning}");
        }
    }

    #[test]
    fn brackets_left_open_are_known() {
        assert_eq!(scan("{ a: [ 1, 2 ], b: { ").unwrap().open, [0, 18]);
        assert_eq!(scan("]]}} [").unwrap().open, [5]);
    }

    #[test]
    fn limits_hold() {
        assert!(scan(&"[".repeat(MAX_DEPTH)).is_ok());
        assert_eq!(scan(&"[".repeat(MAX_DEPTH + 1)), Err(Excess::Depth(u32::try_from(MAX_DEPTH).unwrap())));
        assert_eq!(scan_within("12345", 4, 9), Err(Excess::Bytes));
        assert_eq!(scan_within("[1,2,3]", 9, 3), Err(Excess::Values(5)));
        assert!(scan_within("[1,2,3]", 9, 4).is_ok());
    }
}
