//! Which addresses are valid where.

use std::net::{IpAddr, Ipv4Addr};

use super::Report;
use crate::destination::BROADCAST;
use crate::path::Path;

/// The family of an address, for messages.
pub(super) const fn family(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}

/// A destination: a multicast group, a unicast or a broadcast address. Returns whether it is valid.
pub(super) fn check_destination(address: IpAddr, path: &Path<'_>, report: &mut Report<'_>) -> bool {
    let (message, hint) = if address.is_unspecified() {
        (
            format!("{address} is the unspecified address"),
            "use a multicast group or a unicast address".to_owned(),
        )
    } else if let Some(v4) = mapped(address) {
        (format!("{address} is an IPv4 address written as IPv6"), format!("write {v4}"))
    } else {
        return true;
    };
    report(path, message, Some(hint));
    false
}

/// An address that datagrams come from; `group` is where they go to, if that is known.
pub(super) fn check_source(address: IpAddr, group: Option<IpAddr>, path: &Path<'_>, report: &mut Report<'_>) {
    if !check_destination(address, path, report) {
        return;
    }
    if address == BROADCAST {
        let hint = "sources are unicast addresses".to_owned();
        report(path, format!("{address} is the broadcast address, which can't be a source"), Some(hint));
    } else if address.is_multicast() {
        let hint = "sources are unicast addresses".to_owned();
        report(path, format!("{address} is a multicast group, which can't be a source"), Some(hint));
    } else if let Some(group) = group.filter(|group| group.is_ipv4() != address.is_ipv4()) {
        let (own, other) = (family(address), family(group));
        let hint = format!("name an {other} address");
        report(path, format!("{address} is an {own} address, but the group {group} is {other}"), Some(hint));
    }
}

fn mapped(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => v6.to_ipv4_mapped(),
    }
}
