//! The programs that relay in the kernel, and their maps: the filter of capture sockets decides (`bpf/capture.c`), the program
//! at ingress executes (`bpf/ingress.c`), which also does what the early drop does.
//!
//! The attacher loads them ([`Programs`]) and passes the maps and the filter on; whoever has them can change what is relayed,
//! without any capability ([`Tables`]).

mod entries;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::early_drop::{Destination, EarlyDrop};
use super::map::{BPF_F_MMAPABLE, Kind, Map, possible_cpus};
use super::{MapName, Program, generated};
use crate::link::IfIndex;
use crate::shared_memory::ReadOnlyWords;
use crate::{Result, SysError, clock};

pub use self::entries::{Accepts, Output, OutputCount, Rule, RuleCount, Verdict};

/// Slots of counters for rules (`MAX_RELAYS` in `bpf/relay.h`).
pub const MAX_RULES: u32 = 1024;
/// Slots of counters for outputs (`MAX_OUTPUTS`).
pub const MAX_OUTPUTS: u32 = 4096;
/// Outputs of one rule (`MAX_FAN_OUT`).
pub const MAX_FAN_OUT: u32 = 16;
/// Places of rules: of all that are in force, and of as many that were before.
pub const MAX_RECORDS: u32 = 2 * MAX_RULES;
/// Destinations of one host: those of 16,384 rules, with their groups on all ports.
const MAX_ACCEPTED: u32 = 131_072;
const MAX_ADDRESSES: u32 = 16_384;
const MAX_INTERFACES: u32 = 4_096;
/// 64-bit words of each slot.
const COUNT_WORDS: usize = 8;

/// The loaded programs, with their maps. No decision is made until [`Self::stay`].
#[derive(Debug)]
pub struct Programs {
    maps: Maps,
    engine: Map<4, 8>,
    capture: Program,
    ingress: Program,
}

/// The maps that are passed on.
#[derive(Debug)]
struct Maps {
    accepted: Map<24, 8>,
    addresses: Map<24, 4>,
    relays: Map<4, 48>,
    outputs: Map<4, 64>,
    places: Map<4, 8>,
    counters: Map<4, 64>,
}

/// Number of maps.
const MAPS: usize = 6;
/// Number of descriptors of [`Programs::descriptors`].
pub const DESCRIPTORS: usize = MAPS + 1;
/// Slots of counters of each CPU.
const COUNTERS: u32 = MAX_RULES + MAX_OUTPUTS;

fn all_counters() -> Result<u32> {
    let cpus = u32::try_from(possible_cpus()?).unwrap_or(u32::MAX);
    Ok(cpus.saturating_mul(COUNTERS))
}

impl Maps {
    fn create() -> Result<Self> {
        Ok(Self {
            accepted: Map::create(Kind::Hash, "mcr_accepted", MAX_ACCEPTED)?,
            addresses: Map::create(Kind::Hash, "mcr_addresses", MAX_ADDRESSES)?,
            relays: Map::create(Kind::Array, "mcr_relays", MAX_RECORDS)?,
            outputs: Map::create(Kind::Array, "mcr_outputs", MAX_RECORDS * MAX_FAN_OUT)?,
            places: Map::create(Kind::Hash, "mcr_places", MAX_INTERFACES)?,
            counters: Map::create_with(Kind::Array, "mcr_counters", all_counters()?, BPF_F_MMAPABLE)?,
        })
    }

    fn adopt([accepted, addresses, relays, outputs, places, counters]: [OwnedFd; MAPS]) -> Result<Self> {
        Ok(Self {
            accepted: Map::adopt(accepted, Kind::Hash, MAX_ACCEPTED)?,
            addresses: Map::adopt(addresses, Kind::Hash, MAX_ADDRESSES)?,
            relays: Map::adopt(relays, Kind::Array, MAX_RECORDS)?,
            outputs: Map::adopt(outputs, Kind::Array, MAX_RECORDS * MAX_FAN_OUT)?,
            places: Map::adopt(places, Kind::Hash, MAX_INTERFACES)?,
            counters: Map::adopt(counters, Kind::Array, all_counters()?)?,
        })
    }

    fn descriptors<'a>(&'a self, filter: &'a impl AsFd) -> [BorrowedFd<'a>; DESCRIPTORS] {
        [
            self.accepted.as_fd(),
            self.addresses.as_fd(),
            self.relays.as_fd(),
            self.outputs.as_fd(),
            self.places.as_fd(),
            self.counters.as_fd(),
            filter.as_fd(),
        ]
    }
}

