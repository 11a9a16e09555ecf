//! The kernel filter of a capture socket: classic BPF (`linux/filter.h`) that accepts UDP for wanted destinations
//! only, so that other traffic of a busy interface does not reach a worker.
//!
//! ```text
//!   outgoing? ─▶ drop      VLAN tag? ─▶ drop      IPv4 or IPv6? ─no─▶ drop      UDP? ─no─▶ drop
//!                                                     │
//!        destination address: binary search ◀─────────┘
//!                │ found
//!        destination port: binary search ─ found ─▶ accept
//! ```
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
use prologue::{ANY_PORT, PORT, prologue};
use search::{Table, Tables, Target};

/// `BPF_MAXINSNS`, the kernel's limit.
pub const MAX_INSTRUCTIONS: usize = 4096;
/// A program this short is not made coarser.
const MIN_INSTRUCTIONS: usize = 128;
/// Coarsest of all: no bit of an IPv6 address counts.
const ADDRESS_BITS: u8 = 128;

/// A destination whose datagrams are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterDestination {
    /// Multicast group or own unicast address.
    pub address: IpAddr,
    /// UDP port.
    pub port: u16,
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
}

impl FilterProgram {
    /// A filter for these destinations, in any order, as precise as fits.
    #[must_use]
    pub fn for_destinations(wanted: &[FilterDestination]) -> Self {
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        Self::within(&wanted, MAX_INSTRUCTIONS)
    }

    /// A filter that drops everything.
    #[must_use]
    pub fn reject_all() -> Self {
        let instructions = vec![Instruction { code: assembly::RETURN, jt: 0, jf: 0, k: assembly::REJECT }];
        Self { instructions, precision: Precision::Exact, wanted: Vec::new() }
    }

    /// A filter that accepts everything, for comparison.
    #[cfg(test)]
    pub(crate) fn accept_all() -> Self {
        let instructions = vec![Instruction { code: assembly::RETURN, jt: 0, jf: 0, k: assembly::ACCEPT }];
        Self { instructions, precision: Precision::Exact, wanted: Vec::new() }
    }

    /// A filter for any untagged UDP that comes in.
    pub(crate) fn all_udp() -> Self {
        let everything = Precision::Prefixes { ignored_bits: ADDRESS_BITS };
        let places = [IpAddr::from([0; 4]), IpAddr::from([0; 16])];
        Self::build(&places.map(|address| FilterDestination { address, port: 0 }), everything)
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
        (budget >= MIN_INSTRUCTIONS).then(|| Self::within(&self.wanted, budget))
    }

    fn within(wanted: &[FilterDestination], budget: usize) -> Self {
        let ignoring = |ignored_bits| Precision::Prefixes { ignored_bits };
        let ladder =
            [Precision::Exact, Precision::Addresses].into_iter().chain((1..ADDRESS_BITS).map(ignoring));
        for precision in ladder {
            // Each address takes at least one instruction: spares building what can't fit.
            if distinct_addresses(wanted, precision) > budget {
                continue;
            }
            let program = Self::build(wanted, precision);
            if program.instructions.len() <= budget {
                return program;
            }
        }
        Self::build(wanted, ignoring(ADDRESS_BITS))
    }

    fn build(wanted: &[FilterDestination], precision: Precision) -> Self {
        let mut tables = Tables::default();
        let ipv4 = address_search(&mut tables, wanted, precision, &IPV4_WORDS);
        let ipv6 = address_search(&mut tables, wanted, precision, &IPV6_WORDS);
        let mut assembly = Assembly::default();
        let check_ports = precision == Precision::Exact;
        prologue(&mut assembly, ipv4.map(Label::from), ipv6.map(Label::from), check_ports);
        tables.emit(&mut assembly);
        Self { instructions: assembly.finish(), precision, wanted: wanted.to_vec() }
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
            // Most addresses are wanted on the ports of the one before.
            Some((_, target)) if ports.clone().eq(before.iter().map(|(_, port)| *port)) => *target,
            _ => {
                let accepted = ports.map(u32::from).chain([ANY_PORT]);
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
