//! The trace ring: the outcome of single datagrams of one rule in one worker, as records of fixed size in a sealed memfd. The
//! worker writes without waiting; the reader copies records, and detects overwritten ones by their sequence numbers.
//!
//! ```text
//!  word 0    16                    16 + 32·CAPACITY
//!  ├─ header ┼─ record ┼─ record ┼ … ┤      record n has index n mod CAPACITY
//!  │ written │ n + 1, or 0 while it is written │ event │ addresses │ first bytes of the frame │
//! ```
//!
//! The supervisor creates a ring for each worker of a traced rule. Like the telemetry page, it belongs to the supervisor: a
//! worker's replacement continues after the last record.

mod record;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering, fence};

use mcr_rules::RuleId;
use mcr_sys::shared_memory::{ReadOnlyWords, WritableWords};
use serde::{Deserialize, Serialize};

use self::record::{FRAME_AT, RECORD_WORDS};
pub use self::record::{FRAME_BYTES, Flow, TraceEvent, TraceRecord, Words};

/// Number of records in a ring: more than the default limit of a trace, so that no record of it is overwritten.
pub const CAPACITY: u64 = 16_384;
/// Maximum number of rules that a worker traces concurrently; a ring takes up to 4 MiB.
pub const MAX_TRACES: usize = 16;

const MAGIC: u64 = u64::from_le_bytes(*b"MCRTRACE");
const HEADER_WORDS: usize = 16;
#[expect(clippy::cast_possible_truncation, reason = "a constant")]
pub(crate) const RING_WORDS: usize = HEADER_WORDS + RECORD_WORDS * CAPACITY as usize;

/// Words of the header.
mod header {
    pub(super) const MAGIC: usize = 0;
    pub(super) const WRITTEN: usize = 1;
    pub(super) const ARRIVALS: usize = 2;
    pub(super) const SAMPLED: usize = 3;
    pub(super) const UNRECORDED: usize = 4;
    pub(super) const RUNS: usize = 5;
    pub(super) const FULL: usize = 6;
}

/// The parameters of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRequest {
    /// The rule.
    pub rule: RuleId,
    /// One of `sample` arrivals is traced, by counting; at least 1.
    pub sample: u32,
    /// Record only skips and drops.
    pub drops_only: bool,
    /// Maximum number of records in the ring.
    pub max_records: u64,
}

/// Creates a zeroed ring.
///
/// # Errors
/// The memfd can't be created.
pub fn create_ring() -> mcr_sys::Result<OwnedFd> {
    WritableWords::create("mcr-trace", RING_WORDS)
}

fn record_at(number: u64) -> usize {
    let index = (number % CAPACITY) as usize;
    HEADER_WORDS + index * RECORD_WORDS
}

/// The worker's side of a ring: the only writer.
#[derive(Debug)]
pub struct RingWriter {
    words: WritableWords,
    max_records: u64,
}

impl RingWriter {
    /// Maps a ring that the supervisor created, and continues after its last record.
    ///
    /// # Errors
    /// The descriptor is not a sealed memfd of a ring's size.
    pub fn map(ring: &OwnedFd, max_records: u64) -> mcr_sys::Result<Self> {
        let writer = Self { words: WritableWords::map(ring.as_fd(), RING_WORDS)?, max_records };
        writer.set(header::MAGIC, MAGIC);
        Ok(writer)
    }

    fn word(&self, index: usize) -> Option<&AtomicU64> {
        self.words.words().get(index)
    }

