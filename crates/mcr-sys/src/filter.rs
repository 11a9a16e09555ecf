//! The kernel filter of a capture socket: classic BPF (`linux/filter.h`) that lets through UDP for wanted destinations
//! and nothing else, so that the other traffic of a busy interface costs a worker nothing.
//!
//! ```text
//!   outgoing? ─▶ drop      VLAN tag? ─▶ drop      IPv4 or IPv6? ─no─▶ drop      UDP? ─no─▶ drop
//!                                                     │
//!        destination address: binary search ◀─────────┘
//!                │ found
//!        destination port: binary search ─ found ─▶ accept
//! ```
//!
//! What passes although it is not wanted in the end, so that the worker can count it: fragments of a wanted address
//! (only the first has a port), IPv6 with extension headers (the filter does not walk them), and IPv4 headers that claim
//! fewer than 20 bytes. A frame too short for its own UDP header is dropped here.
//!
//! One program fits every kind of interface: it asks the kernel for the device's type. On Ethernet and loopback it reads
//! at fixed offsets; elsewhere relative to the network header, which kernels before 6.16 allow only in the linear part
//! of the frame. That is why Ethernet, where drivers leave headers in page fragments, does not use it.

mod assembly;
mod search;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use assembly::{Assembly, Label};
use search::{Table, Tables, Target};

/// `BPF_MAXINSNS`: the kernel takes no longer program.
pub const MAX_INSTRUCTIONS: usize = 4096;
/// A program this short is not worth making coarser.
const MIN_INSTRUCTIONS: usize = 128;
/// Coarsest of all: no bit of an IPv6 address counts.
const ADDRESS_BITS: u8 = 128;

/// A destination whose datagrams are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WantedDestination {
    /// Multicast group or own unicast address.
    pub address: IpAddr,
    /// UDP port.
    pub port: u16,
}

/// One instruction of classic BPF (`struct sock_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// Instructions to skip if a test is true.
    pub jt: u8,
    /// Instructions to skip if it is false.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// How exactly a filter knows what is wanted. The worker compares in full, so a coarse filter costs time, never truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// Address and port.
    Exact,
    /// Address only: other ports of a wanted address reach the worker too.
    Addresses,
    /// Only the upper bits of an address: neighbours of wanted addresses reach the worker too.
    Prefixes {
        /// How many of the lowest bits are not looked at.
        ignored_bits: u8,
    },
}

/// A filter for [`crate::packet::Capture`], at most [`MAX_INSTRUCTIONS`] long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterProgram {
    instructions: Vec<Instruction>,
    precision: Precision,
    wanted: Vec<WantedDestination>,
}

impl FilterProgram {
    /// A filter for these destinations, in any order, as precise as fits.
    #[must_use]
    pub fn for_destinations(wanted: &[WantedDestination]) -> Self {
        let wanted: BTreeSet<_> = wanted.iter().copied().collect();
        Self::within(&wanted.into_iter().collect::<Vec<_>>(), MAX_INSTRUCTIONS)
    }

    /// A filter that lets nothing through.
    #[must_use]
    pub fn reject_all() -> Self {
        let instructions = vec![Instruction { code: assembly::RETURN, jt: 0, jf: 0, k: assembly::REJECT }];
        Self { instructions, precision: Precision::Exact, wanted: Vec::new() }
    }

    /// A filter that lets everything through, to show what the others keep out.
    #[cfg(test)]
    pub(crate) fn accept_all() -> Self {
        let instructions = vec![Instruction { code: assembly::RETURN, jt: 0, jf: 0, k: assembly::ACCEPT }];
        Self { instructions, precision: Precision::Exact, wanted: Vec::new() }
    }

    /// A filter for any untagged UDP that comes in.
    pub(crate) fn all_udp() -> Self {
        let everything = Precision::Prefixes { ignored_bits: ADDRESS_BITS };
        let places = [IpAddr::from([0; 4]), IpAddr::from([0; 16])];
        Self::build(&places.map(|address| WantedDestination { address, port: 0 }), everything)
    }

    /// The instructions, as the kernel takes them.
    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// How exactly this program knows what is wanted.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// A shorter program for the same destinations, for a kernel that has no memory for this one.
    pub(crate) fn coarser(&self) -> Option<Self> {
        let budget = self.instructions.len() / 2;
        (budget >= MIN_INSTRUCTIONS).then(|| Self::within(&self.wanted, budget))
    }

