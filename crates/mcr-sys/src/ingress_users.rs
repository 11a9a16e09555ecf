//! Who else, besides UDP sockets, takes what arrives on an interface: interfaces above it, multicast routing, raw sockets, address
//! translation, filters. What is dropped at ingress would be taken from them.
//!
//! Everything is read from the kernel anew; nothing here changes anything.

mod nftables;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::read_to_string;
use std::net::IpAddr;

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;

use crate::Result;
use crate::bpf::attachment::{has_other_filters, has_socket_lookup};
use crate::link::IfIndex;
use crate::netlink::{Socket, attributes};
use crate::network::decode::{LINK_HEADER_BYTES, link_header, text};

/// Why what arrives is not to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IngressUser {
    /// The interface is gone.
    Gone,
    /// It is a port of a bridge, a bond or a VRF.
    Master,
    /// A macvlan, an ipvlan or the like is above it.
    Upper,
    /// The kernel routes multicast that arrives on it (`mc_forwarding`).
    MulticastRouting,
    /// A raw socket receives UDP.
    RawSocket,
    /// nftables, iptables or IPVS translates addresses of what arrives.
    AddressTranslation,
    /// A program of another chooses the sockets of this host.
    SocketLookup,
    /// Filters or programs of others would run behind.
    Filters,
}

/// A snapshot of the whole network namespace.
#[derive(Debug, Default)]
pub struct IngressUsers {
    links: BTreeMap<u32, Link>,
    /// Lower interfaces of others.
    lower: BTreeSet<u32>,
    raw: [bool; 2],
    translation: [bool; 2],
    socket_lookup: bool,
    /// Interfaces with an ingress chain of nftables, by name.
    chains: BTreeSet<String>,
    /// How often each MAC address is in the receive filter of an interface, beyond this host's own memberships.
    filters: BTreeSet<(u32, [u8; 6])>,
}

#[derive(Debug)]
struct Link {
    name: String,
    has_master: bool,
}

impl IngressUsers {
    /// Looks. Needs CAP_NET_ADMIN for what it asks of nftables and of BPF.
    ///
    /// # Errors
    /// The kernel does not answer, so nothing may be dropped.
    pub fn look() -> Result<Self> {
        let mut found = Self::default();
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        Socket::open(0)?.exchange("list interfaces", NLM_F_DUMP, request, |body| found.link(body))?;
        found.raw = ["raw", "raw6"].map(|file| receives_udp(&proc_net(file)));
        let nft = nftables::look()?;
        let virtual_server =
            proc_net("ip_vs").lines().any(|line| line.starts_with("UDP") || line.starts_with("FWM"));
        let legacy = [("ip_tables_names", "iptable_nat"), ("ip6_tables_names", "ip6table_nat")]
            .map(|(file, module)| translates_in_legacy_tables(file, module));
        found.translation = [0, 1].map(|family| virtual_server || nft.translates[family] || legacy[family]);
        found.chains = nft.ingress;
        found.socket_lookup = has_socket_lookup()?;
        found.filters = foreign_filters(&proc_net("dev_mcast"), &proc_net("igmp"), &proc_net("igmp6"));
        Ok(found)
    }

    fn link(&mut self, body: &[u8]) {
        let Some(header) = link_header(body) else { return };
        let (mut name, mut has_master, mut below, mut kind) = (String::new(), false, None, String::new());
        let mut elsewhere = false;
        for attribute in attributes(body.get(LINK_HEADER_BYTES..).unwrap_or_default()) {
            let number = || attribute.value().first_chunk().map(|word| u32::from_ne_bytes(*word));
            match attribute.kind() {
                libc::IFLA_IFNAME => name = text(attribute.value()),
                libc::IFLA_MASTER => has_master = number().is_some_and(|master| master != 0),
                libc::IFLA_LINK => below = number(),
                libc::IFLA_LINK_NETNSID => elsewhere = true,
                libc::IFLA_LINKINFO => {
                    let info = attributes(attribute.value());
                    let info = info.into_iter().find(|info| info.kind() == libc::IFLA_INFO_KIND);
                    kind = info.map(|info| text(info.value())).unwrap_or_default();
                }
                _ => {}
            }
        }
        // A VLAN gets tagged frames only; of a veth, the other end is "below".
        if !elsewhere && !matches!(kind.as_str(), "vlan" | "veth") {
            self.lower.extend(below.filter(|below| *below != header.index));
        }
        self.links.insert(header.index, Link { name, has_master });
    }

    /// Who takes what arrives on an interface in each family (IPv4, IPv6); `None` for nobody.
    #[must_use]
    pub fn of(&self, ifindex: IfIndex) -> [Option<IngressUser>; 2] {
        let Some(link) = self.links.get(&ifindex.to_raw()) else { return [Some(IngressUser::Gone); 2] };
        let all = [
            (link.has_master, IngressUser::Master),
            (self.lower.contains(&ifindex.to_raw()), IngressUser::Upper),
            (self.socket_lookup, IngressUser::SocketLookup),
            (
                self.chains.contains(&link.name) || has_other_filters(ifindex).unwrap_or(true),
                IngressUser::Filters,
            ),
        ];
        if let Some((_, user)) = all.into_iter().find(|(is_there, _)| *is_there) {
            return [Some(user); 2];
        }
        let of_family = |family: usize, directory: &str| {
            let path = format!("/proc/sys/net/{directory}/conf/{}/mc_forwarding", link.name);
            // Without the file the kernel has no multicast routing.
            let routes = read_to_string(path).is_ok_and(|text| text.trim() != "0");
            let at = |all: [bool; 2]| all.get(family).copied().unwrap_or(true);
            [
                (routes, IngressUser::MulticastRouting),
                (at(self.raw), IngressUser::RawSocket),
                (at(self.translation), IngressUser::AddressTranslation),
            ]
            .into_iter()
            .find_map(|(is_there, user)| is_there.then_some(user))
        };
        [of_family(0, "ipv4"), of_family(1, "ipv6")]
    }

