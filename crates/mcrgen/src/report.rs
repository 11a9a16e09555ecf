//! The report of a run, as JSON or as text.

use crate::account::legs::LegTotals;
use crate::account::{StreamTotals, Summary, Totals};
use crate::latency::Percentiles;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// The outcome of the sends.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Outcome {
    pub(crate) sent: u64,
    /// Payload bytes of the sent datagrams.
    pub(crate) bytes: u64,
    /// Datagrams that the kernel rejected; a receiver counts them as lost.
    pub(crate) errors: u64,
    /// `errors` by cause.
    pub(crate) error_causes: BTreeMap<String, u64>,
    /// Datagrams that were not sent because of `--loss`.
    pub(crate) left_out: u64,
    /// Number of waits for space in the kernel's queues.
    pub(crate) waits: u64,
    /// ICMP errors of unreachable destinations: these datagrams were sent but not received.
    pub(crate) refused: u64,
}

impl std::ops::AddAssign<&Self> for Outcome {
    fn add_assign(&mut self, other: &Self) {
        self.sent += other.sent;
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.left_out += other.left_out;
        self.waits += other.waits;
        self.refused += other.refused;
        for (cause, count) in &other.error_causes {
            *self.error_causes.entry(cause.clone()).or_default() += count;
        }
    }
}

/// `mcrgen send --json`.
#[derive(Debug, Serialize)]
pub(crate) struct SendReport {
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
    pub(crate) seconds: f64,
    pub(crate) pps: f64,
    /// Seed of the random sizes, losses and reordering.
    pub(crate) seed: u64,
    /// Number of datagrams that were to be sent on each leg. The totals above are sums over the legs.
    pub(crate) datagrams: u64,
    /// Datagrams that no leg carries.
    pub(crate) lost_by_all: u64,
    /// Each leg, if there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) legs: Vec<SentLeg>,
}

/// One leg of `mcrgen send --json`.
#[derive(Debug, Serialize)]
pub(crate) struct SentLeg {
    pub(crate) interface: String,
    pub(crate) group: IpAddr,
    pub(crate) port: u16,
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

/// `mcrgen replay --json`.
#[derive(Debug, Serialize)]
pub(crate) struct ReplayReport {
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
    pub(crate) seconds: f64,
    pub(crate) pps: f64,
    /// Number of different destinations.
    pub(crate) destinations: usize,
    /// The most by which a datagram left later than its time.
    pub(crate) late_max_us: u64,
    /// Packets of the file that were passed over, by reason.
    pub(crate) skipped: BTreeMap<&'static str, u64>,
}

/// `mcrgen recv --json`.
#[derive(Debug, Serialize)]
pub(crate) struct RecvReport {
    #[serde(flatten)]
    pub(crate) account: Summary,
    /// Datagrams (or super-frames) dropped at this receiver because its socket buffer was full: not lost in the network.
    pub(crate) receiver_drops: u64,
    /// Time from the first datagram to the last.
    pub(crate) seconds: f64,
    pub(crate) pps: f64,
    pub(crate) latency_ns: Percentiles,
    /// Datagrams whose send time is from another host's clock.
    pub(crate) latency_unknown: u64,
    pub(crate) ended: Reason,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) per_stream: Option<Vec<StreamReport>>,
    /// Each leg, if there are several; the totals above are then those after a merge.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) legs: Vec<ReceivedLeg>,
}

/// One leg of `mcrgen recv --json`.
#[derive(Debug, Serialize)]
pub(crate) struct ReceivedLeg {
    pub(crate) interface: String,
    pub(crate) group: IpAddr,
    pub(crate) port: u16,
    #[serde(flatten)]
    pub(crate) totals: LegTotals,
}

/// Why a receiver stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    /// `--count` datagrams were received.
    Count,
    /// All announced datagrams were received.
    Complete,
    /// `--duration` has passed.
    Duration,
    /// No datagram within `--idle` after the last one.
    Idle,
    /// No datagram at all within `--wait`.
    Silence,
    /// SIGINT or SIGTERM.
    Interrupted,
}

/// One stream of `mcrgen recv --json`.
#[derive(Debug, Serialize)]
pub(crate) struct StreamReport {
    pub(crate) group: IpAddr,
    pub(crate) stream: u16,
    #[serde(flatten)]
    pub(crate) totals: Totals,
}

impl StreamReport {
    pub(crate) fn new(groups: &[IpAddr], stream: &StreamTotals) -> Option<Self> {
        let group = *groups.get(stream.group)?;
        Some(Self { group, stream: stream.stream, totals: stream.totals })
    }
}

/// Events per second; 0 if no time has passed.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub(crate) fn per_second(events: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { events as f64 / seconds } else { 0.0 }
}

impl fmt::Display for SendReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { outcome, seconds, pps, seed: _, datagrams, lost_by_all, legs } = self;
        let Outcome { sent, bytes, left_out, .. } = outcome;
        let megabits = per_second(bytes * 8, *seconds) / 1e6;
        writeln!(formatter, "sent {sent} datagrams, {bytes} bytes in {seconds:.3} s")?;
        writeln!(formatter, "rate {pps:.0} datagrams/s, {megabits:.1} Mb/s")?;
        if *left_out > 0 {
            writeln!(
                formatter,
                "left out {left_out}; of {datagrams} datagrams no leg carries {lost_by_all}"
            )?;
        }
        for SentLeg { interface, group, port, outcome } in legs {
            let (sent, left_out) = (outcome.sent, outcome.left_out);
            writeln!(formatter, "  {interface} {group} port {port}: sent {sent}, left out {left_out}")?;
        }
        outcome.write_troubles(formatter)
    }
}