    fn within(wanted: &[WantedDestination], budget: usize) -> Self {
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

    fn build(wanted: &[WantedDestination], precision: Precision) -> Self {
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

/// The words of an address, last first, with the lowest bits cleared; `None` if it has not this many words.
fn words(address: IpAddr, ignored_bits: u8, count: usize) -> Option<Vec<u32>> {
    match (address, count) {
        (IpAddr::V4(address), 1) => Some(vec![u32::from(address) & mask(ignored_bits)]),
        (IpAddr::V6(address), 4) => {
            let mut ignored = ignored_bits;
            let octets = address.octets();
            let (words, _) = octets.as_chunks::<4>();
            let clear = |word: &[u8; 4]| {
                let kept = u32::from_be_bytes(*word) & mask(ignored);
                ignored = ignored.saturating_sub(32);
                kept
            };
            Some(words.iter().rev().map(clear).collect())
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

fn distinct_addresses(wanted: &[WantedDestination], precision: Precision) -> usize {
    let ignored = ignored_bits(precision);
    let of_family =
        |count| wanted.iter().filter_map(|w| words(w.address, ignored, count)).collect::<BTreeSet<_>>().len();
    of_family(IPV4_WORDS.len()) + of_family(IPV6_WORDS.len())
}

/// Builds the search for the addresses of one family; `None` if none is wanted.
fn address_search(
    tables: &mut Tables,
    wanted: &[WantedDestination],
    precision: Precision,
    offsets: &[u32],
) -> Option<Target> {
    let ignored = ignored_bits(precision);
    let mut ports: BTreeMap<Vec<u32>, BTreeSet<u16>> = BTreeMap::new();
    for destination in wanted {
        if let Some(words) = words(destination.address, ignored, offsets.len()) {
            ports.entry(words).or_default().insert(destination.port);
        }
    }
    let mut rows = Vec::new();
    for (words, ports) in ports {
        let target = if precision == Precision::Exact {
            let accepted = ports.into_iter().map(u32::from).chain([ANY_PORT]);
            tables.intern(Table::of_scratch(PORT, accepted.map(|port| (port, Target::Accept)).collect()))
        } else {
            Target::Accept
        };
        rows.push((words, target));
    }
    (!rows.is_empty()).then(|| level(tables, &rows, offsets, ignored))
}

/// The search on the first of the remaining words. Addresses that agree in what remains share the rest of the search.
fn level(tables: &mut Tables, rows: &[(Vec<u32>, Target)], offsets: &[u32], ignored_bits: u8) -> Target {
    let Some((&offset, remaining)) = offsets.split_first() else {
        return rows.first().map_or(Target::Accept, |(_, target)| *target);
    };
    let place = rows.first().map_or(0, |(words, _)| words.len().saturating_sub(offsets.len()));
    let ignored_after = ignored_bits.saturating_sub(32);
    if mask(ignored_bits) == 0 {
        return level(tables, rows, remaining, ignored_after);
    }
    let mut by_word: BTreeMap<u32, Vec<(Vec<u32>, Target)>> = BTreeMap::new();
    for (words, target) in rows {
        by_word.entry(words[place]).or_default().push((words.clone(), *target));
    }
    let rows = by_word
        .into_iter()
        .map(|(word, rows)| (word, level(tables, &rows, remaining, ignored_after)))
        .collect();
    tables.intern(Table::of_packet(offset, mask(ignored_bits), rows))
}

/// Scratch word that holds the destination port, or [`ANY_PORT`].
const PORT: u32 = 0;
/// Scratch word that holds where the IP header starts.
const START: u32 = 1;
/// No port: stands for "the port can't be known here, let it pass".
const ANY_PORT: u32 = 0x1_0000;

/// Everything before the search: leaves the start of the IP header in X and the port in scratch memory.
fn prologue(assembly: &mut Assembly, ipv4: Option<Label>, ipv6: Option<Label>, check_ports: bool) {
    use assembly::ancillary;
    let reject = assembly.label();
    let continue_if = |assembly: &mut Assembly, what: libc::c_int, wanted: bool, value: u32| {
        let next = assembly.label();
        assembly.load(ancillary(what));
        let (yes, no) = if wanted { (next, reject) } else { (reject, next) };
        assembly.test_equal(value, yes, no);
        assembly.place(next);
    };
    continue_if(assembly, libc::SKF_AD_PKTTYPE, false, u32::from(libc::PACKET_OUTGOING));
    continue_if(assembly, libc::SKF_AD_VLAN_TAG_PRESENT, true, 0);

    let (ethernet, other, known) = (assembly.label(), assembly.label(), assembly.label());
    assembly.load(ancillary(libc::SKF_AD_HATYPE));
    assembly.test_any_equal(
        &[u32::from(libc::ARPHRD_ETHER), u32::from(libc::ARPHRD_LOOPBACK)],
        ethernet,
        other,
    );
    assembly.place(ethernet);
    assembly.load_number(ETHERNET_HEADER_BYTES);
    assembly.jump(known);
    assembly.place(other);
    assembly.load_number(libc::SKF_NET_OFF.cast_unsigned());
    assembly.place(known);
    assembly.copy_to_x();

    let (is_ipv4, is_ipv6, not_ipv4) = (assembly.label(), assembly.label(), assembly.label());
    assembly.load(ancillary(libc::SKF_AD_PROTOCOL));
    if ipv4.is_some() {
        assembly.test_equal(ETHERTYPE_IPV4, is_ipv4, not_ipv4);
        assembly.place(not_ipv4);
    }
    if ipv6.is_some() {
        assembly.test_equal(ETHERTYPE_IPV6, is_ipv6, reject);
    }
    assembly.place(reject);
    assembly.reject();
    if let Some(search) = ipv4 {
        assembly.place(is_ipv4);
        ipv4_port(assembly, check_ports);
        assembly.jump(search);
    }
    if let Some(search) = ipv6 {
        assembly.place(is_ipv6);
        ipv6_port(assembly, check_ports);
        assembly.jump(search);
    }
}

const ETHERNET_HEADER_BYTES: u32 = 14;
const ETHERTYPE_IPV4: u32 = 0x0800;
const ETHERTYPE_IPV6: u32 = 0x86dd;
const UDP: u32 = 17;
/// Bits of the third 16-bit word of RFC 791's header that make a packet a fragment: more fragments, offset.
const FRAGMENT_BITS: u32 = 0x3fff;
/// Hop-by-hop options, routing, fragment, AH, destination options (RFC 8200, RFC 4302).
const EXTENSION_HEADERS: [u32; 5] = [0, 43, 44, 51, 60];

/// Goes on if this is UDP in IPv4 (RFC 791), with the port in scratch memory.
fn ipv4_port(assembly: &mut Assembly, check_ports: bool) {
    let (udp, reject) = (assembly.label(), assembly.label());
    assembly.load_byte_at_x(9);
    assembly.test_equal(UDP, udp, reject);
    assembly.place(reject);
    assembly.reject();
    assembly.place(udp);
    if !check_ports {
        return;
    }
    let (whole, long, any, known) = (assembly.label(), assembly.label(), assembly.label(), assembly.label());
    assembly.load_half_at_x(6);
    assembly.test_bits(FRAGMENT_BITS, any, whole);
    assembly.place(whole);
    assembly.load_byte_at_x(0);
    assembly.keep_bits(0x0f);
    assembly.shift_left(2);
    assembly.test_at_least(20, long, any);
    assembly.place(any);
    assembly.load_number(ANY_PORT);
    assembly.jump(known);
    assembly.place(long);
    assembly.store_x(START);
    assembly.add_x();
    assembly.copy_to_x();
    assembly.load_half_at_x(2);
    assembly.load_x(START);
    assembly.place(known);
    assembly.store(PORT);
}

/// Goes on if this may be UDP in IPv6 (RFC 8200), with the port in scratch memory.
fn ipv6_port(assembly: &mut Assembly, check_ports: bool) {
    let (udp, not_udp, extended) = (assembly.label(), assembly.label(), assembly.label());
    let (any, known, reject) = (assembly.label(), assembly.label(), assembly.label());
    assembly.load_byte_at_x(6);
    assembly.test_equal(UDP, udp, not_udp);
    assembly.place(not_udp);
    assembly.test_any_equal(&EXTENSION_HEADERS, extended, reject);
    assembly.place(extended);
    // One header on is enough to turn away MLD reports, which every router of the segment sends to the groups.
    assembly.load_byte_at_x(40);
    let possible: Vec<u32> = EXTENSION_HEADERS.iter().copied().chain([UDP]).collect();
    assembly.test_any_equal(&possible, any, reject);
    assembly.place(reject);
    assembly.reject();
    assembly.place(udp);
    if check_ports {
        assembly.load_half_at_x(42);
        assembly.jump(known);
    }
    assembly.place(any);
    if check_ports {
        assembly.load_number(ANY_PORT);
        assembly.place(known);
        assembly.store(PORT);
    }
}

#[cfg(test)]
mod tests;
