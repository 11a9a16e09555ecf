//! The start of a filter: checks direction, tag, family and protocol, and locates address and port.

use super::assembly::{Assembly, Label, ancillary};
use super::{Direction, EGRESS_MARK};

/// Scratch word that holds the destination port, or [`NO_PORT`].
pub(super) const PORT: u32 = 0;
/// Scratch word that holds where the IP header starts.
const START: u32 = 1;
/// No port: stands for "the port can't be known here, let it pass".
pub(super) const NO_PORT: u32 = 0x1_0000;

/// The searches for the addresses of one family; `None` if none is wanted.
#[derive(Clone, Copy)]
pub(super) struct Search {
    /// For frames to this host, or sent by it.
    pub(super) for_us: Option<Label>,
    /// For frames to another host's MAC address.
    pub(super) for_others: Option<Label>,
}

/// Everything before the search: leaves the start of the IP header in X and the port in scratch memory.
pub(super) fn prologue(
    assembly: &mut Assembly,
    direction: Direction,
    [ipv4, ipv6]: [Search; 2],
    check_ports: bool,
) {
    let reject = assembly.label();
    let promiscuous = ipv4.for_others.is_some() || ipv6.for_others.is_some();
    frame_type(assembly, direction, promiscuous, reject);
    vlan_tag(assembly, reject);

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

    let (is_ipv4, is_ipv6, tagged) = (assembly.label(), assembly.label(), assembly.label());
    let families: [Family; 2] =
        [(ipv4, ETHERTYPE_IPV4, is_ipv4, ipv4_port), (ipv6, ETHERTYPE_IPV6, is_ipv6, ipv6_port)];
    let families = families.iter().filter(|(search, ..)| search.for_us.is_some());
    let family = |assembly: &mut Assembly| {
        for (_, ether_type, label, _) in families.clone() {
            let other = assembly.label();
            assembly.test_equal(*ether_type, *label, other);
            assembly.place(other);
        }
    };
    assembly.load(ancillary(libc::SKF_AD_PROTOCOL));
    family(assembly);
    assembly.test_any_equal(&VLAN_ETHERTYPES, tagged, reject);
    assembly.place(tagged);
    priority_tag_in_band(assembly, reject);
    family(assembly);
    assembly.place(reject);
    assembly.reject();
    for (search, _, label, port) in families {
        assembly.place(*label);
        port(assembly, check_ports);
        search_by_frame_type(assembly, search, promiscuous);
    }
}

/// A family: its searches, its EtherType, the label of its part, and what that part begins with.
type Family = (Search, u32, Label, fn(&mut Assembly, bool));

/// Goes on if a frame of this type (`PACKET_…`, packet(7)) may be wanted.
fn frame_type(assembly: &mut Assembly, direction: Direction, promiscuous: bool, reject: Label) {
    let (next, other, unmarked) = (assembly.label(), assembly.label(), assembly.label());
    assembly.load(ancillary(libc::SKF_AD_PKTTYPE));
    match direction {
        Direction::Received if promiscuous => {
            assembly.test_equal(libc::PACKET_OUTGOING.into(), reject, next);
        }
        Direction::Received => {
            assembly.test_equal(libc::PACKET_OUTGOING.into(), reject, other);
            assembly.place(other);
            assembly.test_equal(libc::PACKET_OTHERHOST.into(), reject, next);
        }
        Direction::Sent => {
            assembly.test_equal(libc::PACKET_OUTGOING.into(), other, reject);
            assembly.place(other);
            assembly.load(ancillary(libc::SKF_AD_MARK));
            assembly.test_bits(EGRESS_MARK, reject, unmarked);
            assembly.place(unmarked);
            return;
        }
    }
    assembly.place(next);
}

/// Goes on without a tag, and with a priority tag, which the kernel took out of the frame.
fn vlan_tag(assembly: &mut Assembly, reject: Label) {
    let (untagged, tagged) = (assembly.label(), assembly.label());
    assembly.load(ancillary(libc::SKF_AD_VLAN_TAG_PRESENT));
    assembly.test_equal(0, untagged, tagged);
    assembly.place(tagged);
    assembly.load(ancillary(libc::SKF_AD_VLAN_TAG));
    assembly.test_bits(VLAN_ID_BITS, reject, untagged);
    assembly.place(untagged);
}

/// Goes on behind a priority tag that is in the frame, with the EtherType behind it: sent frames, and a second tag. X is
/// that of an Ethernet frame.
fn priority_tag_in_band(assembly: &mut Assembly, reject: Label) {
    let priority = assembly.label();
    assembly.load_half_at_x(0);
    assembly.test_bits(VLAN_ID_BITS, reject, priority);
    assembly.place(priority);
    assembly.load_half_at_x(2);
    assembly.store(PORT);
    assembly.load_number(ETHERNET_HEADER_BYTES + VLAN_TAG_BYTES);
    assembly.copy_to_x();
    assembly.load_scratch(PORT);
}

fn search_by_frame_type(assembly: &mut Assembly, search: &Search, promiscuous: bool) {
    let (for_us, for_others) = (assembly.label(), assembly.label());
    if promiscuous {
        assembly.load(ancillary(libc::SKF_AD_PKTTYPE));
        assembly.test_equal(libc::PACKET_OTHERHOST.into(), for_others, for_us);
        assembly.place(for_others);
        match search.for_others {
            Some(search) => assembly.jump(search),
            None => assembly.reject(),
        }
        assembly.place(for_us);
    }
    if let Some(search) = search.for_us {
        assembly.jump(search);
    }
}

const ETHERNET_HEADER_BYTES: u32 = 14;
const VLAN_TAG_BYTES: u32 = 4;
/// 802.1Q and 802.1ad: the tags that the kernel knows.
const VLAN_ETHERTYPES: [u32; 2] = [0x8100, 0x88a8];
/// The bits of a tag that are the VLAN; a priority tag has none of them.
const VLAN_ID_BITS: u32 = 0x0fff;
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
    assembly.load_number(NO_PORT);
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
        assembly.load_number(NO_PORT);
        assembly.place(known);
        assembly.store(PORT);
    }
}
