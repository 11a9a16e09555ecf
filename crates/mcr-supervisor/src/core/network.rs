//! The host's links and addresses: a fold over netlink events.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use mcr_sys::link::IfIndex;
use mcr_sys::network::{Address, Link, LinkKind, NetworkEvent};

#[derive(Clone, Debug, Default)]
pub(crate) struct NetworkState {
    links: BTreeMap<IfIndex, Link>,
    /// Names and altnames, which the kernel keeps unique together.
    by_name: BTreeMap<String, IfIndex>,
    addresses: BTreeMap<IfIndex, Vec<Address>>,
    /// How often each link regained its carrier: switches forget memberships meanwhile.
    carrier_epochs: BTreeMap<IfIndex, u64>,
    /// Links that regained it since the last query.
    returned: BTreeSet<IfIndex>,
}

impl NetworkState {
    /// Replaces the state by a complete dump. Returns the interfaces that changed, removed ones included.
    pub(crate) fn replace(&mut self, links: Vec<Link>, addresses: Vec<Address>) -> BTreeSet<IfIndex> {
        let before = std::mem::take(self);
        self.carrier_epochs.clone_from(&before.carrier_epochs);
        self.returned.clone_from(&before.returned);
        for link in links {
            let was = before.links.get(&link.ifindex);
            self.put_link(link.clone());
            self.count_carrier(was, &link);
        }
        for address in addresses {
            self.put_address(address);
        }
        self.carrier_epochs.retain(|ifindex, _| self.links.contains_key(ifindex));
        let known = before.links.keys().chain(self.links.keys()).copied();
        let with_addresses = before.addresses.keys().chain(self.addresses.keys()).copied();
        known
            .chain(with_addresses)
            .filter(|ifindex| {
                before.links.get(ifindex) != self.links.get(ifindex)
                    || before.addresses.get(ifindex) != self.addresses.get(ifindex)
            })
            .collect()
    }

    /// Folds one event in. Returns the interface that changed, or `None` if the event contained nothing new (or was
    /// an overrun, which only calls for a dump).
    pub(crate) fn apply(&mut self, event: NetworkEvent) -> Option<IfIndex> {
        match event {
            NetworkEvent::LinkChanged(link) => {
                let ifindex = link.ifindex;
                let was = self.links.get(&ifindex).cloned();
                if was.as_ref() == Some(&link) {
                    return None;
                }
                self.put_link(link.clone());
                self.count_carrier(was.as_ref(), &link);
                Some(ifindex)
            }
            NetworkEvent::LinkRemoved(ifindex) => {
                let link = self.links.remove(&ifindex)?;
                self.forget_names(&link);
                self.addresses.remove(&ifindex);
                self.carrier_epochs.remove(&ifindex);
                Some(ifindex)
            }
            NetworkEvent::AddressAdded(address) => {
                let ifindex = address.ifindex;
                self.put_address(address).then_some(ifindex)
            }
            NetworkEvent::AddressRemoved(address) => {
                let of_link = self.addresses.get_mut(&address.ifindex)?;
                let count = of_link.len();
                of_link.retain(|known| !same_address(known, &address));
                (of_link.len() != count).then_some(address.ifindex)
            }
            NetworkEvent::Overrun => None,
        }
    }

    fn count_carrier(&mut self, was: Option<&Link>, link: &Link) {
        // The kernel coalesces flaps in quick succession, so that no event may show the loss.
        let lost = |was: &Link| !was.carrier || was.carrier_ups != link.carrier_ups;
        if was.is_some_and(lost) && link.carrier {
            self.returned.insert(link.ifindex);
            self.renew(link.ifindex);
        }
    }

    /// Starts a new carrier epoch of the link: the network may have forgotten our memberships.
    pub(super) fn renew(&mut self, ifindex: IfIndex) {
        if self.links.contains_key(&ifindex) {
            *self.carrier_epochs.entry(ifindex).or_default() += 1;
        }
    }

    /// Returns the links that regained their carrier since the last call.
    pub(super) fn take_returned(&mut self) -> BTreeSet<IfIndex> {
        std::mem::take(&mut self.returned)
    }

    fn forget_names(&mut self, link: &Link) {
        for name in link.names() {
            if self.by_name.get(name) == Some(&link.ifindex) {
                self.by_name.remove(name);
            }
        }
    }

    fn put_link(&mut self, link: Link) {
        if let Some(was) = self.links.remove(&link.ifindex) {
            self.forget_names(&was);
        }
        for name in link.names() {
            self.by_name.insert(name.to_owned(), link.ifindex);
        }
        self.links.insert(link.ifindex, link);
    }

