//! The rule id: a hash of what a rule listens to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Identifies a rule by its input. The same input has the same id in every process, on every host and in every version of
/// this program; it is never stored in a file.
///
/// It is XXH3-64 (seed 0) of this encoding of the [`Input`](crate::rule::Input):
///
/// ```text
/// length of the interface name, 1 byte | name | group | port, 2 bytes big-endian | number of sources, 4 bytes big-endian | sources
/// ```
///
/// where an address is the byte 4 or 6 and its 4 or 16 bytes in network order, and the sources are sorted and unique. Of a rule with
/// several inputs it is the hash of their encodings, sorted and one after another.
/// Written as 16 lower-case hex digits; a 64-bit number in binary formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(u64);

/// A text that is not 16 hex digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a rule id: 16 hex digits are expected")]
pub struct RuleIdError(pub String);

impl RuleId {
    /// The id that [`RuleId::to_bits`] returned.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The id as a number, for shared memory.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:016x}", self.0))
    }
}

impl FromStr for RuleId {
    type Err = RuleIdError;

    fn from_str(text: &str) -> Result<Self, RuleIdError> {
        let wrong = || RuleIdError(text.chars().take(64).collect());
        if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| wrong())
    }
}

impl Serialize for RuleId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_u64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for RuleId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        } else {
            u64::deserialize(deserializer).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let id = RuleId::from_bits(0x0012_ab00_0000_00ff);
        assert_eq!(id.to_string(), "0012ab00000000ff");
        assert_eq!("0012ab00000000ff".parse(), Ok(id));
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"0012ab00000000ff\"");
        assert_eq!(serde_json::from_str::<RuleId>("\"0012AB00000000FF\"").unwrap(), id);
        for bad in ["", "12", "+012ab00000000ff", "0012ab00000000fg", "0012ab00000000ff0", "é012ab00000000f"]
        {
            assert!(bad.parse::<RuleId>().is_err(), "{bad:?}");
        }
    }
}
