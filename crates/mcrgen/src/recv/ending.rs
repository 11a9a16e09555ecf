//! Decides when a receiver stops. Pure: the time is an argument.

use crate::report::Reason;
use std::time::Duration;

/// How long to wait for duplicates after all announced datagrams were received.
const LINGER_NS: u64 = 100_000_000;

/// The limits of a run. A zero `idle` or `wait` means no limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) count: Option<u64>,
    pub(crate) duration: Option<Duration>,
    pub(crate) idle: Duration,
    pub(crate) wait: Duration,
}

/// The datagrams received so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    pub(crate) received: u64,
    /// The time of the last datagram.
    pub(crate) last_ns: Option<u64>,
    pub(crate) complete: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    End(Reason),
    /// Without a datagram, the run continues until this time; `None`: forever.
    WaitUntil(Option<u64>),
}

impl Limits {
    /// Returns whether a run that started at `start_ns` ends now.
    pub(crate) fn verdict(&self, start_ns: u64, now_ns: u64, progress: Progress) -> Verdict {
        if self.count.is_some_and(|count| progress.received >= count) {
            return Verdict::End(Reason::Count);
        }
        let deadlines = [
            (self.duration.map(|duration| after(start_ns, duration)), Reason::Duration),
            // With a count, the datagrams may be from several runs.
            (
                progress
                    .last_ns
                    .filter(|_| progress.complete && self.count.is_none())
                    .map(|last| last.saturating_add(LINGER_NS)),
                Reason::Complete,
            ),
            (progress.last_ns.and_then(|last| limit(last, self.idle)), Reason::Idle),
            (if progress.last_ns.is_none() { limit(start_ns, self.wait) } else { None }, Reason::Silence),
        ];
        let first =
            deadlines.into_iter().filter_map(|(at, reason)| Some((at?, reason))).min_by_key(|(at, _)| *at);
        match first {
            Some((at, reason)) if at <= now_ns => Verdict::End(reason),
            first => Verdict::WaitUntil(first.map(|(at, _)| at)),
        }
    }
}

fn limit(from_ns: u64, duration: Duration) -> Option<u64> {
    (!duration.is_zero()).then(|| after(from_ns, duration))
}

fn after(from_ns: u64, duration: Duration) -> u64 {
    from_ns.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const DEFAULT: Limits =
        Limits { count: None, duration: None, idle: Duration::from_secs(3), wait: Duration::from_secs(10) };

    #[test]
    fn each_limit_takes_effect_at_its_time() {
        let nothing = Progress::default();
        let some = Progress { received: 5, last_ns: Some(20 * SECOND), complete: false };
        let all = Progress { complete: true, ..some };
        let counted = Limits { count: Some(5), ..DEFAULT };
        let more = Limits { count: Some(6), ..DEFAULT };
        let timed = Limits { duration: Some(Duration::from_secs(12)), ..DEFAULT };
        let endless = Limits { idle: Duration::ZERO, wait: Duration::ZERO, ..DEFAULT };
        let (end, wait) = (Verdict::End, |at| Verdict::WaitUntil(Some(at)));
        for (name, limits, now, progress, expected) in [
            ("still waiting", DEFAULT, 19 * SECOND, nothing, wait(20 * SECOND)),
            ("silence", DEFAULT, 20 * SECOND, nothing, end(Reason::Silence)),
            ("not idle yet", DEFAULT, 22 * SECOND, some, wait(23 * SECOND)),
            ("idle", DEFAULT, 23 * SECOND, some, end(Reason::Idle)),
            ("lingering", DEFAULT, 20 * SECOND, all, wait(20 * SECOND + LINGER_NS)),
            ("complete", DEFAULT, 20 * SECOND + LINGER_NS, all, end(Reason::Complete)),
            ("count", counted, 20 * SECOND, some, end(Reason::Count)),
            ("complete short of the count", more, 21 * SECOND, all, wait(23 * SECOND)),
            ("duration", timed, 22 * SECOND, some, end(Reason::Duration)),
            ("before the duration", timed, 21 * SECOND, some, wait(22 * SECOND)),
            ("endless wait", endless, 1000 * SECOND, nothing, Verdict::WaitUntil(None)),
            ("endless idle", endless, 1000 * SECOND, some, Verdict::WaitUntil(None)),
        ] {
            assert_eq!(limits.verdict(10 * SECOND, now, progress), expected, "{name}");
        }
    }
}
