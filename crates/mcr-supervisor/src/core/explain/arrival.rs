//! Whether the group arrives, where, and whether the rule matches it.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use mcr_control::explanation::{Finding, FindingId, Severity, Stage};
use mcr_link::observation::{Flow, FlowKind};
use mcr_link::reason::SkipReason;
use mcr_rules::destination::BROADCAST;
use mcr_sys::link::IfIndex;

use super::Account;
use super::facts::Subject;
use super::fragments;
use super::similar;
use super::super_frames;
use super::words::{count, counted, datagrams, list, rate, size, time};
use crate::core::capture_buffer::{LONGEST_OUTAGE, buffer_for, frames_held};

/// Observed flows of the rule's group, classified by relevance to the rule.
#[derive(Default)]
struct Seen<'a> {
    /// On the right interface and port, from an admitted source of another host.
    ours: Vec<&'a Flow>,
    own: Vec<&'a Flow>,
    /// For another host's MAC address.
    other_host: Vec<&'a Flow>,
    /// Sent by programs of this host.
    local: Vec<&'a Flow>,
    excluded: Vec<&'a Flow>,
    other_port: Vec<&'a Flow>,
    other_vlan: Vec<&'a Flow>,
    other_interface: Vec<&'a Flow>,
}

impl<'a> Seen<'a> {
    fn sort(subject: &Subject<'a>) -> Self {
        let mut seen = Self::default();
        let Some(observation) = subject.facts.observation else { return seen };
        let input = &subject.rule.input;
        let interface =
            subject.planned.installed.as_ref().and_then(|id| subject.facts.plan.interfaces.get(id));
        let is_own = |flow: &Flow| interface.is_some_and(|one| one.own.contains(flow.source, flow.mac));
        let here = subject.link.map(|link| link.ifindex.to_raw());
        // A rule that sends there would be seen as a program that does.
        let network = subject.facts.network;
        let relayed_there = subject.facts.config.rules.iter().flat_map(|rule| &rule.outputs).any(|output| {
            let link = network.link(output.interface.as_str()).map(|link| link.ifindex.to_raw());
            link == here && (output.group, output.port) == (input.group, input.port)
        });
        let broadcasts = match subject.link {
            Some(link) if input.group == BROADCAST => subject.facts.network.broadcast_addresses(link.ifindex),
            _ => Vec::new(),
        };
        let is_meant = |flow: &&Flow| flow.group == input.group || broadcasts.contains(&flow.group);
        for flow in observation.flows.iter().filter(is_meant) {
            let place = match flow {
                Flow { kind: FlowKind::Sent, .. } => {
                    let here = Some(flow.ifindex) == here && flow.vlan.is_none() && !relayed_there;
                    if !here || flow.port != Some(input.port) {
                        continue;
                    }
                    &mut seen.local
                }
                _ if Some(flow.ifindex) != here => &mut seen.other_interface,
                Flow { vlan: Some(_), .. } => &mut seen.other_vlan,
                Flow { port: Some(port), .. } if *port != input.port => &mut seen.other_port,
                Flow { kind: FlowKind::OtherHost, .. } if !input.options.promiscuous => &mut seen.other_host,
                _ if is_own(flow) => &mut seen.own,
                _ if !input.admits(flow.source) => &mut seen.excluded,
                _ => &mut seen.ours,
            };
            place.push(flow);
        }
        // If both exist, the one with the same port is more relevant.
        for flows in [&mut seen.other_vlan, &mut seen.other_interface] {
            if flows.iter().any(|flow| flow.port == Some(input.port)) {
                flows.retain(|flow| flow.port == Some(input.port));
            }
        }
        seen
    }
}

fn frames(flows: &[&Flow]) -> u64 {
    flows.iter().map(|flow| flow.frames).sum()
}

fn sources(flows: &[&Flow]) -> String {
    let all: BTreeSet<_> = flows.iter().map(|flow| flow.source).collect();
    list(all.into_iter().map(|source| source.to_string()))
}

