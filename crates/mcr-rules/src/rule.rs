//! Rules: *relay this to there*.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::{InterfaceName, RuleName};

/// What identifies a rule: a hash of its input, the same over reloads, restarts and versions.
///
/// XXH3 (64 bits, seed 0) of: the interface's name and a zero byte; group; port, big endian; each source in order. An
/// address is the byte 4 or 6 followed by its 4 or 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RuleId(u64);

impl RuleId {
    /// An id from its 64 bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The id's 64 bits.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A text that is no rule id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a rule id (16 hexadecimal digits)")]
pub struct RuleIdError(String);

impl FromStr for RuleId {
    type Err = RuleIdError;

    fn from_str(text: &str) -> Result<Self, RuleIdError> {
        let valid = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        match u64::from_str_radix(text, 16) {
            Ok(bits) if valid => Ok(Self(bits)),
            _ => Err(RuleIdError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for RuleId {
    type Error = RuleIdError;
    fn try_from(text: String) -> Result<Self, RuleIdError> {
        text.parse()
    }
}

impl From<RuleId> for String {
    fn from(id: RuleId) -> Self {
        id.to_string()
    }
}

/// Where datagrams are taken from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Input {
    /// The interface they arrive on.
    pub interface: InterfaceName,
    /// Their destination: a group, or a unicast address of this host.
    pub group: IpAddr,
    /// Their destination port; not 0.
    pub port: u16,
    /// The only sources admitted, sorted and unique; empty admits any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<IpAddr>,
}

impl Input {
    /// The id of the rule with this input.
    #[must_use]
    pub fn id(&self) -> RuleId {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(self.interface.as_str().as_bytes());
        bytes.push(0);
        push_address(&mut bytes, self.group);
        bytes.extend_from_slice(&self.port.to_be_bytes());
        self.sources.iter().for_each(|source| push_address(&mut bytes, *source));
        RuleId(xxhash_rust::xxh3::xxh3_64(&bytes))
    }

    /// Whether a datagram from `source` is admitted.
    #[must_use]
    pub fn admits(&self, source: IpAddr) -> bool {
        self.sources.is_empty() || self.sources.contains(&source)
    }
}

fn push_address(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            bytes.push(4);
            bytes.extend_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            bytes.push(6);
            bytes.extend_from_slice(&v6.octets());
        }
    }
}

/// The TTL (IPv6: hop limit) of republished datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ttl {
    /// This one, 1 to 255.
    Fixed(u8),
    /// One less than the received datagram's; one that would become 0 is dropped.
    Decrement,
}

impl Default for Ttl {
    fn default() -> Self {
        Self::Fixed(16)
    }
}

/// The DSCP (RFC 2474) of republished datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dscp {
    /// This one, 0 to 63.
    Fixed(u8),
    /// The received datagram's.
    Keep,
}

impl Default for Dscp {
    fn default() -> Self {
        Self::Fixed(0)
    }
}

/// Where datagrams are sent to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Output {
    /// The interface they leave by.
    pub interface: InterfaceName,
    /// Their new destination: a group or a unicast host, of either family.
    pub group: IpAddr,
    /// Their new destination port; not 0.
    pub port: u16,
    /// Their TTL.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ttl: Ttl,
    /// Their DSCP.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dscp: Dscp,
    /// The address they are sent from; `None`: the output interface's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
}

/// One input and its outputs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// The operator's name for it, unique in a configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<RuleName>,
    /// Where from.
    pub input: Input,
    /// Where to; at least one.
    pub outputs: Vec<Output>,
}

impl Rule {
    /// The rule's id.
    #[must_use]
    pub fn id(&self) -> RuleId {
        self.input.id()
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A number or a word in the file, as serde reads and writes it. Tagged in formats that don't describe themselves.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum NumberOrWord {
    Number(u8),
    Word(String),
}

/// Serde of a type that is a number in a range or one word: as such in text, as its code 0–255 or 256 in binary.
macro_rules! number_or_word {
    ($name:ident, $word:literal, $other:ident, $range:pat, $expected:literal) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match (serializer.is_human_readable(), *self) {
                    (true, Self::Fixed(n)) => serializer.serialize_u8(n),
                    (true, Self::$other) => serializer.serialize_str($word),
                    (false, Self::Fixed(n)) => serializer.serialize_u16(n.into()),
                    (false, Self::$other) => serializer.serialize_u16(256),
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                use serde::de::Error;
                if !deserializer.is_human_readable() {
                    return match u16::deserialize(deserializer)? {
                        256 => Ok(Self::$other),
                        code => match u8::try_from(code) {
                            Ok(n @ $range) => Ok(Self::Fixed(n)),
                            _ => Err(D::Error::custom($expected)),
                        },
                    };
                }
                match NumberOrWord::deserialize(deserializer) {
                    Ok(NumberOrWord::Number(n @ $range)) => Ok(Self::Fixed(n)),
                    Ok(NumberOrWord::Word(word)) if word == $word => Ok(Self::$other),
                    _ => Err(D::Error::custom($expected)),
                }
            }
        }
    };
}
number_or_word!(Ttl, "decrement", Decrement, 1..=255, "a TTL is 1 to 255 or \"decrement\"");
number_or_word!(Dscp, "keep", Keep, 0..=63, "a DSCP is 0 to 63 or \"keep\"");
