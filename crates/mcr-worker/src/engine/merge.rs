//! Merging of the legs of a feed (SMPTE ST 2022-7, A/B market data): which copy of a datagram leaves.
//!
//! ```text
//!  leg, payload, time ─▶ Merge::judge ─┬─ by RTP number      ring of slots by sequence number      [`rtp`]
//!                                      ├─ by MoldUDP64 message   next message, and gaps            [`mold`]
//!                                      └─ by payload         occurrences of a hash                 [`occurrences`]
//!                       Merge::settle ─▶ what the window has left behind: lost, unique               [`tally`]
//! ```
//!
//! Pure: no clock, no system call, no allocation. The state is a region of 64-bit words in the worker's shared memory, so that a
//! replacement of the worker continues it, and neither a kill nor another rule set makes a duplicate. [`order`] holds what is behind a
//! gap, for rules that relay in order; that is in the worker's own memory.

pub(crate) mod hash;
pub(crate) mod mold;
pub(crate) mod occurrences;
pub(crate) mod order;
pub(crate) mod rtp;
pub(crate) mod tally;
pub(crate) mod words;

use mcr_link::telemetry::merges::{MAX_LEGS, REGION_WORDS};
use mcr_rules::MergeBy;
use mcr_wire::mold::{MoldContent, parse_mold};
use mcr_wire::rtp::{RtpHeader, parse_rtp};

use self::hash::hash;
use self::mold::Mold;
use self::occurrences::Occurrences;
use self::rtp::Rtp;
use self::tally::Tally;
use self::words::Words;

/// Layout of a region: the merge's own header, the header of its method, occurrences of payloads, rings.
const METHOD_AT: usize = 8;
const COMPARED_AT: usize = 512;
const OCCURRENCES_AT: usize = 1_024;
const RINGS_AT: usize = 4 * 1_024;

/// The payloads of one RTP packet in this number are compared, and this number of them at a time.
const COMPARE_EVERY: u16 = 16;
const COMPARED: u16 = 256;
const _: () = assert!(COMPARED_AT + 2 * COMPARED as usize <= OCCURRENCES_AT, "no room");

/// Words of the merge's own header.
pub(crate) mod header {
    /// What the payload hash is keyed with; not 0 once the region is in use.
    pub(crate) const KEY: usize = 0;
}

const _: () = assert!(RINGS_AT + 2 * rtp::MAX_SLOTS <= REGION_WORDS, "the rings do not fit");
const _: () = assert!(OCCURRENCES_AT + occurrences::words_of(occurrences::FEW) <= RINGS_AT, "no room");
const _: () = assert!(OCCURRENCES_AT + occurrences::words_of(occurrences::MANY) <= REGION_WORDS, "no room");

/// What happens to a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It leaves; with its place in the stream, if that has an order.
    Leave(Option<Place>),
    /// It left before.
    Duplicate,
    /// Its time is over: the window has passed it.
    TooLate,
    /// It is of another stream than the rule's.
    OtherStream,
}

/// A place in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Places of different epochs can't be compared.
    pub(crate) epoch: u64,
    pub(crate) number: u64,
    /// The number that follows.
    pub(crate) next: u64,
}

/// A copy of a datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copied<'a> {
    /// The index of its leg, below [`MAX_LEGS`].
    pub(crate) leg: usize,
    pub(crate) payload: &'a [u8],
    /// Monotonic time.
    pub(crate) now_ns: u64,
}

/// A merge: how, and its state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Merge<'a> {
    pub(crate) by: MergeBy,
    pub(crate) legs: usize,
    pub(crate) window_ns: u64,
    pub(crate) region: Words<'a>,
}

impl<'a> Merge<'a> {
    /// Decides on a copy, and records it.
    pub(crate) fn judge(&self, copy: &Copied<'_>, tally: &mut Tally) -> Verdict {
        let Copied { leg, payload, now_ns } = *copy;
        match self.by {
            MergeBy::Rtp => match parse_rtp(payload) {
                Some(header) => {
                    let verdict = self.rtp().judge(leg, &header, now_ns, tally);
                    self.compare(&header, payload, verdict, tally);
                    verdict
                }
                None => self.by_payload(copy, occurrences::FEW, false, tally),
            },
            MergeBy::Moldudp64 => match parse_mold(payload) {
                Some(header) => {
                    if matches!(header.content, MoldContent::Messages(_)) {
                        let number = hash(payload.get(..mold::NUMBER_BYTES).unwrap_or_default(), self.key());
                        self.occurrences(occurrences::MANY, true).record(number, leg, now_ns / 1_000, tally);
                    }
                    self.mold().judge(leg, &header, now_ns, tally)
                }
                None => self.by_payload(copy, occurrences::MANY, true, tally),
            },
            MergeBy::Payload => self.by_payload(copy, occurrences::MANY, true, tally),
        }
    }

    /// Counts what the window has left behind.
    pub(crate) fn settle(&self, now_ns: u64, tally: &mut Tally) {
        let few = self.by == MergeBy::Rtp;
        let capacity = if few { occurrences::FEW } else { occurrences::MANY };
        self.occurrences(capacity, !few).settle(now_ns / 1_000, tally);
        match self.by {
            MergeBy::Rtp => self.rtp().settle(now_ns, tally),
            MergeBy::Moldudp64 => self.mold().settle(now_ns, tally),
            MergeBy::Payload => {}
        }
    }

    fn rtp(&self) -> Rtp<'a> {
        let (header, rings) = (self.region.from(METHOD_AT), self.region.from(RINGS_AT));
        Rtp { header, rings, legs: self.legs, window_ns: self.window_ns }
    }

    fn mold(&self) -> Mold<'a> {
        Mold { header: self.region.from(METHOD_AT), legs: self.legs, window_ns: self.window_ns }
    }

    fn occurrences(&self, capacity: usize, counted: bool) -> Occurrences<'a> {
        let words = self.region.from(OCCURRENCES_AT);
        Occurrences::new(words, capacity, (self.legs, self.window_ns / 1_000), counted)
    }

    fn by_payload(&self, copy: &Copied<'_>, capacity: usize, counted: bool, tally: &mut Tally) -> Verdict {
        let table = self.occurrences(capacity, counted);
        let hash = hash(copy.payload, self.key());
        match table.record(hash, copy.leg, copy.now_ns / 1_000, tally) {
            true => Verdict::Leave(None),
            false => Verdict::Duplicate,
        }
    }

    /// What payloads are hashed with.
    fn key(&self) -> u64 {
        self.region.get(header::KEY)
    }

    /// Compares the payloads of the copies of one packet in [`COMPARE_EVERY`].
    fn compare(&self, header: &RtpHeader, payload: &[u8], verdict: Verdict, tally: &mut Tally) {
        if !header.sequence.is_multiple_of(COMPARE_EVERY) {
            return;
        }
        let place = COMPARED_AT + 2 * usize::from(header.sequence / COMPARE_EVERY % COMPARED);
        let name = 1 << 63 | u64::from(header.timestamp) << 16 | u64::from(header.sequence);
        match verdict {
            Verdict::Leave(_) => {
                self.region.set(place, name);
                self.region.set(place + 1, hash(payload, self.key()));
            }
            Verdict::Duplicate if self.region.get(place) == name => {
                tally.differing += u64::from(self.region.get(place + 1) != hash(payload, self.key()));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
