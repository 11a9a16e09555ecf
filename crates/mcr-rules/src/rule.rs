//! One rule: what to listen to and where to send it.
//!
//! The serde shapes are those of the configuration file. Deserialising a type by itself checks its shape only; what comes
//! from outside goes through [`crate::file`], which checks everything.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;

use serde::de::{Error as _, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::RuleId;
use crate::name::{InterfaceName, RuleName};

/// *Relay this to there.* A datagram that fits several rules is relayed by each of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// The operator's name for it, unique in a configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<RuleName>,
    /// What it listens to, unique in a configuration.
    pub input: Input,
    /// Where it sends to: one output at least.
    pub outputs: Vec<Output>,
    /// Datagrams per second that each of its workers relays at most; what exceeds it is dropped. `None`: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pps: Option<NonZeroU32>,
    /// Which stream its datagrams carry, if its health is to be checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// A kind of stream whose numbering tells of loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Health {
    /// RTP (RFC 3550): sequence numbers and timestamps.
    #[serde(rename = "rtp")]
    Rtp,
    /// MPEG transport stream (ISO/IEC 13818-1), also inside RTP: continuity counters.
    #[serde(rename = "mpegts")]
    MpegTs,
}

impl Health {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Rtp, Self::MpegTs];

    /// The word in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rtp => "rtp",
            Self::MpegTs => "mpegts",
        }
    }
}

impl Rule {
    /// The id: a hash of the input.
    #[must_use]
    pub fn id(&self) -> RuleId {
        self.input.id()
    }
}

/// What a rule listens to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Input {
    /// The interface that the datagrams arrive on.
    pub interface: InterfaceName,
    /// Destination address of the datagrams: a multicast group, or a unicast address of this host.
    pub group: IpAddr,
    /// Destination UDP port, not 0.
    pub port: u16,
    /// Source addresses to accept, of the group's family, sorted and unique. Empty: any source.
    #[serde(default)]
    pub sources: Vec<IpAddr>,
}

impl Input {
    /// The id of the rule with this input.
    #[must_use]
    pub fn id(&self) -> RuleId {
        RuleId::of(self)
    }

    /// Whether a datagram from this source address is admitted.
    #[must_use]
    pub fn admits(&self, source: IpAddr) -> bool {
        self.sources.is_empty() || self.sources.contains(&source)
    }
}

/// `interface group:port`, with the sources behind `from`.
impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.interface, std::net::SocketAddr::new(self.group, self.port))?;
        for (index, source) in self.sources.iter().enumerate() {
            write!(f, "{}{source}", if index == 0 { " from " } else { ", " })?;
        }
        Ok(())
    }
}

/// Where a rule sends to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Output {
    /// The interface to send on.
    pub interface: InterfaceName,
    /// Destination address: a multicast group or a unicast host, of either family.
    pub group: IpAddr,
    /// Destination UDP port, not 0.
    pub port: u16,
    /// TTL or hop limit of the datagrams sent.
    #[serde(default)]
    pub ttl: Ttl,
    /// DSCP of the datagrams sent.
    #[serde(default)]
    pub dscp: Dscp,
    /// Address to send from, of the output group's family. `None`: an address of the interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
}

/// `interface group:port`.
impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.interface, std::net::SocketAddr::new(self.group, self.port))
    }
}

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

const DECREMENT: &str = "decrement";
const KEEP: &str = "keep";

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(value) => fmt::Display::fmt(value, f),
            Self::Decrement => f.pad(DECREMENT),
        }
    }
}

impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(value) => fmt::Display::fmt(value, f),
            Self::Keep => f.pad(KEEP),
        }
    }
}

/// Serialises a number or a word for people; for machines one byte, where `word_byte` (outside the range) is the word.
fn serialize_number_or_word<S: Serializer>(
    serializer: S,
    number: Option<u8>,
    word: &str,
    word_byte: u8,
) -> Result<S::Ok, S::Error> {
    match number {
        _ if !serializer.is_human_readable() => serializer.serialize_u8(number.unwrap_or(word_byte)),
        Some(number) => serializer.serialize_u8(number),
        None => serializer.serialize_str(word),
    }
}

impl Serialize for Ttl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number = if let Self::Fixed(value) = self { Some(*value) } else { None };
        serialize_number_or_word(serializer, number, DECREMENT, 0)
    }
}

impl Serialize for Dscp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number = if let Self::Fixed(value) = self { Some(*value) } else { None };
        serialize_number_or_word(serializer, number, KEEP, u8::MAX)
    }
}

/// Accepts one word as `None` and numbers of a range as `Some`.
struct NumberOrWord {
    word: &'static str,
    lowest: u8,
    highest: u8,
}

impl Visitor<'_> for NumberOrWord {
    type Value = Option<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a number from {} to {} or {:?}", self.lowest, self.highest, self.word)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Self::Value, E> {
        match u8::try_from(number) {
            Ok(value) if (self.lowest..=self.highest).contains(&value) => Ok(Some(value)),
            _ => Err(E::invalid_value(Unexpected::Unsigned(number), &self)),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Self::Value, E> {
        match u64::try_from(number) {
            Ok(value) => self.visit_u64(value),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        if text == self.word { Ok(None) } else { Err(E::invalid_value(Unexpected::Str(text), &self)) }
    }
}

impl<'de> Deserialize<'de> for Ttl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let visitor = NumberOrWord { word: DECREMENT, lowest: 1, highest: u8::MAX };
            return Ok(deserializer.deserialize_any(visitor)?.map_or(Self::Decrement, Self::Fixed));
        }
        Ok(match u8::deserialize(deserializer)? {
            0 => Self::Decrement,
            value => Self::Fixed(value),
        })
    }
}

impl<'de> Deserialize<'de> for Dscp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let visitor = NumberOrWord { word: KEEP, lowest: 0, highest: 63 };
            return Ok(deserializer.deserialize_any(visitor)?.map_or(Self::Keep, Self::Fixed));
        }
        match u8::deserialize(deserializer)? {
            u8::MAX => Ok(Self::Keep),
            value if value <= 63 => Ok(Self::Fixed(value)),
            value => {
                Err(D::Error::invalid_value(Unexpected::Unsigned(value.into()), &"0 to 63, or 255 for keep"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ttl_and_dscp_are_numbers_or_words() {
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
    fn rules_serialise_in_the_shape_of_the_file() {
        let json = serde_json::json!({
            "input": { "interface": "eth0", "group": "239.1.1.1", "port": 5000, "sources": [] },
            "outputs": [{ "interface": "eth1", "group": "ff15::2", "port": 5001, "ttl": 16, "dscp": 0 }],
        });
        let rule: Rule = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(&rule).unwrap(), json);
        assert_eq!(rule.input.to_string(), "eth0 239.1.1.1:5000");
        assert_eq!(rule.outputs[0].to_string(), "eth1 [ff15::2]:5001");
    }
}
