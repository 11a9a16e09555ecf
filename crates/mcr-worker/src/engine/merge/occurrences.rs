//! Occurrences of payloads in the last window: a copy matches the oldest occurrence that its leg has not delivered, else it is new. So
//! a sender may repeat itself (A: P, P; B: P, P are two datagrams), and no leg can send a datagram twice.
//!
//! ```text
//!  buckets: hash ─▶ newest entry ─▶ the one before with this bucket ─▶ …
//!  entries: tail (oldest) … head     hash │ time, legs, distance to the one before
//! ```
//!
//! Bounded: with no room, the oldest occurrence is settled before its time.

use super::tally::Tally;
use super::words::Words;

/// Entries for what has no number in a numbered stream: control packets, junk.
pub(crate) const FEW: usize = 512;
/// Entries of a rule that merges by payload: 50 ms of 300,000 datagrams per second.
pub(crate) const MANY: usize = 16 * 1_024;
/// The most occurrences that are compared for one datagram.
const MAX_COMPARED: usize = 64;

const HEAD: usize = 0;
const TAIL: usize = 1;
const ENTRIES_AT: usize = 8;

const LINK_BITS: u32 = 20;
const LEGS_BITS: u32 = 4;
const LINK_MASK: u64 = (1 << LINK_BITS) - 1;
const _: () = assert!(MANY < 1 << LINK_BITS, "a distance does not fit");

/// The words that a table takes.
pub(crate) const fn words_of(capacity: usize) -> usize {
    ENTRIES_AT + 3 * capacity
}

/// See the module documentation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occurrences<'a> {
    words: Words<'a>,
    /// A power of two.
    capacity: usize,
    legs: usize,
    window_us: u64,
    /// Whether what is lost on a leg is counted.
    counted: bool,
}

/// One occurrence.
#[derive(Clone, Copy)]
struct Entry {
    time_us: u64,
    legs: u8,
    /// How many entries before it the one before of its bucket is; 0: none.
    link: u64,
}

impl Entry {
    #[expect(clippy::cast_possible_truncation, reason = "the field has four bits")]
    const fn of(word: u64) -> Self {
        Self {
            time_us: word >> (LINK_BITS + LEGS_BITS),
            legs: (word >> LINK_BITS) as u8 & 0xf,
            link: word & LINK_MASK,
        }
    }

    const fn word(self) -> u64 {
        self.time_us << (LINK_BITS + LEGS_BITS)
            | (self.legs as u64 & 0xf) << LINK_BITS
            | self.link & LINK_MASK
    }
}

impl<'a> Occurrences<'a> {
    pub(crate) const fn new(
        words: Words<'a>,
        capacity: usize,
        (legs, window_us): (usize, u64),
        counted: bool,
    ) -> Self {
        Self { words, capacity, legs, window_us, counted }
    }

    /// Records a copy. Returns whether it is the first of its datagram.
    pub(crate) fn record(&self, hash: u64, leg: usize, now_us: u64, tally: &mut Tally) -> bool {
        let bit = 1 << leg;
        let tail = self.words.get(TAIL);
        let newest = self.words.get(self.bucket(hash)).checked_sub(1).filter(|newest| *newest >= tail);
        let (mut at, mut oldest) = (newest, None);
        for _ in 0..MAX_COMPARED {
            let Some(index) = at else { break };
            let entry = self.entry(index);
            if entry.time_us + self.window_us < now_us {
                break;
            }
            if self.words.get(self.place(index)) == hash && entry.legs & bit == 0 {
                oldest = Some((index, entry));
            }
            at = index.checked_sub(entry.link).filter(|before| entry.link > 0 && *before >= tail);
        }
        if let Some((index, entry)) = oldest {
            self.words.set(self.place(index) + 1, Entry { legs: entry.legs | bit, ..entry }.word());
            let skew = now_us.saturating_sub(entry.time_us);
            tally.skew(leg, u32::try_from(skew).unwrap_or(u32::MAX));
            return false;
        }
        self.add(hash, (bit, now_us), newest, tally);
        tally.skew(leg, 0);
        true
    }

    fn add(&self, hash: u64, (legs, time_us): (u8, u64), before: Option<u64>, tally: &mut Tally) {
        let head = self.words.get(HEAD);
        if head - self.words.get(TAIL) >= self.capacity as u64 {
            self.settle_oldest(tally);
        }
        let link = before.map_or(0, |before| head - before);
        self.words.set(self.place(head), hash);
        self.words.set(self.place(head) + 1, Entry { time_us, legs, link: link & LINK_MASK }.word());
        self.words.set(self.bucket(hash), head + 1);
        self.words.set(HEAD, head + 1);
    }

    /// Settles the occurrences that the window has left behind.
    pub(crate) fn settle(&self, now_us: u64, tally: &mut Tally) {
        while self.words.get(TAIL) < self.words.get(HEAD)
            && self.entry(self.words.get(TAIL)).time_us + self.window_us < now_us
        {
            self.settle_oldest(tally);
        }
    }

    fn settle_oldest(&self, tally: &mut Tally) {
        let tail = self.words.get(TAIL);
        if self.counted {
            tally.settle(self.entry(tail).legs, self.legs, 1);
        }
        self.words.set(TAIL, tail + 1);
    }

    fn entry(&self, index: u64) -> Entry {
        Entry::of(self.words.get(self.place(index) + 1))
    }

    /// The first word of an entry.
    #[expect(clippy::cast_possible_truncation, reason = "it is taken modulo the capacity")]
    const fn place(&self, index: u64) -> usize {
        ENTRIES_AT + 2 * (index as usize & (self.capacity - 1))
    }

    #[expect(clippy::cast_possible_truncation, reason = "it is taken modulo the capacity")]
    const fn bucket(&self, hash: u64) -> usize {
        ENTRIES_AT + 2 * self.capacity + (hash as usize & (self.capacity - 1))
    }
}
