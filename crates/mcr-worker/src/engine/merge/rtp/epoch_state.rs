//! One epoch: its ring, what has left, and what is settled.

use super::slot::{Slot, state, ticks};
use super::{
    Epoch, FIRST_LAP, MAX_SLOTS, MIN_SLOTS, NEAR, Packet, Place, REORDERED, SILENT_NS, Tally, Verdict, ahead,
    epoch, later,
};

impl Epoch<'_> {
    pub(super) fn exists(&self) -> bool {
        self.words.get(epoch::ID) != 0
    }

    pub(super) fn is(&self, packet: &Packet) -> bool {
        self.exists() && self.words.get(epoch::SSRC) == u64::from(packet.ssrc)
    }

    pub(super) fn slots(&self) -> u64 {
        self.words.get(epoch::SLOTS)
    }

    #[expect(clippy::cast_possible_truncation, reason = "it is taken modulo the number of slots")]
    pub(super) fn slot_word(&self, number: u64) -> usize {
        number as usize & (self.slots() as usize).wrapping_sub(1)
    }

    pub(super) fn slot(&self, number: u64) -> Slot {
        Slot::of(self.ring.get(self.slot_word(number)))
    }

    pub(super) fn set_slot(&self, number: u64, slot: Slot) {
        self.ring.set(self.slot_word(number), slot.word());
    }

    pub(super) fn order_of(&self, number: u64) -> Place {
        Place { epoch: self.words.get(epoch::ID), number, next: number + 1 }
    }

    pub(super) fn begin(&self, id: u64, packet: &Packet, tally: &mut Tally) {
        if self.exists() {
            self.settle_to(u64::MAX, tally);
        }
        let number = FIRST_LAP + u64::from(packet.sequence);
        self.ring.clear(MAX_SLOTS);
        for (word, value) in [
            (epoch::SSRC, packet.ssrc.into()),
            (epoch::HIGHEST, number),
            (epoch::TIMESTAMP, packet.timestamp.into()),
            (epoch::SETTLED, number),
            (epoch::START_NS, packet.now_ns),
            (epoch::LAST_NS, packet.now_ns),
            (epoch::PACKETS, 1),
            (epoch::LEGS, 1 << packet.leg),
            (epoch::SLOTS, MIN_SLOTS as u64),
            (epoch::UNTIL_NS, 0),
            (epoch::ID, id),
        ] {
            self.words.set(word, value);
        }
        self.mark(number, packet, state::SEEN, tally);
    }

    /// Ends it if its time is over. Returns whether it has ended.
    pub(super) fn end_if_over(&self, now_ns: u64, tally: &mut Tally) -> bool {
        let until = self.words.get(epoch::UNTIL_NS);
        let silent = now_ns.saturating_sub(self.words.get(epoch::LAST_NS)) > SILENT_NS;
        let over = silent || (until != 0 && now_ns > until);
        if over {
            self.settle_to(u64::MAX, tally);
            self.words.set(epoch::ID, 0);
        }
        over
    }

    /// Marks a slot with the first copy of a packet.
    pub(super) fn mark(&self, number: u64, packet: &Packet, state: u64, tally: &mut Tally) {
        let legs = 1 << packet.leg;
        let arrival = ticks(packet.now_ns);
        self.set_slot(number, Slot { timestamp: packet.timestamp, arrival, legs, state });
        tally.skew(packet.leg, 0);
    }

    /// Another copy of a packet.
    pub(super) fn copy(&self, number: u64, slot: Slot, packet: &Packet, tally: &mut Tally) -> Verdict {
        let bit = 1 << packet.leg;
        if slot.legs & bit == 0 {
            let skew_us = slot.age_ns(packet.now_ns) / 1_000;
            tally.skew(packet.leg, u32::try_from(skew_us).unwrap_or(u32::MAX));
            self.set_slot(number, Slot { legs: slot.legs | bit, ..slot });
            self.words.set(epoch::LEGS, self.words.get(epoch::LEGS) | u64::from(bit));
        }
        Verdict::Duplicate
    }

    /// Decides on a packet of this SSRC; `None` if it is not in this epoch. `confirmed`: it follows the last packet of its leg.
    pub(super) fn place(&self, packet: &Packet, confirmed: bool, tally: &mut Tally) -> Option<Verdict> {
        let highest = self.words.get(epoch::HIGHEST);
        #[expect(clippy::cast_possible_truncation, reason = "the sequence number is the lowest 16 bits")]
        let distance = ahead(packet.sequence, highest as u16);
        let number = highest.checked_add_signed(distance.into())?;
        if u64::from(distance.unsigned_abs()) >= self.slots() {
            return None;
        }
        if distance > 0 {
            self.place_ahead(number, packet, (distance, confirmed), tally)
        } else {
            self.place_behind(number, packet, tally)
        }
    }

    pub(super) fn place_ahead(
        &self,
        number: u64,
        packet: &Packet,
        (distance, confirmed): (i16, bool),
        tally: &mut Tally,
    ) -> Option<Verdict> {
        #[expect(clippy::cast_possible_truncation, reason = "it was stored from 32 bits")]
        let later = later(packet.timestamp, self.words.get(epoch::TIMESTAMP) as u32);
        if distance > NEAR && later < REORDERED {
            return None;
        }
        let slot = self.slot(number);
        if slot.state == state::AHEAD && slot.timestamp == packet.timestamp {
            let verdict = self.copy(number, slot, packet, tally);
            if confirmed {
                self.advance(number, packet, tally);
            }
            return Some(verdict);
        }
        if distance == 1 || confirmed {
            self.advance(number, packet, tally);
            self.mark(number, packet, state::SEEN, tally);
            self.absorb_ahead(packet);
        } else {
            // The number whose slot it takes is not counted.
            self.mark(number, packet, state::AHEAD, tally);
        }
        self.count(packet);
        Some(Verdict::Leave(Some(self.order_of(number))))
    }

    pub(super) fn place_behind(&self, number: u64, packet: &Packet, tally: &mut Tally) -> Option<Verdict> {
        let slot = self.slot(number);
        #[expect(clippy::cast_possible_truncation, reason = "it was stored from 32 bits")]
        let is_later = later(packet.timestamp, self.words.get(epoch::TIMESTAMP) as u32) > 0;
        let age_ns = match slot.state {
            state::SEEN if slot.timestamp == packet.timestamp => {
                return Some(self.copy(number, slot, packet, tally));
            }
            state::MISSING => slot.age_ns(packet.now_ns),
            // Before the first packet of the epoch.
            state::NONE => packet.now_ns.saturating_sub(self.words.get(epoch::START_NS)),
            _ => return None,
        };
        if age_ns > self.window_ns {
            return (!is_later).then_some(Verdict::TooLate);
        }
        self.mark(number, packet, state::SEEN, tally);
        self.count(packet);
        Some(Verdict::Leave(Some(self.order_of(number))))
    }

    pub(super) fn count(&self, packet: &Packet) {
        self.words.set(epoch::PACKETS, self.words.get(epoch::PACKETS) + 1);
        self.words.set(epoch::LEGS, self.words.get(epoch::LEGS) | 1 << packet.leg);
    }

    /// Makes a number the highest. Those before it that were not seen are missing from now on.
    pub(super) fn advance(&self, number: u64, packet: &Packet, tally: &mut Tally) {
        let highest = self.words.get(epoch::HIGHEST);
        self.make_room(number, packet.now_ns, tally);
        for between in highest + 1..=number {
            let slot = self.slot(between);
            let seen = slot.state == state::AHEAD && slot.age_ns(packet.now_ns) <= 2 * self.window_ns;
            self.set_slot(
                between,
                if seen { Slot { state: state::SEEN, ..slot } } else { Slot::missing(packet.now_ns) },
            );
        }
        self.words.set(epoch::HIGHEST, number);
        self.words.set(epoch::TIMESTAMP, packet.timestamp.into());
    }

    /// Packets ahead that follow the highest number are not ahead any more.
    pub(super) fn absorb_ahead(&self, packet: &Packet) {
        for (next, _) in (self.words.get(epoch::HIGHEST) + 1..).zip(0..NEAR) {
            let slot = self.slot(next);
            if slot.state != state::AHEAD || slot.age_ns(packet.now_ns) > 2 * self.window_ns {
                break;
            }
            self.set_slot(next, Slot { state: state::SEEN, ..slot });
            self.words.set(epoch::HIGHEST, next);
            self.words.set(epoch::TIMESTAMP, slot.timestamp.into());
        }
    }

    /// Makes room for the numbers up to this one: by more slots while those in the way are in the window, else by settling these.
    pub(super) fn make_room(&self, number: u64, now_ns: u64, tally: &mut Tally) {
        self.settle(now_ns, tally);
        let needed = |slots: u64| (number + 1).saturating_sub(slots);
        while needed(self.slots()) > self.words.get(epoch::SETTLED) && self.slots() < MAX_SLOTS as u64 {
            self.grow();
        }
        self.settle_to(needed(self.slots()), tally);
    }

    /// Doubles the number of slots.
    pub(super) fn grow(&self) {
        let slots = self.slots();
        let highest = self.words.get(epoch::HIGHEST);
        #[expect(clippy::cast_possible_truncation, reason = "at most 32,768")]
        let count = slots as usize;
        for index in 0..count {
            // The number that the slot is of: at most the highest one.
            let back = highest.wrapping_sub(index as u64) & (slots - 1);
            let number = highest - back.min(highest);
            let word = match self.ring.get(index) {
                word if Slot::of(word).state == state::AHEAD => 0,
                word => word,
            };
            let (low, high) = if number & slots == 0 { (word, 0) } else { (0, word) };
            self.ring.set(index, low);
            self.ring.set(index + count, high);
        }
        self.words.set(epoch::SLOTS, 2 * slots);
    }

    /// Settles the numbers that the window has left behind.
    pub(super) fn settle(&self, now_ns: u64, tally: &mut Tally) {
        let highest = self.words.get(epoch::HIGHEST);
        let mut next = self.words.get(epoch::SETTLED);
        while next <= highest {
            let slot = self.slot(next);
            if slot.age_ns(now_ns) <= self.window_ns {
                break;
            }
            if slot.state != state::AHEAD {
                tally.settle(slot.legs, self.legs, 1);
            }
            next += 1;
        }
        self.words.set(epoch::SETTLED, next);
    }

    /// Settles the numbers before this one, and at most the highest.
    pub(super) fn settle_to(&self, number: u64, tally: &mut Tally) {
        let end = number.min(self.words.get(epoch::HIGHEST) + 1);
        let settled = self.words.get(epoch::SETTLED);
        for next in settled..end {
            let slot = self.slot(next);
            if slot.state != state::AHEAD {
                tally.settle(slot.legs, self.legs, 1);
            }
        }
        self.words.set(epoch::SETTLED, settled.max(end));
    }
}
