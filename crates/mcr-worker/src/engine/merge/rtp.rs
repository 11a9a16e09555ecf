//! Merging by RTP sequence number (RFC 3550): a ring of slots for the packets of an epoch, by sequence number.
//!
//! ```text
//!            settled             highest      ahead
//!  ──────────────┬───────────────────┬──────────┬──────▶ sequence number
//!   old          │ seen, or missing  │          │ jumped to, not confirmed yet
//!                └── within window ──┘
//!  slot: timestamp, 32 bits │ arrival in 16 µs, 24 │ legs, 4 │ state, 4
//! ```
//!
//! An *epoch* is a run of sequence numbers of one SSRC: a restart begins another. Two are kept, so that a late leg, which still sends
//! the one before, neither loses what only it has nor switches back. Copies are told by sequence number and timestamp, since 16 bits
//! wrap too fast (ST 2022-7).
//!
//! A jump leaves at once, and moves `highest` only once a second packet of the leg confirms it: one injected number steals only itself.

mod epoch_state;
mod slot;

use mcr_wire::rtp::RtpHeader;

use super::tally::Tally;
use super::words::Words;
use super::{MAX_LEGS, Place, Verdict};

/// Slots of a ring at first, and at most.
pub(crate) const MIN_SLOTS: usize = 4_096;
pub(crate) const MAX_SLOTS: usize = 32_768;
/// A packet at most this far behind another on its leg confirms it.
const NEAR: i16 = 64;
/// The timestamp may go back by this much with a higher number: video in decoding order (10 s at 90 kHz).
const REORDERED: i32 = -900_000;
/// An epoch without a packet for this long is over: the arrival times in its slots are ambiguous soon.
const SILENT_NS: u64 = 100_000_000_000;

/// Words of the header: `CURRENT`, the legs, two epochs.
const CURRENT: usize = 0;
const LEGS_AT: usize = 8;
const LEG_WORDS: usize = 4;
const EPOCHS_AT: usize = LEGS_AT + LEG_WORDS * MAX_LEGS;
const EPOCH_WORDS: usize = 16;

mod leg {
    /// The last packet that is not next to the highest: valid, SSRC.
    pub(super) const SSRC: usize = 0;
    /// Its sequence number and timestamp.
    pub(super) const NUMBER: usize = 1;
    /// When.
    pub(super) const AT: usize = 2;
    /// The last packet of the current epoch.
    pub(super) const LAST: usize = 3;
}

mod epoch {
    /// 0: there is none; its number otherwise, from 1.
    pub(super) const ID: usize = 0;
    pub(super) const SSRC: usize = 1;
    /// Extended by 48 bits.
    pub(super) const HIGHEST: usize = 2;
    pub(super) const TIMESTAMP: usize = 3;
    /// The next number to be settled.
    pub(super) const SETTLED: usize = 4;
    pub(super) const START_NS: usize = 5;
    pub(super) const LAST_NS: usize = 6;
    pub(super) const PACKETS: usize = 7;
    /// The legs that it came on.
    pub(super) const LEGS: usize = 8;
    /// The number of slots.
    pub(super) const SLOTS: usize = 9;
    /// When it is over; 0: not.
    pub(super) const UNTIL_NS: usize = 10;
}

/// The first extended number of an epoch is this plus its sequence number.
const FIRST_LAP: u64 = 1 << 16;

/// See the module documentation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rtp<'a> {
    pub(crate) header: Words<'a>,
    /// Two rings of [`MAX_SLOTS`].
    pub(crate) rings: Words<'a>,
    pub(crate) legs: usize,
    pub(crate) window_ns: u64,
}

/// A packet on a leg.
#[derive(Clone, Copy)]
struct Packet {
    leg: usize,
    sequence: u16,
    timestamp: u32,
    ssrc: u32,
    now_ns: u64,
}

/// How far one number of a wrapping space is ahead of another.
#[expect(clippy::cast_possible_wrap, reason = "that is the serial number arithmetic of RFC 1982")]
const fn ahead(one: u16, other: u16) -> i16 {
    one.wrapping_sub(other) as i16
}

