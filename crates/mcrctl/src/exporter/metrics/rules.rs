//! Rules, their arrivals, and the streams they carry.

use std::collections::BTreeMap;
use std::fmt;

use mcr_control::reply::{HealthStats, LegStats, RuleState, RuleStats, StatsReply};
use mcr_rules::RuleId;

use super::super::families::{Families, NO_LABELS};
use super::super::snapshot::Snapshot;
use super::Value;
use crate::render::rule_title;

pub(super) fn rules(out: &mut Families, snapshot: &Snapshot) -> fmt::Result {
    let rules = &snapshot.rules.rules;
    let inputs = rules.iter().map(|rule| {
        let input = &rule.input;
        let sources: Vec<String> = input.sources.iter().map(ToString::to_string).collect();
        let labels = [
            ("rule", rule_title(rule.id, rule.name.as_ref())),
            ("id", rule.id.to_string()),
            ("interface", input.interface.to_string()),
            ("group", input.group.to_string()),
            ("port", input.port.to_string()),
            ("sources", sources.join(",")),
        ];
        (labels, 1_u64)
    });
    out.gauge("mcr_rule_info", "The input of each rule.", inputs)?;
    let active = rules.iter().map(|rule| {
        ([("rule", rule_title(rule.id, rule.name.as_ref()))], u64::from(rule.state == RuleState::Active))
    });
    out.gauge("mcr_rule_active", "Whether the rule is active; 0 while it is pending or paused.", active)?;
    let engines = rules.iter().map(|rule| {
        let reason = rule.engine_reason.map(|reason| reason.name().to_owned()).unwrap_or_default();
        let labels = [
            ("rule", rule_title(rule.id, rule.name.as_ref())),
            ("engine", rule.engine.name().to_owned()),
            ("reason", reason),
        ];
        (labels, 1_u64)
    });
    let help = "What relays the rule, and the reason if the kernel was asked for and does not.";
    out.gauge("mcr_rule_engine", help, engines)?;
    let families: [Value<RuleStats>; 4] = [
        ("mcr_rule_datagrams", "Datagrams that matched the rule.", |rule| rule.packets),
        ("mcr_rule_bytes", "Payload bytes of the datagrams that matched the rule.", |rule| rule.bytes),
        (
            "mcr_rule_frames",
            "Frames in which the rule's datagrams arrived; fewer where they are merged.",
            |rule| rule.frames,
        ),
        ("mcr_rule_due", "Sends due: datagrams times outputs.", |rule| rule.due),
    ];
    for (name, help, value) in families {
        out.counter(name, help, snapshot.stats.rules.iter().map(|rule| (label(rule), value(rule))))?;
    }
    let skips = snapshot.stats.rules.iter().flat_map(|rule| {
        rule.skips.iter().map(|(reason, n)| {
            let rule = rule_title(rule.id, rule.name.as_ref());
            ([("rule", rule), ("reason", reason.clone())], *n)
        })
    });
    let help = "Frames for the rule's destination that it did not relay, by reason.";
    out.counter("mcr_rule_skipped_frames", help, skips)
}

/// The legs of merged rules.
pub(super) fn merges(out: &mut Families, stats: &StatsReply) -> fmt::Result {
    let legs = || {
        stats.rules.iter().flat_map(|rule| {
            (1..).zip(&rule.legs).map(move |(number, leg): (u32, _)| {
                let [title] = label(rule);
                let labels = [
                    title,
                    ("leg", number.to_string()),
                    ("interface", leg.interface.to_string()),
                    ("group", leg.group.to_string()),
                    ("port", leg.port.to_string()),
                ];
                (labels, leg)
            })
        })
    };
    let counted: [Value<LegStats>; 6] = [
        ("mcr_leg_datagrams", "Datagrams that the leg brought.", |leg| leg.packets),
        ("mcr_leg_lost", "Datagrams missing on the leg when the window had passed.", |leg| leg.lost),
        ("mcr_leg_duplicates", "Copies of datagrams that had left before.", |leg| leg.duplicates),
        ("mcr_leg_unique", "Datagrams that came on no other leg.", |leg| leg.unique),
        ("mcr_leg_too_late", "Datagrams that came after the window.", |leg| leg.too_late),
        ("mcr_leg_other_stream", "Datagrams of another stream.", |leg| leg.other_stream),
    ];
    for (name, help, value) in counted {
        out.counter(name, help, legs().map(|(labels, leg)| (labels, value(leg))))?;
    }
    let skew = legs().map(|(labels, leg)| (labels, seconds(leg.skew_us) / 1_000.0));
    out.gauge("mcr_leg_skew_seconds", "How long after the first copy the leg's copies come.", skew)?;
    let lost = stats.rules.iter().filter_map(|rule| Some((label(rule), rule.lost?)));
    out.counter("mcr_merge_lost", "Datagrams (MoldUDP64: messages) missing on all legs.", lost)?;
    let held = stats.rules.iter().filter_map(|rule| Some((label(rule), rule.held?)));
    out.gauge("mcr_merge_held", "Datagrams that wait for those before them.", held)
}

