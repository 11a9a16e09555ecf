//! Single values: numbers, words, names, addresses, lists.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::super::error::Findings;
use super::super::suggestion::nearest;
use super::super::tree::{Node, Value};
use crate::check::out_of_range;
use crate::destination::{BROADCAST, BROADCAST_WORD};
use crate::header_fields::HeaderField;
use crate::media_url::socket_address;
use crate::name::InterfaceName;
use crate::origin::{KEEP, SourceAddress};
use crate::path::{Path, quoted};

/// Reports a value of another kind than expected; there is none to return.
pub(super) fn wrong_kind<T>(
    node: &Node,
    expected: &str,
    path: &Path<'_>,
    findings: &mut Findings,
) -> Option<T> {
    let hint = match &node.value {
        Value::Null => Some("omit the key for the default".to_owned()),
        Value::Text(text) if expected.contains("number") && text.trim().parse::<f64>().is_ok() => {
            Some(format!("write {} without quotes", text.trim()))
        }
        _ => None,
    };
    findings.add(node.place, path, format!("{expected} is expected, not {}", node.value.kind()), hint);
    None
}

/// Reads each element of a list.
pub(super) fn list<T>(
    node: &Node,
    path: &Path<'_>,
    findings: &mut Findings,
    read: impl Fn(&Node, &Path<'_>, &mut Findings) -> T,
) -> Option<Vec<T>> {
    let Value::List(elements) = &node.value else { return wrong_kind(node, "a list", path, findings) };
    Some(elements.iter().enumerate().map(|(at, node)| read(node, &path.index(at), findings)).collect())
}

/// A whole number of a range.
pub(super) fn integer<N>(
    node: &Node,
    range: RangeInclusive<N>,
    path: &Path<'_>,
    findings: &mut Findings,
) -> Option<N>
where
    N: TryFrom<i64> + PartialOrd + Display + Copy,
{
    let (lowest, highest) = (range.start(), range.end());
    let message = match &node.value {
        Value::Integer(number) => match N::try_from(*number) {
            Ok(value) if range.contains(&value) => return Some(value),
            _ => out_of_range(number, lowest, highest),
        },
        Value::Float(number) if number.abs() < 1.0e15 => {
            format!("a whole number from {lowest} to {highest} is expected, not {number:?}")
        }
        Value::Float(number) => out_of_range(number, lowest, highest),
        _ => return wrong_kind(node, &format!("a number from {lowest} to {highest}"), path, findings),
    };
    findings.add(node.place, path, message, None);
    None
}

/// True or false.
pub(super) fn boolean(node: &Node, path: &Path<'_>, findings: &mut Findings) -> Option<bool> {
    match &node.value {
        Value::Boolean(value) => Some(*value),
        _ => wrong_kind(node, "true or false", path, findings),
    }
}

/// A header field: a number of its range, or its word.
pub(super) fn header_field<F: HeaderField>(
    node: &Node,
    path: &Path<'_>,
    findings: &mut Findings,
) -> Option<F> {
    number_or_word(node, F::RANGE, F::WORD, path, findings).map(F::of)
}

/// A number of a range, or a word, which is `Some(None)`.
pub(super) fn number_or_word<N>(
    node: &Node,
    range: RangeInclusive<N>,
    word: &str,
    path: &Path<'_>,
    findings: &mut Findings,
) -> Option<Option<N>>
where
    N: TryFrom<i64> + PartialOrd + Display + Copy,
{
    let expected = format!("a number from {} to {} or {word:?}", range.start(), range.end());
    match &node.value {
        Value::Text(text) if text == word => Some(None),
        Value::Integer(_) | Value::Float(_) => integer(node, range, path, findings).map(Some),
        Value::Text(text) if text.trim().parse::<f64>().is_err() => {
            let message = format!("{expected} is expected, not {}", quoted(text));
            let hint = nearest(text, &[word]).map(|word| format!("did you mean {word:?}?"));
            findings.add(node.place, path, message, hint);
            None
        }
        _ => wrong_kind(node, &expected, path, findings),
    }
}

/// One of several words, as its position among them.
pub(super) fn word(node: &Node, words: &[&str], path: &Path<'_>, findings: &mut Findings) -> Option<usize> {
    let expected = words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
    let Value::Text(text) = &node.value else {
        return wrong_kind(node, &format!("one of {expected}"), path, findings);
    };
    let found = words.iter().position(|word| word == text);
    if found.is_none() {
        let hint = nearest(text, words).map(|word| format!("did you mean {word:?}?"));
        findings.add(node.place, path, format!("one of {expected} is expected, not {}", quoted(text)), hint);
    }
    found
}

/// A text that has to be of a certain form; `what` names it.
pub(super) fn parsed<T>(node: &Node, what: &str, path: &Path<'_>, findings: &mut Findings) -> Option<T>
where
    T: FromStr<Err: Display>,
{
    let Value::Text(text) = &node.value else {
        return wrong_kind(node, &format!("{what} in quotes"), path, findings);
    };
    match text.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            findings.add(node.place, path, format!("{} is not {what}: {error}", quoted(text)), None);
            None
        }
    }
}