pub(super) fn examine(subject: &Subject<'_>, account: &mut Account) {
    let input = &subject.rule.input;
    let place = SocketAddr::new(input.group, input.port);
    if account.is_stopped_before(Stage::Join) {
        account.mark_unknown(Stage::Capture, "no frames can arrive");
        account.mark_unknown(Stage::Match, "");
        return;
    }
    let seen = Seen::sort(subject);
    let packets = subject.packets();
    faults(subject, &seen, account);
    fragments::examine(subject, account);
    super_frames::examine(subject, account);
    if packets == 0 && !account.is_stopped_before(Stage::Capture) {
        absence(subject, &seen, account);
    }
    // Beside datagrams that are relayed it is no fault: the sources may be listed for that. On other ports come companions of
    // many streams (RTCP, FEC).
    if subject.has_relayed()
        && let Some(finding) = excluded_earlier(subject)
        && finding.id != FindingId::OtherPort.name()
    {
        account.find(finding.severity(Severity::Note));
    }
    overflow(subject, account);
    let arriving = match subject.seconds() {
        Some(seconds) => format!("{} datagrams/s", rate(packets, seconds)),
        None => datagrams(packets),
    };
    if packets > 0 {
        let from =
            if seen.ours.is_empty() { String::new() } else { format!(" from {}", sources(&seen.ours)) };
        account.know(Stage::Capture, format!("{arriving} for {place} arrive{from}"));
        account.know(Stage::Match, format!("{} {}", datagrams(packets), subject.meanwhile()));
    } else if account.worst_of(|stage| stage == Stage::Match) == Some(Severity::Error) {
        account.know(Stage::Capture, format!("{} arrives on {}", input.group, input.interface));
    } else {
        account.mark_unknown(Stage::Capture, "");
        account.mark_unknown(Stage::Match, "nothing to match");
    }
}

/// Faults of datagrams that would otherwise match the rule.
fn faults(subject: &Subject<'_>, seen: &Seen<'_>, account: &mut Account) {
    let name = &subject.rule.input.interface;
    let sum = |counter: fn(&Flow) -> u64| seen.ours.iter().map(|flow| counter(flow)).sum::<u64>();
    let kinds: [(FindingId, &[SkipReason], u64, &str, &str); 4] = [
        (
            FindingId::Fragments,
            &[SkipReason::Fragment],
            if subject.rule.input.options.reassemble { 0 } else { sum(|flow| flow.fragments) },
            "are fragments, which are not put together (`reassemble: false`)",
            "without `reassemble: false` on the rule's input they are put together and relayed; or make the sender's datagrams smaller (ST 2110, RTP and MPEG-TS senders have a setting), or raise the MTU",
        ),
        (
            FindingId::BadChecksum,
            &[SkipReason::BadChecksum],
            sum(|flow| flow.bad_checksums),
            "have a wrong checksum; relaying would give corrupt data a valid one",
            "a faulty link, switch or sender: check the error counters of the ports on the path (ethtool -S)",
        ),
        (
            FindingId::TtlZero,
            &[SkipReason::TtlZero],
            sum(|flow| flow.ttl_zero),
            "have TTL 0 and must not be forwarded",
            "raise the TTL at the sender; it expires on the path",
        ),
        (
            FindingId::Malformed,
            &[SkipReason::BadLength, SkipReason::BadHeader, SkipReason::Truncated],
            sum(|flow| flow.malformed),
            "have inconsistent lengths or headers",
            "capture some with `tcpdump -w` and check the sender",
        ),
    ];
    for (id, skips, seen_frames, what, hint) in kinds {
        let observed = !seen.ours.is_empty();
        let counted_frames = skips.iter().map(|skip| subject.skipped(*skip)).sum::<u64>().max(seen_frames);
        if counted_frames == 0 {
            account
                .findings
                .extend(earlier_fault(subject, id, skips, what).map(|finding| finding.hint(hint)));
            continue;
        }
        let all = frames(&seen.ours).max(counted_frames);
        let whose = if observed { format!(" from {}", sources(&seen.ours)) } else { String::new() };
        let words = format!(
            "{} of {} that arrived on {name}{whose} {what}",
            count(counted_frames),
            counted(all, "frame")
        );
        account.find(
            Finding::new(id, words)
                .severity(if subject.packets() == 0 { Severity::Error } else { Severity::Warning })
                .with("frames", counted_frames)
                .with("of_frames", all)
                .hint(hint),
        );
    }
}

