//! Which addresses are valid where.

use std::net::IpAddr;

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
    if address.is_unspecified() {
        let hint = "use a multicast group or a unicast address";
        report(path, format!("{address} is the unspecified address"), Some(hint));
    } else if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        let hint = format!("write {v4}");
        report(path, format!("{address} is an IPv4 address written as IPv6"), Some(&hint));
    } else {
        return true;
    }
    false
}

/// An address that datagrams come from; `group` is where they go to, if that is known.
pub(super) fn check_source(address: IpAddr, group: Option<IpAddr>, path: &Path<'_>, report: &mut Report<'_>) {
    if !check_destination(address, path, report) {
        return;
    }
    if address == BROADCAST {
        let message = format!("{address} is the broadcast address, which can't be a source");
        report(path, message, Some("sources are unicast addresses"));
    } else if address.is_multicast() {
        let message = format!("{address} is a multicast group, which can't be a source");
        report(path, message, Some("sources are unicast addresses"));
    } else if let Some(group) = group.filter(|group| group.is_ipv4() != address.is_ipv4()) {
        let (own, other) = (family(address), family(group));
        let message = format!("{address} is an {own} address, but the group {group} is {other}");
        report(path, message, Some(&format!("name an {other} address")));
    }
}
