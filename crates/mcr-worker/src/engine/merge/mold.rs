//! Merging by MoldUDP64 message numbers: the legs may packetise differently, so each message counts.
//!
//! ```text
//!  messages   1 … 99  │ 100 101 │ 102 … 140 │ 141 …
//!             left    │ gap     │ left      │ next
//! ```
//!
//! A packet leaves if any of its messages is new: at or after `next`, or in a gap. The current session and the one before are kept;
//! a lower number in one session is never a restart. Heartbeats and ends come from the leg that leads.

use mcr_wire::mold::{MoldContent, MoldHeader};

use super::tally::Tally;
use super::words::Words;
use super::{Place, Verdict};

/// Bytes of session and number: what two copies of a packet have in common.
pub(crate) const NUMBER_BYTES: usize = 20;
/// Gaps of a session; the oldest is given up for one more.
const MAX_GAPS: usize = 64;
/// A packet that is farther ahead than this must be followed by another of its leg before the messages between are a gap.
const FAR: u64 = 4_096;
/// Heartbeats come from another leg after this time without anything from the one that leads.
const LEAD_NS: u64 = 1_500_000_000;

/// Words of the header.
const CURRENT: usize = 0;
const LEGS_AT: usize = 8;
const LEG_WORDS: usize = 2;
const SESSIONS_AT: usize = 16;
const GAPS_IN: usize = 16;
const GAP_WORDS: usize = 3;
const SESSION_WORDS: usize = GAPS_IN + GAP_WORDS * MAX_GAPS;

mod leg {
    /// The first and the next message of a packet far ahead; 0: none.
    pub(super) const FROM: usize = 0;
    pub(super) const NEXT: usize = 1;
}

mod session {
    /// 0: there is none; its number otherwise, from 1.
    pub(super) const ID: usize = 0;
    pub(super) const NAME: usize = 1;
    pub(super) const NAME_REST: usize = 2;
    pub(super) const NEXT: usize = 3;
    pub(super) const LEADER: usize = 4;
    pub(super) const LED_NS: usize = 5;
    pub(super) const LAST_NS: usize = 6;
}

mod gap {
    pub(super) const START: usize = 0;
    /// The message after it; not beyond its start: there is no gap.
    pub(super) const END: usize = 1;
    /// When it was found; 0 once it is given up.
    pub(super) const SINCE_NS: usize = 2;
}

/// See the module documentation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mold<'a> {
    pub(crate) header: Words<'a>,
    pub(crate) legs: usize,
    pub(crate) window_ns: u64,
}

#[derive(Clone, Copy)]
struct Session<'a> {
    words: Words<'a>,
    legs: usize,
    window_ns: u64,
}

impl<'a> Mold<'a> {
    /// Decides on a packet, and records it.
    pub(crate) fn judge(&self, leg: usize, header: &MoldHeader, now_ns: u64, tally: &mut Tally) -> Verdict {
        let index = self.session_of(header, now_ns, tally);
        let session = self.session(index);
        session.words.set(session::LAST_NS, now_ns);
        let count = match header.content {
            MoldContent::Messages(count) => u64::from(count),
            MoldContent::Heartbeat | MoldContent::End => {
                return session.heartbeat(leg, header.sequence, now_ns, tally);
            }
        };
        let Some(end) = header.sequence.checked_add(count) else { return Verdict::OtherStream };
        let ahead = header.sequence.saturating_sub(session.words.get(session::NEXT));
        if ahead > FAR && !self.confirmed(leg, header.sequence, end) {
            return Verdict::Leave(None);
        }
        session.take(header.sequence, end, (leg, now_ns), tally)
    }

    /// Gives up the gaps whose time is over.
    pub(crate) fn settle(&self, now_ns: u64, tally: &mut Tally) {
        [0, 1].into_iter().for_each(|index| self.session(index).give_up(now_ns, tally));
    }

    fn session(&self, index: usize) -> Session<'a> {
        let words = self.header.from(SESSIONS_AT + index * SESSION_WORDS);
        Session { words, legs: self.legs, window_ns: self.window_ns }
    }

    /// The session of a packet: the current one, the one before, or a new one.
    fn session_of(&self, header: &MoldHeader, now_ns: u64, tally: &mut Tally) -> usize {
        let current = usize::from(self.header.get(CURRENT) == 1);
        let (name, rest) = name_of(&header.session);
        let is = |index: usize| {
            let words = self.session(index).words;
            words.get(session::ID) != 0
                && words.get(session::NAME) == name
                && words.get(session::NAME_REST) == rest
        };
        if let Some(known) = [current, 1 - current].into_iter().find(|index| is(*index)) {
            return known;
        }
        let before = self.session(current).words.get(session::ID);
        let index = if before == 0 { current } else { 1 - current };
        let new = self.session(index);
        new.give_up(u64::MAX, tally);
        new.words.clear(SESSION_WORDS);
        for (word, value) in [
            (session::NAME, name),
            (session::NAME_REST, rest),
            (session::NEXT, header.sequence),
            (session::LED_NS, now_ns),
            (session::ID, before + 1),
        ] {
            new.words.set(word, value);
        }
        tally.restarts += u64::from(before != 0);
        self.header.set(CURRENT, index as u64);
        index
    }

    /// Whether a packet far ahead follows one of its leg.
    fn confirmed(&self, leg: usize, start: u64, end: u64) -> bool {
        let words = self.header.from(LEGS_AT + leg * LEG_WORDS);
        let follows = words.get(leg::NEXT) != 0 && words.get(leg::NEXT) == start;
        words.set(leg::FROM, start);
        words.set(leg::NEXT, if follows { 0 } else { end });
        follows
    }
}

