//! The outputs: whether they can send, and the results of their sends.

use std::net::IpAddr;

use mcr_control::explanation::{Finding, FindingId, Severity, Stage};
use mcr_link::reason::DropReason;

use super::Account;
use super::facts::{OutputFacts, Subject};
use super::input::{OTHER_MODE, not_up};
use super::words::{about_limit, count, datagrams, list, time};
use crate::core::plan::{Readiness, missing};
use crate::core::status;

/// Header length of IPv4 and of IPv6 without options.
const HEADER_BYTES: [u32; 2] = [20, 40];

pub(super) fn examine(subject: &Subject<'_>, account: &mut Account) {
    for output in subject.outputs() {
        let before = account.findings.len();
        held_back(subject, &output, account);
        if account.findings.len() == before {
            socket(subject, &output, account);
            failures(subject, &output, account);
            earlier_failures(subject, &output, account);
            fragments(subject, &output, account);
            replies(&output, account);
        }
        let held = account.findings.len() > before;
        let (sent, dropped) = (output.sent(), output.dropped());
        let earlier = match output.dropped_before() {
            0 => String::new(),
            n => format!(" ({} dropped before: {})", count(n), list(output.reasons_before())),
        };
        let lost = if dropped > 0 { format!(", {} dropped", count(dropped)) } else { String::new() };
        let words =
            format!("{}: {} sent {}{lost}{earlier}", output.output, datagrams(sent), subject.meanwhile());
        if sent == 0 && dropped == 0 && !held {
            account.mark_unknown(Stage::Output, format!("{}: nothing to send{earlier}", output.output));
        } else {
            account.know(Stage::Output, words);
        }
    }
}

/// Why an output is held back.
fn held_back(subject: &Subject<'_>, output: &OutputFacts<'_>, account: &mut Account) {
    let Some(Readiness::Waiting(reason)) = output.readiness else { return };
    let name = &output.output.interface;
    let severity = alone(subject);
    let Some(link) = output.link else {
        let words = format!("output {}", missing(name, subject.facts.network));
        let hint = format!("the output resumes automatically when {name} appears");
        account.find(
            Finding::new(FindingId::OutputInterfaceMissing, words)
                .severity(severity)
                .with("output", output.output.to_string())
                .hint(hint),
        );
        return;
    };
    let ids = [FindingId::OutputInterfaceDown, FindingId::OutputNoCarrier];
    let finding = not_up(link, ids).map(|finding| {
        let words = format!("output {}: {}", output.output, finding.words);
        Finding { words, ..finding }
    });
    let no_multicast = output.output.group.is_multicast() && link.routed_ipvlan;
    let finding = finding.unwrap_or_else(|| {
        if no_multicast {
            let words = format!("output {}: {reason}", output.output);
            return Finding::new(FindingId::OutputNoMulticast, words).hint(OTHER_MODE);
        }
        let family = if output.output.group.is_ipv6() { "IPv6" } else { "IPv4" };
        let unusable = subject.facts.network.addresses(link.ifindex).iter().find(|own| {
            !own.usable && own.address.is_ipv6() == output.output.group.is_ipv6()
        });
        let hint = match unusable {
            Some(own) => format!("{} on {name} can't be used as source: duplicate address detection failed (`ip addr` says dadfailed) or is in progress (tentative), which takes some seconds", own.address),
            None => format!("add an {family} address to {name}, or set the output's `source` to an address of this host"),
        };
        Finding::new(FindingId::OutputNoAddress, format!("output {}: {reason}", output.output)).hint(hint)
    });
    account.find(
        finding
            .severity(severity)
            .with("output", output.output.to_string())
            .with("dropped", output.dropped()),
    );
}

/// A fault of one of several outputs stops the rule only in part.
fn alone(subject: &Subject<'_>) -> Severity {
    if subject.no_output_sends() { Severity::Error } else { Severity::Warning }
}

fn socket(subject: &Subject<'_>, output: &OutputFacts<'_>, account: &mut Account) {
    let egress = subject.planned.egress.get(output.place).copied().flatten();
    if let Some(reason) = status::egress_obstacle(subject.planned, egress, subject.facts.actual) {
        let hint = about_limit(&reason).unwrap_or("details in the log: journalctl -u mcrd");
        account.find(
            Finding::new(FindingId::OutputSocket, format!("output {}: {reason}", output.output))
                .severity(alone(subject))
                .with("output", output.output.to_string())
                .hint(format!("it is retried automatically; {hint}")),
        );
    }
}

