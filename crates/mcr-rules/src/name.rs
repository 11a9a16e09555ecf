//! Names, validated when they are parsed.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_INTERFACE_NAME_BYTES, MAX_RULE_NAME_CHARS};

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("the name is empty")]
    Empty,
    /// The text is longer than the kernel or a table allows.
    #[error("the name is {length} long, at most {limit} are allowed")]
    TooLong {
        /// Length found, characters.
        length: usize,
        /// Greatest length allowed.
        limit: usize,
    },
    /// The interface name is longer than the kernel allows; altnames may have up to 127 bytes.
    #[error("the name has {length} bytes, at most {limit} are allowed")]
    TooLongForInterface {
        /// Length found, bytes.
        length: usize,
        /// Greatest length allowed, bytes.
        limit: usize,
    },
    /// The label of an address, as ifconfig(8) and `ip address` show it.
    #[error("it is the label of an address; the interface is {interface:?}")]
    AddressLabel {
        /// The part before the colon.
        interface: String,
    },
    /// A character that the name may not hold.
    #[error("the name may not contain {0:?}")]
    Character(char),
    /// `.` and `..` are directories in `/sys/class/net`, so the kernel refuses them.
    #[error("the name may not be {0:?}")]
    Dots(String),
    /// A name that begins with `-` would be taken for an option on a command line.
    #[error("the name may not begin with '-'")]
    LeadingDash,
}

/// The name of a network interface: 1–15 bytes without `/`, `:`, white space or control characters, and neither `.` nor
/// `..` (`dev_valid_name` of the kernel).
///
/// It is kept in place, without memory of its own: thousands of rules with their outputs are copied at each change.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceName {
    /// Zeroes follow the name; it has none itself, so that this order is that of the text.
    bytes: [u8; MAX_INTERFACE_NAME_BYTES],
    length: u8,
}

/// A rule's name, chosen by the operator: 1–64 characters of `A–Z a–z 0–9 . _ -`, not beginning with `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RuleName(String);

impl InterfaceName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        // It was made from text.
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Whether this is the loopback interface, where a host's own sends come back as input. Linux names it `lo` in every
    /// network namespace.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.as_str() == "lo"
    }
}

impl fmt::Debug for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InterfaceName").field(&self.as_str()).finish()
    }
}

/// As the text, by which maps are searched too.
impl std::hash::Hash for InterfaceName {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl RuleName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_INTERFACE_NAME_BYTES {
            return Err(NameError::TooLongForInterface {
                length: text.len(),
                limit: MAX_INTERFACE_NAME_BYTES,
            });
        }
        if text == "." || text == ".." {
            return Err(NameError::Dots(text.to_owned()));
        }
        let forbidden = |c: &char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control();
        match text.chars().find(forbidden) {
            Some(':') if text.split(':').all(|part| !part.is_empty()) => {
                let interface = text.split(':').next().unwrap_or_default().to_owned();
                Err(NameError::AddressLabel { interface })
            }
            Some(c) => Err(NameError::Character(c)),
            None => {
                let mut bytes = [0; MAX_INTERFACE_NAME_BYTES];
                bytes.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
                Ok(Self { bytes, length: u8::try_from(text.len()).unwrap_or_default() })
            }
        }
    }
}

impl FromStr for RuleName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let length = text.chars().count();
        if length == 0 {
            return Err(NameError::Empty);
        }
        if length > MAX_RULE_NAME_CHARS {
            return Err(NameError::TooLong { length, limit: MAX_RULE_NAME_CHARS });
        }
        if text.starts_with('-') {
            return Err(NameError::LeadingDash);
        }
        match text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
            Some(c) => Err(NameError::Character(c)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

macro_rules! text_of_a_name {
    ($name:ty) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }
    };
}

text_of_a_name!(InterfaceName);
text_of_a_name!(RuleName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_are_what_the_kernel_accepts() {
        for good in ["lo", "eth0", "eth0.100", "wg-home", "br_lan", "enp0s31f6", "fifteen-bytes-x", "…"] {
            assert_eq!(good.parse::<InterfaceName>().unwrap().as_str(), good);
        }
        for (bad, error) in [
            ("", NameError::Empty),
            (".", NameError::Dots(".".into())),
            ("..", NameError::Dots("..".into())),
            ("a/b", NameError::Character('/')),
            ("eth0:1", NameError::AddressLabel { interface: "eth0".into() }),
            ("eth0:", NameError::Character(':')),
            ("a b", NameError::Character(' ')),
            ("a\u{7}", NameError::Character('\u{7}')),
            ("sixteen-bytes-xx", NameError::TooLongForInterface { length: 16, limit: 15 }),
        ] {
            assert_eq!(bad.parse::<InterfaceName>(), Err(error), "{bad:?}");
        }
    }

    #[test]
    fn interface_names_have_the_order_and_the_hash_of_their_text() {
        let texts = ["a", "a0", "a1", "b", "eth0", "eth10", "eth2", "fifteen-bytes-x", "…"];
        let names = texts.map(|text| text.parse::<InterfaceName>().unwrap());
        let mut sorted = texts;
        sorted.sort_unstable();
        let mut sorted_names = names.clone();
        sorted_names.sort_unstable();
        assert_eq!(sorted_names.each_ref().map(InterfaceName::as_str), sorted);
        let set: std::collections::HashSet<InterfaceName> = names.into_iter().collect();
        assert!(texts.iter().all(|text| set.contains(*text)));
        assert_eq!(format!("{:?}", sorted_names[0]), "InterfaceName(\"a\")");
    }

    #[test]
    fn rule_names_are_safe_on_a_command_line() {
        for good in ["a", "studio-video", "A.b_c-9", &"x".repeat(64)] {
            assert_eq!(good.parse::<RuleName>().unwrap().as_str(), good);
        }
        for (bad, error) in [
            ("", NameError::Empty),
            ("-v", NameError::LeadingDash),
            ("a b", NameError::Character(' ')),
            ("é", NameError::Character('é')),
            (&"x".repeat(65), NameError::TooLong { length: 65, limit: 64 }),
        ] {
            assert_eq!(bad.parse::<RuleName>(), Err(error), "{bad:?}");
        }
    }

    #[test]
    fn names_are_plain_strings_in_json_and_checked_on_the_way_in() {
        let name: InterfaceName = serde_json::from_str("\"eth0\"").unwrap();
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"eth0\"");
        assert!(serde_json::from_str::<InterfaceName>("\"a/b\"").is_err());
        assert!(serde_json::from_str::<RuleName>("\"-x\"").is_err());
    }
}
