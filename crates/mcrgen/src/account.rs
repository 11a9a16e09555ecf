//! Received against sent datagrams: pure bookkeeping over the headers of received datagrams.
//!
//! A stream is identified by its group, its number in the payload and its sender's session. Each has a
//! [`window`] of 65,536 sequences (8 KiB): within it a late datagram is exactly told from a duplicate. One that is
//! further behind is `stale`, and stays lost.

mod session;
#[cfg(test)]
mod tests;
mod window;

pub(crate) use session::{Expectation, Totals};

use crate::payload::{self, Header, Unusable};
use session::Session;
use std::collections::{BTreeMap, HashMap};
use window::Place;

/// The most streams accounted at once, 8 KiB each; datagrams of further ones count as unknown.
const MAX_SESSIONS: usize = 8192;

/// The account of one receiver over all its groups.
#[derive(Debug)]
pub(crate) struct Account {
    sessions: HashMap<Key, Session>,
    complete: usize,
    heard: Vec<bool>,
    received: u64,
    corrupted: u64,
    unknown: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    group: usize,
    stream: u16,
    /// Streams of the sender's run; the same for all of a session.
    streams: u16,
    session: u64,
}

/// The totals of one stream on one group, over all sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamTotals {
    /// Index of the group that brought it.
    pub(crate) group: usize,
    /// The stream's number at its sender.
    pub(crate) stream: u16,
    pub(crate) totals: Totals,
}

/// The account at the end.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Statement {
    #[serde(flatten)]
    pub(crate) totals: Totals,
    pub(crate) corrupted: u64,
    /// Datagrams that are not of `mcrgen`, or not of a `--source`.
    pub(crate) unknown: u64,
    /// Different runs of `mcrgen send`.
    pub(crate) sessions: usize,
    /// Groups that brought nothing.
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
            heard: vec![false; groups],
            received: 0,
            corrupted: 0,
            unknown: 0,
        }
    }

    /// Accounts a datagram that the group of this index brought. Whether it had not come before.
    pub(crate) fn record(&mut self, group: usize, header: &Header, bytes: usize, now_ns: u64) -> bool {
        let key = Key { group, stream: header.stream, streams: header.streams, session: header.session };
        let is_new = if let Some(session) = self.sessions.get_mut(&key) {
            let was_complete = session.is_complete();
            let place = session.record(header, bytes, now_ns);
            match (was_complete, session.is_complete()) {
                (false, true) => self.complete += 1,
                (true, false) => self.complete -= 1,
                _ => {}
            }
            matches!(place, Place::Advance | Place::Late)
        } else if self.sessions.len() < MAX_SESSIONS {
            let session = Session::starting_with(header, bytes, now_ns);
            self.complete += usize::from(session.is_complete());
            self.sessions.insert(key, session);
            if let Some(heard) = self.heard.get_mut(group) {
                *heard = true;
            }
            true
        } else {
            self.unknown += 1;
            false
        };
        self.received += u64::from(is_new);
        is_new
    }

    /// Counts a datagram that can't be accounted.
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

    /// Every group was heard, and every stream on it has brought all that its sender announced.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete == self.sessions.len() && self.heard.iter().all(|heard| *heard)
    }

    /// Datagrams missing so far, for a progress line.
    pub(crate) fn missing(&self, late: bool, now_ns: u64) -> u64 {
        let expectation = Expectation { late, cut_off_ns: Some(now_ns) };
        self.sessions.values().map(|session| session.totals(expectation).lost).sum()
    }

    /// The account as it stands.
    pub(crate) fn state(&self, expectation: Expectation) -> Statement {
        let mut streams: BTreeMap<(usize, u16), Totals> = BTreeMap::new();
        for (key, session) in &self.sessions {
            *streams.entry((key.group, key.stream)).or_default() += session.totals(expectation);
        }
        for (stream, lost) in self.unheard(expectation) {
            streams.entry((stream.into(), stream)).or_default().lost += lost;
        }
        let mut totals = Totals::default();
        for stream in streams.values() {
            totals += *stream;
        }
        let mut sessions: Vec<u64> = self.sessions.keys().map(|key| key.session).collect();
        sessions.sort_unstable();
        sessions.dedup();
        Statement {
            totals,
            corrupted: self.corrupted,
            unknown: self.unknown,
            sessions: sessions.len(),
            silent_groups: self.heard.iter().filter(|heard| !**heard).count(),
            streams: streams
                .into_iter()
                .map(|((group, stream), totals)| StreamTotals { group, stream, totals })
                .collect(),
        }
    }

    /// Streams of which nothing came at all, and what they would have brought: known where a sender has as many
    /// streams as this receiver has groups. Without a planned total, as much as the least of the heard ones.
    fn unheard(&self, expectation: Expectation) -> Vec<(u16, u64)> {
        struct Run {
            heard: Vec<u16>,
            total: u64,
            least: u64,
        }
        let mut runs: BTreeMap<(u64, u16), Run> = BTreeMap::new();
        for (key, session) in
            self.sessions.iter().filter(|(key, _)| usize::from(key.streams) == self.heard.len())
        {
            let totals = session.totals(expectation);
            let run = runs.entry((key.session, key.streams)).or_insert_with(|| Run {
                heard: Vec::new(),
                total: session.run_total(),
                least: u64::MAX,
            });
            run.heard.push(key.stream);
            run.least = run.least.min(totals.received + totals.lost);
        }
        let mut unheard = Vec::new();
        for ((_, streams), run) in runs {
            for stream in (0..streams).filter(|stream| !run.heard.contains(stream)) {
                let planned = match run.total {
                    0 => run.least,
                    total => payload::share(total, streams, stream),
                };
                let cut_off = expectation.cut_off_ns.is_some() || expectation.late;
                unheard.push((stream, if cut_off { planned.min(run.least) } else { planned }));
            }
        }
        unheard
    }
}