/// Datagrams that come back to the port that is sent from.
fn replies(output: &OutputFacts<'_>, account: &mut Account) {
    if output.replies() == 0 {
        return;
    }
    let words = format!(
        "output {}: receivers answer to the relay: {} came back to its socket, and go no further",
        output.output,
        datagrams(output.replies()),
    );
    let hint = "with `source: \"keep\"` and `source_port: \"keep\"` on the output, answers go to the sender (other outputs of the interface may share the socket)";
    account.find(
        Finding::new(FindingId::Replies, words)
            .with("output", output.output.to_string())
            .with("replies", output.replies())
            .hint(hint),
    );
}

/// Datagrams larger than the MTU are fragmented by the kernel.
fn fragments(subject: &Subject<'_>, output: &OutputFacts<'_>, account: &mut Account) {
    let Some((link, largest)) = output.link.zip(largest(subject, output)) else { return };
    if largest > link.mtu && output.sent() > 0 {
        let words = format!(
            "output {}: the largest datagrams are packets of {largest} bytes, and the MTU of {} is {}: they are fragmented, and some receivers don't accept fragments",
            output.output, link.name, link.mtu,
        );
        account.find(
            Finding::new(FindingId::OutputFragments, words)
            .with("output", output.output.to_string())
            .with("largest_bytes", largest)
            .with("mtu", link.mtu)
            .hint(format!("make the sender's datagrams smaller, or raise the MTU: ip link set {} mtu {largest} (the switch must support it)", link.name)),
        );
    }
}

/// Failed sends, by reason.
fn failures(subject: &Subject<'_>, output: &OutputFacts<'_>, account: &mut Account) {
    for reason in DropReason::ALL {
        let dropped = output.drops(reason);
        let Some((id, what, hint)) = failure(subject, output, reason).filter(|_| dropped > 0) else {
            continue;
        };
        let all = output.sent() + output.dropped();
        let share = if dropped == all { "all".to_owned() } else { format!("{} of", count(dropped)) };
        let words = format!(
            "output {}: {share} {} dropped {}: {what}",
            output.output,
            datagrams(all),
            subject.meanwhile()
        );
        let mut finding = Finding::new(id, words)
            .severity(if dropped == all { alone(subject) } else { Severity::Warning })
            .with("output", output.output.to_string())
            .with("engine", output.engine.name())
            .with("dropped", dropped)
            .with("sent", output.sent())
            .hint(hint);
        if let Some(error) = output.last_error() {
            finding = finding.with("last_error", error);
        }
        if let (DropReason::TooBig, Some(link)) = (reason, output.link) {
            finding = finding.with("mtu", link.mtu);
        }
        account.find(finding);
    }
}

/// Sends that failed before the interval, in which there was nothing to send: the question often comes when a burst is over.
fn earlier_failures(subject: &Subject<'_>, output: &OutputFacts<'_>, account: &mut Account) {
    let Some(ago) = subject.recently_admitted().filter(|_| output.sent() + output.dropped() == 0) else {
        return;
    };
    let all = output.sent_before() + output.dropped_before();
    for reason in DropReason::ALL {
        let dropped = output.drops_before(reason);
        let Some((id, what, hint)) = failure(subject, output, reason).filter(|_| dropped > 0) else {
            continue;
        };
        let share = if dropped == all { "all".to_owned() } else { format!("{} of", count(dropped)) };
        let words = format!(
            "output {}: {share} {} so far were dropped, the last datagram arrived {} ago: {what}",
            output.output,
            datagrams(all),
            time(ago)
        );
        account.find(
            Finding::new(id, words)
                .severity(if dropped == all { alone_so_far(subject) } else { Severity::Warning })
                .with("output", output.output.to_string())
                .with("dropped", dropped)
                .with("sent", output.sent_before())
                .hint(hint),
        );
    }
}

/// As [`alone`], by what was sent so far.
fn alone_so_far(subject: &Subject<'_>) -> Severity {
    if subject.outputs().all(|output| output.sent_before() == 0) {
        Severity::Error
    } else {
        Severity::Warning
    }
}

