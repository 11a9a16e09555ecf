//! Datagrams and bits per second of each rule, from samples of its counters.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::core::ledger::RuleCount;
use crate::core::plan::RuleKey;

/// The sampling interval.
pub(crate) const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// A rule's rate over the last sample.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rate {
    /// Datagrams per second.
    pub(crate) pps: f64,
    /// Payload bits per second.
    pub(crate) bps: f64,
}

/// A rule's counters at the last sample.
#[derive(Clone, Copy, Debug)]
struct Counted {
    sample: Sample,
    frames: u64,
    /// Over the last sample in which a datagram arrived.
    per_frame: f64,
    /// When the last datagram arrived; zero if none did.
    last: Duration,
}

/// The last sample of each rule.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rates {
    at: Duration,
    last: BTreeMap<RuleKey, Counted>,
}

/// Counters at a sample, and the rate since the one before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    packets: u64,
    bytes: u64,
    pub(super) rate: Rate,
}

impl Sample {
    /// The next sample, `seconds` after `before`. The rate is 0 without one, and unchanged without time in between.
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
    pub(super) fn next(before: Option<&Self>, packets: u64, bytes: u64, seconds: f64) -> Self {
        let rate = match before {
            Some(was) if seconds > 0.0 => Rate {
                pps: packets.saturating_sub(was.packets) as f64 / seconds,
                bps: bytes.saturating_sub(was.bytes) as f64 * 8.0 / seconds,
            },
            Some(was) => was.rate,
            None => Rate::default(),
        };
        Self { packets, bytes, rate }
    }
}

impl Rates {
    /// Takes a sample of all rules; rules that are not in it are dropped.
    pub(crate) fn sample(&mut self, now: Duration, counts: &BTreeMap<RuleKey, RuleCount>) {
        let seconds = now.saturating_sub(self.at).as_secs_f64();
        let before = std::mem::take(&mut self.last);
        let samples = counts.iter().map(|(key, count)| {
            let was = before.get(key);
            let sample = Sample::next(was.map(|was| &was.sample), count.packets, count.bytes, seconds);
            let frames = count.frames();
            let (packets_before, frames_before) = was.map_or((0, 0), |was| (was.sample.packets, was.frames));
            let since = |now: u64, before: u64| now.saturating_sub(before);
            let per_frame = match (since(count.packets, packets_before), since(frames, frames_before)) {
                (0, _) | (_, 0) => was.map_or(0.0, |was| was.per_frame),
                (datagrams, frames) => mean(datagrams, frames),
            };
            (*key, Counted { sample, frames, per_frame, last: count.last })
        });
        self.last = samples.collect();
        self.at = now;
    }

    /// A rule's rate over the last sample; 0 before the second one.
    pub(crate) fn of(&self, key: RuleKey) -> Rate {
        self.last.get(&key).map(|counted| counted.sample.rate).unwrap_or_default()
    }

    /// When a rule's last datagram arrived, as of the last sample; zero if none did.
    pub(crate) fn last_datagram(&self, key: RuleKey) -> Duration {
        self.last.get(&key).map(|counted| counted.last).unwrap_or_default()
    }

    /// A rule's datagrams per frame, over the last sample in which any arrived; 0 if none did.
    pub(crate) fn per_frame(&self, key: RuleKey) -> f64 {
        self.last.get(&key).map(|counted| counted.per_frame).unwrap_or_default()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a mean needs no 53 bits")]
fn mean(datagrams: u64, frames: u64) -> f64 {
    datagrams as f64 / frames as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use mcr_rules::RuleId;

    fn counts(packets: u64, bytes: u64) -> BTreeMap<RuleKey, RuleCount> {
        let key = RuleKey { id: RuleId::from_bits(1), incarnation: 1 };
        BTreeMap::from([(key, RuleCount { packets, bytes, ..RuleCount::default() })])
    }

    #[test]
    fn a_rate_is_the_difference_over_the_time_that_really_passed() {
        let key = RuleKey { id: RuleId::from_bits(1), incarnation: 1 };
        let mut rates = Rates::default();
        rates.sample(Duration::from_secs(10), &counts(5_000, 1_000_000));
        assert_eq!(rates.of(key), Rate::default(), "one sample is no rate");
        rates.sample(Duration::from_secs(12), &counts(6_000, 1_250_000));
        assert_eq!(rates.of(key), Rate { pps: 500.0, bps: 1_000_000.0 });
        rates.sample(Duration::from_secs(12), &counts(6_000, 1_250_000));
        assert_eq!(rates.of(key), Rate { pps: 500.0, bps: 1_000_000.0 }, "no time, no new rate");
        rates.sample(Duration::from_secs(13), &counts(6_000, 1_250_000));
        assert_eq!(rates.of(key), Rate::default());
        rates.sample(Duration::from_secs(14), &BTreeMap::new());
        assert!(rates.last.is_empty());
    }
}
