//! Rates over 1 s and 10 s, from samples of counters. The time is an argument.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mcr_control::reply::StatsReply;
use mcr_rules::RuleId;
use serde::Serialize;

/// How many samples a series keeps: a minute at one per second.
const KEPT: usize = 61;
/// By how much a sample may be younger than the window asks for: samples come a little early or late.
const SLACK: Duration = Duration::from_millis(500);

/// The time that a rate is the mean of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Window {
    #[default]
    Second,
    TenSeconds,
}

impl Window {
    const fn length(self) -> Duration {
        match self {
            Self::Second => Duration::from_secs(1),
            Self::TenSeconds => Duration::from_secs(10),
        }
    }

    /// As people write it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Second => "1 s",
            Self::TenSeconds => "10 s",
        }
    }

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Second => Self::TenSeconds,
            Self::TenSeconds => Self::Second,
        }
    }
}

/// Samples of `N` counters that belong together.
#[derive(Clone, Debug)]
pub(crate) struct Series<const N: usize> {
    samples: VecDeque<(Duration, [u64; N])>,
}

impl<const N: usize> Default for Series<N> {
    fn default() -> Self {
        Self { samples: VecDeque::new() }
    }
}

impl<const N: usize> Series<N> {
    /// Takes a sample. Counters that have fallen began anew, and so does the series.
    pub(crate) fn push(&mut self, at: Duration, counts: [u64; N]) {
        if let Some((last_at, last)) = self.samples.back() {
            if at <= *last_at {
                return;
            }
            if counts.iter().zip(last).any(|(now, before)| now < before) {
                self.samples.clear();
            }
        }
        if self.samples.len() == KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back((at, counts));
    }

    /// Counts per second over the window, or over the time since the first sample; `None` before there are two.
    pub(crate) fn over(&self, window: Window) -> Option<[f64; N]> {
        let (now, newest) = self.samples.back()?;
        let earlier = self.samples.iter().rev().skip(1);
        let old_enough = |at: &Duration| now.saturating_sub(*at) + SLACK >= window.length();
        let start = earlier.clone().find(|(at, _)| old_enough(at)).or_else(|| earlier.last())?;
        Some(per_second(start, &(*now, *newest)))
    }

    /// One counter's rate from each sample to the next, oldest first.
    pub(crate) fn trend(&self, counter: usize) -> Vec<f64> {
        let pairs = self.samples.iter().zip(self.samples.iter().skip(1));
        pairs.map(|(from, to)| per_second(from, to).get(counter).copied().unwrap_or_default()).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate does not need full precision")]
fn per_second<const N: usize>(from: &(Duration, [u64; N]), to: &(Duration, [u64; N])) -> [f64; N] {
    let seconds = to.0.saturating_sub(from.0).as_secs_f64();
    std::array::from_fn(|n| match (from.1.get(n), to.1.get(n)) {
        (Some(from), Some(to)) if seconds > 0.0 => to.saturating_sub(*from) as f64 / seconds,
        _ => 0.0,
    })
}

/// The series of many things of a kind.
#[derive(Clone, Debug)]
pub(crate) struct Meters<K, const N: usize> {
    series: BTreeMap<K, Series<N>>,
}

impl<K, const N: usize> Default for Meters<K, N> {
    fn default() -> Self {
        Self { series: BTreeMap::new() }
    }
}

impl<K: Ord, const N: usize> Meters<K, N> {
    /// Takes a sample of all things; those that are not in it are forgotten.
    pub(crate) fn sample(&mut self, at: Duration, counts: impl IntoIterator<Item = (K, [u64; N])>) {
        let mut before = std::mem::take(&mut self.series);
        for (key, counts) in counts {
            let mut series = before.remove(&key).unwrap_or_default();
            series.push(at, counts);
            self.series.insert(key, series);
        }
    }

    /// One thing's series.
    pub(crate) fn of(&self, key: &K) -> Option<&Series<N>> {
        self.series.get(key)
    }

    /// One thing's rates.
    pub(crate) fn over(&self, key: &K, window: Window) -> Option<[f64; N]> {
        self.of(key)?.over(window)
    }
}

/// What passes a rule, per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct RuleRate {
    /// Datagrams.
    pub pps: f64,
    /// Payload bits.
    pub bps: f64,
}

/// The rates of all rules, for `stats --watch`.
#[derive(Clone, Debug, Default)]
pub(crate) struct RuleRates {
    meters: Meters<RuleId, 2>,
}

impl RuleRates {
    /// Takes a sample.
    pub(crate) fn sample(&mut self, at: Duration, stats: &StatsReply) {
        self.meters.sample(at, stats.rules.iter().map(|rule| (rule.id, [rule.packets, rule.bytes])));
    }