    fn get(&self, index: usize) -> u64 {
        self.word(index).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn set(&self, index: usize, value: u64) {
        if let Some(word) = self.word(index) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn add(&self, index: usize) -> u64 {
        let sum = self.get(index).wrapping_add(1);
        self.set(index, sum);
        sum
    }

    /// Whether the limit of records is reached.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.get(header::FULL) != 0
    }

    /// Counts an arrival. Returns its number, from 1.
    pub fn count_arrival(&self) -> u64 {
        self.add(header::ARRIVALS)
    }

    /// Counts a traced arrival.
    pub fn count_sampled(&self) {
        self.add(header::SAMPLED);
    }

    /// Counts a send whose outcome is not recorded.
    pub fn count_unrecorded(&self) {
        self.add(header::UNRECORDED);
    }

    /// Returns the number of the next run, from 1; unique in the ring across writers.
    pub fn next_run(&self) -> u64 {
        self.add(header::RUNS)
    }

    /// Writes a record, with or without the frame's first bytes.
    pub fn write(&self, record: &Words, with_frame: bool) {
        let number = self.get(header::WRITTEN);
        if number >= self.max_records {
            self.set(header::FULL, 1);
            return;
        }
        let at = record_at(number);
        let used = if with_frame { RECORD_WORDS } else { FRAME_AT };
        let Some(record_words) = self.words.words().get(at..at + used) else { return };
        let Some((sequence, words)) = record_words.split_first() else { return };
        // A reader that sees a word written below also sees that the record is being replaced.
        sequence.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, value) in words.iter().zip(record.content(with_frame)) {
            word.store(value, Ordering::Relaxed);
        }
        sequence.store(number + 1, Ordering::Release);
        if let Some(written) = self.word(header::WRITTEN) {
            written.store(number + 1, Ordering::Release);
        }
        if number + 1 == self.max_records {
            self.set(header::FULL, 1);
        }
    }
}

/// The state of a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingState {
    /// Number of records written since the ring was created.
    pub written: u64,
    /// Number of arrivals for the rule: frames, each with one datagram or those of a super-frame.
    pub arrivals: u64,
    /// Number of traced arrivals.
    pub sampled: u64,
    /// Number of sends whose outcome was not recorded, because too many were in flight.
    pub unrecorded: u64,
    /// The limit of records is reached.
    pub full: bool,
}

/// The result of reading a ring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Records with their numbers, in order.
    pub records: Vec<(u64, TraceRecord)>,
    /// Number of records that were overwritten before they were read, or not completed by a worker that died.
    pub lost: u64,
    /// The number at which to continue reading.
    pub next: u64,
    /// More records are available.
    pub more: bool,
}

/// The supervisor's side of a ring.
#[derive(Debug)]
pub struct RingReader {
    words: ReadOnlyWords,
}

impl RingReader {
    /// Maps a ring for reading.
    ///
    /// # Errors
    /// The descriptor is not a sealed memfd of a ring's size.
    pub fn map(ring: BorrowedFd<'_>) -> mcr_sys::Result<Self> {
        Ok(Self { words: ReadOnlyWords::map(ring, RING_WORDS)? })
    }

    /// Reads the ring's state.
    #[must_use]
    pub fn state(&self) -> RingState {
        let get = |word| self.words.load(word);
        RingState {
            written: get(header::WRITTEN),
            arrivals: get(header::ARRIVALS),
            sampled: get(header::SAMPLED),
            unrecorded: get(header::UNRECORDED),
            full: get(header::FULL) != 0,
        }
    }

    /// Copies at most `limit` records, starting at a number. Never panics, regardless of the content of the ring.
    #[must_use]
    pub fn read(&self, from: u64, limit: usize) -> Reading {
        let written = self.state().written;
        let start = from.max(written.saturating_sub(CAPACITY)).min(written);
        let mut reading = Reading { lost: start.saturating_sub(from), next: start, ..Reading::default() };
        while reading.next < written && reading.records.len() < limit {
            match self.copy(reading.next) {
                Some(record) => reading.records.push((reading.next, record)),
                None => reading.lost += 1,
            }
            reading.next += 1;
        }
        reading.more = reading.next < written;
        reading
    }

    fn copy(&self, number: u64) -> Option<TraceRecord> {
        let at = record_at(number);
        let is_this = || self.words.load(at) == number.wrapping_add(1);
        if !is_this() {
            return None;
        }
        let words = Words::copied(|index| self.words.load(at + index));
        // The loads above are acquire loads, so this one is not reordered before them.
        is_this().then(|| TraceRecord::decode(&words))?
    }
}

#[cfg(test)]
mod tests;
