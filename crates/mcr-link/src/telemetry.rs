//! The telemetry page: 64-bit words in a sealed memfd that one worker writes and the supervisor reads. It belongs to the
//! supervisor, so counters persist when a worker exits, and its replacement continues to count in it.
//!
//! ```text
//!  word 0            128                      128 + 16·MAX_RULES           + 24·MAX_OUTPUTS
//!  ├─ header ────────┼─ rule slots, 16 words ─┼─ output slots, 24 words ───┼─ flows, 16 words ─┼─ skip records ─┤
//!  │ identity, beat, │ packets bytes due      │ packets bytes last_errno   │ see [`flows`]     │ see [`skips`]  │
//!  │ totals, skips,  │ first last skipped     │ – drops by reason          │                   │                │
//!  │ drops, latency  │ health                 │                            │                   │                │
//! ```
//!
//! Behind the skip records are those of merges ([`merges`]), and, for a worker of linked interfaces, their regions.
//!
//! The file is sparse: only slots in use take memory. Each word has one writer, so counting is a relaxed load and store. Words
//! are read atomically; several words are consistent only while no datagram is in flight.

pub mod flows;
pub mod health;
pub mod latency;
pub mod merges;
pub mod skips;
mod snapshots;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mcr_sys::clock;
use mcr_sys::shared_memory::{self, ReadOnlyWords, WritableWords};

use crate::message::{IoBackend, LINK_VERSION};
use crate::reason::{DropReason, SkipReason};
use crate::rule_set::{OutputSlot, RuleSlot};

use self::flows::{FLOW_WORDS, MAX_FLOWS};
use self::health::HEALTH_WORDS;
use self::merges::{MERGE_WORDS, REGION_WORDS};
use self::skips::SKIP_WORDS;
pub use self::snapshots::{AuditSnapshot, OutputSnapshot, RuleSnapshot, TotalsSnapshot, WorkerSnapshot};

/// Number of rule slots in a page: the maximum number of rules of a configuration.
pub const MAX_RULES: u32 = 16_384;
/// Number of output slots in a page: the maximum number of outputs of a configuration.
pub const MAX_OUTPUTS: u32 = 65_536;

const MAGIC: u64 = u64::from_le_bytes(*b"MCR-TELE");
const HEADER_WORDS: usize = 128;
const RULE_WORDS: usize = 16;
const OUTPUT_WORDS: usize = 24;
const RULES_AT: usize = HEADER_WORDS;
const OUTPUTS_AT: usize = RULES_AT + RULE_WORDS * MAX_RULES as usize;
const FLOWS_AT: usize = OUTPUTS_AT + OUTPUT_WORDS * MAX_OUTPUTS as usize;
const RULE_SKIPS_AT: usize = FLOWS_AT + FLOW_WORDS * (MAX_FLOWS as usize + 1);
const MERGES_AT: usize = RULE_SKIPS_AT + SKIP_WORDS * MAX_RULES as usize;
/// The page's size in 64-bit words, without regions.
pub const PAGE_WORDS: usize = MERGES_AT + MERGE_WORDS * MAX_RULES as usize;

/// Words of the header.
mod header {
    pub(super) const MAGIC: usize = 0;
    pub(super) const VERSION: usize = 1;
    pub(super) const PID: usize = 2;
    pub(super) const IO_BACKEND: usize = 3;
    pub(super) const GENERATION: usize = 4;
    pub(super) const HASH: usize = 5;
    pub(super) const HEARTBEAT: usize = 6;
    pub(super) const BEAT_AT: usize = 7;
    pub(super) const AUDIT_GENERATION: usize = 8;
    pub(super) const AUDIT_HASH: usize = 9;
    pub(super) const AUDITS: usize = 10;
    pub(super) const FLOWS_USED: usize = 11;
    /// The number of datagrams whose fragments are being put together.
    pub(super) const UNDER_WAY: usize = 12;
    /// The number of datagrams that merges hold.
    pub(super) const HELD: usize = 13;
    pub(super) const TOTALS: usize = 16;
    pub(super) const SKIPS: usize = 32;
    pub(super) const DROPS: usize = 64;
    pub(super) const LATENCY: usize = 96;
}

