//! Decodes the answers to [`super`]'s requests, attribute by attribute as [`crate::network`] does.

use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::{Parseable, ParseableParametrized};
use netlink_packet_route::link::{InfoBridge, InfoKind, LinkAttribute};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourHeader, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteLwEnCapType, RouteVia};

use super::{Bridge, Description, Neighbor};
use crate::link::IfIndex;
use crate::netlink::attributes;
use crate::network::decode::{LINK_HEADER_BYTES, link_header};

const NEIGHBOUR_HEADER_BYTES: usize = 12;
const ROUTE_HEADER_BYTES: usize = 12;
/// The kernel's `MULTICAST_QUERIER_INTERVAL` unless it was changed.
const DEFAULT_QUERIER_INTERVAL: Duration = Duration::from_secs(255);

pub(super) fn description(body: &[u8]) -> Option<Description> {
    let header = link_header(body)?;
    let mut described = Description {
        ifindex: IfIndex::new(header.index),
        hardware_address: Vec::new(),
        receive_queues: None,
        master: None,
        bridge: None,
    };
    for attribute in attributes(body.get(LINK_HEADER_BYTES..)?) {
        if attribute.kind() == libc::IFLA_LINKINFO {
            described.bridge = bridge(attribute.value());
            continue;
        }
        match LinkAttribute::parse_with_param(&attribute, header.interface_family) {
            Ok(LinkAttribute::Address(bytes)) => described.hardware_address = bytes,
            Ok(LinkAttribute::NumRxQueues(queues)) => described.receive_queues = Some(queues),
            Ok(LinkAttribute::Controller(index)) => described.master = Some(IfIndex::new(index)),
            _ => {}
        }
    }
    Some(described)
}

fn bridge(link_info: &[u8]) -> Option<Bridge> {
    if !attributes(link_info).any(|info| matches!(InfoKind::parse(&info), Ok(InfoKind::Bridge))) {
        return None;
    }
    let data = attributes(link_info).find(|info| info.kind() == libc::IFLA_INFO_DATA)?;
    let mut bridge = Bridge { snooping: false, querier: false, querier_interval: DEFAULT_QUERIER_INTERVAL };
    for setting in attributes(data.value()) {
        match InfoBridge::parse(&setting) {
            Ok(InfoBridge::MulticastSnooping(on)) => bridge.snooping = on,
            Ok(InfoBridge::MulticastQuerier(on)) => bridge.querier = on,
            // In hundredths of a second (USER_HZ).
            Ok(InfoBridge::MulticastQuerierInterval(hundredths)) => {
                bridge.querier_interval = Duration::from_millis(hundredths.saturating_mul(10));
            }
            _ => {}
        }
    }
    Some(bridge)
}

pub(super) fn neighbor(body: &[u8]) -> Option<Neighbor> {
    let header = NeighbourHeader::parse(body).ok()?;
    let address = attributes(body.get(NEIGHBOUR_HEADER_BYTES..)?).find_map(|attribute| {
        match NeighbourAttribute::parse_with_param(&attribute, header.family) {
            Ok(NeighbourAttribute::Destination(NeighbourAddress::Inet(ip))) => Some(IpAddr::V4(ip)),
            Ok(NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip))) => Some(IpAddr::V6(ip)),
            _ => None,
        }
    })?;
    let unreachable = matches!(header.state, NeighbourState::Incomplete | NeighbourState::Failed);
    Some(Neighbor { ifindex: IfIndex::new(header.ifindex), address, unreachable })
}

/// The gateway of a route, if it has one.
pub(super) fn gateway(body: &[u8]) -> Option<IpAddr> {
    let header = RouteHeader::parse(body).ok()?;
    let context = (header.address_family, header.kind, RouteLwEnCapType::None);
    attributes(body.get(ROUTE_HEADER_BYTES..)?).find_map(|attribute| {
        match RouteAttribute::parse_with_param(&attribute, context) {
            Ok(RouteAttribute::Gateway(RouteAddress::Inet(ip)) | RouteAttribute::Via(RouteVia::Inet(ip))) => {
                Some(IpAddr::V4(ip))
            }
            Ok(
                RouteAttribute::Gateway(RouteAddress::Inet6(ip)) | RouteAttribute::Via(RouteVia::Inet6(ip)),
            ) => Some(IpAddr::V6(ip)),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests;
