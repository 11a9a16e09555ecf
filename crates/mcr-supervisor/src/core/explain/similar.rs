//! What arrives on a rule's interface while nothing arrives for the rule: it may be what the rule is meant for.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use mcr_control::explanation::{Finding, FindingId};
use mcr_link::observation::FlowKind;
use mcr_rules::destination::BROADCAST;

use super::facts::Subject;
use super::words::{list, rate};

/// The most that are named.
const NAMED: usize = 3;

/// One sender's frames for a destination that no rule of the interface has.
struct Similar {
    destination: SocketAddr,
    source: IpAddr,
    frames: u64,
}

/// Names what arrives instead, the most similar first: by port, sender, and the leading bits of the group.
pub(super) fn find(subject: &Subject<'_>) -> Option<Finding> {
    let seen = subject.facts.surroundings?;
    let input = &subject.rule.input;
    let mut others = candidates(subject);
    others.sort_by_key(|other| {
        (
            other.destination.port() != input.port,
            !input.sources.contains(&other.source),
            Reverse(common_bits(other.destination.ip(), input.group)),
            Reverse(other.frames),
        )
    });
    let first = others.first()?;
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let seconds = seen.elapsed_ms as f64 / 1000.0;
    let named = others.iter().take(NAMED).map(|other| {
        format!("{} from {}, {}/s", other.destination, other.source, rate(other.frames, seconds))
    });
    let more = others.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    let words = format!("{} arrives on {}{more}: is that the one?", list(named), input.interface);
    Some(
        Finding::new(FindingId::SimilarArrives, words)
            .with("group", first.destination.ip().to_string())
            .with("port", first.destination.port())
            .with("source", first.source.to_string())
            .with("frames", first.frames)
            .hint(format!(
                "if it is, set the rule's input to group {} and port {}",
                first.destination.ip(),
                first.destination.port()
            )),
    )
}

fn candidates(subject: &Subject<'_>) -> Vec<Similar> {
    let (facts, input) = (subject.facts, &subject.rule.input);
    let here = subject.link.map(|link| link.ifindex.to_raw());
    let here_too =
        facts.config.rules.iter().map(|rule| &rule.input).filter(|other| other.interface == input.interface);
    let mut wanted: BTreeSet<IpAddr> = here_too.map(|other| other.group).collect();
    if let (true, Some(link)) = (wanted.contains(&BROADCAST), subject.link) {
        wanted.extend(facts.network.broadcast_addresses(link.ifindex));
    }
    let mut frames: BTreeMap<(SocketAddr, IpAddr), u64> = BTreeMap::new();
    for flow in facts.surroundings.into_iter().flat_map(|seen| &seen.flows) {
        let Some(port) = flow.port else { continue };
        let ours = Some(flow.ifindex) == here
            && flow.vlan.is_none()
            && flow.kind == FlowKind::Received
            && !facts.network.has_address(flow.source);
        let family = flow.group.is_ipv6() == input.group.is_ipv6();
        // Control traffic of the link is there on every network.
        let local = is_link_local(flow.group) && !is_link_local(input.group);
        // Of what comes to the host itself, or to all hosts, the rest is other programs' business.
        let meant = flow.group.is_multicast() || port == input.port;
        if ours && family && meant && !local && !wanted.contains(&flow.group) {
            *frames.entry((SocketAddr::new(flow.group, port), flow.source)).or_default() += flow.frames;
        }
    }
    let similar = |((destination, source), frames)| Similar { destination, source, frames };
    frames.into_iter().map(similar).collect()
}

/// 224.0.0.0/24 (RFC 5771), or of link-local scope (RFC 4291 section 2.7).
fn is_link_local(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => matches!(group.octets(), [224, 0, 0, _]),
        IpAddr::V6(group) => group.is_multicast() && group.octets()[1] & 0xf <= 2,
    }
}

/// The number of leading bits that are equal.
fn common_bits(one: IpAddr, other: IpAddr) -> u32 {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        _ => 0,
    }
}