    /// Addresses are kept sorted, so that a dump and a series of events give the same state.
    fn put_address(&mut self, address: Address) -> bool {
        let of_link = self.addresses.entry(address.ifindex).or_default();
        if of_link.contains(&address) {
            return false;
        }
        of_link.retain(|known| !same_address(known, &address));
        let place = of_link
            .partition_point(|known| (known.address, known.prefix) < (address.address, address.prefix));
        of_link.insert(place, address);
        true
    }

    /// The link with this name or altname.
    pub(crate) fn link(&self, name: &str) -> Option<&Link> {
        self.links.get(self.by_name.get(name)?)
    }

    /// The name of the link that is probably meant by a name that none has: `ip link` shows `NAME@PEER` for a VLAN or one
    /// end of a veth, and an alias looks like a name.
    pub(crate) fn meant(&self, name: &str) -> Option<&str> {
        let before_peer = name.split_once('@').and_then(|(name, _)| self.link(name));
        let link = before_peer.or_else(|| self.links().find(|link| link.alias.as_deref() == Some(name)))?;
        Some(&link.name)
    }

    pub(crate) fn link_by_index(&self, ifindex: IfIndex) -> Option<&Link> {
        self.links.get(&ifindex)
    }

    /// All links, by index.
    pub(crate) fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// A link's addresses, sorted.
    pub(crate) fn addresses(&self, ifindex: IfIndex) -> &[Address] {
        self.addresses.get(&ifindex).map_or(&[], Vec::as_slice)
    }

    /// Whether this host has the address, on any link.
    pub(crate) fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.values().flatten().any(|known| known.address == address)
    }

    /// Every address of this host, sorted and unique.
    pub(crate) fn own_addresses(&self) -> Vec<IpAddr> {
        let all: BTreeSet<IpAddr> = self.addresses.values().flatten().map(|known| known.address).collect();
        all.into_iter().collect()
    }

    /// The addresses of a link.
    #[must_use]
    pub(crate) fn addresses_of(&self, ifindex: IfIndex) -> Vec<IpAddr> {
        self.addresses(ifindex).iter().map(|known| known.address).collect()
    }

    /// The broadcast addresses of a link's networks, sorted and unique (RFC 919): networks of two hosts and less have none.
    #[must_use]
    pub(crate) fn broadcast_addresses(&self, ifindex: IfIndex) -> Vec<IpAddr> {
        let of = |known: &Address| match known.address {
            IpAddr::V4(address) if known.prefix <= 30 => {
                let hosts = u32::MAX.checked_shr(known.prefix.into()).unwrap_or(0);
                Some(IpAddr::from(Ipv4Addr::from_bits(address.to_bits() | hosts)))
            }
            _ => None,
        };
        let all: BTreeSet<IpAddr> = self.addresses(ifindex).iter().filter_map(of).collect();
        all.into_iter().collect()
    }

    /// The unicast and broadcast addresses to which datagrams can come on a link, without limited broadcast.
    #[must_use]
    pub(crate) fn destinations_of(&self, ifindex: IfIndex) -> Vec<IpAddr> {
        [self.addresses_of(ifindex), self.broadcast_addresses(ifindex)].concat()
    }

    /// The addresses of links without link header and of loopback that are unique in the host, so no link-local ones.
    #[must_use]
    pub(crate) fn tunnel_addresses(&self) -> Vec<IpAddr> {
        let links = self.links().filter(|link| matches!(link.kind, LinkKind::NoHeader | LinkKind::Loopback));
        let addresses = links.flat_map(|link| self.addresses_of(link.ifindex));
        addresses.filter(|address| !is_link_local(*address)).collect()
    }

    /// The MAC addresses of this host's links, sorted and unique.
    #[must_use]
    pub(crate) fn own_macs(&self) -> Vec<[u8; 6]> {
        let all: BTreeSet<[u8; 6]> = self.links().filter_map(|link| link.mac).collect();
        all.into_iter().collect()
    }

    /// How often the link regained its carrier since it was first seen.
    pub(crate) fn carrier_epoch(&self, ifindex: IfIndex) -> u64 {
        self.carrier_epochs.get(&ifindex).copied().unwrap_or_default()
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn same_address(one: &Address, other: &Address) -> bool {
    one.address == other.address && one.prefix == other.prefix
}

#[cfg(test)]
mod tests;
