//! A slot of the ring: what is known of one packet.

const TICK_NS: u64 = 16_384;
const TICKS: u64 = (1 << 24) - 1;

/// States of a slot.
pub(super) mod state {
    /// Nothing is known of it.
    pub(in crate::engine::merge::rtp) const NONE: u64 = 0;
    /// The highest number has passed it; its arrival is when.
    pub(in crate::engine::merge::rtp) const MISSING: u64 = 1;
    pub(in crate::engine::merge::rtp) const SEEN: u64 = 2;
    /// Seen beyond the highest number.
    pub(in crate::engine::merge::rtp) const AHEAD: u64 = 3;
}

#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub(super) timestamp: u32,
    pub(super) arrival: u64,
    pub(super) legs: u8,
    pub(super) state: u64,
}

impl Slot {
    #[expect(clippy::cast_possible_truncation, reason = "the fields have these widths")]
    pub(super) const fn of(word: u64) -> Self {
        Self {
            timestamp: (word >> 32) as u32,
            arrival: word >> 8 & TICKS,
            legs: (word >> 4) as u8 & 0xf,
            state: word & 0xf,
        }
    }

    pub(super) const fn word(self) -> u64 {
        (self.timestamp as u64) << 32
            | (self.arrival & TICKS) << 8
            | (self.legs as u64 & 0xf) << 4
            | self.state
    }

    pub(super) const fn missing(now_ns: u64) -> Self {
        Self { timestamp: 0, arrival: ticks(now_ns), legs: 0, state: state::MISSING }
    }

    pub(super) const fn age_ns(self, now_ns: u64) -> u64 {
        (ticks(now_ns).wrapping_sub(self.arrival) & TICKS) * TICK_NS
    }
}

pub(super) const fn ticks(now_ns: u64) -> u64 {
    (now_ns / TICK_NS) & TICKS
}
