//! What a rule and an output carry beside their addresses: one value each, from the file to the worker, flattened in JSON
//! only. A new option is a field here; `let OutputOptions { … } = options` without `..` names every place that must
//! know it.

use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize, Serializer};

use crate::header_fields::{Dscp, Ttl};
use crate::origin::{SourceAddress, SourcePort};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct InputOptions {
    /// Takes frames for other hosts' MAC addresses too, and sets the interface promiscuous.
    pub promiscuous: bool,
    /// Takes what programs of this host send on the interface, too.
    pub local: bool,
    /// Holds the port of a unicast address, so that the kernel does not answer with ICMP port unreachable.
    pub hold_port: bool,
    /// Puts fragments together; otherwise they are counted and dropped.
    pub reassemble: bool,
}

impl Default for InputOptions {
    fn default() -> Self {
        Self { promiscuous: false, local: false, hold_port: true, reassemble: true }
    }
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
    pub source: Option<SourceAddress>,
    /// Port to send from. `None`: any free one.
    pub source_port: Option<SourcePort>,
    /// Programs of this host that joined the output's group on its interface get what is sent there, too
    /// (`IP_MULTICAST_LOOP`, ip(7)).
    #[serde(rename = "loop")]
    pub loopback: bool,
}

named! {
    /// A stream format whose numbering shows loss.
    pub enum StreamFormat {
        /// RTP (RFC 3550): sequence numbers and timestamps.
        Rtp = "rtp",
        /// MPEG transport stream (ISO/IEC 13818-1), also inside RTP: continuity counters.
        MpegTs = "mpegts",
    }
}

impl RuleOptions {
    /// The keys in the file, in the order in which they are written.
    pub(crate) const KEYS: [&str; 2] = ["max_pps", "stream"];
}

/// An output option in text form that can't be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OutputOptionError(String);

impl OutputOptions {
    /// The keys in the file, in the order in which they are written.
    pub(crate) const KEYS: [&str; 5] = ["ttl", "dscp", "source", "source_port", "loop"];

    /// Whether what is sent shows who sent the arriving datagram: its address, its port, or both.
    #[must_use]
    pub fn keeps_sender(&self) -> bool {
        self.source == Some(SourceAddress::Keep) || self.source_port == Some(SourcePort::Keep)
    }

    /// Sets an option from its text form on a command line, such as `ttl=8`.
    ///
    /// # Errors
    /// There is no option of this name, or it can't have this value.
    pub fn set(&mut self, option: &str) -> Result<(), OutputOptionError> {
        let unknown = |what: &str| {
            let [first @ .., last] = Self::KEYS;
            let message = format!("{what:?} is not an option: {} or {last} is expected", first.join(", "));
            OutputOptionError(message)
        };
        let Some((name, value)) = option.split_once('=') else {
            return Err(match Self::KEYS.contains(&option) {
                true => OutputOptionError(format!("{option} has no value: {option}=VALUE is expected")),
                false => unknown(option),
            });
        };
        let wrong = |why: &dyn fmt::Display| OutputOptionError(format!("{name} {value:?} is {why}"));
        match name {
            "ttl" => self.ttl = value.parse().map_err(|error| wrong(&error))?,
            "dscp" => self.dscp = value.parse().map_err(|error| wrong(&error))?,
            "source" => self.source = Some(value.parse().map_err(|error| wrong(&error))?),
            "source_port" => self.source_port = Some(value.parse().map_err(|error| wrong(&error))?),
            "loop" => self.loopback = value.parse().map_err(|_| wrong(&"neither true nor false"))?,
            name => return Err(unknown(name)),
        }
        Ok(())
    }
}

/// `ttl 16 dscp 0`, with source address and port behind `from`.
impl fmt::Display for OutputOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ttl, dscp, source, source_port, loopback } = self;
        write!(f, "ttl {ttl} dscp {dscp}")?;
        source.map_or(Ok(()), |source| write!(f, " from {source}"))?;
        source_port.map_or(Ok(()), |port| write!(f, " from port {port}"))?;
        f.write_str(if *loopback { " loop" } else { "" })
    }
}

/// `max_pps 9  stream rtp`: the options that are set.
impl fmt::Display for RuleOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max_pps, stream } = self;
        let max_pps = max_pps.map(|max_pps| format!("max_pps {max_pps}"));
        let stream = stream.map(|stream| format!("stream {stream}"));
        f.write_str(&[max_pps, stream].into_iter().flatten().collect::<Vec<_>>().join("  "))
    }
}

/// `promiscuous  local`: the options that are set.
impl fmt::Display for InputOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { promiscuous, local, hold_port, reassemble } = *self;
        let all = [
            (promiscuous, "promiscuous"),
            (local, "local"),
            (!hold_port, "hold_port false"),
            (!reassemble, "reassemble false"),
        ];
        let set = all.into_iter().filter(|(set, _)| *set);
        f.write_str(&set.map(|(_, name)| name).collect::<Vec<_>>().join("  "))
    }
}

/// Serializes options without those that are `null`, and flags without those that have their default, as the file has them.
pub(crate) fn without_null<O: Serialize + Default, S: Serializer>(
    options: &O,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut json = serde_json::to_value(options).map_err(serde::ser::Error::custom)?;
    let default = serde_json::to_value(O::default()).map_err(serde::ser::Error::custom)?;
    if let Some(members) = json.as_object_mut() {
        members
            .retain(|key, value| !(value.is_null() || value.is_boolean() && default.get(key) == Some(value)));
    }
    json.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_option_is_set_from_its_text_form() {
        let mut options = OutputOptions::default();
        for option in ["ttl=decrement", "dscp=34", "source=fd01::2", "source_port=5353", "loop=true"] {
            options.set(option).unwrap();
        }
        assert_eq!(options.to_string(), "ttl decrement dscp 34 from fd01::2 from port 5353 loop");
        for (option, error) in [
            ("ttl=0", "ttl \"0\" is neither 1 to 255 nor \"decrement\""),
            ("dscp=64", "dscp \"64\" is neither 0 to 63 nor \"keep\""),
            ("source=here", "source \"here\" is neither an address nor \"keep\""),
            ("source_port=0", "source_port \"0\" is neither 1 to 65535 nor \"keep\""),
            ("loop=yes", "loop \"yes\" is neither true nor false"),
            ("ttl", "ttl has no value: ttl=VALUE is expected"),
            ("hops", "\"hops\" is not an option: ttl, dscp, source, source_port or loop is expected"),
            ("hops=4", "\"hops\" is not an option: ttl, dscp, source, source_port or loop is expected"),
        ] {
            assert_eq!(options.set(option).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn stream_formats_have_one_name_for_serde_and_for_people() {
        for format in StreamFormat::ALL {
            assert_eq!(serde_json::to_value(format).unwrap(), format.name());
            assert_eq!(StreamFormat::named(format.name()), Some(format));
        }
        assert_eq!(StreamFormat::named("RTP"), None);
    }

    #[test]
    fn the_former_key_of_the_stream_format_is_read() {
        let options: RuleOptions = serde_json::from_str(r#"{ "health": "rtp" }"#).unwrap();
        assert_eq!(options.stream, Some(StreamFormat::Rtp));
        assert_eq!(options.to_string(), "stream rtp");
    }
}