    /// Whether an interface above, perhaps in another network namespace, has the group's MAC address in the receive filter.
    #[must_use]
    pub fn is_wanted_above(&self, ifindex: IfIndex, mac: [u8; 6]) -> bool {
        self.filters.contains(&(ifindex.to_raw(), mac))
    }
}

/// The MAC address of a multicast group (RFC 1112 section 6.4, RFC 2464 section 7); `None` for other addresses.
#[must_use]
pub fn group_mac(address: IpAddr) -> Option<[u8; 6]> {
    match address {
        IpAddr::V4(group) if group.is_multicast() => {
            let [_, b, c, d] = group.octets();
            Some([1, 0, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(group) if group.is_multicast() => {
            let [.., a, b, c, d] = group.octets();
            Some([0x33, 0x33, a, b, c, d])
        }
        _ => None,
    }
}

/// Whether the older iptables translate addresses: have a table `nat`. The list is root's; others look for the module.
fn translates_in_legacy_tables(file: &str, module: &str) -> bool {
    match read_to_string(format!("/proc/thread-self/net/{file}")) {
        Ok(tables) => tables.lines().any(|table| table == "nat"),
        Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied && may_have_module(module),
    }
}

/// Whether a module is loaded, or built in. Assumed where that can't be told.
fn may_have_module(module: &str) -> bool {
    let release = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let built_in = read_to_string(format!("/lib/modules/{}/modules.builtin", release.trim()));
    let (Ok(built_in), Ok(loaded)) = (built_in, read_to_string("/proc/modules")) else { return true };
    loaded.lines().any(|line| line.split(' ').next() == Some(module))
        || built_in.lines().any(|line| line.ends_with(&format!("/{module}.ko")))
}

fn proc_net(file: &str) -> String {
    // Without the file the kernel has no such facility. Of the calling thread's network namespace.
    read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default()
}

/// Whether a socket of `/proc/net/raw` receives UDP: where UDP has the port, it has the protocol.
fn receives_udp(table: &str) -> bool {
    let locals = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1));
    let protocols = locals.filter_map(|local| u16::from_str_radix(local.rsplit(':').next()?, 16).ok());
    protocols.into_iter().any(|protocol| i32::from(protocol) == libc::IPPROTO_UDP)
}

/// MAC addresses that are in an interface's receive filter more often than this host's memberships explain: an interface above,
/// which may be in a container, wants them.
fn foreign_filters(device_filters: &str, igmp: &str, igmp6: &str) -> BTreeSet<(u32, [u8; 6])> {
    let mut own: BTreeMap<(u32, [u8; 6]), u64> = BTreeMap::new();
    let groups = v4_groups(igmp).into_iter().map(|(at, [_, b, c, d])| (at, [1, 0, 0x5e, b & 0x7f, c, d]));
    let groups =
        groups.chain(v6_groups(igmp6).into_iter().map(|(at, [a, b, c, d])| (at, [0x33, 0x33, a, b, c, d])));
    for group in groups {
        *own.entry(group).or_default() += 1;
    }
    let entries = device_filters.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [index, _, users, _, mac] = words.as_slice() else { return None };
        Some(((index.parse().ok()?, hex(mac)?), users.parse::<u64>().ok()?))
    });
    entries
        .filter(|(entry, users)| *users > own.get(entry).copied().unwrap_or(0))
        .map(|(entry, _)| entry)
        .collect()
}

/// The groups of `/proc/net/igmp`: a line per interface, below it one per group, whose address is a number in memory order.
fn v4_groups(table: &str) -> Vec<(u32, [u8; 4])> {
    let (mut all, mut at) = (Vec::new(), 0);
    for line in table.lines().skip(1) {
        let first = line.split_whitespace().next().unwrap_or_default();
        if line.starts_with('\t') || line.starts_with(' ') {
            all.extend(u32::from_str_radix(first, 16).ok().map(|group| (at, group.to_ne_bytes())));
        } else {
            at = first.parse().unwrap_or(0);
        }
    }
    all
}

/// The last four bytes of the groups of `/proc/net/igmp6`.
fn v6_groups(table: &str) -> Vec<(u32, [u8; 4])> {
    let of_line = |line: &str| {
        let mut words = line.split_whitespace();
        let (at, group) = (words.next()?.parse().ok()?, words.nth(1)?);
        Some((at, hex(group.get(24..)?)?))
    };
    table.lines().filter_map(of_line).collect()
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    (text.len() == 2 * N).then_some(bytes)
}

#[cfg(test)]
mod tests;