/// Faults that were counted before the interval, the last of them recently.
fn earlier_fault(subject: &Subject<'_>, id: FindingId, skips: &[SkipReason], what: &str) -> Option<Finding> {
    let (last, ago) = subject.recent_skip().filter(|(last, _)| skips.contains(&last.reason))?;
    let n = skips.iter().map(|skip| subject.skipped_so_far(*skip)).sum::<u64>();
    let words = format!(
        "{} for the rule {what}; the last arrived {} ago from {}",
        counted(n, "frame"),
        time(ago),
        last.source
    );
    Some(
        Finding::new(id, words)
            .severity(if subject.has_relayed() { Severity::Warning } else { Severity::Error })
            .with("frames", n)
            .with("source", last.source.to_string())
            .with("ago_ms", u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
    )
}

/// Why the rule received nothing.
fn absence(subject: &Subject<'_>, seen: &Seen<'_>, account: &mut Account) {
    let input = &subject.rule.input;
    let (name, group) = (&input.interface, input.group);
    if account.worst_of(|stage| matches!(stage, Stage::Capture | Stage::Match)) == Some(Severity::Error) {
        return;
    }
    let valid: u64 = seen.ours.iter().map(|flow| flow.valid()).sum();
    if valid > 0 {
        let words = format!(
            "{} for the rule arrived on {name} {}, and its worker received none",
            counted(valid, "frame"),
            subject.meanwhile()
        );
        account.find(
            Finding::new(FindingId::NotTaken, words)
            .with("frames", valid)
            .hint("`mcrctl workers` shows whether it runs; for its log: `mcrctl log-level set debug --facility dataplane`"),
        );
    } else if !seen.excluded.is_empty() {
        let from = sources(&seen.excluded);
        account.find(source_excluded(subject, frames(&seen.excluded), &from, &from));
    } else if !seen.own.is_empty() {
        account.find(own_source(subject, frames(&seen.own), &sources(&seen.own)));
    } else if !seen.other_host.is_empty() {
        other_host(subject, seen, account);
    } else if !seen.local.is_empty() {
        local_sender(subject, seen, account);
    } else if let Some(finding) = excluded_earlier(subject)
        && !subject.has_relayed()
        // What is seen now says more.
        && (finding.id != FindingId::OtherPort.name() || seen.other_port.is_empty())
    {
        account.find(finding);
    } else if !seen.other_port.is_empty() {
        let ports: BTreeSet<_> = seen.other_port.iter().filter_map(|flow| flow.port).collect();
        let ports = list(ports.into_iter().map(|port| port.to_string()));
        let finding = other_port(subject, frames(&seen.other_port), &sources(&seen.other_port), &ports);
        if subject.has_relayed() {
            nothing(subject, account);
            account.find(finding.severity(Severity::Note));
        } else {
            account.find(finding);
        }
    } else if !seen.other_vlan.is_empty() {
        let vlans: BTreeSet<_> = seen.other_vlan.iter().filter_map(|flow| flow.vlan).collect();
        let first = vlans.first().copied().unwrap_or_default();
        let vlans = list(vlans.into_iter().map(|vlan| vlan.to_string()));
        let hint = format!(
            "use the VLAN interface in the rule: ip link add link {name} name {name}.{first} type vlan id {first}; or make the switch port untagged"
        );
        let words = format!(
            "{group} arrives on {name} from {}, but tagged for VLAN {vlans}",
            sources(&seen.other_vlan)
        );
        account.find(
            Finding::new(FindingId::OtherVlan, words)
                .with("frames", frames(&seen.other_vlan))
                .with("vlan", first)
                .hint(hint),
        );
    } else if !seen.other_interface.is_empty() {
        other_interface(subject, seen, account);
    } else {
        nothing(subject, account);
    }
}

/// Datagrams of a source that is not admitted, or of this host, which came recently.
fn excluded_earlier(subject: &Subject<'_>) -> Option<Finding> {
    let (last, ago) = subject.recent_skip()?;
    let from = format!("{} (the last one {} ago)", last.source, time(ago));
    let n = subject.skipped_so_far(last.reason);
    match last.reason {
        SkipReason::SourceExcluded => Some(source_excluded(subject, n, &from, &last.source.to_string())),
        SkipReason::OwnSource => Some(own_source(subject, n, &from)),
        SkipReason::NoRule => last.port.map(|port| other_port(subject, n, &from, &port.to_string())),
        _ => None,
    }
}

fn source_excluded(subject: &Subject<'_>, frames: u64, from: &str, sender: &str) -> Finding {
    let input = &subject.rule.input;
    let admitted = list(input.sources.iter().map(ToString::to_string));
    Finding::new(
        FindingId::SourceExcluded,
        format!(
            "{} arrives on {} from {from}, but the rule accepts {admitted} only",
            input.group, input.interface
        ),
    )
    .with("frames", frames)
    .hint(format!("add {sender} to the rule's sources, or remove the sources"))
}

fn own_source(subject: &Subject<'_>, frames: u64, from: &str) -> Finding {
    let name = &subject.rule.input.interface;
    Finding::new(
            FindingId::OwnSource,
            format!("datagrams on {name} come from {from}, an address of this host: relaying them could cause a forwarding loop"),
        )
        .with("frames", frames)
        .hint("a switch reflects them, or another host on this network uses this host's address")
}

fn other_host(subject: &Subject<'_>, seen: &Seen<'_>, account: &mut Account) {
    let (name, group) = (&subject.rule.input.interface, subject.rule.input.group);
    account.find(
        Finding::new(
            FindingId::OtherHost,
            format!(
                "{group} arrives on {name} from {}, but in frames for another host's MAC address",
                sources(&seen.other_host)
            ),
        )
        .with("frames", frames(&seen.other_host))
        .hint(format!(
            "if {name} is connected to a mirror port, set `promiscuous: true` on the rule's input"
        )),
    );
}

fn local_sender(subject: &Subject<'_>, seen: &Seen<'_>, account: &mut Account) {
    let input = &subject.rule.input;
    account.find(
        Finding::new(
            FindingId::LocalSender,
            format!(
                "nothing arrives for {} on {}, but a program of this host sends it there, from {}",
                SocketAddr::new(input.group, input.port),
                input.interface,
                sources(&seen.local)
            ),
        )
        .with("frames", frames(&seen.local))
        .hint("to relay it, set `local: true` on the rule's input"),
    );
}

/// `ports` is one or several.
fn other_port(subject: &Subject<'_>, frames: u64, from: &str, ports: &str) -> Finding {
    let input = &subject.rule.input;
    let words = format!(
        "{} arrives on {} from {from}, but on port {ports}, not {}",
        input.group, input.interface, input.port
    );
    Finding::new(FindingId::OtherPort, words)
        .with("frames", frames)
        .with("ports", ports)
        .hint(format!("set the rule's input port to {ports}, or the sender's to {}", input.port))
}

fn other_interface(subject: &Subject<'_>, seen: &Seen<'_>, account: &mut Account) {
    let input = &subject.rule.input;
    let network = subject.facts.network;
    let name_of = |flow: &&Flow| {
        let link = network.link_by_index(IfIndex::new(flow.ifindex));
        let name = link.map_or_else(|| format!("interface {}", flow.ifindex), |link| link.name.clone());
        flow.vlan.map_or(name.clone(), |vlan| format!("{name} (VLAN {vlan})"))
    };
    let names: BTreeSet<String> = seen.other_interface.iter().map(name_of).collect();
    let first = names.first().cloned().unwrap_or_default();
    let ports: BTreeSet<_> = seen.other_interface.iter().filter_map(|flow| flow.port).collect();
    let port = if ports.contains(&input.port) || ports.is_empty() {
        String::new()
    } else {
        format!(" (and on port {}, not {})", list(ports.into_iter().map(|port| port.to_string())), input.port)
    };
    let words = format!(
        "{} arrives on {} from {}, not on {}{port}",
        input.group,
        list(names),
        sources(&seen.other_interface),
        input.interface
    );
    account.find(
        Finding::new(FindingId::OtherInterface, words)
            .with("frames", frames(&seen.other_interface))
            .with("interface", first.clone())
            .hint(format!("make the rule's input interface {first}, or correct the cabling")),
    );
}

/// Nothing arrived, but this does not prove that nothing is sent.
fn no_proof(subject: &Subject<'_>, place: SocketAddr) -> Option<Finding> {
    if let Some((ago, usual)) = subject.pause() {
        let gaps = if usual { ", and this stream has such gaps" } else { "" };
        return Some(
            Finding::new(
                FindingId::NothingArrives,
                format!(
                    "no datagram for {place} {}; the last one arrived {} ago{gaps}",
                    subject.meanwhile(),
                    time(ago)
                ),
            )
            .severity(if usual { Severity::Note } else { Severity::Warning })
            .with("earlier", subject.packets_before())
            .hint("listen longer: `--listen 10`"),
        );
    }
    let reason = subject.facts.host.not_observed.as_ref()?;
    let words = format!(
        "no datagram for {place} was received {}, and the wire could not be observed: {reason}",
        subject.meanwhile()
    );
    let name = &subject.rule.input.interface;
    // A warning: any other finding is more specific.
    Some(
        Finding::new(FindingId::NothingArrives, words)
            .severity(Severity::Warning)
            .hint(format!("`tcpdump -ni {name} host {}` shows what arrives", place.ip())),
    )
}

fn nothing(subject: &Subject<'_>, account: &mut Account) {
    let input = &subject.rule.input;
    let (name, group) = (&input.interface, input.group);
    let place = SocketAddr::new(group, input.port);
    if let Some(finding) = no_proof(subject, place) {
        return account.find(finding);
    }
    let before = subject.packets_before();
    let earlier = if before > 0 { format!(" ({} earlier)", datagrams(before)) } else { String::new() };
    let how = match subject.facts.observation {
        Some(seen) => {
            format!("for {} on any interface", time(std::time::Duration::from_millis(seen.elapsed_ms)))
        }
        None => subject.meanwhile(),
    };
    let who = if input.sources.is_empty() {
        "the sender".to_owned()
    } else {
        format!("the sender ({})", list(input.sources.iter().map(ToString::to_string)))
    };
    let hint = if group.is_multicast() {
        format!(
            "is {who} on, in the VLAN of {name}, with a TTL above the number of routers on the path? Is {name} a member of {group} in the switch's IGMP snooping table? `tcpdump -ni {name} host {group}` shows what arrives"
        )
    } else {
        format!(
            "is {who} on, and does it send to {place}? `tcpdump -ni {name} udp port {}` shows what arrives",
            input.port
        )
    };
    let is_about_querier = |found: &&Finding| {
        [FindingId::QuerierSilent, FindingId::QuerierFiltered].iter().any(|id| found.id == id.name())
    };
    let hint = match account.findings.iter().find(is_about_querier) {
        Some(found) => format!("fix the querier first ({}); otherwise: {hint}", found.id),
        None => hint,
    };
    let words = format!("nothing arrives for {place}: no frame {how}{earlier}");
    account.find(
        Finding::new(FindingId::NothingArrives, words)
            .with("earlier", before)
            .with("unlisted", subject.facts.observation.map_or(0, |seen| seen.unlisted))
            .hint(hint),
    );
    account.findings.extend(similar::find(subject));
}

/// Drops in the receive buffers of the rule's workers.
fn overflow(subject: &Subject<'_>, account: &mut Account) {
    for (id, worker) in subject.workers().filter(|(_, worker)| worker.kernel_drops > 0) {
        let (drops, held) = (worker.kernel_drops, frames_held(worker.receive_buffer_bytes));
        let overflows = if subject.time().is_some() { "overflows" } else { "has overflowed" };
        let pps = subject.seconds().map(|seconds| per_second(worker.received + drops, seconds));
        let words = format!(
            "the receive buffer of {id} {overflows}: {} of {} lost {}; its {} hold {} full-size frames",
            count(drops),
            counted(worker.received + drops, "frame"),
            subject.meanwhile(),
            size(worker.receive_buffer_bytes),
            count(held),
        );
        let mut finding = Finding::new(FindingId::QueueOverflow, words)
            .with("lost", drops)
            .with("received", worker.received)
            .with("receive_buffer_bytes", worker.receive_buffer_bytes)
            .with("frames_held", held);
        if let Some(pps) = pps.filter(|pps| *pps > 0) {
            let needed = buffer_for(pps);
            finding = finding.with("pps", pps).with("needed_bytes", needed);
            let lasts =
                time(std::time::Duration::from_secs(held) / u32::try_from(pps).unwrap_or(u32::MAX).max(1));
            finding = finding.hint(if needed > worker.receive_buffer_bytes {
                format!(
                    "at {}/s it fills in {lasts}; to cover a stall of {} set receive_buffer_bytes to {needed} ({}/s × {} × 2,304 bytes / 2), and net.core.rmem_max as well if mcrd lacks CAP_NET_ADMIN",
                    count(pps), time(LONGEST_OUTAGE), count(pps), time(LONGEST_OUTAGE),
                )
            } else {
                format!("at {}/s it fills in {lasts}, so the worker does not keep up: give the interface more cores, or an exclusive core (`pinning`)", count(pps))
            });
        }
        account.find(finding);
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate"
)]
fn per_second(n: u64, seconds: f64) -> u64 {
    if seconds > 0.0 { (n as f64 / seconds).round() as u64 } else { 0 }
}
