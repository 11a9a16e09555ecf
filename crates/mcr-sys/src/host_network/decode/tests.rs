//! The hand-written decoder and the library's side by side, on messages that Linux 6.18 sent.

use super::*;
use crate::network::decode::tests::{LINKS, recorded};

/// Permanent, reachable, failed and multicast (`NOARP`) entries of both families.
const NEIGHBOURS: &str = include_str!("../recorded/neighbours.hex");
/// Routes on the link and by a gateway; the third is of IPv4 by an IPv6 gateway, the fourth chose one of two next hops.
const ROUTES: &str = include_str!("../recorded/routes.hex");

#[test]
fn both_decoders_agree_on_recorded_messages() {
    let links = recorded(LINKS);
    let described: Vec<_> = links.iter().map(|body| description(body)).collect();
    assert_eq!(described, links.iter().map(|body| super::super::description(body)).collect::<Vec<_>>());
    assert_eq!(described.iter().flatten().filter(|one| one.bridge.is_some()).count(), 1);
    for body in recorded(NEIGHBOURS) {
        assert!(neighbour(&body).is_some());
        assert_eq!(neighbour(&body), super::super::neighbour(&body));
    }
    for body in recorded(ROUTES) {
        assert_eq!(gateway(&body), super::super::gateway(&body));
    }
}
