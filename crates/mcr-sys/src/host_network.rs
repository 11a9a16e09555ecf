//! Facts about the network that only diagnosis needs (rtnetlink(7)): bridges and the memberships they snooped, neighbors,
//! next hops, queues. The relay itself follows [`crate::network`].

use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NetlinkSerializable};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::Result;
use crate::link::IfIndex;
use crate::netlink::{Socket, attributes};

mod decode;

/// `struct br_port_msg`: family 1, padding 3, index 4.
const MDB_HEADER_BYTES: usize = 8;
const MDBA_MDB: u16 = 1;
const MDBA_MDB_ENTRY: u16 = 1;
const MDBA_MDB_ENTRY_INFO: u16 = 1;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// An interface, beyond what [`crate::network::Link`] has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its index.
    pub ifindex: IfIndex,
    /// Its hardware address; empty if it has none.
    pub hardware_address: Vec<u8>,
    /// Number of receive queues.
    pub receive_queues: Option<u32>,
    /// The bridge, bond or other interface that it is a port of.
    pub master: Option<IfIndex>,
    /// Its settings, if it is a bridge.
    pub bridge: Option<Bridge>,
}

/// Multicast settings of a bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bridge {
    /// It forwards a group only to ports with members.
    pub snooping: bool,
    /// It sends queries.
    pub querier: bool,
    /// Without a query from another querier for this time, snooping ends and the bridge floods.
    pub querier_interval: Duration,
}

/// A membership on a bridge port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgeMembership {
    /// The bridge.
    pub bridge: IfIndex,
    /// The port; the bridge itself for memberships of this host.
    pub port: IfIndex,
    /// The group.
    pub group: IpAddr,
}

/// An entry of the neighbor table (ARP, neighbor discovery).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbor {
    /// The interface it is reached through.
    pub ifindex: IfIndex,
    /// Its address.
    pub address: IpAddr,
    /// It did not answer (`NUD_INCOMPLETE`, `NUD_FAILED`).
    pub unreachable: bool,
}

/// All interfaces.
pub fn descriptions() -> Result<Vec<Description>> {
    dump("describe interfaces", RouteNetlinkMessage::GetLink(LinkMessage::default()), decode::description)
}

/// A dump, with what `decode` returns for the body of each message.
fn dump<T, I: IntoIterator<Item = T>>(
    step: &'static str,
    request: impl NetlinkSerializable,
    decode: impl Fn(&[u8]) -> I,
) -> Result<Vec<T>> {
    let mut all = Vec::new();
    Socket::open(0)?.exchange(step, NLM_F_DUMP, request, |body| all.extend(decode(body)))?;
    Ok(all)
}

/// The memberships that the bridges of this host have snooped.
///
/// # Errors
/// The kernel refuses a dump, as one without bridge support does.
pub fn bridge_memberships() -> Result<Vec<BridgeMembership>> {
    dump("dump bridge memberships", GetMdb, memberships)
}

/// `RTM_GETMDB`, which `netlink-packet-route` lacks: a `struct br_port_msg`.
struct GetMdb;

impl NetlinkSerializable for GetMdb {
    fn message_type(&self) -> u16 {
        libc::RTM_GETMDB
    }

    fn buffer_len(&self) -> usize {
        MDB_HEADER_BYTES
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.fill(0);
        if let Some(family) = buffer.first_mut() {
            *family = AddressFamily::Bridge.into();
        }
    }
}

/// The entries of an `RTM_NEWMDB`; they are in three levels of attributes.
fn memberships(body: &[u8]) -> Vec<BridgeMembership> {
    let mut all = Vec::new();
    let bridge = body.get(4..).and_then(|rest| rest.first_chunk()).map(|index| u32::from_ne_bytes(*index));
    let (Some(bridge), Some(rest)) = (bridge.map(IfIndex::new), body.get(MDB_HEADER_BYTES..)) else {
        return all;
    };
    for mdb in attributes(rest).filter(|nla| nla.kind() == MDBA_MDB) {
        for entry in attributes(mdb.value()).filter(|nla| nla.kind() == MDBA_MDB_ENTRY) {
            let infos = attributes(entry.value()).filter(|nla| nla.kind() == MDBA_MDB_ENTRY_INFO);
            all.extend(infos.filter_map(|info| membership(bridge, info.value())));
        }
    }
    all
}

