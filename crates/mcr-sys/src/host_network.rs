//! What else the kernel knows of the network when somebody asks why (rtnetlink(7)): bridges and what they snooped,
//! neighbours, next hops, queues. For diagnosis; [`crate::network`] is what the relay follows.

use std::net::IpAddr;
use std::time::Duration;

use crate::link::IfIndex;
use crate::netlink::{
    NLM_F_ACK, NLM_F_DUMP, RTM_GETLINK, RTM_GETMDB, RTM_GETNEIGH, RTM_GETROUTE, Request, Socket, attributes,
    text, u16_at, u32_at,
};
use crate::{Result, network};

const LINK_MESSAGE_BYTES: usize = 16;
const NEIGHBOUR_MESSAGE_BYTES: usize = 12;
const ROUTE_MESSAGE_BYTES: usize = 12;
/// `struct br_port_msg`: family 1, padding 3, index 4.
const MDB_MESSAGE_BYTES: usize = 8;

const IFLA_ADDRESS: u16 = 1;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_BR_MCAST_QUERIER: u16 = 25;
const IFLA_BR_MCAST_QUERIER_INTVL: u16 = 32;
const NDA_DST: u16 = 1;
const NUD_INCOMPLETE: u16 = 0x01;
const NUD_FAILED: u16 = 0x20;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
/// An address family (2 bytes), and an address of it.
const RTA_VIA: u16 = 18;
const MDBA_MDB: u16 = 1;
const MDBA_MDB_ENTRY: u16 = 1;
const MDBA_MDB_ENTRY_INFO: u16 = 1;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// An interface, beyond what [`network::Link`] has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Which.
    pub ifindex: IfIndex,
    /// Its hardware address; empty if it has none.
    pub hardware_address: Vec<u8>,
    /// How many queues it receives with.
    pub receive_queues: Option<u32>,
    /// The bridge, bond or the like it is a port of.
    pub master: Option<IfIndex>,
    /// Its settings, if it is a bridge.
    pub bridge: Option<Bridge>,
}

/// How a bridge treats multicast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bridge {
    /// It sends a group only to ports that asked for it.
    pub snooping: bool,
    /// It asks who wants what.
    pub querier: bool,
    /// Without a query from elsewhere for so long, it snoops no more, and floods.
    pub querier_interval: Duration,
}

/// A group that a port of a bridge asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgeMembership {
    /// The bridge.
    pub bridge: IfIndex,
    /// The port; the bridge itself if this host asked.
    pub port: IfIndex,
    /// What was asked for.
    pub group: IpAddr,
}

/// A neighbour, as far as ARP or neighbour discovery knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Behind which interface.
    pub ifindex: IfIndex,
    /// Its address.
    pub address: IpAddr,
    /// It does not answer.
    pub silent: bool,
}

/// All interfaces.
///
/// # Errors
/// The kernel refuses a dump.
pub fn descriptions() -> Result<Vec<Description>> {
    let mut all = Vec::new();
    let request = Request::new(RTM_GETLINK, NLM_F_DUMP, &[0; LINK_MESSAGE_BYTES]);
    Socket::open(0)?
        .exchange("describe interfaces", request, |message| all.extend(description(message.body)))?;
    Ok(all)
}

fn description(body: &[u8]) -> Option<Description> {
    let mut described = Description {
        ifindex: IfIndex::new(u32_at(body, 4)?),
        hardware_address: Vec::new(),
        receive_queues: None,
        master: None,
        bridge: None,
    };
    for (kind, value) in attributes(body.get(LINK_MESSAGE_BYTES..)?) {
        match kind {
            IFLA_ADDRESS => described.hardware_address = value.to_vec(),
            IFLA_NUM_RX_QUEUES => described.receive_queues = u32_at(value, 0),
            IFLA_MASTER => described.master = u32_at(value, 0).map(IfIndex::new),
            IFLA_LINKINFO => described.bridge = bridge(value),
            _ => {}
        }
    }
    Some(described)
}

fn bridge(information: &[u8]) -> Option<Bridge> {
    let is_bridge =
        attributes(information).any(|(kind, value)| kind == IFLA_INFO_KIND && text(value) == "bridge");
    let (_, data) = attributes(information).find(|(kind, _)| *kind == IFLA_INFO_DATA)?;
    let on = |wanted: u16| attributes(data).any(|(kind, value)| kind == wanted && value.first() == Some(&1));
    // In hundredths of a second (USER_HZ); 255 s unless it was changed.
    let interval = attributes(data).find(|(kind, _)| *kind == IFLA_BR_MCAST_QUERIER_INTVL);
    let hundredths =
        interval.and_then(|(_, value)| value.first_chunk()).map_or(25_500, |n| u64::from_ne_bytes(*n));
    is_bridge.then(|| Bridge {
        snooping: on(IFLA_BR_MCAST_SNOOPING),
        querier: on(IFLA_BR_MCAST_QUERIER),
        querier_interval: Duration::from_millis(hundredths.saturating_mul(10)),
    })
}