/// The name of an interface.
pub(super) fn interface(node: &Node, path: &Path<'_>, findings: &mut Findings) -> Option<InterfaceName> {
    let Value::Text(text) = &node.value else {
        return wrong_kind(node, "an interface name in quotes", path, findings);
    };
    match text.parse() {
        Ok(name) => Some(name),
        Err(error) => {
            findings.add_interface(node.place, path, text, &error);
            None
        }
    }
}

/// A multicast group, a unicast address, or the word for the interface's broadcast addresses.
pub(super) fn destination(node: &Node, path: &Path<'_>, findings: &mut Findings) -> Option<IpAddr> {
    match &node.value {
        Value::Text(text) if text == BROADCAST_WORD => Some(BROADCAST),
        _ => address(node, path, findings),
    }
}

/// An address to send from, or the word for the arriving one.
pub(super) fn source_address(node: &Node, path: &Path<'_>, findings: &mut Findings) -> Option<SourceAddress> {
    match &node.value {
        Value::Text(text) if text == KEEP => Some(SourceAddress::Keep),
        _ => address(node, path, findings).map(SourceAddress::Fixed),
    }
}

/// An IP address.
pub(super) fn address(node: &Node, path: &Path<'_>, findings: &mut Findings) -> Option<IpAddr> {
    let Value::Text(text) = &node.value else {
        return wrong_kind(node, "an IP address in quotes", path, findings);
    };
    let address = text.parse().ok();
    if address.is_none() {
        let message = format!("{} is not an IP address", quoted(text));
        findings.add(node.place, path, message, address_hint(text));
    }
    address
}

fn address_hint(text: &str) -> Option<String> {
    if nearest(text, &[BROADCAST_WORD]).is_some() {
        return Some(format!("did you mean {BROADCAST_WORD:?}?"));
    }
    let hint = if let Some(socket) = socket_address(text) {
        let (address, port) = (socket.ip().to_string(), socket.port());
        return Some(format!("write {address:?}, and the port as `port: {port}`"));
    } else if let Some((address, _)) = text.split_once('%') {
        address.parse::<IpAddr>().ok()?;
        return Some(format!("write {address:?}: the scope is the `interface`"));
    } else if text.contains('/') {
        "a single address is needed, without a prefix length"
    } else if text.starts_with('[') && text.ends_with(']') {
        "remove the brackets"
    } else if text != text.trim() {
        "remove the white space"
    } else if text.split('.').count() == 4 && text.chars().all(|c| c.is_ascii_digit() || c == '.') {
        "four numbers from 0 to 255 without leading zeros are needed"
    } else if text.contains(|c: char| c.is_ascii_alphabetic()) && !text.contains(':') {
        "names are not resolved: write the address"
    } else {
        return None;
    };
    Some(hint.to_owned())
}