const _: () = {
    assert!(header::SKIPS + SkipReason::COUNT <= header::DROPS, "skip counters overlap drop counters");
    assert!(header::DROPS + DropReason::COUNT <= header::LATENCY, "drop counters overlap the histogram");
    assert!(output::DROPS + DropReason::COUNT <= output::REPLIES, "drop counters overlap the replies");
    assert!(output::REPLIES < OUTPUT_WORDS, "an output slot is too small");
    assert!(rule::HEALTH + HEALTH_WORDS <= rule::MERGED, "a rule slot is too small");
    assert!(rule::MERGED < RULE_WORDS, "a rule slot is too small");
    assert!(flows::flow::HEALTH + HEALTH_WORDS <= FLOW_WORDS, "a flow's record is too small");
};

/// Words of a rule slot.
mod rule {
    pub(super) const PACKETS: usize = 0;
    pub(super) const BYTES: usize = 1;
    pub(super) const DUE: usize = 2;
    pub(super) const FIRST: usize = 3;
    pub(super) const LAST: usize = 4;
    /// The rule's id, by which a replacement of the worker identifies it.
    pub(super) const ID: usize = 5;
    /// The index of the last datagram's flow, plus 1.
    pub(super) const CURRENT: usize = 6;
    /// The number of its skips; those are in its skip record.
    pub(super) const SKIPPED: usize = 7;
    pub(super) const HEALTH: usize = 8;
    /// Datagrams that came in a frame with others, without the first of each frame.
    pub(super) const MERGED: usize = 15;
}

/// Words of an output slot.
mod output {
    pub(super) const PACKETS: usize = 0;
    pub(super) const BYTES: usize = 1;
    pub(super) const LAST_ERRNO: usize = 2;
    pub(super) const DUE: usize = 3;
    pub(super) const DROPS: usize = 4;
    pub(super) const REPLIES: usize = 23;
}

/// A total over all of a worker's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Total {
    /// Frames taken from the capture socket; a super-frame is one.
    Frames,
    /// Datagrams in them; a frame that can't be parsed counts as one. Of fragments that are put together, their datagram counts,
    /// when it is complete or given up.
    Received,
    /// Datagrams that matched at least one rule.
    Matched,
    /// Datagrams to be sent: for each match, the number of outputs.
    Due,
    /// Datagrams sent.
    Sent,
    /// Frames whose fragments were taken to be put together.
    Fragments,
    /// Datagrams put together.
    Reassembled,
}

impl Total {
    const ALL: [Self; 7] = [
        Self::Frames,
        Self::Received,
        Self::Matched,
        Self::Due,
        Self::Sent,
        Self::Fragments,
        Self::Reassembled,
    ];
}

/// Creates a zeroed page, to be passed to a worker.
///
/// # Errors
/// The memfd can't be created.
pub fn create_page() -> mcr_sys::Result<OwnedFd> {
    create_merging_page(0)
}

/// Creates a zeroed page with regions for this number of merges, to be passed to a worker of linked interfaces.
///
/// # Errors
/// The memfd can't be created.
pub fn create_merging_page(regions: usize) -> mcr_sys::Result<OwnedFd> {
    WritableWords::create("mcr-telemetry", PAGE_WORDS + regions * REGION_WORDS)
}

fn rule_words_limit(slot: RuleSlot) -> usize {
    slot.0.min(MAX_RULES - 1) as usize
}

fn rule_word(slot: RuleSlot, word: usize) -> usize {
    RULES_AT + rule_words_limit(slot) * RULE_WORDS + word
}

fn output_word(slot: OutputSlot, word: usize) -> usize {
    OUTPUTS_AT + slot.0.min(MAX_OUTPUTS - 1) as usize * OUTPUT_WORDS + word
}

/// The worker's side of a page: the only writer.
#[derive(Debug)]
pub struct PageWriter {
    words: WritableWords,
}

impl PageWriter {
    /// Maps a page that the supervisor created, writes the worker's identity, and counts datagrams that a predecessor received
    /// but did not match as skipped (`worker_died`). Outputs follow with the first rule set ([`Self::settle_output`]).
    ///
    /// # Errors
    /// The descriptor is not a sealed memfd of the page's size.
    pub fn map(page: &OwnedFd, pid: u32, io: IoBackend) -> mcr_sys::Result<Self> {
        let writer = Self { words: WritableWords::map_at_least(page.as_fd(), PAGE_WORDS)? };
        writer.set(header::MAGIC, MAGIC);
        writer.set(header::VERSION, u64::from(LINK_VERSION));
        writer.set(header::GENERATION, 0);
        writer.set(header::HASH, 0);
        writer.set(header::IO_BACKEND, io as u64 + 1);
        writer.set(header::PID, u64::from(pid));
        writer.set(header::AUDIT_GENERATION, 0);
        writer.set(header::AUDITS, 0);
        writer.settle();
        Ok(writer)
    }

