//! Facilities and log levels, for the supervisor and its workers alike. A facility is the `target` of a tracing
//! event.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Reading, checking and saving configuration.
pub const CONFIG: &str = "config";
/// The control socket and its clients.
pub const CONTROL: &str = "control";
/// Links and addresses of this host.
pub const NETWORK: &str = "network";
/// Group memberships.
pub const MEMBERSHIP: &str = "membership";
/// Start, stop and health of workers.
pub const WORKERS: &str = "workers";
/// What a worker does with datagrams.
pub const DATAPLANE: &str = "dataplane";

/// Every facility there is.
pub const FACILITIES: [&str; 6] = [CONFIG, CONTROL, NETWORK, MEMBERSHIP, WORKERS, DATAPLANE];

/// How much a facility says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing.
    Off,
    /// What needs an operator.
    Error,
    /// What may need one.
    Warn,
    /// What changed.
    #[default]
    Info,
    /// Why it changed.
    Debug,
    /// Every step.
    Trace,
}

impl Level {
    /// Every level, from silence to everything.
    pub const ALL: [Self; 6] = [Self::Off, Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The level's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
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
    pub facilities: BTreeMap<String, Level>,
}

impl LogLevels {
    /// The level in force for a facility.
    #[must_use]
    pub fn level(&self, facility: &str) -> Level {
        self.facilities.get(facility).copied().unwrap_or(self.default)
    }

    /// Sets the level of one facility, or of everything (which forgets the exceptions).
    ///
    /// # Errors
    /// The facility does not exist.
    pub fn set(&mut self, facility: Option<&str>, level: Level) -> Result<(), LogLevelError> {
        match facility {
            None => *self = Self { default: level, facilities: BTreeMap::new() },
            Some(name) if FACILITIES.contains(&name) => {
                self.facilities.insert(name.to_owned(), level);
            }
            Some(name) => return Err(LogLevelError::Facility(name.to_owned())),
        }
        Ok(())
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
                Some((facility, level)) => levels.set(Some(facility.trim()), level.trim().parse()?)?,
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
    fn levels_read_what_they_print() {
        for text in ["info", "warn,control=debug", "off,dataplane=trace,workers=error"] {
            let levels: LogLevels = text.parse().unwrap();
            assert_eq!(levels.to_string(), text);
        }
        assert_eq!("control=debug".parse::<LogLevels>().unwrap().level(CONTROL), Level::Debug);
    }

    #[test]
    fn unknown_words_are_named() {
        assert_eq!("loud".parse::<LogLevels>(), Err(LogLevelError::Level("loud".into())));
        assert_eq!("info,disk=warn".parse::<LogLevels>(), Err(LogLevelError::Facility("disk".into())));
    }

    #[test]
    fn a_general_level_forgets_exceptions() {
        let mut levels: LogLevels = "info,control=trace".parse().unwrap();
        levels.set(None, Level::Warn).unwrap();
        assert_eq!(levels.level(CONTROL), Level::Warn);
    }
}
