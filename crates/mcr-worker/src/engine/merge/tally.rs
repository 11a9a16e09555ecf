//! What a merge has counted, until it is added to the telemetry page.

use mcr_link::telemetry::merges::MAX_LEGS;

/// Counts of one leg. Numbers are datagrams; those lost by MoldUDP64 are messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LegTally {
    /// Missing on this leg after the window.
    pub(crate) lost: u64,
    /// Came on this leg only.
    pub(crate) unique: u64,
    /// How long after the first copy its last copy came, microseconds; 0 if it was the first.
    pub(crate) skew_us: Option<u32>,
}

/// See the module documentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) legs: [LegTally; MAX_LEGS],
    /// Missing on all legs after the window.
    pub(crate) lost: u64,
    /// Copies with another payload than the first.
    pub(crate) differing: u64,
    /// Restarts of the stream.
    pub(crate) restarts: u64,
    /// The legs whose link is down, which are not charged with loss.
    pub(crate) down: u8,
}

impl Tally {
    /// Counts a datagram that the window has left behind: `mask` has the legs that it came on.
    pub(crate) fn settle(&mut self, mask: u8, legs: usize, n: u64) {
        let down = self.down;
        let only = mask.count_ones() == 1;
        self.lost += if mask == 0 { n } else { 0 };
        for (index, leg) in self.legs.iter_mut().enumerate().take(legs) {
            let bit = 1 << index;
            if mask & bit == 0 {
                leg.lost += if down & bit == 0 { n } else { 0 };
            } else if only && legs > 1 {
                leg.unique += n;
            }
        }
    }

    /// Records how late a copy came.
    pub(crate) fn skew(&mut self, leg: usize, skew_us: u32) {
        if let Some(leg) = self.legs.get_mut(leg) {
            leg.skew_us = Some(skew_us);
        }
    }
}