    fn settle(&self) {
        self.count(Total::Received, self.get(header::UNDER_WAY));
        self.set(header::UNDER_WAY, 0);
        self.set(header::HELD, 0);
        let skips: u64 = SkipReason::ALL.iter().map(|r| self.get(header::SKIPS + r.index())).sum();
        let known = self.total(Total::Matched) + skips;
        let lost = self.total(Total::Received).saturating_sub(known);
        self.skip(SkipReason::WorkerDied, lost);
    }

    /// Settles an output after a predecessor died: datagrams that were due and neither sent nor dropped are counted as
    /// `worker_died`. Called for each output of a worker's first rule set, before its first datagram.
    pub fn settle_output(&self, slot: OutputSlot) {
        let drops: u64 =
            DropReason::ALL.iter().map(|r| self.get(output_word(slot, output::DROPS + r.index()))).sum();
        let settled = self.get(output_word(slot, output::PACKETS)) + drops;
        let lost = self.get(output_word(slot, output::DUE)).saturating_sub(settled);
        self.dropped(slot, DropReason::WorkerDied, lost, 0);
    }

    /// Settles the totals after all outputs: the rest was due on outputs that have been removed.
    pub fn settle_totals(&self) {
        let drops: u64 = DropReason::ALL.iter().map(|r| self.get(header::DROPS + r.index())).sum();
        let settled = self.total(Total::Sent) + drops;
        let lost = self.total(Total::Due).saturating_sub(settled);
        self.add(header::DROPS + DropReason::WorkerDied.index(), lost);
    }

    #[inline]
    fn word(&self, index: usize) -> Option<&AtomicU64> {
        self.words.words().get(index)
    }

