//! Creates and changes interfaces (rtnetlink(7)), as `ip link`, `ip address` and `ip route` do.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use mcr_sys::link::IfIndex;
use mcr_sys::netlink::Socket;
use mcr_sys::{Result, SysError};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridge, InfoData, InfoKind, InfoMacVlan, InfoVeth,
    LinkAttribute, LinkFlags, LinkHeader, LinkInfo, LinkMessage, MacVlanMode,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::NetNamespace;

const CREATE: u16 = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;

/// Changes the interfaces of one network namespace. Errors carry the kernel's number: `ENODEV` if
/// there is no such interface, `EEXIST` if a name or address is taken, `EADDRNOTAVAIL` if an address is not there, `EPERM`.
#[derive(Debug)]
pub struct LinkSetup {
    socket: Socket,
}

impl LinkSetup {
    /// For this namespace.
    pub fn in_namespace(namespace: &NetNamespace) -> Result<Self> {
        Ok(Self { socket: namespace.run(|| Socket::open(0))?? })
    }

    /// The index of the interface with this name.
    pub fn index(&mut self, name: &str) -> Result<IfIndex> {
        const STEP: &str = "look up interface";
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let mut header = None;
        self.socket.exchange(STEP, NLM_F_ACK, RouteNetlinkMessage::GetLink(request), |body| {
            header = LinkHeader::parse(body).ok();
        })?;
        let header = header.ok_or_else(|| SysError::from_errno(STEP, rustix::io::Errno::NODEV))?;
        Ok(IfIndex::new(header.index))
    }

    /// Creates a veth pair: `name` here, `peer` in the other namespace, which may be the same. Both are down.
    pub fn create_veth(&mut self, name: &str, peer: &str, peer_namespace: &NetNamespace) -> Result<()> {
        let mut end = LinkMessage::default();
        end.attributes.push(LinkAttribute::IfName(peer.to_owned()));
        end.attributes.push(LinkAttribute::NetNsFd(peer_namespace.as_fd().as_raw_fd()));
        self.create("create veth", name, None, InfoKind::Veth, InfoData::Veth(InfoVeth::Peer(end)))
    }

    /// Creates a bridge, down. With `querier` it snoops IGMP and MLD and sends queries, so that a port that did not
    /// join a group does not receive it.
    pub fn create_bridge(&mut self, name: &str, querier: bool) -> Result<()> {
        let data = vec![InfoBridge::MulticastSnooping(querier), InfoBridge::MulticastQuerier(querier)];
        self.create("create bridge", name, None, InfoKind::Bridge, InfoData::Bridge(data))
    }

