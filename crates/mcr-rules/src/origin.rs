//! Who an output's datagrams are from: address and port, each a fixed one or that of the arriving datagram. Written and read
//! like the header fields: a value, or the word "keep".

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::de::{Error as _, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The word for what the arriving datagram has.
pub(crate) const KEEP: &str = "keep";

/// The source address of an output's datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceAddress {
    /// An address of this host.
    Fixed(IpAddr),
    /// That of the arriving datagram.
    Keep,
}

/// The source port of an output's datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourcePort {
    /// This port, not 0.
    Fixed(u16),
    /// That of the arriving datagram.
    Keep,
}

/// Neither a value of the option nor its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// Of a [`SourceAddress`].
    #[error("neither an address nor \"keep\"")]
    Address,
    /// Of a [`SourcePort`].
    #[error("neither 1 to 65535 nor \"keep\"")]
    Port,
}

impl SourceAddress {
    /// In the binary encoding: an address that nothing is sent from.
    const KEEP_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

    /// The address; `None` if it is the arriving one.
    #[must_use]
    pub const fn fixed(self) -> Option<IpAddr> {
        match self {
            Self::Fixed(address) => Some(address),
            Self::Keep => None,
        }
    }
}

impl SourcePort {
    /// The port; `None` if it is the arriving one.
    #[must_use]
    pub const fn fixed(self) -> Option<u16> {
        match self {
            Self::Fixed(port) => Some(port),
            Self::Keep => None,
        }
    }
}

impl From<IpAddr> for SourceAddress {
    fn from(address: IpAddr) -> Self {
        Self::Fixed(address)
    }
}

impl fmt::Display for SourceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(address) => address.fmt(f),
            Self::Keep => f.pad(KEEP),
        }
    }
}

impl fmt::Display for SourcePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(port) => port.fmt(f),
            Self::Keep => f.pad(KEEP),
        }
    }
}

impl FromStr for SourceAddress {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        match text {
            KEEP => Ok(Self::Keep),
            _ => text.parse().map(Self::Fixed).map_err(|_| OriginError::Address),
        }
    }
}

impl FromStr for SourcePort {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        match text {
            KEEP => Ok(Self::Keep),
            _ => text.parse().ok().filter(|port| *port != 0).map(Self::Fixed).ok_or(OriginError::Port),
        }
    }
}

impl Serialize for SourceAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.fixed().unwrap_or(Self::KEEP_ADDRESS).serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for SourceAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return String::deserialize(deserializer)?.parse().map_err(D::Error::custom);
        }
        Ok(match IpAddr::deserialize(deserializer)? {
            Self::KEEP_ADDRESS => Self::Keep,
            address => Self::Fixed(address),
        })
    }
}

impl Serialize for SourcePort {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.fixed() {
            port if !serializer.is_human_readable() => serializer.serialize_u16(port.unwrap_or(0)),
            Some(port) => serializer.serialize_u16(port),
            None => serializer.serialize_str(KEEP),
        }
    }
}

impl<'de> Deserialize<'de> for SourcePort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return deserializer.deserialize_any(PortOrWord);
        }
        Ok(match u16::deserialize(deserializer)? {
            0 => Self::Keep,
            port => Self::Fixed(port),
        })
    }
}

struct PortOrWord;

impl Visitor<'_> for PortOrWord {
    type Value = SourcePort;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number from 1 to 65535 or \"keep\"")
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<SourcePort, E> {
        match u16::try_from(number) {
            Ok(port) if port != 0 => Ok(SourcePort::Fixed(port)),
            _ => Err(E::invalid_value(Unexpected::Unsigned(number), &self)),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<SourcePort, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SourcePort, E> {
        match text {
            KEEP => Ok(SourcePort::Keep),
            _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_ports_are_values_or_a_word_in_json() {
        let fixed = SourceAddress::Fixed("10.1.0.2".parse().unwrap());
        for (json, address) in [("\"10.1.0.2\"", fixed), ("\"keep\"", SourceAddress::Keep)] {
            assert_eq!(serde_json::from_str::<SourceAddress>(json).unwrap(), address);
            assert_eq!(serde_json::to_string(&address).unwrap(), json);
            assert_eq!(address.to_string().parse(), Ok(address));
        }
        for (json, port) in [("5353", SourcePort::Fixed(5353)), ("\"keep\"", SourcePort::Keep)] {
            assert_eq!(serde_json::from_str::<SourcePort>(json).unwrap(), port);
            assert_eq!(serde_json::to_string(&port).unwrap(), json);
            assert_eq!(port.to_string().parse(), Ok(port));
        }
        for bad in ["0", "65536", "-1", "1.5", "\"same\"", "\"5353\"", "null"] {
            assert!(serde_json::from_str::<SourcePort>(bad).is_err(), "{bad}");
            assert!(serde_json::from_str::<SourceAddress>(bad).is_err(), "{bad}");
        }
        assert_eq!("0".parse::<SourcePort>(), Err(OriginError::Port));
        assert_eq!("here".parse::<SourceAddress>(), Err(OriginError::Address));
    }
}
