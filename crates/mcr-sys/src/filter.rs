//! The kernel filter of a capture socket: classic BPF (`linux/filter.h`) that accepts UDP for wanted destinations
//! only, so that other traffic of a busy interface does not reach a worker.
//!
//! ```text
//!   outgoing, or for another host's MAC? ─▶ drop      VLAN tag? ─▶ drop      IPv4 or IPv6? ─no─▶ drop      UDP? ─no─▶ drop
//!                                                     │
//!        destination address: binary search ◀─────────┘
//!                │ found
//!        destination port: binary search ─ found ─▶ accept
//! ```
//!
//! Frames for another host's MAC (`PACKET_OTHERHOST`) pass for destinations that are wanted promiscuously. A priority tag
//! (VLAN 0, IEEE 802.1Q) is no VLAN tag. A filter for sent frames instead passes what programs of this host send, without what
//! MCR itself sends ([`EGRESS_MARK`]).
//!
//! Also accepted, so that the worker can count them: fragments of a wanted address
//! (only the first has a port), IPv6 with extension headers (the filter does not walk them), and IPv4 headers with a length
//! below 20 bytes. A frame too short for its own UDP header is dropped here.
//!
//! One program fits every kind of interface: it asks the kernel for the device's type. On Ethernet and loopback it reads
//! at fixed offsets; elsewhere relative to the network header, which kernels before 6.16 allow only in the linear part
//! of the frame. That is why Ethernet, where drivers leave headers in page fragments, does not use it.

mod assembly;
pub(crate) mod observation;
mod prologue;
mod search;

use std::net::IpAddr;

use assembly::{Assembly, Label};
use prologue::{NO_PORT, PORT, Search, prologue};
use search::{Table, Tables, Target};

/// The bit of the packet mark (`SO_MARK`, socket(7)) of what MCR itself sends, where programs of the host are inputs: filters for
/// sent frames recognize it. One bit that no well-known program uses, so that the other bits remain the operator's.
pub const EGRESS_MARK: u32 = 1 << 28;

/// `BPF_MAXINSNS`, the kernel's limit.
pub const MAX_INSTRUCTIONS: usize = 4096;
/// A program this short is not made coarser.
const MIN_INSTRUCTIONS: usize = 128;
/// Coarsest of all: no bit of an IPv6 address counts.
const ADDRESS_BITS: u8 = 128;

/// Instead of a port of [`FilterDestination`]: all of them. No datagram to port 0 is valid (RFC 768).
pub const ANY_PORT: u16 = 0;

/// A destination whose datagrams are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterDestination {
    /// Multicast group or own unicast address.
    pub address: IpAddr,
    /// UDP port, or [`ANY_PORT`].
    pub port: u16,
    /// Frames for another host's MAC address are wanted too.
    pub promiscuous: bool,
}

/// Which frames of an interface a filter passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Those that arrive.
    Received,
    /// Those that programs of this host send.
    Sent,
}

/// One instruction of classic BPF (`struct sock_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The opcode.
    pub code: u16,
    /// Instructions to skip if a test is true.
    pub jt: u8,
    /// Instructions to skip if it is false.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// The precision of a filter. The worker compares in full, so a coarse filter costs time, not correctness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// Address and port.
    Exact,
    /// Address only: other ports of a wanted address reach the worker too.
    Addresses,
    /// Only the upper bits of an address: neighbors of wanted addresses reach the worker too.
    Prefixes {
        /// Number of low-order bits that are ignored.
        ignored_bits: u8,
    },
}

/// A filter for [`crate::packet::Capture`], at most [`MAX_INSTRUCTIONS`] long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterProgram {
    instructions: Vec<Instruction>,
    precision: Precision,
    wanted: Vec<FilterDestination>,
    direction: Direction,
}

impl FilterProgram {
    /// A filter for what arrives for these destinations, in any order, as precise as fits.
    #[must_use]
    pub fn for_destinations(wanted: &[FilterDestination]) -> Self {
        Self::for_direction(Direction::Received, wanted)
    }

