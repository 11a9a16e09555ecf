//! On messages recorded from Linux 6.18. The expected values are those of the hand-written decoder that this one replaced.

use super::*;
use crate::network::decode::tests::{LINKS, recorded};

/// Permanent, reachable, failed and multicast (`NOARP`) entries of both families.
const NEIGHBOURS: &str = include_str!("../recorded/neighbors.hex");
/// Routes on the link and by a gateway; the third is of IPv4 by an IPv6 gateway, the fourth chose one of two next hops.
const ROUTES: &str = include_str!("../recorded/routes.hex");

#[test]
fn recorded_descriptions_are_decoded() {
    let all: Vec<_> = recorded(LINKS).iter().map(|body| description(body).unwrap()).collect();
    let bridges: Vec<_> = all.iter().filter_map(|one| Some((one.ifindex.to_raw(), one.bridge?))).collect();
    let bridge = Bridge { snooping: true, querier: true, querier_interval: DEFAULT_QUERIER_INTERVAL };
    assert_eq!(bridges, [(2, bridge)]);
    let ports: Vec<_> =
        all.iter().filter_map(|one| Some((one.ifindex.to_raw(), one.master?.to_raw()))).collect();
    assert_eq!(ports, [(10, 2)]);
    let queues: Vec<_> = all.iter().map(|one| one.receive_queues.unwrap()).collect();
    assert_eq!(queues, [1, 1, 1, 1, 2, 2, 1, 1, 1, 1]);
    let without_address: Vec<_> =
        all.iter().filter(|one| one.hardware_address.is_empty()).map(|one| one.ifindex.to_raw()).collect();
    assert_eq!(without_address, [9], "tun0");
}

#[test]
fn recorded_neighbors_are_decoded() {
    let rows: Vec<_> = recorded(NEIGHBOURS)
        .iter()
        .map(|body| neighbor(body).unwrap())
        .map(|Neighbor { ifindex, address, unreachable }| {
            format!("{} {address} {unreachable}", ifindex.to_raw())
        })
        .collect();
    let expected = [
        "3 10.1.0.5 false",
        "3 10.1.0.6 true",
        "3 ff02::16 false",
        "2 ff02::1:ff4f:529f false",
        "3 fd01::5 false",
        "3 ff02::1:ff90:30fa false",
        "2 ff02::16 false",
    ];
    assert_eq!(rows, expected);
}

#[test]
fn recorded_routes_have_their_gateway() {
    let gateways: Vec<_> =
        recorded(ROUTES).iter().map(|body| gateway(body).map(|ip| ip.to_string())).collect();
    let expected = [None, Some("10.1.0.254"), Some("fd01::99"), Some("10.1.0.7"), Some("fd01::98"), None];
    assert_eq!(gateways, expected.map(|gateway| gateway.map(str::to_owned)));
}
