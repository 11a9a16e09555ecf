//! Decodes rtnetlink(7) messages about links and addresses, attribute by attribute: an attribute that this version of
//! `netlink-packet-route` can't decode is skipped and the others are kept.
//!
//! Some attributes and one field are read without the library's types, which would lose them:
//!
//! - `IFLA_IFNAME`, `IFLA_PROP_LIST`, `IFLA_IFALIAS`: names need not be UTF-8, which `LinkAttribute` requires.
//! - `IFLA_LINKINFO`: `LinkAttribute` decodes it as a whole or not at all.
//! - `ifi_type`: a type that `LinkLayerType` does not know becomes `Void`.

use netlink_packet_core::{Parseable, ParseableParametrized};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeader};
use netlink_packet_route::link::{InfoKind, InfoPortKind, LinkAttribute, LinkFlags, LinkHeader};

use super::{Address, Link, LinkKind};
use crate::link::IfIndex;
use crate::netlink::attributes;

/// `struct ifinfomsg`: family 1, pad 1, type 2, index 4, flags 4, change 4.
pub(crate) const LINK_HEADER_BYTES: usize = 16;
const LINK_TYPE_AT: usize = 2;
/// In the data of an ipvlan (linux/if_link.h).
const IFLA_IPVLAN_MODE: u16 = 1;
const IPVLAN_MODE_L2: u16 = 0;
/// `struct ifaddrmsg`.
const ADDRESS_HEADER_BYTES: usize = 8;

/// The interface that an `RTM_NEWLINK` or `RTM_DELLINK` is about. Messages of other families than `AF_UNSPEC` describe a
/// part of an interface: a bridge sends `RTM_DELLINK` when a port leaves it.
pub(crate) fn link_header(body: &[u8]) -> Option<LinkHeader> {
    LinkHeader::parse(body).ok().filter(|header| header.interface_family == AddressFamily::Unspec)
}

/// Decodes an `RTM_NEWLINK`. `None` if it is no whole description, as wireless events are not.
pub(super) fn link(body: &[u8]) -> Option<Link> {
    let header = link_header(body)?;
    let (mut name, mut mtu) = (None, None);
    // Kernels before 4.16 lack the attribute.
    let mut carrier_ups = 0;
    let (mut vlan, mut bridge_port, mut routed_ipvlan, mut mac) = (false, false, false, None);
    let (mut altnames, mut alias) = (Vec::new(), None);
    for attribute in attributes(body.get(LINK_HEADER_BYTES..)?) {
        match attribute.kind() {
            libc::IFLA_ADDRESS => mac = attribute.value().try_into().ok(),
            libc::IFLA_IFNAME => name = Some(text(attribute.value())),
            libc::IFLA_PROP_LIST => {
                let names = attributes(attribute.value()).filter(|one| one.kind() == libc::IFLA_ALT_IFNAME);
                altnames.extend(names.map(|one| text(one.value())));
            }
            libc::IFLA_IFALIAS => alias = Some(text(attribute.value())),
            libc::IFLA_LINKINFO => {
                routed_ipvlan = is_routed_ipvlan(attribute.value());
                for info in attributes(attribute.value()) {
                    vlan |= matches!(InfoKind::parse(&info), Ok(InfoKind::Vlan));
                    bridge_port |= matches!(InfoPortKind::parse(&info), Ok(InfoPortKind::Bridge));
                }
            }
            _ => match LinkAttribute::parse_with_param(&attribute, header.interface_family) {
                Ok(LinkAttribute::Mtu(bytes)) => mtu = Some(bytes),
                Ok(LinkAttribute::CarrierUpCount(count)) => carrier_ups = count,
                _ => {}
            },
        }
    }
    let arphrd = body.get(LINK_TYPE_AT..)?.first_chunk().map(|word| u16::from_ne_bytes(*word))?;
    let kind = LinkKind::from_arphrd(arphrd);
    Some(Link {
        ifindex: IfIndex::new(header.index),
        name: name?,
        altnames,
        alias,
        kind,
        mtu: mtu?,
        up: header.flags.contains(LinkFlags::Up),
        carrier: header.flags.contains(LinkFlags::Running),
        carrier_ups,
        multicast: header.flags.contains(LinkFlags::Multicast),
        bridge_port,
        vlan,
        mac: mac.filter(|_| kind == LinkKind::Ethernet),
        routed_ipvlan,
    })
}

/// Whether an `IFLA_LINKINFO` is that of an ipvlan in another mode than L2.
fn is_routed_ipvlan(info: &[u8]) -> bool {
    let of_kind = |kind| attributes(info).find(|attribute| attribute.kind() == kind);
    let is_ipvlan = of_kind(libc::IFLA_INFO_KIND).is_some_and(|kind| text(kind.value()) == "ipvlan");
    let data = of_kind(libc::IFLA_INFO_DATA).filter(|_| is_ipvlan);
    data.is_some_and(|data| {
        let mode = attributes(data.value()).find(|attribute| attribute.kind() == IFLA_IPVLAN_MODE);
        let mode = mode.and_then(|mode| mode.value().first_chunk().map(|word| u16::from_ne_bytes(*word)));
        mode.is_some_and(|mode| mode != IPVLAN_MODE_L2)
    })
}

/// Decodes an `RTM_NEWADDR` or `RTM_DELADDR`.
pub(super) fn address(body: &[u8]) -> Option<Address> {
    let header = AddressHeader::parse(body).ok()?;
    let (mut address, mut local) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(header.flags.bits().into());
    for attribute in attributes(body.get(ADDRESS_HEADER_BYTES..)?) {
        match AddressAttribute::parse(&attribute) {
            Ok(AddressAttribute::Address(ip)) => address = Some(ip),
            Ok(AddressAttribute::Local(ip)) => local = Some(ip),
            // All flags; the header has room for the first eight.
            Ok(AddressAttribute::Flags(all)) => flags = all,
            _ => {}
        }
    }
    let tentative = flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic);
    Some(Address {
        ifindex: IfIndex::new(header.index),
        // On a point-to-point interface IFA_ADDRESS is the other end.
        address: local.or(address)?,
        prefix: header.prefix_len,
        usable: !tentative && !flags.contains(AddressFlags::Dadfailed),
    })
}

/// The text of a NUL-ended string attribute.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
pub(crate) mod tests;