    /// A filter for the frames of one direction to these destinations, in any order, as precise as fits.
    #[must_use]
    pub fn for_direction(direction: Direction, wanted: &[FilterDestination]) -> Self {
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        Self::within(direction, &wanted, MAX_INSTRUCTIONS)
    }

    /// Whether frames for other hosts' MAC addresses are wanted.
    #[must_use]
    pub fn is_promiscuous(&self) -> bool {
        self.wanted.iter().any(|wanted| wanted.promiscuous)
    }

    /// Which frames it passes.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.direction
    }

    fn of(instructions: Vec<Instruction>) -> Self {
        let (precision, direction) = (Precision::Exact, Direction::Received);
        Self { instructions, precision, wanted: Vec::new(), direction }
    }

    /// A filter that drops everything.
    #[must_use]
    pub fn reject_all() -> Self {
        Self::of(vec![Instruction { code: assembly::RETURN, jt: 0, jf: 0, k: assembly::REJECT }])
    }

    /// A filter that accepts everything, for comparison.
    #[cfg(test)]
    pub(crate) fn accept_all() -> Self {
        Self::of(vec![Instruction { code: assembly::RETURN, jt: 0, jf: 0, k: assembly::ACCEPT }])
    }

    /// A filter for any untagged UDP of its direction, also for other hosts if it is promiscuous.
    pub(crate) fn all_udp(&self) -> Self {
        let everything = Precision::Prefixes { ignored_bits: ADDRESS_BITS };
        let promiscuous = self.is_promiscuous();
        let places = [IpAddr::from([0; 4]), IpAddr::from([0; 16])];
        let all = places.map(|address| FilterDestination { address, port: 0, promiscuous });
        Self::build(self.direction, &all, everything)
    }

    /// The instructions, as the kernel takes them.
    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// The precision of this program.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// A shorter program for the same destinations, for a kernel that has no memory for this one.
    pub(crate) fn coarser(&self) -> Option<Self> {
        let budget = self.instructions.len() / 2;
        (budget >= MIN_INSTRUCTIONS).then(|| Self::within(self.direction, &self.wanted, budget))
    }

    fn within(direction: Direction, wanted: &[FilterDestination], budget: usize) -> Self {
        let ignoring = |ignored_bits| Precision::Prefixes { ignored_bits };
        let ladder =
            [Precision::Exact, Precision::Addresses].into_iter().chain((1..ADDRESS_BITS).map(ignoring));
        for precision in ladder {
            // Each address takes at least one instruction: spares building what can't fit.
            if distinct_addresses(wanted, precision) > budget {
                continue;
            }
            let program = Self::build(direction, wanted, precision);
            if program.instructions.len() <= budget {
                return program;
            }
        }
        Self::build(direction, wanted, ignoring(ADDRESS_BITS))
    }

    fn build(direction: Direction, wanted: &[FilterDestination], precision: Precision) -> Self {
        let mut tables = Tables::default();
        let promiscuous: Vec<FilterDestination> =
            wanted.iter().filter(|wanted| wanted.promiscuous).copied().collect();
        let mut search = |offsets: &[u32]| Search {
            for_us: address_search(&mut tables, wanted, precision, offsets).map(Label::from),
            for_others: address_search(&mut tables, &promiscuous, precision, offsets).map(Label::from),
        };
        let (ipv4, ipv6) = (search(&IPV4_WORDS), search(&IPV6_WORDS));
        let mut assembly = Assembly::default();
        prologue(&mut assembly, direction, [ipv4, ipv6], precision == Precision::Exact);
        tables.emit(&mut assembly);
        Self { instructions: assembly.finish(), precision, wanted: wanted.to_vec(), direction }
    }
}

/// Offset of each 32-bit word of the destination address from the start of the IP header, last word first: the last
/// differs most between the groups of one network, so the search ends soonest.
const IPV4_WORDS: [u32; 1] = [16];
const IPV6_WORDS: [u32; 4] = [36, 32, 28, 24];

/// The words of an address, last first; those of IPv4 are followed by zeroes.
type Words = [u32; IPV6_WORDS.len()];