/// The finding for a drop reason: cause and remedy. `None` for drops by the worker, and on outputs that are held
/// back.
fn failure(
    subject: &Subject<'_>,
    output: &OutputFacts<'_>,
    reason: DropReason,
) -> Option<(FindingId, String, String)> {
    let (name, to) = (&output.output.interface, output.output.group);
    let told = |id, what: &str, hint: String| Some((id, what.to_owned(), hint));
    match reason {
        DropReason::Unreachable => told(
            FindingId::NoRoute,
            &format!("there is no route to {to} through {name} (according to the kernel, or a router by ICMP)"),
            if to.is_multicast() {
                format!("`ip -br addr show {name}` must have an address")
            } else {
                format!("`ip route get {to} oif {name}` shows the route; add one: ip route add {to} via GATEWAY dev {name}. ICMP errors are rate-limited: more may be lost than is counted")
            },
        ),
        DropReason::TooBig => {
            let mtu = output.link.map_or(0, |link| link.mtu);
            let largest = largest(subject, output).map(|bytes| format!(": the largest are packets of {bytes} bytes")).unwrap_or_default();
            told(
                FindingId::TooBig,
                &format!("they exceed the MTU of {mtu} bytes on {name} or of the path{largest}"),
                format!("make the sender's datagrams smaller, or raise the MTU: ip link set {name} mtu BYTES (the switch must support it)"),
            )
        }
        DropReason::QueueFull if output.sent() + output.sent_before() == 0 => told(
            FindingId::QueueFull,
            &format!("{name} accepts none of them: an egress filter drops them, or its queue is full"),
            format!("`nft list ruleset` shows egress hooks, `tc filter show dev {name} egress` filters, `tc -s qdisc show dev {name}` the queue's limit and drops"),
        ),
        DropReason::QueueFull => told(
            FindingId::QueueFull,
            &format!("the queue of {name} is full: it is slower than the stream"),
            format!("`tc -s qdisc show dev {name}` shows its limit and drops; raise its txqueuelen or rate, or send less"),
        ),
        DropReason::SocketFull => told(
            FindingId::SocketFull,
            &format!("the socket's send buffer is full: {name} sends more slowly than they arrive"),
            "raise send_buffer_bytes in the settings for bursts; a sustained rate above the link rate needs a faster link".to_owned(),
        ),
        DropReason::Refused => told(
            FindingId::Refused,
            &format!("{to} answers ICMP port unreachable for port {}", output.output.port),
            "start the receiver, or correct the output's port; sending continues meanwhile. ICMP errors are rate-limited: most likely none of the datagrams is received".to_owned(),
        ),
        DropReason::Firewall if is_broadcast(subject, output) => told(
            FindingId::SendFailed,
            &format!("{to} is the broadcast address of a network of {name}"),
            "use a multicast group or a host address: datagrams are not relayed to broadcast addresses".to_owned(),
        ),
        DropReason::Firewall => told(
            FindingId::Firewall,
            "a firewall on this host drops them (EPERM)",
            format!("`nft list ruleset` or `iptables -L OUTPUT -v` shows the rule: accept UDP to {to} port {} on {name}", output.output.port),
        ),
        DropReason::TtlExpired => told(
            FindingId::TtlExpired,
            "they arrive with TTL 1, and the output's `ttl: \"decrement\"` leaves 0",
            "give the output a fixed ttl, or raise the sender's".to_owned(),
        ),
        DropReason::NoDevice | DropReason::Other => {
            let error = output.last_error().unwrap_or_else(|| "an unknown error".to_owned());
            told(
                FindingId::SendFailed,
                &format!("sends fail: {error}"),
                "for details in the log: `mcrctl log-level set debug --facility dataplane`".to_owned(),
            )
        }
        DropReason::OutputDown | DropReason::RateLimited | DropReason::NoBuffer | DropReason::WorkerDied => None,
    }
}

/// Whether an output's address is the broadcast address of a network of its interface.
fn is_broadcast(subject: &Subject<'_>, output: &OutputFacts<'_>) -> bool {
    let networks = output.link.map(|link| subject.facts.network.addresses(link.ifindex));
    networks.into_iter().flatten().any(|own| match (own.address, output.output.group) {
        (IpAddr::V4(address), IpAddr::V4(to)) => {
            let hosts = u32::MAX.checked_shr(own.prefix.into()).unwrap_or(0);
            hosts > 1 && to.to_bits() == address.to_bits() | hosts
        }
        _ => false,
    })
}

/// The largest packet that is sent, judged by what arrived.
fn largest(subject: &Subject<'_>, output: &OutputFacts<'_>) -> Option<u32> {
    let input = &subject.rule.input;
    let flows = &subject.facts.observation?.flows;
    let ours = flows.iter().filter(|flow| flow.group == input.group && flow.port == Some(input.port));
    let arrived = ours.map(|flow| flow.largest_bytes).max()?;
    let headers = |ipv6: bool| HEADER_BYTES[usize::from(ipv6)];
    Some((arrived + headers(output.output.group.is_ipv6())).saturating_sub(headers(input.group.is_ipv6())))
}
