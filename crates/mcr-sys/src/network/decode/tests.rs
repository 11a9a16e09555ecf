//! On messages recorded from Linux 6.18. The expected values are those of the hand-written decoder that this one replaced.

use netlink_packet_core::NLA_HEADER_SIZE;
use proptest::prelude::*;

use super::*;

/// Dumps in hexadecimal, one message a line: interfaces of each kind (a veth whose name is not UTF-8 and a tap that is a
/// port of a bridge among them) and addresses (point-to-point and tentative ones among them).
pub(crate) const LINKS: &str = include_str!("../recorded/links.hex");
const ADDRESSES: &str = include_str!("../recorded/addresses.hex");
const MESSAGE_HEADER_BYTES: usize = 16;

/// The messages without their `struct nlmsghdr`.
pub(crate) fn recorded(hex: &str) -> Vec<Vec<u8>> {
    let byte = |line: &str, at: usize| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
    let bytes = |line: &str| (0..line.len()).step_by(2).map(|at| byte(line, at)).collect::<Vec<_>>();
    hex.lines().map(|line| bytes(line)[MESSAGE_HEADER_BYTES..].to_vec()).collect()
}

#[test]
fn recorded_links_are_decoded() {
    let rows: Vec<_> = recorded(LINKS).iter().map(|body| row(&link(body).unwrap())).collect();
    let expected = [
        "1 lo Loopback 65536 0 up,carrier",
        "2 br0 Ethernet 1500 0 up,multicast",
        "3 vx0 Ethernet 1500 0 multicast",
        "4 ifb9 Ethernet 1500 0 ",
        "5 right Ethernet 1500 1 up,carrier,multicast",
        "6 l\u{fffd}ft Ethernet 1500 1 up,carrier,multicast",
        "7 mv0 Ethernet 1500 1 multicast",
        "8 mvt0 Ethernet 1500 1 multicast",
        "9 tun0 NoHeader 1500 0 up,multicast",
        "10 tap0 Ethernet 1500 0 multicast,port",
    ];
    assert_eq!(rows, expected);
}

fn row(link: &Link) -> String {
    let flags = [
        (link.up, "up"),
        (link.carrier, "carrier"),
        (link.multicast, "multicast"),
        (link.bridge_port, "port"),
        (link.vlan, "vlan"),
    ];
    let flags: Vec<_> = flags.into_iter().filter_map(|(set, name)| set.then_some(name)).collect();
    let Link { ifindex, name, kind, mtu, carrier_ups, mac, .. } = link;
    assert_eq!(mac.is_some(), *kind == LinkKind::Ethernet, "{name}");
    format!("{} {name} {kind:?} {mtu} {carrier_ups} {}", ifindex.to_raw(), flags.join(","))
}

#[test]
fn recorded_addresses_are_decoded() {
    let rows: Vec<_> = recorded(ADDRESSES)
        .iter()
        .map(|body| address(body).unwrap())
        .map(|Address { ifindex, address, prefix, usable }| {
            format!("{} {address}/{prefix} {}", ifindex.to_raw(), if usable { "usable" } else { "tentative" })
        })
        .collect();
    let expected = [
        "1 127.0.0.1/8 usable",
        "6 10.1.0.1/24 usable",
        "9 10.8.0.1/32 usable",
        "1 ::1/128 usable",
        "5 fd01::4/64 tentative",
        "5 fd01::1/64 tentative",
        "5 fe80::c084:f5ff:feaf:9173/64 tentative",
        "6 fd01::2/64 tentative",
        "6 fd01::1/64 usable",
        "6 fe80::4477:21ff:fe18:58f1/64 tentative",
    ];
    assert_eq!(rows, expected);
}

#[test]
fn a_vlan_is_recognized() {
    let mut body = recorded(LINKS).swap_remove(0);
    insert(&mut body, LINK_HEADER_BYTES, 0, libc::IFLA_LINKINFO, &[8, 0, 1, 0, b'v', b'l', b'a', b'n']);
    assert!(link(&body).unwrap().vlan);
}

/// As the kernel has them: `IFLA_INFO_KIND`, then `IFLA_INFO_DATA` with the mode.
#[test]
fn the_modes_of_ipvlan_are_recognized() {
    for (kind, mode, routed) in [
        (b"ipvlan\0\0", 0_u8, false),
        (b"ipvlan\0\0", 1, true),
        (b"ipvlan\0\0", 2, true),
        (b"other\0\0\0", 1, false),
    ] {
        let data = [8, 0, 1, 0, mode, 0, 0, 0];
        let info = [&[12, 0, 1, 0][..], kind, &[12, 0, 2, 0], &data].concat();
        let mut body = recorded(LINKS).swap_remove(0);
        insert(&mut body, LINK_HEADER_BYTES, 0, libc::IFLA_LINKINFO, &info);
        assert_eq!(link(&body).unwrap().routed_ipvlan, routed, "{kind:?} {mode}");
    }
}

#[test]
fn messages_about_a_part_of_a_link_are_none() {
    let mut body = recorded(LINKS).swap_remove(0);
    body[0] = AddressFamily::Bridge.into();
    assert!(link_header(&body).is_none() && link(&body).is_none());
    assert_eq!(link(&recorded(LINKS)[0][..LINK_HEADER_BYTES]), None, "no name and no MTU");
}

/// Inserts an attribute in front of the one with this number.
fn insert(body: &mut Vec<u8>, header_bytes: usize, number: usize, kind: u16, value: &[u8]) {
    let sizes = attributes(&body[header_bytes..]).map(|nla| usize::from(nla.length()).next_multiple_of(4));
    let at = header_bytes + sizes.take(number).sum::<usize>();
    let mut bytes = u16::try_from(NLA_HEADER_SIZE + value.len()).unwrap().to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    body.splice(at..at, bytes);
}

fn any_bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn an_attribute_that_can_not_be_decoded_loses_no_other(
        number in 0_usize..80,
        link_kind in prop_oneof![Just(0_u16), Just(2), 5_u16..18, Just(19), 21_u16..47, 48_u16..52, 53_u16..100],
        address_kind in prop_oneof![3_u16..8, 9_u16..40],
        value in any_bytes(60),
    ) {
        for body in recorded(LINKS) {
            let mut longer = body.clone();
            insert(&mut longer, LINK_HEADER_BYTES, number, link_kind, &value);
            prop_assert_eq!(link(&longer), link(&body));
        }
        for body in recorded(ADDRESSES) {
            let mut longer = body.clone();
            insert(&mut longer, ADDRESS_HEADER_BYTES, number, address_kind, &value);
            prop_assert_eq!(address(&longer), address(&body));
        }
    }

    #[test]
    fn any_bytes_are_decoded_without_a_panic(body in any_bytes(200)) {
        let _ = (link(&body), address(&body), link_header(&body));
    }
}
