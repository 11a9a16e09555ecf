//! Values read from a page.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::health::HealthSnapshot;
use crate::message::IoBackend;
use crate::reason::{DropReason, SkipReason};

/// A worker's identity, state and totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerSnapshot {
    /// The [`LINK_VERSION`](crate::message::LINK_VERSION) of the page's writer; 0 before the first one.
    pub version: u32,
    /// The process that writes the page; 0 before the first one.
    pub pid: u32,
    /// Its I/O backend; `None` before it started.
    pub io: Option<IoBackend>,
    /// Generation of the rule set in force; 0 for none.
    pub generation: u64,
    /// Content hash of the rule set in force.
    pub hash: u64,
    /// Number of heartbeats.
    pub heartbeat: u64,
    /// Monotonic time of the last heartbeat; a predecessor's until the first one.
    pub beat_at: Duration,
    /// The last audit of its table; `None` before the first.
    pub audit: Option<AuditSnapshot>,
    /// The totals and reasons.
    pub totals: TotalsSnapshot,
}

/// A worker's audit of its table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditSnapshot {
    /// Generation of the rule set that the table was built from; 0 while the audit is being updated.
    pub generation: u64,
    /// [`crate::rule_set::table_hash`] of the table.
    pub hash: u64,
    /// Number of audits by this worker.
    pub audits: u64,
}

/// Totals of one worker, or the sum over several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TotalsSnapshot {
    /// See [`Total::Frames`](super::Total::Frames).
    pub frames: u64,
    /// See [`Total::Received`](super::Total::Received).
    pub received: u64,
    /// See [`Total::Matched`](super::Total::Matched).
    pub matched: u64,
    /// See [`Total::Due`](super::Total::Due).
    pub due: u64,
    /// See [`Total::Sent`](super::Total::Sent).
    pub sent: u64,
    /// By [`SkipReason::index`].
    #[serde(with = "by_reason")]
    pub skips: [u64; SkipReason::COUNT],
    /// Datagrams that merges hold: a gauge.
    #[serde(skip)]
    pub held: u64,
    /// By [`DropReason::index`].
    #[serde(with = "by_reason")]
    pub drops: [u64; DropReason::COUNT],
    /// See [`Total::Fragments`](super::Total::Fragments).
    pub fragments: u64,
    /// See [`Total::Reassembled`](super::Total::Reassembled).
    pub reassembled: u64,
}

/// Encodes counts by reason as a list, so that another version, with more reasons at the end, can decode them.
mod by_reason {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer, const N: usize>(
        counts: &[u64; N],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        counts.as_slice().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        deserializer: D,
    ) -> Result<[u64; N], D::Error> {
        let mut counts = [0; N];
        let read = Vec::<u64>::deserialize(deserializer)?;
        counts.iter_mut().zip(read).for_each(|(count, read)| *count = read);
        Ok(counts)
    }
}

impl TotalsSnapshot {
    /// Adds another worker's totals.
    pub fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.received += other.received;
        self.matched += other.matched;
        self.due += other.due;
        self.sent += other.sent;
        self.skips.iter_mut().zip(other.skips).for_each(|(sum, n)| *sum += n);
        self.drops.iter_mut().zip(other.drops).for_each(|(sum, n)| *sum += n);
        self.fragments += other.fragments;
        self.reassembled += other.reassembled;
    }
}

/// A rule's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSnapshot {
    /// Matched datagrams.
    pub packets: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Sends due for them.
    pub due: u64,
    /// Those that came in a frame with others, without the first of each frame: `packets − merged` frames.
    pub merged: u64,
    /// Monotonic time of the first datagram; zero if there was none.
    pub first: Duration,
    /// Monotonic time of the last datagram; zero if there was none.
    pub last: Duration,
    /// Stream health.
    pub health: HealthSnapshot,
}

/// An output's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputSnapshot {
    /// Datagrams sent.
    pub packets: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// The errno of the last failed send; 0 for none.
    pub last_errno: u32,
    /// By [`DropReason::index`].
    #[serde(with = "by_reason")]
    pub drops: [u64; DropReason::COUNT],
    /// Datagrams that came back to the output's socket, which other outputs may share.
    pub replies: u64,
}

impl OutputSnapshot {
    /// Returns the number of dropped datagrams.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.drops.iter().sum()
    }
}
