//! What a rule and an output carry beside their addresses: one value each, from the file to the worker, flattened in JSON
//! only. A new option is a field here; `let OutputOptions { … } = options` without `..` names every place that must
//! know it.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

use crate::header_fields::{Dscp, Ttl};

/// The options of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct RuleOptions {
    /// Datagrams per second that each of its workers relays at most; what exceeds it is dropped. `None`: no limit.
    pub max_pps: Option<NonZeroU32>,
    /// The format of the stream that its datagrams carry, if the stream's numbering is to be checked.
    #[serde(alias = "health")]
    pub stream: Option<StreamFormat>,
}

/// The options of an input. They are not part of the rule's id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct InputOptions {
    /// Takes frames for other hosts' MAC addresses too, and sets the interface promiscuous.
    pub promiscuous: bool,
    /// Takes what programs of this host send on the interface, too.
    pub local: bool,
}

/// The options of an output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct OutputOptions {
    /// TTL or hop limit of the datagrams sent.
    pub ttl: Ttl,
    /// DSCP of the datagrams sent.
    pub dscp: Dscp,
    /// Address to send from, of the output group's family. `None`: an address of the interface.
    pub source: Option<IpAddr>,
}

/// A stream format whose numbering shows loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StreamFormat {
    /// RTP (RFC 3550): sequence numbers and timestamps.
    #[serde(rename = "rtp")]
    Rtp,
    /// MPEG transport stream (ISO/IEC 13818-1), also inside RTP: continuity counters.
    #[serde(rename = "mpegts")]
    MpegTs,
}

impl StreamFormat {
    /// Every format.
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

/// Not the name of a stream format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a stream format (rtp, mpegts)")]
pub struct StreamFormatError(String);

impl FromStr for StreamFormat {
    type Err = StreamFormatError;

    fn from_str(text: &str) -> Result<Self, StreamFormatError> {
        let found = Self::ALL.into_iter().find(|format| format.as_str() == text);
        found.ok_or_else(|| StreamFormatError(text.to_owned()))
    }
}

/// An output option in text form that can't be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutputOptionError {
    /// No such option.
    #[error("{0:?} is not an option: ttl, dscp or source is expected")]
    Unknown(String),
    /// A value that the option can't have.
    #[error("{0}")]
    Value(String),
}

impl OutputOptions {
    /// Sets an option from its text form, as on a command line.
    ///
    /// # Errors
    /// There is no option of this name, or it can't have this value.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), OutputOptionError> {
        let wrong = |why: &dyn fmt::Display| OutputOptionError::Value(format!("{name} {value:?} is {why}"));
        match name {
            "ttl" => self.ttl = value.parse().map_err(|error| wrong(&error))?,
            "dscp" => self.dscp = value.parse().map_err(|error| wrong(&error))?,
            "source" => self.source = Some(value.parse().map_err(|_| wrong(&"not an address"))?),
            _ => return Err(OutputOptionError::Unknown(name.to_owned())),
        }
        Ok(())
    }
}

/// `ttl 16 dscp 0`, with the source address behind `from`.
impl fmt::Display for OutputOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ttl, dscp, source } = self;
        write!(f, "ttl {ttl} dscp {dscp}")?;
        source.map_or(Ok(()), |source| write!(f, " from {source}"))
    }
}

/// `max_pps 9  stream rtp`: the options that are set.
impl fmt::Display for RuleOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max_pps, stream } = self;
        let max_pps = max_pps.map(|max_pps| format!("max_pps {max_pps}"));
        let stream = stream.map(|stream| format!("stream {}", stream.as_str()));
        f.write_str(&[max_pps, stream].into_iter().flatten().collect::<Vec<_>>().join("  "))
    }
}

/// `promiscuous  local`: the options that are set.
impl fmt::Display for InputOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { promiscuous, local } = *self;
        let set = [(promiscuous, "promiscuous"), (local, "local")].into_iter().filter(|(set, _)| *set);
        f.write_str(&set.map(|(_, name)| name).collect::<Vec<_>>().join("  "))
    }
}

/// Serializes options without those that are `null` or `false`, as the file has them.
pub(crate) fn without_null<O: Serialize, S: Serializer>(
    options: &O,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut json = serde_json::to_value(options).map_err(serde::ser::Error::custom)?;
    if let Some(members) = json.as_object_mut() {
        members.retain(|_, value| !value.is_null() && *value != false);
    }
    json.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_option_is_set_from_its_text_form() {
        let mut options = OutputOptions::default();
        for (name, value) in [("ttl", "decrement"), ("dscp", "34"), ("source", "fd01::2")] {
            options.set(name, value).unwrap();
        }
        assert_eq!(options.to_string(), "ttl decrement dscp 34 from fd01::2");
        for (name, value, error) in [
            ("ttl", "0", "ttl \"0\" is neither 1 to 255 nor \"decrement\""),
            ("dscp", "64", "dscp \"64\" is neither 0 to 63 nor \"keep\""),
            ("source", "here", "source \"here\" is not an address"),
            ("hops", "4", "\"hops\" is not an option: ttl, dscp or source is expected"),
        ] {
            assert_eq!(options.set(name, value).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn stream_formats_have_one_name_for_serde_and_for_people() {
        for format in StreamFormat::ALL {
            assert_eq!(serde_json::to_value(format).unwrap(), format.as_str());
            assert_eq!(format.as_str().parse(), Ok(format));
        }
        assert!("RTP".parse::<StreamFormat>().is_err());
    }

    #[test]
    fn the_former_key_of_the_stream_format_is_read() {
        let options: RuleOptions = serde_json::from_str(r#"{ "health": "rtp" }"#).unwrap();
        assert_eq!(options.stream, Some(StreamFormat::Rtp));
        assert_eq!(options.to_string(), "stream rtp");
    }
}