impl Session<'_> {
    fn gap(&self, index: usize) -> Words<'_> {
        self.words.from(GAPS_IN + index * GAP_WORDS)
    }

    /// A packet without messages: `next` is the number of the next one.
    fn heartbeat(&self, leg: usize, next: u64, now_ns: u64, tally: &mut Tally) -> Verdict {
        let expected = self.words.get(session::NEXT);
        if next > expected && next - expected <= FAR {
            self.open_gap(expected, next, now_ns, tally);
            self.words.set(session::NEXT, next);
        }
        let leads = self.words.get(session::LEADER) == leg as u64;
        if !leads && now_ns.saturating_sub(self.words.get(session::LED_NS)) < LEAD_NS {
            return Verdict::Duplicate;
        }
        self.lead(leg, now_ns);
        Verdict::Leave(None)
    }

    fn lead(&self, leg: usize, now_ns: u64) {
        self.words.set(session::LEADER, leg as u64);
        self.words.set(session::LED_NS, now_ns);
    }

    /// Decides on the messages from `start` to before `end`.
    fn take(&self, start: u64, end: u64, (leg, now_ns): (usize, u64), tally: &mut Tally) -> Verdict {
        self.give_up(now_ns, tally);
        let next = self.words.get(session::NEXT);
        let (mut new, mut late) = (end > next, false);
        for index in 0..MAX_GAPS {
            let gap = self.gap(index);
            let (from, to) = (gap.get(gap::START), gap.get(gap::END));
            if from >= to || start >= to || end <= from {
                continue;
            }
            if gap.get(gap::SINCE_NS) == 0 {
                late = true;
                continue;
            }
            new = true;
            self.fill(index, start, end, tally);
        }
        if end > next {
            if start > next {
                self.open_gap(next, start, now_ns, tally);
            }
            self.words.set(session::NEXT, end);
        }
        if new {
            self.lead(leg, now_ns);
            let epoch = self.words.get(session::ID);
            return Verdict::Leave(Some(Place { epoch, number: start, next: end }));
        }
        if self.words.get(session::LEADER) == leg as u64 {
            self.words.set(session::LED_NS, now_ns);
        }
        if late { Verdict::TooLate } else { Verdict::Duplicate }
    }

    /// Removes messages from a gap; from its middle, two gaps are left.
    fn fill(&self, index: usize, start: u64, end: u64, tally: &mut Tally) {
        let gap = self.gap(index);
        let (from, to, since) = (gap.get(gap::START), gap.get(gap::END), gap.get(gap::SINCE_NS));
        if start <= from {
            gap.set(gap::START, end.min(to));
            return;
        }
        gap.set(gap::END, start);
        if end < to {
            self.open_gap(end, to, since, tally);
        }
    }

    /// Opens a gap in the place of one that is closed, else of one that was given up, else of the oldest, which is given up.
    fn open_gap(&self, start: u64, end: u64, since_ns: u64, tally: &mut Tally) {
        let rank = |index: &usize| {
            let gap = self.gap(*index);
            let open = gap.get(gap::START) < gap.get(gap::END);
            if open { (1 + u64::from(gap.get(gap::SINCE_NS) > 0), gap.get(gap::START)) } else { (0, 0) }
        };
        let Some(index) = (0..MAX_GAPS).min_by_key(rank) else { return };
        let gap = self.gap(index);
        if rank(&index).0 == 2 {
            tally.settle(0, self.legs, gap.get(gap::END) - gap.get(gap::START));
        }
        gap.set(gap::START, start);
        gap.set(gap::END, end);
        gap.set(gap::SINCE_NS, since_ns.max(1));
    }

    fn give_up(&self, now_ns: u64, tally: &mut Tally) {
        for index in 0..MAX_GAPS {
            let gap = self.gap(index);
            let (from, to, since) = (gap.get(gap::START), gap.get(gap::END), gap.get(gap::SINCE_NS));
            if from < to && since != 0 && now_ns.saturating_sub(since) > self.window_ns {
                gap.set(gap::SINCE_NS, 0);
                tally.settle(0, self.legs, to - from);
            }
        }
    }
}

/// The name of a session as two words.
fn name_of(session: &[u8; 10]) -> (u64, u64) {
    let [a, b, c, d, e, f, g, h, i, j] = *session;
    (u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from(i) | u64::from(j) << 8)
}
