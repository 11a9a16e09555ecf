//! The start of a filter: checks direction, tag, family and protocol, and locates address and port.

use super::assembly::{Assembly, Label, ancillary};

/// Scratch word that holds the destination port, or [`ANY_PORT`].
pub(super) const PORT: u32 = 0;
/// Scratch word that holds where the IP header starts.
const START: u32 = 1;
/// No port: stands for "the port can't be known here, let it pass".
pub(super) const ANY_PORT: u32 = 0x1_0000;

/// Everything before the search: leaves the start of the IP header in X and the port in scratch memory.
pub(super) fn prologue(assembly: &mut Assembly, ipv4: Option<Label>, ipv6: Option<Label>, check_ports: bool) {
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
    // One header is enough to reject MLD reports, which each member sends to the groups.
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
