//! The interfaces of the legs of merged rules, as one.

use std::collections::BTreeSet;
use std::sync::Arc;

use mcr_link::message::LinkLayer;
use mcr_sys::filter::FilterDestination;
use mcr_sys::network::{Link, LinkKind};

use super::{Own, PlannedInterface, PlannedMerge};

/// The link layer of what is captured on a link.
pub(super) const fn link_layer(link: &Link) -> LinkLayer {
    match link.kind {
        LinkKind::NoHeader => LinkLayer::None,
        _ => LinkLayer::Ethernet,
    }
}

/// Several interfaces as one, with one worker: their host's own datagrams are those of any of them.
pub(super) fn join(
    first: PlannedInterface,
    others: impl Iterator<Item = PlannedInterface>,
    links: &[&Link],
) -> PlannedInterface {
    let mut all = first;
    all.linked = links.iter().map(|link| link_layer(link)).collect();
    all.cores = all.cores.into_iter().take(1).collect();
    (all.pinned, all.early_drop) = (false, false);
    for other in others {
        all.mtu = all.mtu.max(other.mtu);
        all.up |= other.up;
        all.own = union(&all.own, &other.own);
    }
    all
}

fn union(one: &Own, other: &Own) -> Own {
    fn sorted<T: Ord + Copy>(one: &[T], other: &[T]) -> Arc<[T]> {
        let all: BTreeSet<T> = one.iter().chain(other).copied().collect();
        all.into_iter().collect()
    }
    Own {
        addresses: sorted(&one.addresses, &other.addresses),
        host: sorted(&one.host, &other.host),
        macs: sorted(&one.macs, &other.macs),
        kept_source: sorted(&one.kept_source, &other.kept_source),
    }
}

/// What the filter of a merged rule passes, on each of its sockets.
pub(super) fn wanted(merge: Option<&PlannedMerge>) -> impl Iterator<Item = FilterDestination> {
    let legs = merge.into_iter().flat_map(|merge| merge.relay.legs.iter().zip(&merge.promiscuous));
    legs.flat_map(|(leg, promiscuous)| {
        let groups = leg.more_groups.iter().chain([&leg.group]);
        groups.map(|address| FilterDestination {
            address: *address,
            port: leg.port,
            promiscuous: *promiscuous,
        })
    })
}