/// The words of an address with the lowest bits cleared; `None` if it has not this many words.
fn words(address: IpAddr, ignored_bits: u8, count: usize) -> Option<Words> {
    match (address, count) {
        (IpAddr::V4(address), 1) => Some([u32::from(address) & mask(ignored_bits), 0, 0, 0]),
        (IpAddr::V6(address), 4) => {
            let bits = u128::from(address) & u128::MAX.checked_shl(ignored_bits.into()).unwrap_or(0);
            #[expect(clippy::cast_possible_truncation, reason = "one word of the address")]
            let word = |number: u32| (bits >> (32 * number)) as u32;
            Some([word(0), word(1), word(2), word(3)])
        }
        _ => None,
    }
}

/// A word with its lowest bits cleared.
fn mask(ignored_bits: u8) -> u32 {
    u32::MAX.checked_shl(ignored_bits.into()).unwrap_or(0)
}

fn ignored_bits(precision: Precision) -> u8 {
    match precision {
        Precision::Exact | Precision::Addresses => 0,
        Precision::Prefixes { ignored_bits } => ignored_bits,
    }
}

fn distinct_addresses(wanted: &[FilterDestination], precision: Precision) -> usize {
    let ignored = ignored_bits(precision);
    let of_family = |count| {
        let mut all: Vec<Words> = wanted.iter().filter_map(|w| words(w.address, ignored, count)).collect();
        all.sort_unstable();
        all.dedup();
        all.len()
    };
    of_family(IPV4_WORDS.len()) + of_family(IPV6_WORDS.len())
}

/// Builds the search for the addresses of one family; `None` if none is wanted.
fn address_search(
    tables: &mut Tables,
    wanted: &[FilterDestination],
    precision: Precision,
    offsets: &[u32],
) -> Option<Target> {
    let ignored = ignored_bits(precision);
    let with_words = |w: &FilterDestination| Some((words(w.address, ignored, offsets.len())?, w.port));
    let mut all: Vec<(Words, u16)> = wanted.iter().filter_map(with_words).collect();
    all.sort_unstable();
    all.dedup();
    let mut rows: Vec<(Words, Target)> = Vec::new();
    let mut before: &[(Words, u16)] = &[];
    for of_address in all.chunk_by(|one, other| one.0 == other.0) {
        let ports = of_address.iter().map(|(_, port)| *port);
        let target = match rows.last() {
            _ if precision != Precision::Exact => Target::Accept,
            _ if ports.clone().next() == Some(ANY_PORT) => Target::Accept,
            // Most addresses are wanted on the ports of the one before.
            Some((_, target)) if ports.clone().eq(before.iter().map(|(_, port)| *port)) => *target,
            _ => {
                let accepted = ports.map(u32::from).chain([NO_PORT]);
                tables.intern(Table::of_scratch(PORT, accepted.map(|port| (port, Target::Accept)).collect()))
            }
        };
        before = of_address;
        rows.extend(of_address.first().map(|(words, _)| (*words, target)));
    }
    (!rows.is_empty()).then(|| level(tables, &rows, 0, offsets, ignored))
}

/// The search on the word at this place and those behind it, of rows that agree in the words before and are sorted.
/// Addresses that agree in what remains share the rest of the search.
fn level(
    tables: &mut Tables,
    rows: &[(Words, Target)],
    place: usize,
    offsets: &[u32],
    ignored_bits: u8,
) -> Target {
    let Some((&offset, remaining)) = offsets.split_first() else {
        return rows.first().map_or(Target::Accept, |(_, target)| *target);
    };
    let ignored_after = ignored_bits.saturating_sub(32);
    if mask(ignored_bits) == 0 {
        return level(tables, rows, place + 1, remaining, ignored_after);
    }
    let rows = rows
        .chunk_by(|one, other| one.0[place] == other.0[place])
        .map(|here| (here[0].0[place], level(tables, here, place + 1, remaining, ignored_after)))
        .collect();
    tables.intern(Table::of_packet(offset, mask(ignored_bits), rows))
}

#[cfg(test)]
mod tests;
