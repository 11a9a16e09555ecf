//! Stream health of rules with a stream format: per rule, and per flow.

use serde::{Deserialize, Serialize};

use super::PageReader;

/// Number of health words, in a rule's slot and in a flow's record.
pub(super) const HEALTH_WORDS: usize = 7;

/// A count of stream health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum HealthCount {
    /// Datagrams that were checked.
    Checked,
    /// RTP packets missing from the sequence.
    Lost,
    /// RTP packets that arrived after one with a higher sequence number.
    Reordered,
    /// RTP packets that arrived more than once.
    Duplicates,
    /// MPEG-TS packets with an unexpected continuity counter.
    Continuity,
    /// Datagrams that are not of the rule's stream format.
    Malformed,
}

pub(super) const JITTER: usize = 6;

/// Health counters, of a rule or of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSnapshot {
    /// See [`HealthCount::Checked`].
    pub checked: u64,
    /// See [`HealthCount::Lost`].
    pub lost: u64,
    /// See [`HealthCount::Reordered`].
    pub reordered: u64,
    /// See [`HealthCount::Duplicates`].
    pub duplicates: u64,
    /// See [`HealthCount::Continuity`].
    pub continuity: u64,
    /// See [`HealthCount::Malformed`].
    pub malformed: u64,
    /// Current interarrival jitter (RFC 3550 §6.4.1) in nanoseconds; for a rule, that of the flow checked last.
    pub jitter_ns: u64,
}

impl HealthSnapshot {
    /// Adds another worker's counts; the jitter is the maximum.
    pub fn add(&mut self, other: &Self) {
        self.checked += other.checked;
        self.lost += other.lost;
        self.reordered += other.reordered;
        self.duplicates += other.duplicates;
        self.continuity += other.continuity;
        self.malformed += other.malformed;
        self.jitter_ns = self.jitter_ns.max(other.jitter_ns);
    }

    /// Returns the counts since an earlier snapshot.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            checked: self.checked.wrapping_sub(before.checked),
            lost: self.lost.saturating_sub(before.lost),
            reordered: self.reordered.wrapping_sub(before.reordered),
            duplicates: self.duplicates.wrapping_sub(before.duplicates),
            continuity: self.continuity.wrapping_sub(before.continuity),
            malformed: self.malformed.wrapping_sub(before.malformed),
            jitter_ns: self.jitter_ns,
        }
    }
}

impl PageReader {
    pub(super) fn health_at(&self, at: usize) -> HealthSnapshot {
        let count = |what: HealthCount| self.get(at + what as usize);
        HealthSnapshot {
            checked: count(HealthCount::Checked),
            lost: count(HealthCount::Lost),
            reordered: count(HealthCount::Reordered),
            duplicates: count(HealthCount::Duplicates),
            continuity: count(HealthCount::Continuity),
            malformed: count(HealthCount::Malformed),
            jitter_ns: self.get(at + JITTER),
        }
    }
}