/// What the bridges of this host snooped.
///
/// # Errors
/// The kernel refuses a dump; one without bridges may.
pub fn bridge_memberships() -> Result<Vec<BridgeMembership>> {
    let mut all = Vec::new();
    let mut fixed = [0; MDB_MESSAGE_BYTES];
    fixed[0] = u8::try_from(libc::AF_BRIDGE).unwrap_or_default();
    let request = Request::new(RTM_GETMDB, NLM_F_DUMP, &fixed);
    Socket::open(0)?.exchange("dump bridge memberships", request, |message| {
        let Some(bridge) = u32_at(message.body, 4).map(IfIndex::new) else { return };
        let nested = |bytes, wanted: u16| {
            attributes(bytes).filter(move |(kind, _)| *kind == wanted).map(|(_, value)| value)
        };
        let rest = message.body.get(MDB_MESSAGE_BYTES..).unwrap_or_default();
        let entries = nested(rest, MDBA_MDB).flat_map(|mdb| nested(mdb, MDBA_MDB_ENTRY));
        for entry in entries.flat_map(|entry| nested(entry, MDBA_MDB_ENTRY_INFO)) {
            all.extend(membership(bridge, entry));
        }
    })?;
    Ok(all)
}

/// `struct br_mdb_entry`: port 4, state 1, flags 1, VLAN 2, address 16, EtherType 2.
fn membership(bridge: IfIndex, entry: &[u8]) -> Option<BridgeMembership> {
    let group = match u16::from_be_bytes(*entry.get(24..)?.first_chunk()?) {
        ETHERTYPE_IPV4 => IpAddr::from(*entry.get(8..)?.first_chunk::<4>()?),
        ETHERTYPE_IPV6 => IpAddr::from(*entry.get(8..)?.first_chunk::<16>()?),
        _ => return None,
    };
    Some(BridgeMembership { bridge, port: IfIndex::new(u32_at(entry, 0)?), group })
}

/// What ARP and neighbour discovery know.
///
/// # Errors
/// The kernel refuses a dump.
pub fn neighbours() -> Result<Vec<Neighbour>> {
    let mut all = Vec::new();
    let request = Request::new(RTM_GETNEIGH, NLM_F_DUMP, &[0; NEIGHBOUR_MESSAGE_BYTES]);
    Socket::open(0)?.exchange("dump neighbours", request, |message| all.extend(neighbour(message.body)))?;
    Ok(all)
}

/// `struct ndmsg`: family 1, padding 3, index 4, state 2, flags 1, type 1.
fn neighbour(body: &[u8]) -> Option<Neighbour> {
    let attributes = attributes(body.get(NEIGHBOUR_MESSAGE_BYTES..)?);
    let address =
        attributes.filter(|(kind, _)| *kind == NDA_DST).find_map(|(_, value)| network::ip_address(value))?;
    Some(Neighbour {
        ifindex: IfIndex::new(u32_at(body, 4)?),
        address,
        silent: u16_at(body, 8)? & (NUD_INCOMPLETE | NUD_FAILED) != 0,
    })
}

/// Whom a packet to `to` is given to on the link `through`: a gateway, or `to` itself.
///
/// # Errors
/// There is no route, or one that refuses: `ENETUNREACH`, `EHOSTUNREACH`, `EACCES`, `EINVAL`.
pub fn next_hop(to: IpAddr, through: IfIndex) -> Result<IpAddr> {
    let (family, bits, octets) = match to {
        IpAddr::V4(to) => (libc::AF_INET, 32, to.octets().to_vec()),
        IpAddr::V6(to) => (libc::AF_INET6, 128, to.octets().to_vec()),
    };
    let mut fixed = [0; ROUTE_MESSAGE_BYTES];
    fixed[..2].copy_from_slice(&[u8::try_from(family).unwrap_or_default(), bits]);
    let request = Request::new(RTM_GETROUTE, NLM_F_ACK, &fixed)
        .attribute(RTA_DST, &octets)
        .number(RTA_OIF, through.to_raw());
    let mut hop = to;
    Socket::open(0)?.exchange("look up a route", request, |message| {
        hop = gateway(message.body).unwrap_or(hop);
    })?;
    Ok(hop)
}

fn gateway(body: &[u8]) -> Option<IpAddr> {
    attributes(body.get(ROUTE_MESSAGE_BYTES..)?).find_map(|(kind, value)| match kind {
        RTA_GATEWAY => network::ip_address(value),
        RTA_VIA => network::ip_address(value.get(2..)?),
        _ => None,
    })
}

#[cfg(test)]
mod decode;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link_setup::LinkSetup;
    use crate::namespace::NetNamespace;

    #[test]
    fn a_bridge_is_described_with_its_settings_and_its_ports() {
        let (host, other) = (NetNamespace::create().unwrap(), NetNamespace::create().unwrap());
        let mut setup = LinkSetup::in_namespace(&host).unwrap();
        setup.create_bridge("br0", true).unwrap();
        setup.create_veth("eth0", "eth0", &other).unwrap();
        setup.set_master("eth0", Some("br0")).unwrap();
        let (bridge, port) = (setup.index("br0").unwrap(), setup.index("eth0").unwrap());
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
            neighbours().unwrap();
        })
        .unwrap();
    }

    #[test]
    fn a_route_has_its_gateway() {
        let (host, other) = (NetNamespace::create().unwrap(), NetNamespace::create().unwrap());
        let mut setup = LinkSetup::in_namespace(&host).unwrap();
        setup.create_veth("eth0", "eth0", &other).unwrap();
        setup.set_up("eth0", true).unwrap();
        let through = setup.index("eth0").unwrap();
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
    fn an_entry_of_the_bridge_is_read() {
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
