//! What the kernel says about interfaces and addresses, now and from now on (rtnetlink(7)).
//!
//! The supervisor opens a monitor, dumps, and then folds the events over the dump. The subscription is older than the
//! dump, so nothing falls between them; an event may only repeat what the dump said.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use crate::link::IfIndex;
use crate::netlink::{
    Message, NLM_F_DUMP, RTM_DELADDR, RTM_DELLINK, RTM_GETADDR, RTM_GETLINK, RTM_NEWADDR, RTM_NEWLINK,
    Request, Socket, attributes, text, u16_at, u32_at,
};
use crate::{Result, SysError};

/// Room for the events of about a thousand interfaces that appear at once (fact 38).
const RECEIVE_BUFFER_BYTES: usize = 8 * 1024 * 1024;
/// A dump that the network keeps changing under is taken as it is after this many attempts; the events repair it.
const DUMP_ATTEMPTS: usize = 5;

const RTMGRP_LINK: u32 = 0x1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;

const LINK_MESSAGE_BYTES: usize = 16;
const ADDRESS_MESSAGE_BYTES: usize = 8;

const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_CARRIER_UP_COUNT: u16 = 47;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_EXT_MASK: u16 = 29;
const RTEXT_FILTER_SKIP_STATS: u32 = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;

const IFF_UP: u32 = 0x1;
const IFF_RUNNING: u32 = 0x40;
const IFF_MULTICAST: u32 = 0x1000;
const IFA_F_OPTIMISTIC: u32 = 0x4;
const IFA_F_DADFAILED: u32 = 0x8;
const IFA_F_TENTATIVE: u32 = 0x40;

/// How the frames of an interface start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkKind {
    /// With an Ethernet header.
    Ethernet,
    /// The loopback interface; with an Ethernet header of zeroes.
    Loopback,
    /// At the IP header: tun, WireGuard, GRE, IPIP, SIT.
    NoHeader,
    /// Something that MCR can't read (`ARPHRD_*` in linux/if_arp.h).
    Other(u16),
}

impl LinkKind {
    const fn from_arphrd(kind: u16) -> Self {
        match kind {
            1 => Self::Ethernet,
            772 => Self::Loopback,
            // RAWIP, TUNNEL, TUNNEL6, SIT, IPGRE, IP6GRE, NONE.
            519 | 768 | 769 | 776 | 778 | 823 | 0xfffe => Self::NoHeader,
            other => Self::Other(other),
        }
    }
}

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub ifindex: IfIndex,
    /// Its name now; it can change.
    pub name: String,
    /// How its frames start.
    pub kind: LinkKind,
    /// The largest IP packet it sends, bytes.
    pub mtu: u32,
    /// The administrator wants it up (`IFF_UP`).
    pub up: bool,
    /// It can pass frames (`IFF_RUNNING`, which is its operational state, RFC 2863).
    pub carrier: bool,
    /// How often its carrier came since it was made, as the kernel counts.
    pub carrier_ups: u32,
    /// It can send multicast (`IFF_MULTICAST`).
    pub multicast: bool,
    /// It is a port of a bridge: frames reach the bridge, not the host (fact 2).
    pub bridge_port: bool,
    /// It is a VLAN of another interface.
    pub vlan: bool,
}

/// One address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The interface it belongs to.
    pub ifindex: IfIndex,
    /// The host's own address, also on point-to-point interfaces.
    pub address: IpAddr,
    /// Length of the network's prefix, bits.
    pub prefix: u8,
    /// It may be sent from: duplicate address detection (RFC 4862 §5.4) is over and found none.
    pub usable: bool,
}

/// Something that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkEvent {
    /// An interface is new or has changed.
    LinkChanged(Link),
    /// An interface is gone, and its addresses with it.
    LinkRemoved(IfIndex),
    /// An address is new or has changed its state.
    AddressAdded(Address),
    /// An address is gone.
    AddressRemoved(Address),
    /// Events were lost: dump again.
    Overrun,
}

/// A subscription to changes of interfaces and addresses in one network namespace. Its descriptor is readable when
/// events wait.
#[derive(Debug)]
pub struct NetworkMonitor {
    events: Socket,
    /// Answers come on another socket, so that they and the events can't crowd each other out.
    queries: Socket,
}

