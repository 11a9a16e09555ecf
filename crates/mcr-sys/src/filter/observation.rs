//! The filter of an [`crate::observation::ObservationSocket`]: UDP for some groups, IGMP and MLD.
//!
//! The socket is a cooked one, so that offsets count from the IP header on every kind of interface.

use std::net::IpAddr;

use super::assembly::{Assembly, Label, ancillary};
use super::{EGRESS_MARK, Instruction, MAX_INSTRUCTIONS};
use crate::link::IfIndex;

/// The most addresses that are compared one by one: with more, the program would grow too long.
const MAX_EXACT: usize = 128;

const VERSION: u32 = 0xf000_0000;
const IPV4: u32 = 0x4000_0000;
const IPV6: u32 = 0x6000_0000;
/// The protocol in the third word of an IPv4 header.
const PROTOCOL: u32 = 0x00ff_0000;
const IGMP: u32 = 0x0002_0000;
const UDP: u32 = 0x0011_0000;
/// The next header in the second word of an IPv6 header.
const NEXT_HEADER: u32 = 0xff00;
const NEXT_HOP_BY_HOP: u32 = 0;
const NEXT_UDP: u32 = 0x1100;
const NEXT_FRAGMENT: u32 = 0x2c00;
const CLASS_D: u32 = 0xf000_0000;
const FIRST_CLASS_D: u32 = 0xe000_0000;
const IPV6_MULTICAST: u32 = 0xff00_0000;
const OUTGOING: u32 = 4;
/// More interfaces than this are not observed for senders of this host.
const MAX_SENDERS: usize = 64;

/// The program for these groups, and for what programs of this host send to them on the interfaces `senders`, without what MCR
/// itself marks.
pub(crate) fn program(groups: &[IpAddr], senders: &[IfIndex]) -> Vec<Instruction> {
    if groups.len() <= MAX_EXACT {
        return program_of(groups, senders, false);
    }
    let others: Vec<IpAddr> = groups.iter().copied().filter(|group| !group.is_multicast()).collect();
    program_of(first(&others), senders, true)
}

/// The program for all multicast, and for what comes to these addresses.
pub(crate) fn all_multicast_and(addresses: &[IpAddr]) -> Vec<Instruction> {
    program_of(first(addresses), &[], true)
}

fn first(addresses: &[IpAddr]) -> &[IpAddr] {
    addresses.get(..MAX_EXACT).unwrap_or(addresses)
}

/// `all`: all multicast beside the groups, which may be other addresses.
fn program_of(groups: &[IpAddr], senders: &[IfIndex], all: bool) -> Vec<Instruction> {
    let mut assembly = Assembly::default();
    let [incoming, ipv4, not_ipv4, ipv6, reject] = std::array::from_fn(|_| assembly.label());
    assembly.load(ancillary(libc::SKF_AD_PKTTYPE));
    outgoing(&mut assembly, senders.get(..MAX_SENDERS).unwrap_or(senders), incoming);
    assembly.load(0);
    assembly.keep_bits(VERSION);
    assembly.test_equal(IPV4, ipv4, not_ipv4);
    assembly.place(not_ipv4);
    assembly.test_equal(IPV6, ipv6, reject);
    assembly.place(reject);
    assembly.reject();

    assembly.place(ipv4);
    assembly.load(8);
    assembly.keep_bits(PROTOCOL);
    accept_if_equal(&mut assembly, IGMP);
    reject_unless_equal(&mut assembly, &[UDP]);
    assembly.load(16);
    for group in groups {
        if let IpAddr::V4(group) = group {
            accept_if_equal(&mut assembly, u32::from(*group));
        }
    }
    if all {
        assembly.keep_bits(CLASS_D);
        accept_if_equal(&mut assembly, FIRST_CLASS_D);
    }
    assembly.reject();

    assembly.place(ipv6);
    assembly.load(4);
    assembly.keep_bits(NEXT_HEADER);
    accept_if_equal(&mut assembly, NEXT_HOP_BY_HOP);
    reject_unless_equal(&mut assembly, &[NEXT_UDP, NEXT_FRAGMENT]);
    if all {
        assembly.load(24);
        assembly.keep_bits(IPV6_MULTICAST);
        accept_if_equal(&mut assembly, IPV6_MULTICAST);
    }
    for group in groups {
        if let IpAddr::V6(group) = group {
            accept_address(&mut assembly, group.octets());
        }
    }
    assembly.reject();
    let program = assembly.finish();
    debug_assert!(program.len() <= MAX_INSTRUCTIONS, "{} instructions", program.len());
    program
}

/// Goes on at `incoming`, which it places, unless the frame type in the accumulator is that of a sent frame that is not wanted.
fn outgoing(assembly: &mut Assembly, senders: &[IfIndex], incoming: Label) {
    let [sent, wanted, reject] = std::array::from_fn(|_| assembly.label());
    assembly.test_equal(OUTGOING, sent, incoming);
    assembly.place(sent);
    if !senders.is_empty() {
        assembly.load(ancillary(libc::SKF_AD_IFINDEX));
        let senders: Vec<u32> = senders.iter().map(|ifindex| ifindex.to_raw()).collect();
        assembly.test_any_equal(&senders, wanted, reject);
        assembly.place(wanted);
        assembly.load(ancillary(libc::SKF_AD_MARK));
        assembly.test_bits(EGRESS_MARK, reject, incoming);
        assembly.place(reject);
    }
    assembly.reject();
    assembly.place(incoming);
}

fn accept_if_equal(assembly: &mut Assembly, value: u32) {
    let [same, other] = std::array::from_fn(|_| assembly.label());
    assembly.test_equal(value, same, other);
    assembly.place(same);
    assembly.jump(Label::Accept);
    assembly.place(other);
}

fn reject_unless_equal(assembly: &mut Assembly, values: &[u32]) {
    let [same, other] = std::array::from_fn(|_| assembly.label());
    assembly.test_any_equal(values, same, other);
    assembly.place(other);
    assembly.reject();
    assembly.place(same);
}

/// Accepts an IPv6 packet to this address; the last word differs most.
fn accept_address(assembly: &mut Assembly, address: [u8; 16]) {
    let other = assembly.label();
    let (words, _) = address.as_chunks::<4>();
    for (offset, word) in [24, 28, 32, 36].into_iter().zip(words).rev() {
        let same = assembly.label();
        assembly.load(offset);
        assembly.test_equal(u32::from_be_bytes(*word), same, other);
        assembly.place(same);
    }
    assembly.jump(Label::Accept);
    assembly.place(other);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_groups_fits_a_program() {
        for count in [0, 1, MAX_EXACT, MAX_EXACT + 1, 20_000] {
            let v4 =
                (0..count).map(|n| IpAddr::from((0xef00_0000 + u32::try_from(n).unwrap()).to_be_bytes()));
            let senders: Vec<_> = (1..100).map(IfIndex::new).collect();
            assert!(program(&v4.collect::<Vec<_>>(), &senders).len() <= MAX_INSTRUCTIONS);
            let v6 = (0..count).map(|n| IpAddr::from(((0xff15_u128 << 112) + n as u128).to_be_bytes()));
            assert!(program(&v6.collect::<Vec<_>>(), &[]).len() <= MAX_INSTRUCTIONS);
            let unicast = (0..count).map(|n| IpAddr::from(((0xfd01_u128 << 112) + n as u128).to_be_bytes()));
            assert!(all_multicast_and(&unicast.collect::<Vec<_>>()).len() <= MAX_INSTRUCTIONS);
        }
    }
}
