//! One rule: what to listen to and where to send it.
//!
//! The serde shapes are those of the configuration file. Deserializing a type by itself checks its shape only; what comes
//! from outside goes through [`crate::file`], which checks everything.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize, Serializer};

use crate::destination;
use crate::id::RuleId;
use crate::merge::MergeOptions;
use crate::name::{InterfaceName, RuleName};
use crate::options::{InputOptions, OutputOptions, RuleOptions, without_null};
use crate::settings::EngineChoice;

/// *Relay this to there.* A datagram that fits several rules is relayed by each of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "OwnedShape")]
pub struct Rule {
    /// The operator's name for it, unique in a configuration.
    pub name: Option<RuleName>,
    /// What it listens to, unique in a configuration; of a merged rule the first leg.
    pub input: Input,
    /// The further legs of a merged rule.
    pub merge: Option<Merge>,
    /// Where it sends to: one output at least.
    pub outputs: Vec<Output>,
    /// How they are relayed.
    pub options: RuleOptions,
    /// What relays them; `None`: what the settings say.
    pub engine: Option<EngineChoice>,
}

/// The legs of a rule beside its input, and how they are merged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Merge {
    /// The further legs, in the order of the file; the rule's input is the first.
    pub more: Vec<Input>,
    /// How they are merged.
    pub options: MergeOptions,
}

impl Rule {
    /// The id: a hash of the input. That of a merged rule is one of all its inputs, whatever their order.
    #[must_use]
    pub fn id(&self) -> RuleId {
        if self.merge.is_none() {
            return self.input.id();
        }
        id_of_legs(self.inputs())
    }

    /// What it listens to: one input, or its legs.
    pub fn inputs(&self) -> impl Iterator<Item = &Input> + Clone {
        std::iter::once(&self.input).chain(self.merge.iter().flat_map(|merge| &merge.more))
    }

    /// The same, for modification.
    pub fn inputs_mut(&mut self) -> impl Iterator<Item = &mut Input> {
        std::iter::once(&mut self.input).chain(self.merge.iter_mut().flat_map(|merge| &mut merge.more))
    }
}

/// The id of a merged rule with these legs, in any order.
pub(crate) fn id_of_legs<'i>(legs: impl Iterator<Item = &'i Input>) -> RuleId {
    let mut all: Vec<Vec<u8>> = legs.map(encode).collect();
    all.sort_unstable();
    RuleId::from_bits(xxhash_rust::xxh3::xxh3_64(&all.concat()))
}

/// The shape of a rule in JSON: `input`, or `inputs` and `merge`.
#[derive(Serialize)]
struct Shape<'r> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'r RuleName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<&'r Input>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<&'r Input>,
    #[serde(skip_serializing_if = "Option::is_none")]
    merge: Option<MergeOptions>,
    outputs: &'r [Output],
    #[serde(flatten, serialize_with = "without_null")]
    options: RuleOptions,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<EngineChoice>,
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let merge = self.merge.as_ref().map(|merge| merge.options);
        let (name, outputs, options) = (self.name.as_ref(), self.outputs.as_slice(), self.options);
        let (input, inputs) = match merge {
            None => (Some(&self.input), Vec::new()),
            Some(_) => (None, self.inputs().collect()),
        };
        let engine = self.engine;
        Shape { name, input, inputs, merge, outputs, options, engine }.serialize(serializer)
    }
}

/// [`Shape`] as it is read.
#[derive(Deserialize)]
struct OwnedShape {
    #[serde(default)]
    name: Option<RuleName>,
    input: Option<Input>,
    #[serde(default)]
    inputs: Vec<Input>,
    merge: Option<MergeOptions>,
    outputs: Vec<Output>,
    #[serde(flatten)]
    options: RuleOptions,
    #[serde(default)]
    engine: Option<EngineChoice>,
}

impl TryFrom<OwnedShape> for Rule {
    type Error = &'static str;

    fn try_from(shape: OwnedShape) -> Result<Self, Self::Error> {
        let OwnedShape { name, input, inputs, merge, outputs, options, engine } = shape;
        let mut legs = inputs.into_iter();
        let (input, merge) = match (input, legs.next(), merge) {
            (Some(input), None, None) => (input, None),
            (None, Some(first), Some(options)) => (first, Some(Merge { more: legs.collect(), options })),
            _ => return Err("a rule has either `input`, or `inputs` and `merge`"),
        };
        Ok(Self { name, input, merge, outputs, options, engine })
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
        let mut merged = json.clone();
        let mut first = merged["input"].take();
        first["interface"] = "eth2".into();
        merged["inputs"] = serde_json::json!([first, json["input"]]);
        merged["merge"] = serde_json::json!({ "by": "rtp", "window_ms": 50, "order": "arrival" });
        merged.as_object_mut().unwrap().remove("input");
        let legs: Rule = serde_json::from_value(merged.clone()).unwrap();
        assert_eq!(serde_json::to_value(&legs).unwrap(), merged);
        let mut turned = legs.clone();
        turned.input = legs.merge.as_ref().unwrap().more[0].clone();
        turned.merge.as_mut().unwrap().more = vec![legs.input.clone()];
        assert_eq!(legs.id(), turned.id());
        assert!(legs.inputs().all(|input| input.id() != legs.id()));
        merged.as_object_mut().unwrap().remove("merge");
        assert!(serde_json::from_value::<Rule>(merged).is_err());
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
