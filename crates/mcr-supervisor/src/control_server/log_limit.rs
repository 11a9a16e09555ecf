//! A bounded number of log lines per window, so that a client can't fill the log.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct LogLimit {
    lines: u32,
    window: Duration,
    began: Option<Instant>,
    written: u32,
    suppressed: u64,
}

impl LogLimit {
    pub(super) fn new(lines: u32, window: Duration) -> Self {
        Self { lines, window, began: None, written: 0, suppressed: 0 }
    }

    /// Whether a line may be logged now; if so, how many were suppressed before it.
    pub(super) fn admit(&mut self, now: Instant) -> Option<u64> {
        let over = self.began.is_none_or(|began| now.saturating_duration_since(began) >= self.window);
        if over {
            self.began = Some(now);
            self.written = 0;
        }
        if self.written >= self.lines {
            self.suppressed += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an Instant has no other origin; the test adds to it")]
    fn lines_beyond_the_limit_are_counted_and_told_later() {
        let start = Instant::now();
        let mut limit = LogLimit::new(2, Duration::from_secs(10));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(limit.admit(at(0)), Some(0));
        assert_eq!(limit.admit(at(1)), Some(0));
        assert_eq!(limit.admit(at(2)), None);
        assert_eq!(limit.admit(at(9)), None);
        assert_eq!(limit.admit(at(10)), Some(2));
        assert_eq!(limit.admit(at(11)), Some(0));
        assert_eq!(limit.admit(at(12)), None);
    }
}
