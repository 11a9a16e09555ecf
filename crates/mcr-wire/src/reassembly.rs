//! Puts fragments together (RFC 791 section 3.2, RFC 8200 section 4.5), in bounded memory and time. It decides with the time as an
//! argument; the worker asks whether a fragment is wanted before it comes here.
//!
//! ```text
//!                         ┌ slot: which datagram, since when, which parts ┐┌ 64 KiB of its data ┐
//!  fragment ─ which? ─▶   │ 10.1.0.1 → 239.1.1.1, 0x1234: 0…1480, 2960…   ││ ██████░░░░███████  │ ─ all there ─▶ packet
//!                         └ … MAX_DATAGRAMS of them                       ┘└ …                  ┘
//! ```
//!
//! - A datagram is given up [`HOLD_NS`] after its first fragment to arrive. The protocols allow 60 seconds and say 15 to 60
//!   (RFC 791, RFC 8200, RFC 1122 section 3.3.2); a relay's datagram is worthless long before, and the shorter the time, the less
//!   fragments of different datagrams with one identification meet (RFC 4963). 60,000 bytes take half a second at 1 Mbit/s.
//! - Fragments that overlap, or contradict the length, refuse the datagram with all fragments that may follow (RFC 5722, RFC 8200).
//!   The same fragment again, with the same content, is ignored.
//! - When all slots are in use, the oldest datagram goes of the sender that has most of the destination that has most. So a flood
//!   for one group pushes out its own.

mod pieces;

use std::net::IpAddr;

use crate::fragment::{Fragment, FragmentHead};
use pieces::{Added, Pieces};

/// The most datagrams under way. Their data takes 8 MiB at most; memory is used as far as it is written.
pub const MAX_DATAGRAMS: usize = 128;
/// How long a datagram is waited for, in nanoseconds.
pub const HOLD_NS: u64 = 1_000_000_000;

/// Room for the data of a datagram.
const SLOT_BYTES: usize = 1 << 16;

/// Why a datagram was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Fragments did not arrive in time.
    Incomplete,
    /// Fragments overlap or contradict each other, or they are too many.
    Overlap,
    /// Newer datagrams needed its place.
    Evicted,
}

/// A datagram that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Why.
    pub loss: Loss,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port of UDP; `None` if the first fragment did not arrive.
    pub port: Option<u16>,
}

/// What became of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Its datagram is under way.
    Held,
    /// It has arrived before, or its datagram is given up.
    Ignored,
    /// No datagram has such a fragment: its length or place is impossible.
    Invalid,
    /// Its datagram is complete: call [`Reassembly::write_packet`].
    Complete,
}

#[derive(Clone, Debug)]
struct Slot {
    head: FragmentHead,
    begun_ns: u64,
    /// What else arrives of it is ignored.
    given_up: bool,
    pieces: Pieces,
    /// Slots in use with this destination, and those of them with this source.
    share: (u16, u16),
}

/// The datagrams under way.
pub struct Reassembly {
    slots: Box<[Slot]>,
    data: Box<[u8]>,
    /// Slots in use, that of the oldest datagram first.
    used: Vec<usize>,
    free: Vec<usize>,
    /// The slot of the datagram that is complete.
    complete: Option<usize>,
    under_way: usize,
}

impl Default for Reassembly {
    fn default() -> Self {
        Self::new()
    }
}

impl Reassembly {
    /// Allocates all memory; the kernel provides that of the data when it is first written.
    #[must_use]
    pub fn new() -> Self {
        let nobody = IpAddr::from([0; 4]);
        let head = FragmentHead {
            source: nobody,
            destination: nobody,
            identification: 0,
            next_header: 0,
            ttl: 0,
            traffic_class: 0,
        };
        let slot = Slot { head, begun_ns: 0, given_up: false, pieces: Pieces::EMPTY, share: (0, 0) };
        Self {
            slots: vec![slot; MAX_DATAGRAMS].into(),
            data: vec![0; MAX_DATAGRAMS * SLOT_BYTES].into(),
            used: Vec::with_capacity(MAX_DATAGRAMS),
            free: (0..MAX_DATAGRAMS).rev().collect(),
            complete: None,
            under_way: 0,
        }
    }