    #[inline]
    fn get(&self, index: usize) -> u64 {
        self.word(index).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    #[inline]
    fn set(&self, index: usize, value: u64) {
        if let Some(word) = self.word(index) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// With a single writer, a load and a store suffice, without an atomic read-modify-write.
    #[inline]
    fn add(&self, index: usize, n: u64) {
        if let Some(word) = self.word(index) {
            word.store(word.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
        }
    }

    /// Adds to a total.
    #[inline]
    pub fn count(&self, total: Total, n: u64) {
        self.add(header::TOTALS + total as usize, n);
    }

    /// Returns a total, including the counts of predecessors.
    #[must_use]
    pub fn total(&self, total: Total) -> u64 {
        self.get(header::TOTALS + total as usize)
    }

    /// Publishes how many datagrams are being put together: if the worker dies, they are lost.
    pub fn set_under_way(&self, datagrams: u64) {
        self.set(header::UNDER_WAY, datagrams);
    }

    /// Counts datagrams that were received but not matched.
    #[inline]
    pub fn skip(&self, reason: SkipReason, n: u64) {
        self.add(header::SKIPS + reason.index(), n);
    }

    /// Counts datagrams that a rule matched, their payload bytes, and the sends due for them on all its outputs.
    /// The caller counts [`Total::Matched`], since a datagram may match several rules.
    #[inline]
    pub fn matched(&self, slot: RuleSlot, packets: u64, bytes: u64, due: u64) {
        self.add(rule_word(slot, rule::PACKETS), packets);
        self.add(rule_word(slot, rule::BYTES), bytes);
        self.add(rule_word(slot, rule::DUE), due);
    }

    /// Counts datagrams of a rule that came in a frame with others, without the first of each frame; they are among those of
    /// [`Self::matched`].
    #[inline]
    pub fn merged(&self, slot: RuleSlot, datagrams: u64) {
        self.add(rule_word(slot, rule::MERGED), datagrams);
    }

    /// Counts datagrams due on an output; each is later counted by [`Self::sent`] or [`Self::dropped`].
    #[inline]
    pub fn due(&self, slot: OutputSlot, packets: u64) {
        self.count(Total::Due, packets);
        self.add(output_word(slot, output::DUE), packets);
    }

    /// Counts datagrams sent on an output, and their payload bytes.
    #[inline]
    pub fn sent(&self, slot: OutputSlot, packets: u64, bytes: u64) {
        self.count(Total::Sent, packets);
        self.add(output_word(slot, output::PACKETS), packets);
        self.add(output_word(slot, output::BYTES), bytes);
    }

    /// Counts datagrams not sent on an output; `errno` 0 if no system call failed.
    #[inline]
    pub fn dropped(&self, slot: OutputSlot, reason: DropReason, packets: u64, errno: i32) {
        self.add(header::DROPS + reason.index(), packets);
        self.add(output_word(slot, output::DROPS + reason.index()), packets);
        if errno != 0 {
            self.set(output_word(slot, output::LAST_ERRNO), u64::from(errno.unsigned_abs()));
        }
    }

    /// Counts datagrams that came back to the socket of an output.
    pub fn replied(&self, slot: OutputSlot, datagrams: u64) {
        self.add(output_word(slot, output::REPLIES), datagrams);
    }

    /// Publishes which rule set is in force.
    pub fn applied(&self, generation: u64, hash: u64) {
        self.set(header::HASH, hash);
        self.set(header::GENERATION, generation);
    }

    /// Records a heartbeat and its time.
    #[inline]
    pub fn beat(&self) {
        self.set(header::BEAT_AT, clock::monotonic_ns());
        self.add(header::HEARTBEAT, 1);
    }

    /// Publishes the hash of the table in use ([`crate::rule_set::table_hash`]) and its generation.
    pub fn audited(&self, generation: u64, hash: u64) {
        // A reader that sees a new hash does not see an older generation: it was 0 in between.
        self.set(header::AUDIT_GENERATION, 0);
        for (index, value) in [(header::AUDIT_HASH, hash), (header::AUDIT_GENERATION, generation)] {
            if let Some(word) = self.word(index) {
                word.store(value, Ordering::Release);
            }
        }
        self.add(header::AUDITS, 1);
    }
}

/// The supervisor's side of a page.
#[derive(Debug)]
pub struct PageReader {
    words: ReadOnlyWords,
}

impl PageReader {
    /// Maps a page for reading.
    ///
    /// # Errors
    /// The descriptor is not a sealed memfd of the page's size.
    pub fn map(page: BorrowedFd<'_>) -> mcr_sys::Result<Self> {
        Ok(Self { words: ReadOnlyWords::map_start(page, PAGE_WORDS)? })
    }

    fn get(&self, index: usize) -> u64 {
        self.words.load(index)
    }

    /// Reads the worker's identity, state and totals.
    #[must_use]
    pub fn worker(&self) -> WorkerSnapshot {
        // Outcomes are read before `due`, so that `due ≥ sent + drops` while sends are in flight.
        let drops = DropReason::ALL.map(|r| self.get(header::DROPS + r.index()));
        let sent = self.get(header::TOTALS + Total::Sent as usize);
        let due = self.get(header::TOTALS + Total::Due as usize);
        let skips = SkipReason::ALL.map(|r| self.get(header::SKIPS + r.index()));
        let held = self.get(header::HELD);
        let [frames, received, matched, _, _, fragments, reassembled] =
            Total::ALL.map(|t| self.get(header::TOTALS + t as usize));
        WorkerSnapshot {
            version: u32::try_from(self.get(header::VERSION)).unwrap_or(u32::MAX),
            pid: u32::try_from(self.get(header::PID)).unwrap_or_default(),
            io: match self.get(header::IO_BACKEND) {
                1 => Some(IoBackend::IoUring),
                2 => Some(IoBackend::Recvmmsg),
                _ => None,
            },
            generation: self.get(header::GENERATION),
            hash: self.get(header::HASH),
            heartbeat: self.get(header::HEARTBEAT),
            beat_at: Duration::from_nanos(self.get(header::BEAT_AT)),
            audit: self.audit(),
            totals: TotalsSnapshot {
                frames,
                received,
                matched,
                due,
                sent,
                skips,
                held,
                drops,
                fragments,
                reassembled,
            },
        }
    }

    fn audit(&self) -> Option<AuditSnapshot> {
        let audits = self.get(header::AUDITS);
        let generation = self.get(header::AUDIT_GENERATION);
        let hash = self.get(header::AUDIT_HASH);
        let same = self.get(header::AUDIT_GENERATION) == generation;
        (audits != 0).then_some(AuditSnapshot { generation: if same { generation } else { 0 }, hash, audits })
    }

    /// A rule's counters since the page was created.
    #[must_use]
    pub fn rule(&self, slot: RuleSlot) -> RuleSnapshot {
        RuleSnapshot {
            packets: self.get(rule_word(slot, rule::PACKETS)),
            bytes: self.get(rule_word(slot, rule::BYTES)),
            due: self.get(rule_word(slot, rule::DUE)),
            merged: self.get(rule_word(slot, rule::MERGED)),
            first: Duration::from_nanos(self.get(rule_word(slot, rule::FIRST))),
            last: Duration::from_nanos(self.get(rule_word(slot, rule::LAST))),
            health: self.health_at(rule_word(slot, rule::HEALTH)),
        }
    }

    /// An output's counters since the page was created.
    #[must_use]
    pub fn output(&self, slot: OutputSlot) -> OutputSnapshot {
        OutputSnapshot {
            packets: self.get(output_word(slot, output::PACKETS)),
            bytes: self.get(output_word(slot, output::BYTES)),
            last_errno: u32::try_from(self.get(output_word(slot, output::LAST_ERRNO))).unwrap_or_default(),
            drops: DropReason::ALL.map(|r| self.get(output_word(slot, output::DROPS + r.index()))),
            replies: self.get(output_word(slot, output::REPLIES)),
        }
    }
}

/// Creates a sealed memfd with an encoded rule set, to be passed with its message.
///
/// # Errors
/// The memfd can't be created.
pub fn rule_set_file(encoded: &[u8]) -> mcr_sys::Result<OwnedFd> {
    shared_memory::sealed_bytes("mcr-rule-set", encoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn page() -> (OwnedFd, PageReader) {
        let page = create_page().unwrap();
        let reader = PageReader::map(page.as_fd()).unwrap();
        (page, reader)
    }

    #[test]
    fn the_supervisor_reads_the_counts_of_the_worker() {
        let (page, reader) = page();
        let writer = PageWriter::map(&page, 77, IoBackend::Recvmmsg).unwrap();
        let (rule, output) = (RuleSlot(MAX_RULES - 1), OutputSlot(MAX_OUTPUTS - 1));
        writer.count(Total::Received, 3);
        writer.count(Total::Matched, 2);
        writer.skip(SkipReason::NoRule, 1);
        writer.matched(rule, 2, 200, 2);
        writer.due(output, 2);
        writer.sent(output, 1, 100);
        writer.dropped(output, DropReason::SocketFull, 1, 11);
        writer.applied(5, 0xabc);
        writer.audited(4, 0xdef);
        writer.beat();

        let worker = reader.worker();
        assert_eq!((worker.pid, worker.io), (77, Some(IoBackend::Recvmmsg)));
        assert_eq!((worker.generation, worker.hash, worker.heartbeat), (5, 0xabc, 1));
        assert_eq!(worker.audit, Some(AuditSnapshot { generation: 4, hash: 0xdef, audits: 1 }));
        assert!(worker.beat_at > Duration::ZERO && worker.beat_at <= clock::monotonic());
        assert_eq!((worker.totals.due, worker.totals.sent), (2, 1));
        assert_eq!(worker.totals.skips[SkipReason::NoRule.index()], 1);
        assert_eq!(
            reader.rule(rule),
            RuleSnapshot { packets: 2, bytes: 200, due: 2, ..RuleSnapshot::default() }
        );
        let seen = reader.output(output);
        assert_eq!((seen.packets, seen.bytes, seen.last_errno, seen.dropped()), (1, 100, 11, 1));
    }

    #[test]
    fn a_replacement_settles_what_a_dead_worker_left() {
        let (page, reader) = page();
        let first = PageWriter::map(&page, 1, IoBackend::IoUring).unwrap();
        first.count(Total::Received, 10);
        first.count(Total::Matched, 6);
        first.matched(RuleSlot(0), 6, 600, 12);
        first.due(OutputSlot(0), 6);
        first.due(OutputSlot(1), 6);
        first.sent(OutputSlot(0), 6, 600);
        first.sent(OutputSlot(1), 4, 400);

        first.audited(1, 1);
        let second = PageWriter::map(&page, 2, IoBackend::IoUring).unwrap();
        assert_eq!(reader.worker().audit, None, "an audit of the dead worker is not one of its replacement");
        second.settle_output(OutputSlot(0));
        second.settle_output(OutputSlot(1));
        second.settle_totals();
        assert_eq!(reader.output(OutputSlot(1)).drops[DropReason::WorkerDied.index()], 2);

        let totals = reader.worker().totals;
        assert_eq!(totals.received, totals.matched + totals.skips.iter().sum::<u64>() + totals.held);
        assert_eq!(totals.due, totals.sent + totals.drops.iter().sum::<u64>());
        assert_eq!(totals.skips[SkipReason::WorkerDied.index()], 4);
    }
}