impl Programs {
    /// Loads the programs; that at ingress drops what `early_drop` is to drop.
    ///
    /// # Errors
    /// `EPERM` without CAP_BPF and CAP_NET_ADMIN in the initial user namespace; the kernel is too old.
    pub fn load(early_drop: &EarlyDrop) -> Result<Self> {
        let maps = Maps::create()?;
        let engine = Map::create(Kind::Array, "mcr_engine", 1)?;
        let decisions: Map<4, 16> = Map::create(Kind::ArrayPerCpu, "mcr_decisions", 1)?;
        let map = |name: &MapName| {
            let fd = match name {
                MapName::Destinations | MapName::Control | MapName::Counts => return early_drop.map(*name),
                MapName::Accepted => maps.accepted.as_fd(),
                MapName::Addresses => maps.addresses.as_fd(),
                MapName::Relays => maps.relays.as_fd(),
                MapName::Outputs => maps.outputs.as_fd(),
                MapName::Places => maps.places.as_fd(),
                MapName::Engine => engine.as_fd(),
                MapName::Decisions => decisions.as_fd(),
                MapName::Counters => maps.counters.as_fd(),
            };
            fd.as_raw_fd()
        };
        let capture = Program::load(&generated::CAPTURE, map)?;
        let ingress = Program::load(&generated::INGRESS, map)?;
        Ok(Self { maps, engine, capture, ingress })
    }

    /// The program at ingress, to be attached.
    #[must_use]
    pub fn ingress(&self) -> &Program {
        &self.ingress
    }

    /// What [`Tables::adopt`] takes.
    #[must_use]
    pub fn descriptors(&self) -> [BorrowedFd<'_>; DESCRIPTORS] {
        self.maps.descriptors(&self.capture)
    }

    /// Decisions are made for this time, and up to a tick of the kernel's timer longer; zero ends that at once. Afterwards
    /// workers relay everything, so a killed process leaves nothing that takes frames.
    ///
    /// # Errors
    /// None that are known.
    pub fn stay(&self, time: Duration) -> Result<()> {
        let until = if time.is_zero() { Duration::ZERO } else { clock::monotonic() + time };
        let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.engine.insert(&0_u32.to_ne_bytes(), &until.to_ne_bytes())
    }
}

/// What is relayed by the kernel, and the counters of that. Nothing here takes a capability, but bpf(2) has to be permitted
/// to processes without, for what they have a descriptor of (Linux 5.19).
#[derive(Debug)]
pub struct Tables {
    maps: Maps,
    filter: OwnedFd,
    counters: ReadOnlyWords,
    cpus: usize,
}

impl Tables {
    /// Takes what [`Programs::descriptors`] returned.
    ///
    /// # Errors
    /// They are of another version; `EPERM` where the kernel permits bpf(2) to none without capabilities.
    pub fn adopt(fds: Vec<OwnedFd>) -> Result<Self> {
        let number = fds.len();
        let Ok([a, b, c, d, e, f, filter]) = <[OwnedFd; DESCRIPTORS]>::try_from(fds) else {
            return Err(SysError::invalid("adopt the kernel engine's maps", format!("{number} descriptors")));
        };
        let maps = Maps::adopt([a, b, c, d, e, f])?;
        let cpus = possible_cpus()?;
        let words = cpus * COUNTERS as usize * COUNT_WORDS;
        let counters = ReadOnlyWords::map_array(maps.counters.as_fd(), words)?;
        Ok(Self { maps, filter, counters, cpus })
    }

    /// What another process needs for [`Self::adopt`].
    #[must_use]
    pub fn descriptors(&self) -> [BorrowedFd<'_>; DESCRIPTORS] {
        self.maps.descriptors(&self.filter)
    }

