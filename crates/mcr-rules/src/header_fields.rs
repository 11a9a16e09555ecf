//! The header fields that an output sets: TTL and DSCP, each a number or one word. How they are written and read is defined
//! here once: on the command line, in tables, in the file, in JSON, and in one byte between supervisor and worker.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The TTL (IPv4) or hop limit (IPv6) of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ttl {
    /// This value, 1–255.
    Fixed(u8),
    /// One less than the received datagram had.
    Decrement,
}

impl Default for Ttl {
    fn default() -> Self {
        Self::Fixed(16)
    }
}

/// The differentiated services code point (RFC 2474) of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dscp {
    /// This value, 0–63.
    Fixed(u8),
    /// That of the received datagram.
    Keep,
}

impl Default for Dscp {
    fn default() -> Self {
        Self::Fixed(0)
    }
}

/// A header field: a fixed number, or a word for a value that depends on the received datagram.
pub(crate) trait HeaderField: Copy + Default {
    /// The numbers that the field holds.
    const RANGE: RangeInclusive<u8>;
    /// The word.
    const WORD: &'static str;
    /// The word in the binary encoding: a number outside the range.
    const WORD_BYTE: u8;

    /// The number; `None` for the word.
    fn number(self) -> Option<u8>;

    /// The field of a number in range, or of the word.
    fn of(number: Option<u8>) -> Self;
}

/// Implements [`HeaderField`] and the traits that follow from it.
macro_rules! header_field {
    ($field:ident, $word:ident = $text:literal as $byte:expr, $range:expr) => {
        impl HeaderField for $field {
            const RANGE: RangeInclusive<u8> = $range;
            const WORD: &'static str = $text;
            const WORD_BYTE: u8 = $byte;

            fn number(self) -> Option<u8> {
                self.fixed()
            }

            fn of(number: Option<u8>) -> Self {
                number.map_or(Self::$word, Self::Fixed)
            }
        }

        impl $field {
            /// The number; `None` if it depends on the received datagram.
            #[must_use]
            pub const fn fixed(self) -> Option<u8> {
                match self {
                    Self::Fixed(value) => Some(value),
                    Self::$word => None,
                }
            }
        }

        impl fmt::Display for $field {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.fixed() {
                    Some(value) => fmt::Display::fmt(&value, f),
                    None => f.pad(Self::WORD),
                }
            }
        }

        impl FromStr for $field {
            type Err = HeaderFieldError;

            fn from_str(text: &str) -> Result<Self, HeaderFieldError> {
                let number = text.parse().ok().filter(|number| Self::RANGE.contains(number));
                if number.is_none() && text != Self::WORD {
                    return Err(HeaderFieldError::of::<Self>());
                }
                Ok(Self::of(number))
            }
        }

        impl Serialize for $field {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serialize(*self, serializer)
            }
        }

        impl<'de> Deserialize<'de> for $field {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserialize(deserializer)
            }
        }
    };
}

header_field!(Ttl, Decrement = "decrement" as 0, 1..=u8::MAX);
header_field!(Dscp, Keep = "keep" as u8::MAX, 0..=63);

/// A text that is neither the field's word nor one of its numbers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither {lowest} to {highest} nor {word:?}")]
pub struct HeaderFieldError {
    lowest: u8,
    highest: u8,
    word: &'static str,
}

impl HeaderFieldError {
    fn of<F: HeaderField>() -> Self {
        Self { lowest: *F::RANGE.start(), highest: *F::RANGE.end(), word: F::WORD }
    }
}

fn serialize<F: HeaderField, S: Serializer>(field: F, serializer: S) -> Result<S::Ok, S::Error> {
    match field.number() {
        number if !serializer.is_human_readable() => serializer.serialize_u8(number.unwrap_or(F::WORD_BYTE)),
        Some(number) => serializer.serialize_u8(number),
        None => serializer.serialize_str(F::WORD),
    }
}

fn deserialize<'de, F: HeaderField, D: Deserializer<'de>>(deserializer: D) -> Result<F, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum NumberOrWord {
        Number(u8),
        Word(String),
    }
    let number = if deserializer.is_human_readable() {
        match NumberOrWord::deserialize(deserializer)? {
            NumberOrWord::Word(word) if word == F::WORD => return Ok(F::of(None)),
            NumberOrWord::Number(number) => Some(number),
            NumberOrWord::Word(_) => None,
        }
    } else {
        match u8::deserialize(deserializer)? {
            byte if byte == F::WORD_BYTE => return Ok(F::of(None)),
            byte => Some(byte),
        }
    };
    match number.filter(|number| F::RANGE.contains(number)) {
        None => Err(D::Error::custom(HeaderFieldError::of::<F>())),
        number => Ok(F::of(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ttl_and_dscp_are_numbers_or_words_in_json() {
        for (text, ttl) in [("1", Ttl::Fixed(1)), ("255", Ttl::Fixed(255)), ("\"decrement\"", Ttl::Decrement)]
        {
            assert_eq!(serde_json::from_str::<Ttl>(text).unwrap(), ttl);
            assert_eq!(serde_json::to_string(&ttl).unwrap(), text);
        }
        for (text, dscp) in [("0", Dscp::Fixed(0)), ("63", Dscp::Fixed(63)), ("\"keep\"", Dscp::Keep)] {
            assert_eq!(serde_json::from_str::<Dscp>(text).unwrap(), dscp);
            assert_eq!(serde_json::to_string(&dscp).unwrap(), text);
        }
        for bad in ["0", "256", "-1", "1.5", "\"keep\"", "\"16\"", "null", "true"] {
            assert!(serde_json::from_str::<Ttl>(bad).is_err(), "{bad}");
        }
        for bad in ["64", "-1", "\"decrement\"", "null"] {
            assert!(serde_json::from_str::<Dscp>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_displayed_is_read_back() {
        for ttl in [Ttl::Fixed(1), Ttl::Fixed(255), Ttl::Decrement] {
            assert_eq!(ttl.to_string().parse(), Ok(ttl));
        }
        for dscp in [Dscp::Fixed(0), Dscp::Fixed(63), Dscp::Keep] {
            assert_eq!(dscp.to_string().parse(), Ok(dscp));
        }
        let error = "0".parse::<Ttl>().unwrap_err();
        assert_eq!(error.to_string(), "neither 1 to 255 nor \"decrement\"");
        for bad in ["64", "decrement", "", "+-1"] {
            assert!(bad.parse::<Dscp>().is_err(), "{bad}");
        }
    }
}
