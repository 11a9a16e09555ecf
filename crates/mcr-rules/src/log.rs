//! Log levels and facilities, of the supervisor and its workers, in the control protocol and on command lines.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Reading, checking and saving configuration.
pub const CONFIG: &str = Facility::Config.name();
/// The control socket and its clients.
pub const CONTROL: &str = Facility::Control.name();
/// Links and addresses of this host.
pub const NETWORK: &str = Facility::Network.name();
/// Group memberships.
pub const MEMBERSHIP: &str = Facility::Membership.name();
/// Start, stop and health of workers.
pub const WORKERS: &str = Facility::Workers.name();
/// What a worker does with datagrams.
pub const DATAPLANE: &str = Facility::Dataplane.name();

/// A part of the program with a log level of its own. In the order of their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Facility {
    /// See [`CONFIG`].
    Config,
    /// See [`CONTROL`].
    Control,
    /// See [`DATAPLANE`].
    Dataplane,
    /// See [`MEMBERSHIP`].
    Membership,
    /// See [`NETWORK`].
    Network,
    /// See [`WORKERS`].
    Workers,
}

impl Facility {
    /// Every facility.
    pub const ALL: [Self; 6] =
        [Self::Config, Self::Control, Self::Network, Self::Membership, Self::Workers, Self::Dataplane];

    /// The facility's name: the `target` of its tracing events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Control => "control",
            Self::Dataplane => "dataplane",
            Self::Membership => "membership",
            Self::Network => "network",
            Self::Workers => "workers",
        }
    }
}

impl fmt::Display for Facility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Facility {
    type Err = LogLevelError;

    fn from_str(text: &str) -> Result<Self, LogLevelError> {
        Self::ALL
            .into_iter()
            .find(|facility| facility.name() == text)
            .ok_or_else(|| LogLevelError::Facility(text.to_owned()))
    }
}

// By name in every format: the supervisor and its workers may be of different builds.
impl Serialize for Facility {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Facility {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

named! {
    /// How much a facility says, from silence to everything.
    #[derive(Default)]
    pub enum Level {
        /// Nothing.
        #[serde(alias = "OFF")]
        Off = "off",
        /// What needs an operator.
        #[serde(alias = "ERROR")]
        Error = "error",
        /// What may need one.
        #[serde(alias = "WARN")]
        Warn = "warn",
        /// What changed.
        #[default]
        #[serde(alias = "INFO")]
        Info = "info",
        /// Why it changed.
        #[serde(alias = "DEBUG")]
        Debug = "debug",
        /// Every step.
        #[serde(alias = "TRACE")]
        Trace = "trace",
    }
}

/// A text that names no level, no facility, or is not of the form `LEVEL[,FACILITY=LEVEL…]`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogLevelError {
    /// Not a level.
    #[error("{0:?} is not a log level (off, error, warn, info, debug, trace)")]
    Level(String),
    /// Not a facility.
    #[error("{0:?} is not a log facility (config, control, network, membership, workers, dataplane)")]
    Facility(String),
}

impl FromStr for Level {
    type Err = LogLevelError;

    fn from_str(text: &str) -> Result<Self, LogLevelError> {
        Self::ALL
            .into_iter()
            .find(|level| level.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| LogLevelError::Level(text.to_owned()))
    }
}

/// The level of everything, and of the facilities that differ. Text form: `info` or `warn,control=debug`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevels {
    /// The level of facilities that are not named.
    pub default: Level,
    /// Facilities with a level of their own.
    pub facilities: BTreeMap<Facility, Level>,
}

impl LogLevels {
    /// The level in force for a facility.
    #[must_use]
    pub fn level(&self, facility: Facility) -> Level {
        self.facilities.get(&facility).copied().unwrap_or(self.default)
    }

    /// Sets the level of one facility, or of everything (which removes the exceptions).
    pub fn set(&mut self, facility: Option<Facility>, level: Level) {
        match facility {
            None => *self = Self { default: level, facilities: BTreeMap::new() },
            Some(facility) => {
                self.facilities.insert(facility, level);
            }
        }
    }
}

impl fmt::Display for LogLevels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.default)?;
        self.facilities.iter().try_for_each(|(facility, level)| write!(f, ",{facility}={level}"))
    }
}

impl FromStr for LogLevels {
    type Err = LogLevelError;

    fn from_str(text: &str) -> Result<Self, LogLevelError> {
        let mut levels = Self::default();
        for part in text.split(',').map(str::trim) {
            match part.split_once('=') {
                Some((facility, level)) => levels.set(Some(facility.trim().parse()?), level.trim().parse()?),
                None => levels.default = part.parse()?,
            }
        }
        Ok(levels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_parse_what_they_display() {
        for text in ["info", "warn,control=debug", "off,dataplane=trace,workers=error"] {
            let levels: LogLevels = text.parse().unwrap();
            assert_eq!(levels.to_string(), text);
        }
        assert_eq!("control=debug".parse::<LogLevels>().unwrap().level(Facility::Control), Level::Debug);
    }

    #[test]
    fn unknown_names_are_errors() {
        assert_eq!("loud".parse::<LogLevels>(), Err(LogLevelError::Level("loud".into())));
        assert_eq!("info,disk=warn".parse::<LogLevels>(), Err(LogLevelError::Facility("disk".into())));
    }

    #[test]
    fn a_default_level_removes_exceptions() {
        let mut levels: LogLevels = "info,control=trace".parse().unwrap();
        levels.set(None, Level::Warn);
        assert_eq!(levels.level(Facility::Control), Level::Warn);
    }
}