impl fmt::Display for ReplayReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { outcome, seconds, pps, destinations, late_max_us, skipped } = self;
        let Outcome { sent, bytes, .. } = outcome;
        let megabits = per_second(bytes * 8, *seconds) / 1e6;
        writeln!(
            formatter,
            "sent {sent} datagrams to {destinations} destinations, {bytes} bytes in {seconds:.3} s"
        )?;
        writeln!(formatter, "rate {pps:.0} datagrams/s, {megabits:.1} Mb/s, at most {late_max_us} µs late")?;
        for (reason, packets) in skipped {
            writeln!(formatter, "passed over {packets}: {reason}")?;
        }
        outcome.write_troubles(formatter)
    }
}

impl Outcome {
    /// Writes what did not go well, and the number of errors in any case.
    fn write_troubles(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { waits, refused, errors, error_causes, .. } = self;
        if *waits > 0 {
            writeln!(formatter, "waited {waits} times for space in the kernel's queues")?;
        }
        if *refused > 0 {
            writeln!(formatter, "{refused} ICMP errors: port or host unreachable")?;
        }
        writeln!(formatter, "errors {errors}")?;
        for (cause, count) in error_causes {
            writeln!(formatter, "  {count} × {cause}")?;
        }
        Ok(())
    }
}

impl fmt::Display for RecvReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { account: Summary { totals, corrupted, unknown, .. }, seconds, pps, .. } = self;
        let Totals { received, lost, duplicates, reordered, stale, bytes } = *totals;
        let megabits = per_second(bytes * 8, *seconds) / 1e6;
        writeln!(formatter, "received {received} datagrams, {bytes} bytes in {seconds:.3} s")?;
        writeln!(formatter, "rate {pps:.0} datagrams/s, {megabits:.1} Mb/s")?;
        writeln!(
            formatter,
            "lost {lost}, duplicates {duplicates}, reordered {reordered}, corrupted {corrupted}"
        )?;
        for (count, what) in [
            (*unknown, "not sent by mcrgen, or from another source"),
            (stale, "too late to be distinguished from duplicates"),
            (self.receiver_drops, "dropped at this receiver because its socket buffer was full"),
        ] {
            if count > 0 {
                writeln!(formatter, "{count} datagrams {what}")?;
            }
        }
        let Percentiles { min, p50, p99, p999, max } = self.latency_ns;
        if let (Some(min), Some(p50), Some(p99), Some(p999), Some(max)) = (min, p50, p99, p999, max) {
            let us = |ns: u64| format!("{}.{} µs", ns / 1000, ns % 1000 / 100);
            let (min, p50, p99, p999, max) = (us(min), us(p50), us(p99), us(p999), us(max));
            writeln!(formatter, "latency min {min}, p50 {p50}, p99 {p99}, p99.9 {p999}, max {max}")?;
        }
        for ReceivedLeg { interface, group, port, totals: LegTotals { totals, unique } } in &self.legs {
            let Totals { received, lost, duplicates, reordered, .. } = totals;
            writeln!(
                formatter,
                "  {interface} {group} port {port}: received {received}, lost {lost}, duplicates {duplicates}, reordered {reordered}, only here {unique}"
            )?;
        }
        let Some(streams) = &self.per_stream else { return Ok(()) };
        writeln!(
            formatter,
            "\n{:<40} {:>6} {:>12} {:>10} {:>10} {:>10}",
            "GROUP", "STREAM", "RECEIVED", "LOST", "DUPLICATES", "REORDERED"
        )?;
        for StreamReport { group, stream, totals } in streams {
            let Totals { received, lost, duplicates, reordered, .. } = totals;
            writeln!(
                formatter,
                "{:<40} {stream:>6} {received:>12} {lost:>10} {duplicates:>10} {reordered:>10}",
                group.to_string()
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn recv_report() -> RecvReport {
        RecvReport {
            account: Summary {
                totals: Totals { received: 10, lost: 2, duplicates: 1, reordered: 3, stale: 0, bytes: 1000 },
                corrupted: 4,
                unknown: 5,
                sessions: 1,
                silent_groups: 0,
                streams: Vec::new(),
            },
            receiver_drops: 6,
            seconds: 2.0,
            pps: 5.0,
            latency_ns: Percentiles {
                min: Some(1500),
                p50: Some(2),
                p99: Some(3),
                p999: Some(4),
                max: Some(5),
            },
            latency_unknown: 0,
            ended: Reason::Complete,
            per_stream: None,
            legs: Vec::new(),
        }
    }

    #[test]
    fn json_has_the_documented_fields() {
        let json = serde_json::to_value(recv_report()).unwrap();
        let documented = json!({
            "received": 10, "lost": 2, "duplicates": 1, "reordered": 3, "corrupted": 4, "bytes": 1000,
            "seconds": 2.0, "pps": 5.0, "latency_ns": {"min": 1500, "p50": 2, "p99": 3, "p999": 4, "max": 5},
        });
        for (field, value) in documented.as_object().unwrap() {
            assert_eq!(&json[field], value, "{field}");
        }
        assert_eq!((&json["ended"], &json["per_stream"]), (&json!("complete"), &Value::Null));
    }

    #[test]
    fn the_text_reports_drops_at_the_receiver() {
        let text = recv_report().to_string();
        assert!(text.contains("lost 2, duplicates 1, reordered 3, corrupted 4"), "{text}");
        assert!(text.contains("6 datagrams dropped at this receiver"), "{text}");
        assert!(text.contains("min 1.5 µs"), "{text}");
    }

    #[test]
    fn without_elapsed_time_the_rate_is_zero() {
        assert!(per_second(1, 0.0).abs() < f64::EPSILON);
    }
}
