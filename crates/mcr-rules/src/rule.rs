//! One rule: what to listen to and where to send it.
//!
//! The serde shapes are those of the configuration file. Deserializing a type by itself checks its shape only; what comes
//! from outside goes through [`crate::file`], which checks everything.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::destination;
use crate::id::RuleId;
use crate::name::{InterfaceName, RuleName};
use crate::options::{InputOptions, OutputOptions, RuleOptions, without_null};
use crate::settings::EngineChoice;

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
    /// How they are relayed.
    #[serde(flatten, serialize_with = "without_null")]
    pub options: RuleOptions,
    /// What relays them; `None`: what the settings say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineChoice>,
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
    /// Destination address of the datagrams: a multicast group, a unicast address of this host, or a broadcast address.
    /// [`destination::BROADCAST`] stands for all broadcast addresses of the interface.
    #[serde(with = "destination")]
    pub group: IpAddr,
    /// Destination UDP port, not 0.
    pub port: u16,
    /// Source addresses to accept, of the group's family, sorted and unique. Empty: any source.
    #[serde(default)]
    pub sources: Vec<IpAddr>,
    /// How they are received.
    #[serde(flatten, serialize_with = "without_null")]
    pub options: InputOptions,
}

impl Input {
    /// The id of the rule with this input.
    #[must_use]
    pub fn id(&self) -> RuleId {
        RuleId::from_bits(xxhash_rust::xxh3::xxh3_64(&encode(self)))
    }

    /// Whether a datagram from this source address is admitted.
    #[must_use]
    pub fn admits(&self, source: IpAddr) -> bool {
        self.sources.is_empty() || self.sources.contains(&source)
    }
}

/// The encoding whose hash the id is; see [`RuleId`].
fn encode(input: &Input) -> Vec<u8> {
    let name = input.interface.as_str().as_bytes();
    let mut bytes = Vec::with_capacity(32 + name.len() + 17 * input.sources.len());
    bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    bytes.extend_from_slice(name);
    encode_address(&mut bytes, input.group);
    bytes.extend_from_slice(&input.port.to_be_bytes());
    // The fields are public, so an Input may have been built without sorting them.
    let mut sources = input.sources.clone();
    sources.sort_unstable();
    sources.dedup();
    bytes.extend_from_slice(&u32::try_from(sources.len()).unwrap_or(u32::MAX).to_be_bytes());
    for source in sources {
        encode_address(&mut bytes, source);
    }
    bytes
}

fn encode_address(bytes: &mut Vec<u8>, address: IpAddr) {
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

/// `interface group:port`, with the sources behind `from`.
impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.interface, destination::with_port(self.group, self.port))?;
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
    /// Destination address: a multicast group, a unicast host or a broadcast address, of either family.
    #[serde(with = "destination")]
    pub group: IpAddr,
    /// Destination UDP port, not 0.
    pub port: u16,
    /// How they are sent.
    #[serde(flatten, serialize_with = "without_null")]
    pub options: OutputOptions,
}

/// `interface group:port`.
impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.interface, destination::with_port(self.group, self.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(interface: &str, group: &str, port: u16, sources: &[&str]) -> Input {
        let sources = sources.iter().map(|s| s.parse().unwrap()).collect();
        Input {
            interface: interface.parse().unwrap(),
            group: group.parse().unwrap(),
            port,
            sources,
            options: InputOptions::default(),
        }
    }

    #[test]
    fn the_encoding_is_fixed() {
        let ssm = input("eth0", "232.1.1.1", 6000, &["10.1.1.5", "10.1.1.4"]);
        let expected = [
            &[4][..],
            b"eth0",
            &[4, 232, 1, 1, 1],
            &[0x17, 0x70],
            &[0, 0, 0, 2],
            &[4, 10, 1, 1, 4],
            &[4, 10, 1, 1, 5],
        ];
        assert_eq!(encode(&ssm), expected.concat());
        let v6 = input("wg0", "ff15::1", 5000, &[]);
        let group = [&[6, 0xff, 0x15][..], &[0; 13], &[1]].concat();
        assert_eq!(encode(&v6), [&[3][..], b"wg0", &group, &[0x13, 0x88], &[0; 4]].concat());
    }

    #[test]
    fn known_answers() {
        for (input, id) in [
            (input("eth0", "239.1.1.1", 5000, &[]), "eb3d2333524a5bd1"),
            (input("eth0", "232.1.1.1", 6000, &["10.1.1.5"]), "6cdbcbe8756fe211"),
            (input("wg0", "ff15::1", 5000, &[]), "790b340f8fc48760"),
        ] {
            assert_eq!(input.id().to_string(), id, "{input:?}");
        }
    }

    #[test]
    fn the_order_of_sources_does_not_matter_and_everything_else_does() {
        let base = input("eth0", "232.1.1.1", 6000, &["10.1.1.5", "10.1.1.6"]);
        let reordered = input("eth0", "232.1.1.1", 6000, &["10.1.1.6", "10.1.1.5", "10.1.1.6"]);
        assert_eq!(base.id(), reordered.id());
        for other in [
            input("eth1", "232.1.1.1", 6000, &["10.1.1.5", "10.1.1.6"]),
            input("eth0", "232.1.1.2", 6000, &["10.1.1.5", "10.1.1.6"]),
            input("eth0", "232.1.1.1", 6001, &["10.1.1.5", "10.1.1.6"]),
            input("eth0", "232.1.1.1", 6000, &["10.1.1.5"]),
            input("eth0", "232.1.1.1", 6000, &[]),
        ] {
            assert_ne!(base.id(), other.id(), "{other:?}");
        }
        let options = InputOptions { promiscuous: true, local: true, hold_port: false, reassemble: false };
        assert_eq!(base.id(), Input { options, ..base.clone() }.id());
    }

    #[test]
    fn rules_serialize_in_the_shape_of_the_file() {
        let json = serde_json::json!({
            "input": { "interface": "eth0", "group": "239.1.1.1", "port": 5000, "sources": [] },
            "outputs": [{ "interface": "eth1", "group": "ff15::2", "port": 5001, "ttl": 16, "dscp": 0 }],
        });
        let rule: Rule = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(&rule).unwrap(), json);
        assert_eq!(rule.input.to_string(), "eth0 239.1.1.1:5000");
        assert_eq!(rule.outputs[0].to_string(), "eth1 [ff15::2]:5001");
        let mut with_options = json;
        with_options["input"]["promiscuous"] = true.into();
        with_options["input"]["hold_port"] = false.into();
        with_options["max_pps"] = 9.into();
        with_options["stream"] = "rtp".into();
        with_options["outputs"][0]["source"] = "fd01::2".into();
        with_options["outputs"][0]["source_port"] = "keep".into();
        with_options["outputs"][0]["loop"] = true.into();
        let rule: Rule = serde_json::from_value(with_options.clone()).unwrap();
        assert_eq!(serde_json::to_value(&rule).unwrap(), with_options);
    }
}
