//! The destination of an input or output as text: an IP address, or `broadcast` for 255.255.255.255, which stands for the broadcast
//! addresses of the interface.

use std::net::{AddrParseError, IpAddr, Ipv4Addr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The limited broadcast address (RFC 919), which `broadcast` stands for.
pub const BROADCAST: IpAddr = IpAddr::V4(Ipv4Addr::BROADCAST);
/// The word for it.
pub const BROADCAST_WORD: &str = "broadcast";

/// Reads a destination.
///
/// # Errors
/// It is neither an IP address nor the word.
pub fn parse(text: &str) -> Result<IpAddr, AddrParseError> {
    if text == BROADCAST_WORD { Ok(BROADCAST) } else { text.parse() }
}

/// Writes a destination so that [`parse`] reads it back.
#[must_use]
pub fn text(address: IpAddr) -> String {
    if address == BROADCAST { BROADCAST_WORD.to_owned() } else { address.to_string() }
}

/// Writes destination and port: `239.1.1.1:5000`, `[ff15::1]:5000`, `broadcast:9`.
#[must_use]
pub fn with_port(address: IpAddr, port: u16) -> String {
    match address {
        BROADCAST => format!("{BROADCAST_WORD}:{port}"),
        _ => std::net::SocketAddr::new(address, port).to_string(),
    }
}

/// For `#[serde(with)]`: the text in formats for people.
///
/// # Errors
/// Those of the format.
pub fn serialize<S: Serializer>(address: &IpAddr, serializer: S) -> Result<S::Ok, S::Error> {
    if *address == BROADCAST && serializer.is_human_readable() {
        serializer.serialize_str(BROADCAST_WORD)
    } else {
        address.serialize(serializer)
    }
}

/// The counterpart of [`serialize`].
///
/// # Errors
/// Not a destination, or those of the format.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpAddr, D::Error> {
    if !deserializer.is_human_readable() {
        return IpAddr::deserialize(deserializer);
    }
    let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
    parse(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_have_one_text() {
        for written in ["239.1.1.1", "ff15::1", "10.1.0.255", "broadcast"] {
            assert_eq!(text(parse(written).unwrap()), written);
        }
        assert_eq!(parse("255.255.255.255"), Ok(BROADCAST));
        assert!(parse("Broadcast").is_err());
        assert_eq!(with_port(BROADCAST, 9), "broadcast:9");
        assert_eq!(with_port("ff15::1".parse().unwrap(), 9), "[ff15::1]:9");
    }
}