    /// The filter for [`crate::packet::Capture::attach_program`].
    #[must_use]
    pub fn filter(&self) -> BorrowedFd<'_> {
        self.filter.as_fd()
    }

    /// Sets what the filter does with frames to a destination; port 0: see [`Accepts`]. At once and as a whole.
    ///
    /// # Errors
    /// There is no room.
    pub fn set_verdict(&self, to: &Destination, verdict: Verdict) -> Result<()> {
        self.maps.accepted.insert(&to.key(), &verdict.encode())
    }

    /// From now on, frames to this destination are rejected.
    ///
    /// # Errors
    /// None that are known.
    pub fn remove_verdict(&self, to: &Destination) -> Result<()> {
        self.maps.accepted.remove(&to.key())
    }

    /// All verdicts that are in force.
    ///
    /// # Errors
    /// None that are known.
    pub fn verdicts(&self) -> Result<BTreeMap<Destination, Verdict>> {
        let mut all = BTreeMap::new();
        for key in self.maps.accepted.keys()? {
            if let (Some(to), Some([verdict])) =
                (entries::destination(&key), self.maps.accepted.get(&key)?.as_deref())
            {
                all.insert(to, Verdict::decode(*verdict));
            }
        }
        Ok(all)
    }

    /// Writes a rule and its outputs to a place below [`MAX_RECORDS`], which no verdict may name now, and none has named for
    /// a moment: programs read without a lock.
    ///
    /// # Errors
    /// There is no such place, or it has more than [`MAX_FAN_OUT`] outputs.
    pub fn write_rule(&self, place: u32, rule: &Rule, outputs: &[Output]) -> Result<()> {
        const STEP: &str = "write a rule of the kernel engine";
        if outputs.len() > MAX_FAN_OUT as usize || place >= MAX_RECORDS {
            return Err(SysError::invalid(STEP, format!("{} outputs at {place}", outputs.len())));
        }
        let first = place * MAX_FAN_OUT;
        for (at, output) in (first..).zip(outputs) {
            self.maps.outputs.insert(&at.to_ne_bytes(), &output.encode())?;
        }
        self.maps.relays.insert(&place.to_ne_bytes(), &rule.encode(first, outputs.len()))
    }

    /// Whether a place has exactly this rule with these outputs.
    ///
    /// # Errors
    /// None that are known.
    pub fn has_rule(&self, place: u32, rule: &Rule, outputs: &[Output]) -> Result<bool> {
        let first = place * MAX_FAN_OUT;
        let found = self.maps.relays.get(&place.to_ne_bytes())?;
        let mut same = found.is_some_and(|found| found == [rule.encode(first, outputs.len())]);
        for (at, output) in (first..).zip(outputs) {
            let found = self.maps.outputs.get(&at.to_ne_bytes())?;
            same &= found.is_some_and(|found| found == [output.encode()]);
        }
        Ok(same)
    }

    /// Makes these the addresses of the host: frames from them are left to the workers.
    ///
    /// # Errors
    /// There is no room.
    pub fn set_own(&self, addresses: &[IpAddr]) -> Result<()> {
        let wanted = addresses.iter().map(|address| entries::source(0, *address));
        entries::replace(&self.maps.addresses, wanted, |key| key.starts_with(&[0; 4]))
    }

    /// Makes these the sources that the rule at a place admits.
    ///
    /// # Errors
    /// There is no room.
    pub fn set_sources(&self, place: u32, sources: &[IpAddr]) -> Result<()> {
        let number = place + 1;
        let wanted = sources.iter().map(|address| entries::source(number, *address));
        entries::replace(&self.maps.addresses, wanted, |key| key.starts_with(&number.to_ne_bytes()))
    }

    /// Begins or, with 0, ends to decide on an interface. An epoch is never used twice.
    ///
    /// # Errors
    /// There are too many interfaces.
    pub fn set_epoch(&self, ifindex: IfIndex, epoch: u32) -> Result<()> {
        let key = ifindex.to_raw().to_ne_bytes();
        if epoch == 0 {
            return self.maps.places.remove(&key);
        }
        let mut value = [0; 8];
        value[..4].copy_from_slice(&epoch.to_ne_bytes());
        self.maps.places.insert(&key, &value)
    }

    /// The epoch of an interface, and whether a decision was not executed in it, so that workers relay everything.
    ///
    /// # Errors
    /// None that are known.
    pub fn epoch(&self, ifindex: IfIndex) -> Result<Option<(u32, bool)>> {
        let found = self.maps.places.get(&ifindex.to_raw().to_ne_bytes())?;
        Ok(found.and_then(|values| {
            let [value] = values.as_slice() else { return None };
            let [epoch, broken] = entries::words(value);
            Some((epoch, epoch == broken))
        }))
    }

    /// Interfaces that have an epoch.
    ///
    /// # Errors
    /// None that are known.
    pub fn interfaces(&self) -> Result<Vec<IfIndex>> {
        Ok(self.maps.places.keys()?.into_iter().map(|key| IfIndex::new(u32::from_ne_bytes(key))).collect())
    }

    /// What was counted in a rule's slot, on all CPUs.
    #[must_use]
    pub fn rule_count(&self, slot: u32) -> RuleCount {
        self.counts(slot).fold(RuleCount::default(), RuleCount::plus)
    }

    /// What was counted in an output's slot, on all CPUs.
    #[must_use]
    pub fn output_count(&self, slot: u32) -> OutputCount {
        self.counts(MAX_RULES + slot).fold(OutputCount::default(), OutputCount::plus)
    }

    fn counts(&self, slot: u32) -> impl Iterator<Item = [u64; COUNT_WORDS]> {
        (0..self.cpus).map(move |cpu| {
            let at = (cpu * COUNTERS as usize + slot as usize) * COUNT_WORDS;
            // From behind: outcomes before what is due.
            let mut count = [0; COUNT_WORDS];
            (0..COUNT_WORDS).rev().for_each(|word| count[word] = self.counters.load(at + word));
            count
        })
    }
}

#[cfg(test)]
mod tests;
