//! What an observer tells the supervisor: what arrived on any interface in some seconds, summed up. The observer is an
//! unprivileged process (`mcrd observe`), since the supervisor must not read frames.
//!
//! ```text
//!   supervisor ── stdin: the socket ──▶ observer ── stdout: one Observation ──▶ supervisor
//! ```

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Different flows that are told apart; frames of others are counted as [`Observation::unlisted`].
pub const MAX_FLOWS: usize = 1024;
/// Queriers and reports that are told.
pub const MAX_SPEAKERS: usize = 512;
/// The longest encoded observation: flows and speakers at their limits, with room.
pub const MAX_OBSERVATION_BYTES: usize = 256 * 1024;
/// Frames that an observer reads at most: a look must not cost a core.
pub const MAX_FRAMES: u64 = 100_000;

/// Frames of one source to one destination on one interface and VLAN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The kernel's number of the interface.
    pub ifindex: u32,
    /// The VLAN of their tag.
    pub vlan: Option<u16>,
    /// Destination address.
    pub group: IpAddr,
    /// Destination port; `None` where it can't be read, as in all but the first fragment.
    pub port: Option<u16>,
    /// Source address.
    pub source: IpAddr,
    /// All of them.
    pub frames: u64,
    /// Fragments among them.
    pub fragments: u64,
    /// Those with a wrong checksum.
    pub bad_checksums: u64,
    /// Those with a TTL of 0.
    pub ttl_zero: u64,
    /// Those that contradict themselves.
    pub malformed: u64,
    /// The longest IP packet, bytes.
    pub largest_bytes: u32,
}

impl Flow {
    /// Those that nothing is wrong with.
    #[must_use]
    pub fn sound(&self) -> u64 {
        let faulty = self.fragments + self.bad_checksums + self.ttl_zero + self.malformed;
        self.frames.saturating_sub(faulty)
    }
}

/// Somebody who asked for memberships.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Querier {
    /// Where.
    pub ifindex: u32,
    /// On which VLAN.
    pub vlan: Option<u16>,
    /// Who.
    pub from: IpAddr,
}

/// Somebody who wants a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Receiver {
    /// Where.
    pub ifindex: u32,
    /// What.
    pub group: IpAddr,
    /// Who.
    pub from: IpAddr,
}

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// How long it was looked, milliseconds.
    pub elapsed_ms: u64,
    /// What arrived, by destination.
    pub flows: Vec<Flow>,
    /// Who asked for memberships.
    pub queriers: Vec<Querier>,
    /// Who wants what.
    pub receivers: Vec<Receiver>,
    /// Frames of flows that had no place in the list.
    pub unlisted: u64,
    /// Frames that came too fast to be looked at.
    pub lost: u64,
}

impl Observation {
    /// For the way from the observer to the supervisor.
    ///
    /// # Errors
    /// None that are known.
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_stdvec(self)
    }

    /// What [`Self::encode`] made.
    ///
    /// # Errors
    /// The bytes are none of its.
    pub fn decode(bytes: &[u8]) -> Result<Self, postcard::Error> {
        postcard::from_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_fits_its_limit() {
        let address = IpAddr::from([0xff; 16]);
        let flow = Flow {
            ifindex: u32::MAX,
            vlan: Some(u16::MAX),
            group: address,
            port: Some(u16::MAX),
            source: address,
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
            queriers: vec![Querier { ifindex: u32::MAX, vlan: Some(4095), from: address }; MAX_SPEAKERS],
            receivers: vec![Receiver { ifindex: u32::MAX, group: address, from: address }; MAX_SPEAKERS],
            unlisted: u64::MAX,
            lost: u64::MAX,
        };
        let bytes = longest.encode().unwrap();
        assert!(bytes.len() <= MAX_OBSERVATION_BYTES, "{}", bytes.len());
        assert_eq!(Observation::decode(&bytes).unwrap(), longest);
        assert!(Observation::decode(&bytes[..bytes.len() - 1]).is_err());
    }
}