    /// Sets the query response interval of a bridge; it also floods for this time after coming up. Resolution 10 ms.
    pub fn set_bridge_query_response(&mut self, name: &str, time: Duration) -> Result<()> {
        // clock_t, hundredths of a second whatever the kernel's own tick is.
        let ticks = u64::try_from(time.as_millis() / 10).unwrap_or(u64::MAX);
        let data = InfoData::Bridge(vec![InfoBridge::MulticastQueryResponseInterval(ticks)]);
        let info = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(data)]);
        self.change("set query response interval of bridge", name, RouteNetlinkMessage::NewLink, info)
    }

    /// Creates a macvlan in bridge mode on top of `lower`, down.
    pub fn create_macvlan(&mut self, name: &str, lower: &str) -> Result<()> {
        let data = InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Bridge)]);
        self.create("create macvlan", name, Some(lower), InfoKind::MacVlan, data)
    }

    /// Makes the interface a port of a bridge, or releases it from its bridge.
    pub fn set_master(&mut self, name: &str, bridge: Option<&str>) -> Result<()> {
        let master = bridge.map_or(Ok(0), |bridge| self.index(bridge).map(IfIndex::to_raw))?;
        self.set("set bridge of interface", name, LinkAttribute::Controller(master))
    }

    /// Deletes the interface, and the other end of a veth pair with it.
    pub fn delete(&mut self, name: &str) -> Result<()> {
        let request = self.link(name)?;
        self.request("delete interface", NLM_F_ACK, RouteNetlinkMessage::DelLink(request))
    }

    /// Sets the interface administratively up or down.
    pub fn set_up(&mut self, name: &str, up: bool) -> Result<()> {
        let mut request = self.link(name)?;
        request.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        request.header.change_mask = LinkFlags::Up;
        self.request("set interface up", NLM_F_ACK, RouteNetlinkMessage::NewLink(request))
    }

    /// Sets the MTU, bytes.
    pub fn set_mtu(&mut self, name: &str, mtu: u32) -> Result<()> {
        self.set("set MTU", name, LinkAttribute::Mtu(mtu))
    }

    /// Renames the interface. An old kernel does not rename one that is up.
    pub fn rename(&mut self, name: &str, new_name: &str) -> Result<()> {
        self.set("rename interface", name, LinkAttribute::IfName(new_name.to_owned()))
    }

    /// Sets the hardware address, which no interface may have that is in use; some drivers take it only while down.
    pub fn set_hardware_address(&mut self, name: &str, address: [u8; 6]) -> Result<()> {
        self.set("set hardware address", name, LinkAttribute::Address(address.to_vec()))
    }

    /// Moves the interface into another namespace; it is down there, without addresses.
    pub fn move_to(&mut self, name: &str, namespace: &NetNamespace) -> Result<()> {
        let namespace = LinkAttribute::NetNsFd(namespace.as_fd().as_raw_fd());
        self.set("move interface to another namespace", name, namespace)
    }

    /// Keeps the kernel from assigning an IPv6 link-local address, which would take a second of duplicate address
    /// detection. Call it before setting the interface up.
    pub fn disable_automatic_ipv6(&mut self, name: &str) -> Result<()> {
        let inet6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        self.set("disable automatic IPv6", name, LinkAttribute::AfSpecUnspec(vec![inet6]))
    }

    /// Adds an address with its prefix length in bits, without duplicate address detection.
    pub fn add_address(&mut self, name: &str, address: IpAddr, prefix: u8) -> Result<()> {
        let request = self.address(name, address, prefix)?;
        self.request("add address", CREATE, RouteNetlinkMessage::NewAddress(request))
    }

    /// Removes an address.
    pub fn remove_address(&mut self, name: &str, address: IpAddr, prefix: u8) -> Result<()> {
        let request = self.address(name, address, prefix)?;
        self.request("remove address", NLM_F_ACK, RouteNetlinkMessage::DelAddress(request))
    }

    /// Adds a route through an interface, with `gateway` if the destination is not on the link.
    pub fn add_route(&mut self, name: &str, to: IpAddr, prefix: u8, gateway: Option<IpAddr>) -> Result<()> {
        let mut request = RouteMessage::default();
        request.header = RouteHeader {
            address_family: family(to),
            destination_prefix_length: prefix,
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            scope: if gateway.is_none() && to.is_ipv4() { RouteScope::Link } else { RouteScope::Universe },
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        request.attributes.push(RouteAttribute::Oif(self.index(name)?.to_raw()));
        if prefix > 0 {
            request.attributes.push(RouteAttribute::Destination(to.into()));
        }
        request.attributes.extend(gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
        self.request("add route", CREATE, RouteNetlinkMessage::NewRoute(request))
    }

    fn create(
        &mut self,
        step: &'static str,
        name: &str,
        lower: Option<&str>,
        kind: InfoKind,
        data: InfoData,
    ) -> Result<()> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::IfName(name.to_owned()));
        if let Some(lower) = lower {
            request.attributes.push(LinkAttribute::Link(self.index(lower)?.to_raw()));
        }
        request.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]));
        self.request(step, CREATE, RouteNetlinkMessage::NewLink(request))
    }

    fn set(&mut self, step: &'static str, name: &str, attribute: LinkAttribute) -> Result<()> {
        self.change(step, name, RouteNetlinkMessage::SetLink, attribute)
    }

    fn change(
        &mut self,
        step: &'static str,
        name: &str,
        kind: fn(LinkMessage) -> RouteNetlinkMessage,
        attribute: LinkAttribute,
    ) -> Result<()> {
        let mut request = self.link(name)?;
        request.attributes.push(attribute);
        self.request(step, NLM_F_ACK, kind(request))
    }

    fn link(&mut self, name: &str) -> Result<LinkMessage> {
        let mut request = LinkMessage::default();
        request.header.index = self.index(name)?.to_raw();
        Ok(request)
    }

    fn address(&mut self, name: &str, address: IpAddr, prefix: u8) -> Result<AddressMessage> {
        let mut request = AddressMessage::default();
        request.header.family = family(address);
        request.header.prefix_len = prefix;
        request.header.index = self.index(name)?.to_raw();
        request.attributes = vec![
            AddressAttribute::Local(address),
            AddressAttribute::Address(address),
            AddressAttribute::Flags(AddressFlags::Nodad),
        ];
        Ok(request)
    }

    fn request(&mut self, step: &'static str, flags: u16, request: RouteNetlinkMessage) -> Result<()> {
        self.socket.exchange(step, flags, request, |_| ()).map(drop)
    }
}

const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
