//! Interfaces and addresses, and their changes (rtnetlink(7)).
//!
//! The supervisor opens a monitor, dumps, and then folds the events over the dump. The subscription is older than the
//! dump, so no change is missed between them; an event may repeat what the dump contains.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_DUMP, NetlinkBuffer};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};

use crate::link::IfIndex;
use crate::netlink::{Socket, messages};
use crate::{Result, SysError};

pub(crate) mod decode;

/// Room for the events of about a thousand interfaces that appear at once (measured: 1,000 veth pairs overrun
/// 208 KiB).
const RECEIVE_BUFFER_BYTES: usize = 8 * 1024 * 1024;
/// A dump that changes interrupt is accepted as it is after this many attempts; the events correct it.
const DUMP_ATTEMPTS: usize = 5;

const GROUPS: u32 = (libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR).cast_unsigned();

/// The link header of an interface's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkKind {
    /// Ethernet.
    Ethernet,
    /// Loopback: an Ethernet header of zeroes.
    Loopback,
    /// None, frames start with the IP header: tun, WireGuard, GRE, IPIP, SIT.
    NoHeader,
    /// A type that MCR can't parse (`ARPHRD_*` in linux/if_arp.h).
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
    /// Its index.
    pub ifindex: IfIndex,
    /// Its current name; it can change.
    pub name: String,
    /// Its alternative names (ip-link(8), `property add altname`).
    pub altnames: Vec<String>,
    /// What its administrator wrote about it (ip-link(8), `alias`); no name.
    pub alias: Option<String>,
    /// Its link header.
    pub kind: LinkKind,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// It is administratively up (`IFF_UP`).
    pub up: bool,
    /// It is operationally up (`IFF_RUNNING`, RFC 2863).
    pub carrier: bool,
    /// Number of times its carrier came up since it was created (`IFLA_CARRIER_UP_COUNT`).
    pub carrier_ups: u32,
    /// It supports multicast (`IFF_MULTICAST`).
    pub multicast: bool,
    /// It is a port of a bridge: frames reach the bridge, not the host.
    pub bridge_port: bool,
    /// It is a VLAN of another interface.
    pub vlan: bool,
    /// Its MAC address, if its frames have one.
    pub mac: Option<[u8; 6]>,
    /// It is an ipvlan in mode L3 or L3S, which carries no multicast (Documentation/networking/ipvlan.rst). What is sent
    /// to a group fails with ENOBUFS, as with a full queue: `ipvlan_process_outbound` returns `NET_XMIT_DROP`.
    pub routed_ipvlan: bool,
}

impl Link {
    /// All names by which it can be meant: its name, then its alternative names.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        std::iter::once(&self.name).chain(&self.altnames).map(String::as_str)
    }
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
    /// It can be a source address: duplicate address detection (RFC 4862 §5.4) has succeeded.
    pub usable: bool,
}

impl Address {
    /// Whether another address is of its network.
    #[must_use]
    pub fn contains(&self, other: IpAddr) -> bool {
        let (own, other, host_bits) = match (self.address, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (own.to_bits().into(), other.to_bits().into(), 32),
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits(), other.to_bits(), 128),
            _ => return false,
        };
        let host_bits = u32::saturating_sub(host_bits, self.prefix.into());
        u128::checked_shr(own ^ other, host_bits).unwrap_or(0) == 0
    }
}

/// A change.
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
/// events are pending.
#[derive(Debug)]
pub struct NetworkMonitor {
    events: Socket,
    /// Requests use another socket, so that answers and events don't compete for one receive buffer.
    queries: Socket,
}

impl NetworkMonitor {
    /// Subscribes in the calling thread's network namespace.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn open() -> Result<Self> {
        let events = Socket::open(GROUPS)?;
        events.set_receive_buffer(RECEIVE_BUFFER_BYTES)?;
        Ok(Self { events, queries: Socket::open(0)? })
    }

    /// Returns all interfaces and addresses.
    pub fn dump(&mut self) -> Result<(Vec<Link>, Vec<Address>)> {
        let mut links = Vec::new();
        let mut addresses = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            (links, addresses) = (Vec::new(), Vec::new());
            let mut request = LinkMessage::default();
            request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
            let request = RouteNetlinkMessage::GetLink(request);
            let whole_links = self
                .queries
                .exchange("dump interfaces", NLM_F_DUMP, request, |body| links.extend(decode::link(body)))?;
            let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
            let whole_addresses = self.queries.exchange("dump addresses", NLM_F_DUMP, request, |body| {
                addresses.extend(decode::address(body));
            })?;
            if whole_links && whole_addresses {
                break;
            }
        }
        Ok((links, addresses))
    }

    /// Takes all pending events, in order; never blocks.
    ///
    /// # Errors
    /// The socket failed. Lost events are not an error but [`NetworkEvent::Overrun`].
    pub fn read_events(&mut self) -> Result<Vec<NetworkEvent>> {
        let mut events = Vec::new();
        loop {
            match self.events.receive("read network events") {
                Ok(Some(datagram)) => events.extend(messages(datagram).filter_map(event)),
                Ok(None) => return Ok(events),
                Err(error) if is_overrun(&error) => events.push(NetworkEvent::Overrun),
                Err(error) => return Err(error),
            }
        }
    }
}

crate::owned_fd::as_fd!(NetworkMonitor, events);

fn is_overrun(error: &SysError) -> bool {
    error.errno() == Some(libc::ENOBUFS)
}

fn event(message: NetlinkBuffer<&[u8]>) -> Option<NetworkEvent> {
    let body = message.payload();
    match message.message_type() {
        libc::RTM_NEWLINK => decode::link(body).map(NetworkEvent::LinkChanged),
        libc::RTM_DELLINK => {
            decode::link_header(body).map(|header| NetworkEvent::LinkRemoved(IfIndex::new(header.index)))
        }
        libc::RTM_NEWADDR => decode::address(body).map(NetworkEvent::AddressAdded),
        libc::RTM_DELADDR => decode::address(body).map(NetworkEvent::AddressRemoved),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
