//! The hand-written decoder and the library's side by side: on messages that a kernel sent, and on made-up ones.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::network::{parse_address, parse_link};

/// Dumps of Linux 6.18: loopback, bridge, VXLAN, IFB, veth with a name that is not UTF-8, macvlan, macvtap, tun, tap as
/// a bridge port; addresses of each kind, point-to-point and tentative ones included. One message a line.
pub(crate) const LINKS: &str = include_str!("../recorded/links.hex");
const ADDRESSES: &str = include_str!("../recorded/addresses.hex");
const MESSAGE_HEADER_BYTES: usize = 16;

pub(crate) fn recorded(hex: &str) -> Vec<Vec<u8>> {
    let byte = |line: &str, at: usize| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
    let bytes = |line: &str| (0..line.len()).step_by(2).map(|at| byte(line, at)).collect::<Vec<_>>();
    hex.lines().map(|line| bytes(line)[MESSAGE_HEADER_BYTES..].to_vec()).collect()
}

#[test]
fn both_decoders_agree_on_recorded_messages() {
    for body in recorded(LINKS) {
        assert!(link(&body).is_some());
        assert_eq!(link(&body), parse_link(&body));
    }
    for body in recorded(ADDRESSES) {
        assert!(address(&body).is_some());
        assert_eq!(address(&body), parse_address(&body));
    }
}

type Attribute = (u16, Vec<u8>);

/// The attributes as in a message, each kind once as the kernel sends them.
fn encode(attributes: Vec<Attribute>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut kinds = HashSet::new();
    for (kind, value) in attributes.into_iter().filter(|(kind, _)| kinds.insert(*kind)) {
        bytes.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn any_bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..most)
}

fn word() -> impl Strategy<Value = Vec<u8>> {
    any::<[u8; 4]>().prop_map(Vec::from)
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let names = [&b"bridge\0"[..], b"vlan\0", b"vlan", b"bond\0", b"eth0\0", b"l\xfft\0", b"\0"];
    prop::sample::select(names.map(<[u8]>::to_vec).to_vec())
}

/// An attribute of a link: one that the decoders read, in the form that the kernel sends, or any other.
fn link_attribute() -> impl Strategy<Value = Attribute> {
    let info = prop_oneof![
        (prop_oneof![Just(1_u16), Just(4)], name()),
        (prop_oneof![Just(2_u16), Just(3), 5_u16..80], any_bytes(24)),
    ];
    let info = prop::collection::vec(info, 0..4).prop_map(encode);
    let other = prop_oneof![0_u16..3, 5_u16..18, 19_u16..47, 48_u16..90];
    prop_oneof![
        (Just(libc::IFLA_IFNAME), name()),
        (Just(libc::IFLA_MTU), word()),
        (Just(libc::IFLA_CARRIER_UP_COUNT), word()),
        (Just(libc::IFLA_LINKINFO), info),
        (other, any_bytes(40)),
    ]
}

fn address_attribute() -> impl Strategy<Value = Attribute> {
    let address = prop_oneof![word(), any::<[u8; 16]>().prop_map(Vec::from), any_bytes(20)];
    prop_oneof![
        (prop_oneof![Just(libc::IFA_ADDRESS), Just(libc::IFA_LOCAL)], address),
        (Just(libc::IFA_FLAGS), word()),
        (prop_oneof![3_u16..8, 9_u16..40], any_bytes(40)),
    ]
}

/// A message: a fixed part, attributes, and bytes that may be part of another.
fn message(fixed: usize, attribute: impl Strategy<Value = Attribute>) -> impl Strategy<Value = Vec<u8>> {
    let family = prop_oneof![4 => Just(0_u8), 1 => any::<u8>()];
    let head = (family, prop::collection::vec(any::<u8>(), fixed - 1));
    let attributes = prop::collection::vec(attribute, 0..8).prop_map(encode);
    (head, attributes, any_bytes(6))
        .prop_map(|((family, rest), attributes, end)| [vec![family], rest, attributes, end].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn both_decoders_agree_on_links(body in message(LINK_HEADER_BYTES, link_attribute())) {
        prop_assert_eq!(link(&body), parse_link(&body));
    }

    #[test]
    fn both_decoders_agree_on_addresses(body in message(ADDRESS_HEADER_BYTES, address_attribute())) {
        prop_assert_eq!(address(&body), parse_address(&body));
    }

    #[test]
    fn any_bytes_are_decoded_without_a_panic(body in any_bytes(200)) {
        let _ = (link(&body), address(&body), link_header(&body));
    }
}
