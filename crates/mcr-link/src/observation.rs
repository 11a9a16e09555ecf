//! The report of an observer to the supervisor: a summary of the frames received on all interfaces within some seconds. The
//! observer is an unprivileged process (`mcrd observe`), because the supervisor must not parse frames.
//!
//! ```text
//!   supervisor ── stdin: the socket ──▶ observer ── stdout: one Observation ──▶ supervisor
//! ```

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Maximum number of listed flows; frames of others are counted as [`Observation::unlisted`].
pub const MAX_FLOWS: usize = 1024;
/// Maximum number of listed queriers, and of listed receivers.
pub const MAX_NEIGHBORS: usize = 512;
/// Maximum size of an encoded observation: flows, queriers and receivers at their limits, with a margin.
pub const MAX_OBSERVATION_BYTES: usize = 256 * 1024;
/// Maximum number of frames that an observer reads, to limit its CPU use.
pub const MAX_FRAMES: u64 = 100_000;

/// How the frames of a flow concern this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FlowKind {
    /// They arrived, for this host or many.
    Received,
    /// They arrived, for another host's MAC address.
    OtherHost,
    /// A program of this host sent them.
    Sent,
}

/// Frames of one source to one destination on one interface and VLAN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The interface's index.
    pub ifindex: u32,
    /// VLAN id of the tag.
    pub vlan: Option<u16>,
    /// Destination address.
    pub group: IpAddr,
    /// Destination port; `None` if it can't be read, as in all fragments but the first.
    pub port: Option<u16>,
    /// Source address.
    pub source: IpAddr,
    /// How they concern this host.
    pub kind: FlowKind,
    /// Source MAC address of the first; zeroes without one.
    pub mac: [u8; 6],
    /// Number of frames.
    pub frames: u64,
    /// Number of fragments.
    pub fragments: u64,
    /// Number of frames with a wrong checksum.
    pub bad_checksums: u64,
    /// Number of frames with TTL 0.
    pub ttl_zero: u64,
    /// Number of frames with inconsistent headers.
    pub malformed: u64,
    /// The longest IP packet, bytes.
    pub largest_bytes: u32,
}

impl Flow {
    /// Returns the number of valid frames.
    #[must_use]
    pub fn valid(&self) -> u64 {
        let faulty = self.fragments + self.bad_checksums + self.ttl_zero + self.malformed;
        self.frames.saturating_sub(faulty)
    }
}

/// A querier: it sent an IGMP or MLD query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Querier {
    /// The interface's index.
    pub ifindex: u32,
    /// The VLAN of the tag.
    pub vlan: Option<u16>,
    /// The source address.
    pub from: IpAddr,
}

/// A receiver: it reported a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Receiver {
    /// The interface's index.
    pub ifindex: u32,
    /// The group.
    pub group: IpAddr,
    /// The source address.
    pub from: IpAddr,
}

/// The summary of an observation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// Duration of the observation, milliseconds.
    pub elapsed_ms: u64,
    /// Received frames by flow.
    pub flows: Vec<Flow>,
    /// Queriers.
    pub queriers: Vec<Querier>,
    /// Receivers.
    pub receivers: Vec<Receiver>,
    /// Frames of flows that are not listed.
    pub unlisted: u64,
    /// Frames that the observer lost.
    pub lost: u64,
}

impl Observation {
    /// Encodes the observation for the supervisor.
    ///
    /// # Errors
    /// Memory for the encoding can't be allocated.
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_stdvec(self)
    }

    /// Decodes the result of [`Self::encode`].
    ///
    /// # Errors
    /// The bytes are not an observation.
    pub fn decode(bytes: &[u8]) -> Result<Self, postcard::Error> {
        postcard::from_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_observation_is_within_its_limit() {
        let address = IpAddr::from([0xff; 16]);
        let flow = Flow {
            ifindex: u32::MAX,
            vlan: Some(u16::MAX),
            group: address,
            port: Some(u16::MAX),
            source: address,
            kind: FlowKind::Sent,
            mac: [0xff; 6],
            frames: u64::MAX,
            fragments: u64::MAX,
            bad_checksums: u64::MAX,
            ttl_zero: u64::MAX,
            malformed: u64::MAX,
            largest_bytes: u32::MAX,
        };
        let longest = Observation {
            elapsed_ms: u64::MAX,
            flows: vec![flow; MAX_FLOWS],
            queriers: vec![Querier { ifindex: u32::MAX, vlan: Some(4095), from: address }; MAX_NEIGHBORS],
            receivers: vec![Receiver { ifindex: u32::MAX, group: address, from: address }; MAX_NEIGHBORS],
            unlisted: u64::MAX,
            lost: u64::MAX,
        };
        let bytes = longest.encode().unwrap();
        assert!(bytes.len() <= MAX_OBSERVATION_BYTES, "{}", bytes.len());
        assert_eq!(Observation::decode(&bytes).unwrap(), longest);
        assert!(Observation::decode(&bytes[..bytes.len() - 1]).is_err());
    }
}
