//! One stream of one sender's run, received on one group.

use super::window::{Arrival, Window};
use crate::payload::Header;

/// A stream counts as stopped after this time, and ...
const SILENCE_NS: u64 = 250_000_000;
/// ... this number of its mean intervals without a datagram.
const SILENCE_INTERVALS: u64 = 4;

/// How the missing datagrams of a stream are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expectation {
    /// Count from the first sequence number received instead of from 0: the receiver started after the sender.
    pub(crate) late: bool,
    /// `Some(now)` if the receiver stopped before the streams ended: for streams that were still flowing, datagrams after the
    /// last received one are not counted as lost. `None` if it waited for their end.
    pub(crate) cut_off_ns: Option<u64>,
}

/// Received sequence numbers and counters.
#[derive(Debug)]
pub(crate) struct Session {
    window: Window,
    lowest: u64,
    planned: Option<u64>,
    run_total: u64,
    /// So far; without what is lost.
    counted: Totals,
    first_ns: u64,
    last_ns: u64,
}

/// Counters of one or more streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Totals {
    /// Datagrams received intact, each counted once.
    pub(crate) received: u64,
    /// Datagrams that were sent and not received.
    pub(crate) lost: u64,
    /// Copies of datagrams received before.
    pub(crate) duplicates: u64,
    /// Datagrams received after one with a higher sequence number (RFC 4737, Type-P-Reordered).
    pub(crate) reordered: u64,
    /// Datagrams too far behind to be distinguished from duplicates; if late, still counted as lost.
    pub(crate) stale: u64,
    /// Payload bytes of the received datagrams.
    pub(crate) bytes: u64,
}

impl Session {
    pub(crate) fn starting_with(header: &Header, bytes: usize, now_ns: u64) -> Self {
        Self {
            window: Window::starting_at(header.sequence),
            lowest: header.sequence,
            planned: header.stream_total(),
            run_total: header.planned_total,
            counted: Totals { received: 1, bytes: bytes as u64, ..Totals::default() },
            first_ns: now_ns,
            last_ns: now_ns,
        }
    }

    /// Records a datagram of the stream.
    pub(crate) fn record(&mut self, header: &Header, bytes: usize, now_ns: u64) -> Arrival {
        let arrival = self.window.insert(header.sequence);
        // The sender corrects its total in the last datagram, so the latest value is used.
        if arrival == Arrival::InOrder || header.last {
            self.planned = header.stream_total().or(self.planned);
        }
        match arrival {
            Arrival::InOrder => {}
            Arrival::Late => self.counted.reordered += 1,
            Arrival::Duplicate => self.counted.duplicates += 1,
            Arrival::Stale => self.counted.stale += 1,
        }
        if matches!(arrival, Arrival::InOrder | Arrival::Late) {
            self.counted.received += 1;
            self.counted.bytes += bytes as u64;
            self.lowest = self.lowest.min(header.sequence);
        }
        self.last_ns = now_ns;
        arrival
    }

    /// Returns the planned total of the sender's whole run, 0 if it announced none.
    pub(crate) fn run_total(&self) -> u64 {
        self.run_total
    }

    /// Returns whether all announced datagrams were received.
    pub(crate) fn is_complete(&self) -> bool {
        self.planned.is_some_and(|planned| self.counted.received >= planned)
    }

    pub(crate) fn totals(&self, expectation: Expectation) -> Totals {
        let seen = self.window.highest().saturating_add(1);
        let flowing = expectation.cut_off_ns.is_some_and(|now_ns| self.is_flowing(now_ns));
        let end = self.planned.filter(|_| !flowing).map_or(seen, |planned| planned.max(seen));
        let start = if expectation.late { self.lowest } else { 0 };
        Totals { lost: (end - start).saturating_sub(self.counted.received), ..self.counted }
    }

    fn is_flowing(&self, now_ns: u64) -> bool {
        let interval_ns = (self.last_ns - self.first_ns) / self.counted.received.saturating_sub(1).max(1);
        let silence_ns = SILENCE_NS.saturating_add(interval_ns.saturating_mul(SILENCE_INTERVALS));
        now_ns.saturating_sub(self.last_ns) < silence_ns
    }
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.lost += other.lost;
        self.duplicates += other.duplicates;
        self.reordered += other.reordered;
        self.stale += other.stale;
        self.bytes += other.bytes;
    }
}
