//! Why a rule received nothing.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use mcr_control::explanation::{Finding, FindingId, Severity, Stage};
use mcr_link::observation::Flow;
use mcr_link::reason::SkipReason;
use mcr_sys::link::IfIndex;

use super::super::facts::Subject;
use super::super::words::{counted, datagrams, list, time};
use super::super::{Account, similar};
use super::{Seen, frames, sources};

/// Why the rule received nothing.
pub(super) fn absence(subject: &Subject<'_>, seen: &Seen<'_>, account: &mut Account) {
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
pub(super) fn excluded_earlier(subject: &Subject<'_>) -> Option<Finding> {
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