#[expect(clippy::cast_possible_wrap, reason = "that is the serial number arithmetic of RFC 1982")]
const fn later(one: u32, other: u32) -> i32 {
    one.wrapping_sub(other) as i32
}

/// One epoch.
#[derive(Clone, Copy)]
struct Epoch<'a> {
    words: Words<'a>,
    ring: Words<'a>,
    legs: usize,
    window_ns: u64,
}

impl<'a> Rtp<'a> {
    /// Decides on a packet, and records it.
    pub(crate) fn judge(&self, leg: usize, header: &RtpHeader, now_ns: u64, tally: &mut Tally) -> Verdict {
        let packet =
            Packet { leg, sequence: header.sequence, timestamp: header.timestamp, ssrc: header.ssrc, now_ns };
        let current = self.current();
        for index in [current, 1 - current] {
            let epoch = self.epoch(index);
            if !epoch.is(&packet) || epoch.end_if_over(now_ns, tally) {
                continue;
            }
            let confirmed = self.follows_last_of_leg(&packet, NEAR);
            if let Some(verdict) = epoch.place(&packet, confirmed, tally) {
                self.came_in(index, &packet);
                return verdict;
            }
        }
        self.stray(&packet, tally)
    }

    /// Settles what the window has left behind.
    pub(crate) fn settle(&self, now_ns: u64, tally: &mut Tally) {
        for index in [0, 1] {
            let epoch = self.epoch(index);
            if epoch.exists() && !epoch.end_if_over(now_ns, tally) {
                epoch.settle(now_ns, tally);
            }
        }
    }

    fn current(&self) -> usize {
        usize::from(self.header.get(CURRENT) == 1)
    }

