//! One-way latency, by the send time in each payload. Valid only if sender and receiver share a clock: on one host,
//! including different network namespaces.

use hdrhistogram::Histogram;

/// The longest plausible latency (a minute); a longer or negative one indicates another host's clock.
const LONGEST_NS: u64 = 60_000_000_000;
/// Precision of percentiles: one part in a thousand.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Latencies of all received datagrams.
#[derive(Debug)]
pub(crate) struct Latency {
    histogram: Option<Histogram<u64>>,
    incomparable: u64,
}

/// In nanoseconds; `null` without samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Percentiles {
    pub(crate) min: Option<u64>,
    pub(crate) p50: Option<u64>,
    pub(crate) p99: Option<u64>,
    pub(crate) p999: Option<u64>,
    pub(crate) max: Option<u64>,
}

impl Latency {
    pub(crate) fn new() -> Self {
        // The bounds are valid, so this is always `Some`.
        let histogram = Histogram::new_with_bounds(1, LONGEST_NS, SIGNIFICANT_DIGITS).ok();
        Self { histogram, incomparable: 0 }
    }

    /// Records one datagram.
    pub(crate) fn record(&mut self, sent_ns: u64, received_ns: u64) {
        match (received_ns.checked_sub(sent_ns), &mut self.histogram) {
            (Some(latency_ns @ 0..=LONGEST_NS), Some(histogram)) => {
                histogram.saturating_record(latency_ns.max(1))
            }
            _ => self.incomparable += 1,
        }
    }

    /// Returns the number of datagrams whose send time was from another clock.
    pub(crate) fn incomparable(&self) -> u64 {
        self.incomparable
    }

    pub(crate) fn percentiles(&self) -> Percentiles {
        match &self.histogram {
            Some(histogram) if !histogram.is_empty() => Percentiles {
                min: Some(histogram.min()),
                p50: Some(histogram.value_at_quantile(0.5)),
                p99: Some(histogram.value_at_quantile(0.99)),
                p999: Some(histogram.value_at_quantile(0.999)),
                max: Some(histogram.max()),
            },
            _ => Percentiles::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_known_distribution() {
        let mut latency = Latency::new();
        (1..=1000).for_each(|microseconds| latency.record(5, 5 + microseconds * 1000));
        let found = latency.percentiles();
        for (found, expected) in [
            (found.min, 1_000),
            (found.p50, 500_000),
            (found.p99, 990_000),
            (found.p999, 999_000),
            (found.max, 1_000_000),
        ] {
            let found = found.unwrap();
            assert!(found.abs_diff(expected) <= expected / 500, "{found} instead of {expected}");
        }
    }

    #[test]
    fn clocks_of_other_hosts_are_told_apart() {
        let mut latency = Latency::new();
        latency.record(100, 99);
        latency.record(0, LONGEST_NS + 1);
        assert_eq!((latency.incomparable(), latency.percentiles()), (2, Percentiles::default()));
        latency.record(7, 7);
        assert_eq!(latency.percentiles().min, Some(1));
    }
}