    /// A rule's rate; `None` before there are two samples of it.
    pub(crate) fn over(&self, rule: RuleId, window: Window) -> Option<RuleRate> {
        self.meters.over(&rule, window).map(|[packets, bytes]| RuleRate { pps: packets, bps: bytes * 8.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn windows_are_of_the_time_that_really_passed() {
        let mut series = Series::<1>::default();
        assert_eq!(series.over(Window::Second), None);
        series.push(at(1_000), [100]);
        assert_eq!(series.over(Window::Second), None, "one sample is no rate");
        for second in 2..=30_u64 {
            // 100 per second until 20 s, then 200 per second; every second sample comes late.
            let ms = second * 1_000 + second % 2 * 40;
            series.push(at(ms), [if ms <= 20_000 { ms / 10 } else { 2_000 + (ms - 20_000) / 5 }]);
        }
        let rate = |window| series.over(window).unwrap()[0];
        assert!((rate(Window::Second) - 200.0).abs() < 1.0, "{}", rate(Window::Second));
        assert!((rate(Window::TenSeconds) - 200.0).abs() < 1.0, "{}", rate(Window::TenSeconds));
        series.push(at(31_000), [4_000]);
        assert_eq!(rate_of(&series, Window::Second), 0.0);
        assert!((rate_of(&series, Window::TenSeconds) - 180.0).abs() < 1.0);
        assert_eq!(series.trend(0).len(), 30);
        assert_eq!(series.trend(0).last(), Some(&0.0));
    }

    fn rate_of(series: &Series<1>, window: Window) -> f64 {
        series.over(window).unwrap()[0]
    }

    #[test]
    fn before_the_window_has_passed_the_rate_is_of_what_there_is() {
        let mut series = Series::<2>::default();
        series.push(at(0), [0, 0]);
        series.push(at(2_000), [10, 100]);
        assert_eq!(series.over(Window::TenSeconds), Some([5.0, 50.0]));
    }

    #[test]
    fn counters_that_begin_anew_give_no_rate() {
        let mut series = Series::<1>::default();
        series.push(at(0), [500]);
        series.push(at(1_000), [600]);
        series.push(at(2_000), [10]);
        assert_eq!(series.over(Window::Second), None);
        series.push(at(2_000), [90]);
        assert_eq!(series.over(Window::Second), None, "the same moment twice is one sample");
        series.push(at(3_000), [30]);
        assert_eq!(series.over(Window::Second), Some([20.0]));
    }

    #[test]
    fn a_minute_is_kept_and_what_is_gone_is_forgotten() {
        let mut meters = Meters::<&str, 1>::default();
        for second in 0..100 {
            meters.sample(at(second * 1_000), [("a", [second]), ("b", [0])]);
        }
        assert_eq!(meters.of(&"a").unwrap().trend(0).len(), 60);
        assert_eq!(meters.over(&"a", Window::TenSeconds), Some([1.0]));
        meters.sample(at(100_000), [("b", [0])]);
        assert!(meters.of(&"a").is_none());
    }
}