    fn epoch(&self, index: usize) -> Epoch<'a> {
        Epoch {
            words: self.header.from(EPOCHS_AT + index * EPOCH_WORDS),
            ring: self.rings.from(index * MAX_SLOTS),
            legs: self.legs,
            window_ns: self.window_ns,
        }
    }

    fn leg(&self, leg: usize) -> Words<'a> {
        self.header.from(LEGS_AT + leg * LEG_WORDS)
    }

    /// A packet was placed in an epoch.
    fn came_in(&self, index: usize, packet: &Packet) {
        let epoch = self.epoch(index);
        epoch.words.set(epoch::LAST_NS, packet.now_ns);
        let current = self.epoch(self.current());
        self.remember(packet);
        if index == self.current() {
            self.leg(packet.leg).set(leg::LAST, packet.now_ns);
        } else if epoch.words.get(epoch::SSRC) == current.words.get(epoch::SSRC) {
            // Legs that disagree on the numbers of one source: neither of them may take from the other.
            epoch.words.set(epoch::UNTIL_NS, packet.now_ns + 2 * self.window_ns);
        }
    }

    /// Remembers the last packet of a leg.
    fn remember(&self, packet: &Packet) {
        let words = self.leg(packet.leg);
        words.set(leg::SSRC, 1 << 32 | u64::from(packet.ssrc));
        words.set(leg::NUMBER, u64::from(packet.timestamp) << 16 | u64::from(packet.sequence));
        words.set(leg::AT, packet.now_ns);
    }

    /// Whether a packet follows the last one of its leg, by at most this many numbers.
    fn follows_last_of_leg(&self, packet: &Packet, most: i16) -> bool {
        let words = self.leg(packet.leg);
        let (ssrc, number) = (words.get(leg::SSRC), words.get(leg::NUMBER));
        #[expect(clippy::cast_possible_truncation, reason = "the fields have these widths")]
        let (sequence, timestamp) = (number as u16, (number >> 16) as u32);
        ssrc == 1 << 32 | u64::from(packet.ssrc)
            && (1..=most).contains(&ahead(packet.sequence, sequence))
            && later(packet.timestamp, timestamp) >= REORDERED
            && packet.now_ns.saturating_sub(words.get(leg::AT)) < SILENT_NS
    }

    /// A packet that is in no epoch: the second of two consecutive ones begins one.
    fn stray(&self, packet: &Packet, tally: &mut Tally) -> Verdict {
        let current = self.epoch(self.current());
        if !current.exists() {
            return self.begin(packet, tally);
        }
        let follows = self.follows_last_of_leg(packet, NEAR);
        self.remember(packet);
        let same_source = current.words.get(epoch::SSRC) == u64::from(packet.ssrc);
        #[expect(clippy::cast_possible_truncation, reason = "it was stored from 32 bits")]
        let behind = same_source && later(packet.timestamp, current.words.get(epoch::TIMESTAMP) as u32) < 0;
        let since_ns = packet.now_ns.saturating_sub(current.words.get(epoch::LAST_NS));
        let carried = current.words.get(epoch::LEGS) & 1 << packet.leg != 0;
        // A single packet is no stream yet.
        let unconfirmed = current.words.get(epoch::PACKETS) == 1;
        let may_begin = if unconfirmed || since_ns > 2 * self.window_ns {
            true
        } else if behind || !same_source {
            // A replay, or a leg that lies, looks like this. It is a restart if no other leg goes on with the epoch, or another one
            // restarts, too: until then, that one brings the same packets later.
            (behind || carried) && (!self.others_go_on(packet) || self.another_agrees(packet))
        } else {
            carried
        };
        if follows && may_begin {
            return self.begin(packet, tally);
        }
        if behind { Verdict::TooLate } else { Verdict::OtherStream }
    }

    /// Whether another leg has a packet of the current epoch in the window.
    fn others_go_on(&self, packet: &Packet) -> bool {
        let mut others = (0..self.legs).filter(|leg| *leg != packet.leg);
        others.any(|other| {
            let last = self.leg(other).get(leg::LAST);
            last != 0 && packet.now_ns.saturating_sub(last) <= self.window_ns
        })
    }

    /// Whether the last packet of another leg is near this one, and not of the current epoch.
    fn another_agrees(&self, packet: &Packet) -> bool {
        let mut others = (0..self.legs).filter(|leg| *leg != packet.leg);
        others.any(|other| {
            let words = self.leg(other);
            #[expect(clippy::cast_possible_truncation, reason = "the field has this width")]
            let sequence = words.get(leg::NUMBER) as u16;
            let distance = ahead(packet.sequence, sequence).unsigned_abs();
            words.get(leg::SSRC) == 1 << 32 | u64::from(packet.ssrc)
                && words.get(leg::LAST) != words.get(leg::AT)
                && usize::from(distance) < MAX_SLOTS / 2
                && packet.now_ns.saturating_sub(words.get(leg::AT)) <= 2 * self.window_ns
        })
    }

    /// Begins an epoch with a packet. It takes the place of the other one, unless that has carried more and goes on: then a few
    /// injected numbers replace each other and not the stream.
    fn begin(&self, packet: &Packet, tally: &mut Tally) -> Verdict {
        let current = self.current();
        let weight = |index: usize| {
            let epoch = self.epoch(index);
            let alive = packet.now_ns.saturating_sub(epoch.words.get(epoch::LAST_NS)) <= 2 * self.window_ns;
            if epoch.exists() && alive { 1 + epoch.words.get(epoch::PACKETS) } else { 0 }
        };
        let index = if weight(1 - current) > weight(current) { current } else { 1 - current };
        let kept = self.epoch(1 - index);
        if kept.exists() {
            tally.restarts += 1;
            kept.words.set(epoch::UNTIL_NS, packet.now_ns + 2 * self.window_ns);
        }
        let id =
            1 + [0, 1].map(|index| self.epoch(index).words.get(epoch::ID)).into_iter().max().unwrap_or(0);
        let epoch = self.epoch(index);
        epoch.begin(id, packet, tally);
        self.header.set(CURRENT, index as u64);
        (0..self.legs).for_each(|leg| self.leg(leg).set(leg::LAST, 0));
        self.came_in(index, packet);
        Verdict::Leave(Some(epoch.order_of(epoch.words.get(epoch::HIGHEST))))
    }
}
