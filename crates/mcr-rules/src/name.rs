//! Names that are checked once and then can't be wrong.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A network interface's name: 1 to 15 bytes, no slash, no white space (netdevice(7), `dev_valid_name` in the kernel).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceName(Box<str>);

/// A rule's name: 1 to 64 of `A–Z a–z 0–9 . _ -`, not beginning with `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RuleName(Box<str>);

/// A text that is no such name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not an interface name.
    #[error("{0:?} is not an interface name (1 to 15 bytes, no '/', no white space)")]
    Interface(String),
    /// Not a rule name.
    #[error("{0:?} is not a rule name (1 to 64 of A-Z a-z 0-9 . _ -, not beginning with -)")]
    Rule(String),
}

impl FromStr for InterfaceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let valid = (1..=15).contains(&text.len())
            && text != "."
            && text != ".."
            && !text.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
        if valid { Ok(Self(text.into())) } else { Err(NameError::Interface(text.to_owned())) }
    }
}

impl FromStr for RuleName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let valid = (1..=64).contains(&text.len())
            && !text.starts_with('-')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if valid { Ok(Self(text.into())) } else { Err(NameError::Rule(text.to_owned())) }
    }
}

macro_rules! text_of {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.into()
            }
        }
    };
}
text_of!(InterfaceName);
text_of!(RuleName);