/// `struct br_mdb_entry`: port 4, state 1, flags 1, VLAN 2, address 16, EtherType 2.
fn membership(bridge: IfIndex, entry: &[u8]) -> Option<BridgeMembership> {
    let group = match u16::from_be_bytes(*entry.get(24..)?.first_chunk()?) {
        ETHERTYPE_IPV4 => IpAddr::from(*entry.get(8..)?.first_chunk::<4>()?),
        ETHERTYPE_IPV6 => IpAddr::from(*entry.get(8..)?.first_chunk::<16>()?),
        _ => return None,
    };
    Some(BridgeMembership { bridge, port: IfIndex::new(u32::from_ne_bytes(*entry.first_chunk()?)), group })
}

/// The neighbor table.
pub fn neighbors() -> Result<Vec<Neighbor>> {
    dump("dump neighbors", RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()), decode::neighbor)
}

/// The next hop of a packet to `to` through an interface: a gateway, or `to` itself.
///
/// # Errors
/// There is no route, or one that refuses: `ENETUNREACH`, `EHOSTUNREACH`, `EACCES`, `EINVAL`.
pub fn next_hop(to: IpAddr, through: IfIndex) -> Result<IpAddr> {
    let mut request = RouteMessage::default();
    (request.header.address_family, request.header.destination_prefix_length) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    request.attributes = vec![RouteAttribute::Destination(to.into()), RouteAttribute::Oif(through.to_raw())];
    let mut hop = to;
    let request = RouteNetlinkMessage::GetRoute(request);
    Socket::open(0)?.exchange("look up a route", NLM_F_ACK, request, |body| {
        hop = decode::gateway(body).unwrap_or(hop);
    })?;
    Ok(hop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::index;
    use mcr_testnet::LinkSetup;
    use mcr_testnet::NetNamespace;

    #[test]
    fn a_bridge_is_described_with_its_settings_and_its_ports() {
        let (host, other) = (NetNamespace::create().unwrap(), NetNamespace::create().unwrap());
        let mut setup = LinkSetup::in_namespace(&host).unwrap();
        setup.create_bridge("br0", true).unwrap();
        setup.create_veth("eth0", "eth0", &other).unwrap();
        setup.set_master("eth0", Some("br0")).unwrap();
        let (bridge, port) = (index(&mut setup, "br0"), index(&mut setup, "eth0"));
        let all = host.run(|| descriptions().unwrap()).unwrap();
        let of = |ifindex| all.iter().find(|one: &&Description| one.ifindex == ifindex).unwrap();
        assert_eq!(
            of(bridge).bridge,
            Some(Bridge { snooping: true, querier: true, querier_interval: Duration::from_secs(255) })
        );
        assert_eq!((of(port).bridge, of(port).master), (None, Some(bridge)));
        assert_eq!(of(port).hardware_address.len(), 6);
        assert!(of(port).receive_queues.is_some());
        host.run(|| {
            assert!(bridge_memberships().unwrap().is_empty());
            neighbors().unwrap();
        })
        .unwrap();
    }

    #[test]
    fn a_route_has_its_gateway() {
        let (host, other) = (NetNamespace::create().unwrap(), NetNamespace::create().unwrap());
        let mut setup = LinkSetup::in_namespace(&host).unwrap();
        setup.create_veth("eth0", "eth0", &other).unwrap();
        setup.set_up("eth0", true).unwrap();
        let through = index(&mut setup, "eth0");
        let hop = |to: IpAddr| host.run(|| next_hop(to, through)).unwrap();
        for (own, gateway, far) in
            [("10.2.0.1", "10.2.0.77", "172.16.0.0"), ("fd00::1", "fd00::77", "fd99::")]
        {
            let [own, gateway, far]: [IpAddr; 3] =
                [own, gateway, far].map(|address| address.parse().unwrap());
            let prefix = if own.is_ipv4() { 24 } else { 64 };
            setup.add_address("eth0", own, prefix).unwrap();
            setup.add_route("eth0", far, prefix, Some(gateway)).unwrap();
            assert_eq!(hop(gateway).unwrap(), gateway);
            assert_eq!(hop(far).unwrap(), gateway);
        }
        assert!(hop("fd55::1".parse().unwrap()).is_err());
    }

    #[test]
    fn a_bridge_mdb_entry_is_decoded() {
        let mut entry = [0; 28];
        entry[..4].copy_from_slice(&7_u32.to_ne_bytes());
        entry[8..12].copy_from_slice(&[239, 1, 1, 1]);
        entry[24..26].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
        let (bridge, port) = (IfIndex::new(3), IfIndex::new(7));
        let group = IpAddr::from([239, 1, 1, 1]);
        assert_eq!(membership(bridge, &entry), Some(BridgeMembership { bridge, port, group }));
        assert_eq!(membership(bridge, &entry[..20]), None);
    }
}