    /// Whether there is nothing to expire.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.used.is_empty()
    }

    /// The number of datagrams that are waited for.
    #[must_use]
    pub const fn under_way(&self) -> usize {
        self.under_way
    }

    /// Takes a fragment with its data; `lost` is called for datagrams that are given up. `now_ns` never goes back.
    pub fn take(
        &mut self,
        fragment: &Fragment,
        data: &[u8],
        now_ns: u64,
        mut lost: impl FnMut(Lost),
    ) -> Taken {
        self.expire(now_ns, &mut lost);
        self.complete = None;
        let Some(range) = fragment.range().filter(|range| range.len() == data.len()) else {
            return Taken::Invalid;
        };
        let at = self.find(&fragment.head).unwrap_or_else(|| self.begin(&fragment.head, now_ns, &mut lost));
        let Some(slot) = self.slots.get_mut(at) else { return Taken::Ignored };
        if slot.given_up {
            return Taken::Ignored;
        }
        let first = at * SLOT_BYTES;
        let place = self.data.get_mut(first + range.start..first + range.end).unwrap_or_default();
        match slot.pieces.add(range.clone(), fragment.more) {
            Added::New if place.len() == data.len() => place.copy_from_slice(data),
            Added::Again if place == data => return Taken::Ignored,
            _ => {
                self.give_up(at, Loss::Overlap, &mut lost);
                return Taken::Ignored;
            }
        }
        if range.start == 0 {
            slot.head = fragment.head;
        }
        if slot.pieces.complete().is_none() {
            return Taken::Held;
        }
        self.under_way -= 1;
        self.remove(at);
        self.complete = Some(at);
        Taken::Complete
    }

    /// Writes the IP packet of the datagram that is complete, and forgets it. Returns its length; `None` if none is, or there is no
    /// room.
    pub fn write_packet(&mut self, packet: &mut [u8]) -> Option<usize> {
        let at = self.complete.take()?;
        let slot = self.slots.get(at)?;
        let bytes = slot.pieces.complete()?;
        let header_bytes = slot.head.write_header(packet, bytes)?;
        let data = self.data.get(at * SLOT_BYTES..)?.get(..bytes)?;
        packet.get_mut(header_bytes..header_bytes + bytes)?.copy_from_slice(data);
        Some(header_bytes + bytes)
    }

    /// Gives up the datagrams whose time is over.
    pub fn expire(&mut self, now_ns: u64, mut lost: impl FnMut(Lost)) {
        while let Some(at) = self.used.first().copied() {
            let Some(slot) = self.slots.get(at) else { return };
            if now_ns.saturating_sub(slot.begun_ns) < HOLD_NS {
                return;
            }
            self.give_up(at, Loss::Incomplete, &mut lost);
            self.remove(at);
        }
    }

    fn find(&self, head: &FragmentHead) -> Option<usize> {
        let is_it = |at: &usize| self.slots.get(*at).is_some_and(|slot| slot.head.is_of_same_datagram(head));
        self.used.iter().copied().find(is_it)
    }

    /// Uses a slot for a new datagram.
    fn begin(&mut self, head: &FragmentHead, now_ns: u64, lost: &mut impl FnMut(Lost)) -> usize {
        if self.free.is_empty()
            && let Some(at) = self.largest_share(head)
        {
            self.give_up(at, Loss::Evicted, lost);
            self.remove(at);
        }
        let at = self.free.pop().unwrap_or(usize::MAX);
        let share = self.change_shares(head, |n| n + 1);
        if let Some(slot) = self.slots.get_mut(at) {
            (slot.head, slot.begun_ns, slot.given_up) = (*head, now_ns, false);
            slot.share = (share.0 + 1, share.1 + 1);
            slot.pieces.clear();
            self.used.push(at);
            self.under_way += 1;
        }
        at
    }

    /// Changes the shares of the slots in use that have the destination of a datagram, and its source. Returns how many there are of
    /// each.
    fn change_shares(&mut self, head: &FragmentHead, change: impl Fn(u16) -> u16) -> (u16, u16) {
        let mut found = (0, 0);
        for at in &self.used {
            let Some(slot) = self.slots.get_mut(*at) else { continue };
            if slot.head.destination == head.destination {
                found.0 += 1;
                slot.share.0 = change(slot.share.0);
                if slot.head.source == head.source {
                    found.1 += 1;
                    slot.share.1 = change(slot.share.1);
                }
            }
        }
        found
    }

    /// The slot whose datagram makes place for this one: of the largest share, with this one, the oldest.
    fn largest_share(&self, new: &FragmentHead) -> Option<usize> {
        let share = |at: usize| {
            let Slot { head, share, .. } = self.slots.get(at)?;
            let same_destination = head.destination == new.destination;
            let same_source = same_destination && head.source == new.source;
            Some((share.0 + u16::from(same_destination), share.1 + u16::from(same_source)))
        };
        // Of equal ones, `max_by_key` returns the last.
        self.used.iter().rev().copied().max_by_key(|at| share(*at))
    }

    /// Counts a datagram as lost; what else arrives of it is ignored.
    fn give_up(&mut self, at: usize, loss: Loss, lost: &mut impl FnMut(Lost)) {
        let Some(slot) = self.slots.get_mut(at).filter(|slot| !slot.given_up) else { return };
        slot.given_up = true;
        self.under_way -= 1;
        // The port is behind that of the source (RFC 768).
        let port = self.data.get(at * SLOT_BYTES + 2..).and_then(|data| data.first_chunk());
        lost(Lost {
            loss,
            source: slot.head.source,
            destination: slot.head.destination,
            port: port.filter(|_| slot.pieces.has_first()).map(|port| u16::from_be_bytes(*port)),
        });
    }

    fn remove(&mut self, at: usize) {
        self.used.retain(|used| *used != at);
        self.free.push(at);
        if let Some(head) = self.slots.get(at).map(|slot| slot.head) {
            self.change_shares(&head, |n| n.saturating_sub(1));
        }
    }
}

#[cfg(test)]
mod tests;
