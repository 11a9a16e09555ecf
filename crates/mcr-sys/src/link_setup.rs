//! Making and changing interfaces (rtnetlink(7)), for tests, the demo and the benchmarks. The daemon never does.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;

use crate::link::IfIndex;
use crate::namespace::NetNamespace;
use crate::netlink::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, RTM_DELADDR, RTM_DELLINK, RTM_GETLINK, RTM_NEWADDR, RTM_NEWLINK,
    RTM_NEWROUTE, RTM_SETLINK, Request, Socket, u32_at,
};
use crate::{Result, SysError};

const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_MACVLAN_MODE: u16 = 1;
const MACVLAN_MODE_BRIDGE: u32 = 4;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_BR_MCAST_QUERIER: u16 = 25;
const IFLA_BR_MCAST_QUERY_RESPONSE_INTVL: u16 = 34;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const RT_SCOPE_LINK: u8 = 253;
const IFF_UP: u32 = 1;
const NEW: u16 = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;

/// Changes the interfaces of one network namespace. Errors carry the kernel's number: `EEXIST`, `ENODEV`, `EPERM`.
#[derive(Debug)]
pub struct LinkSetup {
    socket: Socket,
}

impl LinkSetup {
    /// For this namespace.
    ///
    /// # Errors
    /// The namespace can't be entered.
    pub fn in_namespace(namespace: &NetNamespace) -> Result<Self> {
        Ok(Self { socket: namespace.run(|| Socket::open(0))?? })
    }

    /// The number of the interface with this name.
    ///
    /// # Errors
    /// `ENODEV` if there is none.
    pub fn index(&mut self, name: &str) -> Result<IfIndex> {
        const STEP: &str = "look up interface";
        let request = Request::new(RTM_GETLINK, NLM_F_ACK, &link_header(0, 0, 0)).text(IFLA_IFNAME, name);
        let mut index = None;
        self.socket.exchange(STEP, request, |message| index = u32_at(message.body, 4))?;
        index.map(IfIndex::new).ok_or_else(|| SysError::from_errno(STEP, rustix::io::Errno::NODEV))
    }

    /// A cable: `name` here, `peer` in the other namespace (or in this one, if it is the same). Both are down.
    ///
    /// # Errors
    /// A name is taken or not possible.
    pub fn create_veth(&mut self, name: &str, peer: &str, peer_namespace: &NetNamespace) -> Result<()> {
        let peer_fd = peer_namespace.as_fd().as_raw_fd().cast_unsigned();
        let request = Request::new(RTM_NEWLINK, NEW, &link_header(0, 0, 0)).text(IFLA_IFNAME, name).nested(
            IFLA_LINKINFO,
            &[],
            |info| {
                info.text(IFLA_INFO_KIND, "veth").nested(IFLA_INFO_DATA, &[], |data| {
                    data.nested(VETH_INFO_PEER, &link_header(0, 0, 0), |end| {
                        end.text(IFLA_IFNAME, peer).number(IFLA_NET_NS_FD, peer_fd)
                    })
                })
            },
        );
        self.change("create veth", request)
    }

    /// A bridge, down. With `querier` it snoops on group membership and asks for it, so that a port which did not join
    /// gets nothing.
    ///
    /// # Errors
    /// The name is taken or not possible.
    pub fn create_bridge(&mut self, name: &str, querier: bool) -> Result<()> {
        let on = [u8::from(querier)];
        let request = Request::new(RTM_NEWLINK, NEW, &link_header(0, 0, 0)).text(IFLA_IFNAME, name).nested(
            IFLA_LINKINFO,
            &[],
            |info| {
                info.text(IFLA_INFO_KIND, "bridge").nested(IFLA_INFO_DATA, &[], |data| {
                    data.attribute(IFLA_BR_MCAST_SNOOPING, &on).attribute(IFLA_BR_MCAST_QUERIER, &on)
                })
            },
        );
        self.change("create bridge", request)
    }

    /// How long a bridge's queries give hosts to answer; so long it also floods after its start. Resolution 10 ms.
    ///
    /// # Errors
    /// There is no such bridge, or the kernel does not snoop.
    pub fn set_bridge_query_response(&mut self, name: &str, time: std::time::Duration) -> Result<()> {
        // clock_t, hundredths of a second whatever the kernel's own tick is.
        let ticks = u64::try_from(time.as_millis() / 10).unwrap_or(u64::MAX);
        let request = self.on_link(RTM_NEWLINK, name, 0, 0)?.nested(IFLA_LINKINFO, &[], |info| {
            info.text(IFLA_INFO_KIND, "bridge").nested(IFLA_INFO_DATA, &[], |data| {
                data.attribute(IFLA_BR_MCAST_QUERY_RESPONSE_INTVL, &ticks.to_ne_bytes())
            })
        });
        self.change("set query response time of bridge", request)
    }

    /// A macvlan in bridge mode on top of `lower`, down.
    ///
    /// # Errors
    /// The name is taken, or there is no such lower interface.
    pub fn create_macvlan(&mut self, name: &str, lower: &str) -> Result<()> {
        let lower = self.index(lower)?.to_raw();
        let request = Request::new(RTM_NEWLINK, NEW, &link_header(0, 0, 0))
            .text(IFLA_IFNAME, name)
            .number(IFLA_LINK, lower)
            .nested(IFLA_LINKINFO, &[], |info| {
                info.text(IFLA_INFO_KIND, "macvlan")
                    .nested(IFLA_INFO_DATA, &[], |data| data.number(IFLA_MACVLAN_MODE, MACVLAN_MODE_BRIDGE))
            });
        self.change("create macvlan", request)
    }

