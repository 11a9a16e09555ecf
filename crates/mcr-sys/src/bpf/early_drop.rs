//! The program that drops at ingress what MCR has captured, unless a socket of the host receives it (`bpf/early_drop.c`).

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use super::map::{Kind, Map};
use super::{MapName, NO_MAP, Program, generated};
use crate::link::IfIndex;
use crate::{Result, clock};

/// Destinations that the program has room for: those of 16,384 rules, with the broadcast addresses of their networks.
pub const MAX_DESTINATIONS: u32 = 65_536;
/// Interfaces that it counts on.
const MAX_INTERFACES: u32 = 4_096;

/// What is to be dropped: datagrams that arrive on an interface for an address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// Where they arrive.
    pub ifindex: IfIndex,
    /// A group, a broadcast address, or an address of this host.
    pub address: IpAddr,
    /// The UDP port.
    pub port: u16,
}

/// `struct destination` of the program.
pub(super) type Key = [u8; 24];

impl Destination {
    pub(super) fn key(&self) -> Key {
        let mut key = [0; 24];
        let (family, address) = match self.address {
            IpAddr::V4(address) => (4, address.octets().to_vec()),
            IpAddr::V6(address) => (6, address.octets().to_vec()),
        };
        let parts =
            [&self.ifindex.to_raw().to_ne_bytes()[..], &self.port.to_be_bytes(), &[family, 0], &address];
        key.iter_mut().zip(parts.into_iter().flatten()).for_each(|(to, byte)| *to = *byte);
        key
    }
}

/// What was dropped on an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Datagrams; a super-frame holds several.
    pub datagrams: u64,
    /// Bytes of their payload.
    pub bytes: u64,
}

/// The loaded program with its maps. It passes everything until [`Self::stay`].
#[derive(Debug)]
pub struct EarlyDrop {
    program: Program,
    destinations: Map<24, 4>,
    control: Map<4, 8>,
    counts: Map<4, 16>,
}

impl EarlyDrop {
    /// Loads the program.
    ///
    /// # Errors
    /// `EPERM` without CAP_BPF and CAP_NET_ADMIN in the initial user namespace.
    pub fn load() -> Result<Self> {
        let destinations = Map::create(Kind::Hash, "mcr_dests", MAX_DESTINATIONS)?;
        let control = Map::create(Kind::Array, "mcr_control", 1)?;
        let counts = Map::create(Kind::HashPerCpu, "mcr_counts", MAX_INTERFACES)?;
        let fds = [&destinations as &dyn AsFd, &control, &counts].map(|map| map.as_fd().as_raw_fd());
        let program = Program::load(&generated::EARLY_DROP, |name| Self::map_of(fds, *name))?;
        Ok(Self { program, destinations, control, counts })
    }

    /// The descriptor of a map, of those of `destinations`, `control` and `counts`.
    fn map_of([destinations, control, counts]: [i32; 3], name: MapName) -> i32 {
        match name {
            MapName::Destinations => destinations,
            MapName::Control => control,
            MapName::Counts => counts,
            _ => NO_MAP,
        }
    }

    /// The same, for a program that does this, too.
    pub(super) fn map(&self, name: MapName) -> i32 {
        let maps = [&self.destinations as &dyn AsFd, &self.control, &self.counts];
        Self::map_of(maps.map(|map| map.as_fd().as_raw_fd()), name)
    }

    /// The program, to be attached.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Stays in force for this time, and up to a tick of the kernel's timer longer; zero ends it at once. Afterwards it passes
    /// everything, so a killed process leaves nothing that drops.
    ///
    /// # Errors
    /// None that are known.
    pub fn stay(&self, time: Duration) -> Result<()> {
        let until = if time.is_zero() { Duration::ZERO } else { clock::monotonic() + time };
        let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.control.insert(&0_u32.to_ne_bytes(), &until.to_ne_bytes())
    }

    /// Begins to count on an interface; without that, nothing is dropped there. Counts begin at 0.
    ///
    /// # Errors
    /// There are too many interfaces.
    pub fn count_on(&self, ifindex: IfIndex) -> Result<()> {
        self.counts.insert(&ifindex.to_raw().to_ne_bytes(), &[0; 16])
    }

    /// Ends that.
    ///
    /// # Errors
    /// None that are known.
    pub fn forget(&self, ifindex: IfIndex) -> Result<()> {
        self.counts.remove(&ifindex.to_raw().to_ne_bytes())
    }

    /// What was dropped on an interface; `None` if it is not counted.
    ///
    /// # Errors
    /// None that are known.
    pub fn dropped(&self, ifindex: IfIndex) -> Result<Option<Dropped>> {
        let counts = self.counts.get(&ifindex.to_raw().to_ne_bytes())?;
        Ok(counts.map(|of_cpus| {
            let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |word| u64::from_ne_bytes(*word));
            of_cpus.iter().fold(Dropped::default(), |sum, count| Dropped {
                datagrams: sum.datagrams.wrapping_add(word(count)),
                bytes: sum.bytes.wrapping_add(word(count.get(8..).unwrap_or_default())),
            })
        }))
    }

    /// Makes these the destinations of the program. Returns how many it lacked and how many it had in excess.
    ///
    /// # Errors
    /// There are more than [`MAX_DESTINATIONS`].
    pub fn set_destinations<'a>(
        &self,
        wanted: impl IntoIterator<Item = &'a Destination>,
    ) -> Result<(usize, usize)> {
        let wanted: std::collections::BTreeSet<Key> = wanted.into_iter().map(Destination::key).collect();
        let present: std::collections::BTreeSet<Key> = self.destinations.keys()?.into_iter().collect();
        // Removals first: there may be no room otherwise.
        for key in present.difference(&wanted) {
            self.destinations.remove(key)?;
        }
        for key in wanted.difference(&present) {
            self.destinations.insert(key, &[1, 0, 0, 0])?;
        }
        Ok((wanted.difference(&present).count(), present.difference(&wanted).count()))
    }
}

#[cfg(test)]
mod tests;
