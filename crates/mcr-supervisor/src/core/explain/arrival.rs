//! Whether the group arrives, where, and whether the rule matches it.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use mcr_control::explanation::{Finding, FindingId, Severity, Stage};
use mcr_link::observation::{Flow, FlowKind};
use mcr_rules::destination::BROADCAST;

use super::facts::Subject;
use super::words::{count, counted, datagrams, list, rate, size, time};
use super::{Account, fragments, super_frames};
use crate::core::capture_buffer::{LONGEST_OUTAGE, buffer_for, frames_held};

use absence::{absence, excluded_earlier};
use faults::faults;

mod absence;
mod faults;

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