fn label(rule: &RuleStats) -> [(&'static str, String); 1] {
    [("rule", rule_title(rule.id, rule.name.as_ref()))]
}

/// Times of arrivals, and flows.
pub(super) fn arrivals(out: &mut Families, snapshot: &Snapshot) -> fmt::Result {
    let rules = &snapshot.stats.rules;
    let first = rules.iter().filter_map(|rule| Some((label(rule), seconds(rule.first_ms?))));
    out.gauge("mcr_rule_first_datagram_timestamp_seconds", "When the rule's first datagram arrived.", first)?;
    let last = rules.iter().filter_map(|rule| Some((label(rule), seconds(rule.last_ms?))));
    out.gauge("mcr_rule_last_datagram_timestamp_seconds", "When the rule's last datagram arrived.", last)?;
    let help = "Whether the rule is active and joined, and no datagram arrived for settings.flow_silence_s.";
    out.gauge("mcr_rule_silent", help, rules.iter().map(|rule| (label(rule), u64::from(rule.silent))))?;
    let mut flowing: BTreeMap<RuleId, u64> = BTreeMap::new();
    for flow in snapshot.flows.flows.iter().filter(|flow| flow.flowing) {
        *flowing.entry(flow.rule).or_default() += 1;
    }
    let flows = rules.iter().map(|rule| (label(rule), flowing.get(&rule.id).copied().unwrap_or_default()));
    let help = "Sources with a datagram within settings.flow_silence_s.";
    out.gauge("mcr_rule_flows", help, flows)?;
    let help = "Datagrams of flows that are not listed because the flow table is full.";
    out.counter("mcr_unlisted_flow_datagrams", help, [(NO_LABELS, snapshot.flows.unlisted)])
}

/// The streams of rules that check them.
pub(super) fn streams(out: &mut Families, stats: &StatsReply) -> fmt::Result {
    let counted: [Value<HealthStats>; 5] = [
        ("mcr_stream_checked_datagrams", "Datagrams whose contents were checked.", |found| found.checked),
        ("mcr_stream_reordered_packets", "RTP packets that arrived after a later one.", |found| {
            found.reordered
        }),
        ("mcr_stream_duplicate_packets", "RTP packets that arrived more than once.", |found| {
            found.duplicates
        }),
        (
            "mcr_stream_continuity_errors",
            "MPEG-TS packets with a discontinuous continuity counter.",
            |found| found.continuity_errors,
        ),
        (
            "mcr_stream_malformed_datagrams",
            "Datagrams that are not of the configured stream format.",
            |found| found.malformed,
        ),
    ];
    let checked = || stats.rules.iter().filter_map(|rule| Some((label(rule), rule.health?)));
    for (name, help, value) in counted {
        out.counter(name, help, checked().map(|(rule, found)| (rule, value(&found))))?;
    }
    // It falls when a packet arrives late, so it is not a counter.
    let lost = checked().map(|(rule, found)| (rule, found.lost));
    out.gauge("mcr_stream_lost_packets", "RTP packets that have not arrived.", lost)?;
    let jitter = checked().map(|(rule, found)| (rule, seconds(found.jitter_us) / 1_000.0));
    out.gauge("mcr_stream_jitter_seconds", "RTP interarrival jitter.", jitter)
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit into 53 bits")]
fn seconds(at_ms: u64) -> f64 {
    at_ms as f64 / 1000.0
}