impl NetworkMonitor {
    /// Subscribes in the calling thread's network namespace.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn open() -> Result<Self> {
        let events = Socket::open(RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR)?;
        events.set_receive_buffer(RECEIVE_BUFFER_BYTES)?;
        Ok(Self { events, queries: Socket::open(0)? })
    }

    /// All interfaces and addresses that there are now.
    ///
    /// # Errors
    /// The kernel refuses a dump.
    pub fn dump(&mut self) -> Result<(Vec<Link>, Vec<Address>)> {
        let mut links = Vec::new();
        let mut addresses = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            (links, addresses) = (Vec::new(), Vec::new());
            let request = Request::new(RTM_GETLINK, NLM_F_DUMP, &[0; LINK_MESSAGE_BYTES])
                .number(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
            let whole_links = self
                .queries
                .exchange("dump interfaces", request, |message| links.extend(parse_link(message.body)))?;
            let request = Request::new(RTM_GETADDR, NLM_F_DUMP, &[0; ADDRESS_MESSAGE_BYTES]);
            let whole_addresses = self.queries.exchange("dump addresses", request, |message| {
                addresses.extend(parse_address(message.body));
            })?;
            if whole_links && whole_addresses {
                break;
            }
        }
        Ok((links, addresses))
    }

    /// Takes all events that wait, in order; never blocks.
    ///
    /// # Errors
    /// The socket failed. Lost events are not an error but [`NetworkEvent::Overrun`].
    pub fn read_events(&mut self) -> Result<Vec<NetworkEvent>> {
        let mut events = Vec::new();
        loop {
            match self.events.receive("read network events") {
                Ok(Some(datagram)) => events.extend(crate::netlink::messages(datagram).filter_map(event)),
                Ok(None) => return Ok(events),
                Err(error) if is_overrun(&error) => events.push(NetworkEvent::Overrun),
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for NetworkMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

fn is_overrun(error: &SysError) -> bool {
    error.errno() == Some(libc::ENOBUFS)
}

fn event(message: Message<'_>) -> Option<NetworkEvent> {
    match message.kind {
        RTM_NEWLINK => parse_link(message.body).map(NetworkEvent::LinkChanged),
        RTM_DELLINK => link_index(message.body).map(NetworkEvent::LinkRemoved),
        RTM_NEWADDR => parse_address(message.body).map(NetworkEvent::AddressAdded),
        RTM_DELADDR => parse_address(message.body).map(NetworkEvent::AddressRemoved),
        _ => None,
    }
}

/// The interface that an `ifinfomsg` is about. Messages of other families than `AF_UNSPEC` tell of a part of it only:
/// a bridge says RTM_DELLINK when a port leaves it.
fn link_index(body: &[u8]) -> Option<IfIndex> {
    (*body.first()? == 0).then(|| u32_at(body, 4).map(IfIndex::new))?
}

/// `struct ifinfomsg`: family 1, pad 1, type 2, index 4, flags 4, change 4. None if it is not a whole description, as
/// wireless events are.
fn parse_link(body: &[u8]) -> Option<Link> {
    let flags = u32_at(body, 8)?;
    let (mut name, mut mtu, mut own_kind, mut port_kind) = (None, None, None, None);
    // Kernels before 4.16 don't tell.
    let mut carrier_ups = 0;
    for (kind, value) in attributes(body.get(LINK_MESSAGE_BYTES..)?) {
        match kind {
            IFLA_IFNAME => name = Some(text(value)),
            IFLA_MTU => mtu = u32_at(value, 0),
            IFLA_CARRIER_UP_COUNT => carrier_ups = u32_at(value, 0).unwrap_or_default(),
            IFLA_LINKINFO => {
                for (kind, value) in attributes(value) {
                    match kind {
                        IFLA_INFO_KIND => own_kind = Some(text(value)),
                        IFLA_INFO_SLAVE_KIND => port_kind = Some(text(value)),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(Link {
        ifindex: link_index(body)?,
        name: name?,
        kind: LinkKind::from_arphrd(u16_at(body, 2)?),
        mtu: mtu?,
        up: flags & IFF_UP != 0,
        carrier: flags & IFF_RUNNING != 0,
        carrier_ups,
        multicast: flags & IFF_MULTICAST != 0,
        bridge_port: port_kind.as_deref() == Some("bridge"),
        vlan: own_kind.as_deref() == Some("vlan"),
    })
}

/// `struct ifaddrmsg`: family 1, prefix length 1, flags 1, scope 1, index 4.
fn parse_address(body: &[u8]) -> Option<Address> {
    let (mut address, mut local) = (None, None);
    let mut flags = u32::from(*body.get(2)?);
    for (kind, value) in attributes(body.get(ADDRESS_MESSAGE_BYTES..)?) {
        match kind {
            IFA_ADDRESS => address = ip_address(value),
            IFA_LOCAL => local = ip_address(value),
            IFA_FLAGS => flags = u32_at(value, 0)?,
            _ => {}
        }
    }
    let tentative = flags & IFA_F_TENTATIVE != 0 && flags & IFA_F_OPTIMISTIC == 0;
    Some(Address {
        ifindex: IfIndex::new(u32_at(body, 4)?),
        // On a point-to-point interface IFA_ADDRESS is the other end.
        address: local.or(address)?,
        prefix: *body.get(1)?,
        usable: !tentative && flags & IFA_F_DADFAILED == 0,
    })
}

pub(crate) fn ip_address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(IpAddr::from(*value.first_chunk::<4>()?)),
        16 => Some(IpAddr::from(*value.first_chunk::<16>()?)),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod decode;
#[cfg(test)]
mod tests;