    /// Makes the interface a port of a bridge, or frees it from one.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn set_master(&mut self, name: &str, bridge: Option<&str>) -> Result<()> {
        let master = bridge.map_or(Ok(0), |bridge| self.index(bridge).map(IfIndex::to_raw))?;
        let request = self.on_link(RTM_SETLINK, name, 0, 0)?.number(IFLA_MASTER, master);
        self.change("set bridge of interface", request)
    }

    /// Deletes the interface, and the other end of a cable with it.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn delete(&mut self, name: &str) -> Result<()> {
        let request = self.on_link(RTM_DELLINK, name, 0, 0)?;
        self.change("delete interface", request)
    }

    /// Sets the interface up or down, as the administrator would.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn set_up(&mut self, name: &str, up: bool) -> Result<()> {
        let request = self.on_link(RTM_NEWLINK, name, if up { IFF_UP } else { 0 }, IFF_UP)?;
        self.change("set interface up", request)
    }

    /// Changes the largest IP packet, bytes.
    ///
    /// # Errors
    /// There is no such interface, or it can't do that size.
    pub fn set_mtu(&mut self, name: &str, mtu: u32) -> Result<()> {
        let request = self.on_link(RTM_SETLINK, name, 0, 0)?.number(IFLA_MTU, mtu);
        self.change("set MTU", request)
    }

    /// Gives the interface another name.
    ///
    /// # Errors
    /// There is no such interface, the new name is taken, or the kernel is too old to rename it while it is up.
    pub fn rename(&mut self, name: &str, new_name: &str) -> Result<()> {
        let request = self.on_link(RTM_SETLINK, name, 0, 0)?.text(IFLA_IFNAME, new_name);
        self.change("rename interface", request)
    }

    /// Keeps the kernel from giving the interface an IPv6 link-local address of its own, with the second of duplicate
    /// address detection that this costs. Call it before setting the interface up.
    ///
    /// # Errors
    /// There is no such interface, or no IPv6.
    pub fn disable_automatic_ipv6(&mut self, name: &str) -> Result<()> {
        let inet6 = u16::from(rustix::net::AddressFamily::INET6.as_raw().to_le_bytes()[0]);
        let request = self.on_link(RTM_SETLINK, name, 0, 0)?.nested(IFLA_AF_SPEC, &[], |spec| {
            spec.nested(inet6, &[], |inet6| {
                inet6.attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE])
            })
        });
        self.change("disable automatic IPv6", request)
    }

    /// Adds an address with the length of its prefix in bits, usable at once (no duplicate address detection).
    ///
    /// # Errors
    /// There is no such interface, or it has that address.
    pub fn add_address(&mut self, name: &str, address: IpAddr, prefix: u8) -> Result<()> {
        let request = self.on_address(RTM_NEWADDR, NEW, name, address, prefix)?;
        self.change("add address", request)
    }

    /// Removes an address.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` if the interface does not have it.
    pub fn remove_address(&mut self, name: &str, address: IpAddr, prefix: u8) -> Result<()> {
        let request = self.on_address(RTM_DELADDR, NLM_F_ACK, name, address, prefix)?;
        self.change("remove address", request)
    }

    /// Routes a destination through an interface, by way of `gateway` if it is not on the link.
    ///
    /// # Errors
    /// There is no such interface, or the gateway can't be reached.
    pub fn add_route(&mut self, name: &str, to: IpAddr, prefix: u8, gateway: Option<IpAddr>) -> Result<()> {
        let scope = if gateway.is_none() && to.is_ipv4() { RT_SCOPE_LINK } else { 0 };
        let header = [family(to), prefix, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST, 0, 0, 0, 0];
        let index = self.index(name)?.to_raw();
        let mut request = Request::new(RTM_NEWROUTE, NEW, &header).number(RTA_OIF, index);
        if prefix > 0 {
            request = request.attribute(RTA_DST, &octets(to));
        }
        if let Some(gateway) = gateway {
            request = request.attribute(RTA_GATEWAY, &octets(gateway));
        }
        self.change("add route", request)
    }

    fn on_link(&mut self, kind: u16, name: &str, flags: u32, change: u32) -> Result<Request> {
        let index = self.index(name)?.to_raw();
        Ok(Request::new(kind, NLM_F_ACK, &link_header(index, flags, change)))
    }

    fn on_address(
        &mut self,
        kind: u16,
        flags: u16,
        name: &str,
        address: IpAddr,
        prefix: u8,
    ) -> Result<Request> {
        let mut header = [0; 8];
        header[..2].copy_from_slice(&[family(address), prefix]);
        header[4..].copy_from_slice(&self.index(name)?.to_raw().to_ne_bytes());
        let octets = octets(address);
        Ok(Request::new(kind, flags, &header)
            .attribute(IFA_LOCAL, &octets)
            .attribute(IFA_ADDRESS, &octets)
            .number(IFA_FLAGS, IFA_F_NODAD))
    }

    fn change(&mut self, step: &'static str, request: Request) -> Result<()> {
        self.socket.exchange(step, request, |_| ()).map(|_| ())
    }
}

/// `struct ifinfomsg`: family 1, pad 1, type 2, index 4, flags 4, change 4.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

const fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
