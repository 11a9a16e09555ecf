//! Accounts for received datagrams by their headers, without I/O: received, lost, duplicated, reordered.
//!
//! A stream is identified by its group, its number in the payload and its sender's session. Each has a
//! [`window`] of 65,536 sequence numbers (8 KiB), within which late datagrams and duplicates are distinguished. A datagram
//! that is further behind is `stale`, and remains lost.

pub(crate) mod legs;
mod session;
#[cfg(test)]
mod tests;
mod window;

pub(crate) use session::{Expectation, Totals};

use crate::payload::{self, Header, Unusable};
use session::Session;
use std::collections::{BTreeMap, HashMap};
use window::Arrival;

/// Maximum number of streams, 8 KiB each; datagrams of others count as unknown.
const MAX_SESSIONS: usize = 8192;

/// The counters of one receiver, for all its groups.
#[derive(Debug)]
pub(crate) struct Account {
    sessions: HashMap<Key, Session>,
    complete: usize,
    has_traffic: Vec<bool>,
    received: u64,
    corrupted: u64,
    unknown: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    group: usize,
    stream: u16,
    /// Number of streams of the sender's run; the same in a session.
    streams: u16,
    session: u64,
}

/// The totals of one stream on one group, over all sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamTotals {
    /// Index of the group it was received on.
    pub(crate) group: usize,
    /// The stream's number at its sender.
    pub(crate) stream: u16,
    pub(crate) totals: Totals,
}

/// The totals of an account.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Summary {
    #[serde(flatten)]
    pub(crate) totals: Totals,
    pub(crate) corrupted: u64,
    /// Datagrams that are not of `mcrgen`, or not of a `--source`.
    pub(crate) unknown: u64,
    /// Number of runs of `mcrgen send`.
    pub(crate) sessions: usize,
    /// Number of groups without a datagram.
    pub(crate) silent_groups: usize,
    #[serde(skip)]
    pub(crate) streams: Vec<StreamTotals>,
}

impl Account {
    /// An account for a number of groups.
    pub(crate) fn new(groups: usize) -> Self {
        Self {
            sessions: HashMap::new(),
            complete: 0,
            has_traffic: vec![false; groups],
            received: 0,
            corrupted: 0,
            unknown: 0,
        }
    }

    /// Records a datagram received on the group with this index. Returns whether it was received for the first time.
    pub(crate) fn record(&mut self, group: usize, header: &Header, bytes: usize, now_ns: u64) -> bool {
        let key = Key { group, stream: header.stream, streams: header.streams, session: header.session };
        let is_new = if let Some(session) = self.sessions.get_mut(&key) {
            let was_complete = session.is_complete();
            let arrival = session.record(header, bytes, now_ns);
            match (was_complete, session.is_complete()) {
                (false, true) => self.complete += 1,
                (true, false) => self.complete -= 1,
                _ => {}
            }
            matches!(arrival, Arrival::InOrder | Arrival::Late)
        } else if self.sessions.len() < MAX_SESSIONS {
            let session = Session::starting_with(header, bytes, now_ns);
            self.complete += usize::from(session.is_complete());
            self.sessions.insert(key, session);
            if let Some(has_traffic) = self.has_traffic.get_mut(group) {
                *has_traffic = true;
            }
            true
        } else {
            self.unknown += 1;
            false
        };
        self.received += u64::from(is_new);
        is_new
    }

    /// Counts an unusable datagram.
    pub(crate) fn reject(&mut self, unusable: Unusable) {
        match unusable {
            Unusable::Foreign => self.unknown += 1,
            Unusable::Corrupted => self.corrupted += 1,
        }
    }

    /// Datagrams received so far, each counted once.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Whether every group has received datagrams, and every stream on it all datagrams that its sender announced.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete == self.sessions.len() && self.has_traffic.iter().all(|has_traffic| *has_traffic)
    }

    /// Number of datagrams missing so far, for the progress line.
    pub(crate) fn missing(&self, late: bool, now_ns: u64) -> u64 {
        let expectation = Expectation { late, cut_off_ns: Some(now_ns) };
        self.sessions.values().map(|session| session.totals(expectation).lost).sum()
    }

    /// Returns the current totals.
    pub(crate) fn summary(&self, expectation: Expectation) -> Summary {
        let mut streams: BTreeMap<(usize, u16), Totals> = BTreeMap::new();
        for (key, session) in &self.sessions {
            *streams.entry((key.group, key.stream)).or_default() += session.totals(expectation);
        }
        for (stream, lost) in self.silent_streams(expectation) {
            streams.entry((stream.into(), stream)).or_default().lost += lost;
        }
        let mut totals = Totals::default();
        for stream in streams.values() {
            totals += *stream;
        }
        let mut sessions: Vec<u64> = self.sessions.keys().map(|key| key.session).collect();
        sessions.sort_unstable();
        sessions.dedup();
        Summary {
            totals,
            corrupted: self.corrupted,
            unknown: self.unknown,
            sessions: sessions.len(),
            silent_groups: self.has_traffic.iter().filter(|has_traffic| !**has_traffic).count(),
            streams: streams
                .into_iter()
                .map(|((group, stream), totals)| StreamTotals { group, stream, totals })
                .collect(),
        }
    }

    /// Returns streams without any datagram, and the number of datagrams lost; known if a sender has as many streams as this
    /// receiver has groups. Without a planned total, the minimum of the received streams is assumed.
    fn silent_streams(&self, expectation: Expectation) -> Vec<(u16, u64)> {
        struct Run {
            received: Vec<u16>,
            total: u64,
            minimum: u64,
        }
        let mut runs: BTreeMap<(u64, u16), Run> = BTreeMap::new();
        for (key, session) in
            self.sessions.iter().filter(|(key, _)| usize::from(key.streams) == self.has_traffic.len())
        {
            let totals = session.totals(expectation);
            let run = runs.entry((key.session, key.streams)).or_insert_with(|| Run {
                received: Vec::new(),
                total: session.run_total(),
                minimum: u64::MAX,
            });
            run.received.push(key.stream);
            run.minimum = run.minimum.min(totals.received + totals.lost);
        }
        let mut silent = Vec::new();
        for ((_, streams), run) in runs {
            for stream in (0..streams).filter(|stream| !run.received.contains(stream)) {
                let planned = match run.total {
                    0 => run.minimum,
                    total => payload::share(total, streams, stream),
                };
                let cut_off = expectation.cut_off_ns.is_some() || expectation.late;
                silent.push((stream, if cut_off { planned.min(run.minimum) } else { planned }));
            }
        }
        silent
    }
}
