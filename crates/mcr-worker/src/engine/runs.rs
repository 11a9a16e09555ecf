//! Runs: datagrams of one rule that arrived one after the other and can leave in one segmented send (`UDP_SEGMENT`,
//! udp(7)): all of one size but the last, which may be shorter.
//!
//! ```text
//!  arrivals   A1 B1 A2 A3 B2 A4(short) A5        (rules A and B)
//!  runs       A: 1 2 3 4   A: 5   B: 1 2         the order within a rule is kept
//! ```

use mcr_sys::mmsg::{MAX_SEGMENTS, MAX_SEND_BYTES};

use super::arrival::Arrival;
use super::send::Piece;

/// Runs that can be open at one time; one more closes them all.
pub(crate) const MAX_OPEN: usize = 512;
/// Pieces that open runs can have in all; one more closes them all.
pub(crate) const MAX_PIECES: usize = 2_048;

const NONE: u16 = u16::MAX;
const _: () = assert!(MAX_OPEN < NONE as usize, "the places of runs are 16 bits");
const _: () = assert!(MAX_PIECES < NONE as usize, "the places of pieces are 16 bits");

/// What a closed run consisted of, beside its pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    /// The rule's place in the table.
    pub(crate) rule: u32,
    pub(crate) segment_bytes: u16,
    pub(crate) datagrams: u16,
    /// Datagrams that count as matched here, and not at another rule.
    pub(crate) first_matches: u16,
    pub(crate) bytes: u32,
    /// Datagrams, and their bytes, that are counted for an earlier flow already.
    pub(crate) counted: (u16, u32),
    pub(crate) ttl: u8,
    pub(crate) dscp: u8,
    pieces: u16,
    head: u16,
    tail: u16,
    /// A shorter datagram was the last: nothing may follow.
    ended: bool,
}

#[derive(Clone, Copy)]
struct Link<F> {
    piece: Piece<F>,
    next: u16,
}

/// The open runs, at most one per rule.
pub(crate) struct Runs<F> {
    open: Vec<Run>,
    /// By rule: the place of its open run, or [`NONE`].
    of_rule: Box<[u16]>,
    links: Vec<Link<F>>,
    /// The pieces of the run being closed, in order.
    gathered: Vec<Piece<F>>,
}

/// What became of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// It is in the rule's run.
    Yes,
    /// The rule's run must be closed first.
    CloseRule,
    /// Every run must be closed first.
    CloseAll,
}

impl<F: Copy> Runs<F> {
    /// Room for the runs of a table with so many rules.
    pub(crate) fn new(rules: usize) -> Self {
        Self {
            open: Vec::with_capacity(MAX_OPEN),
            of_rule: vec![NONE; rules].into_boxed_slice(),
            links: Vec::with_capacity(MAX_PIECES),
            gathered: Vec::with_capacity(MAX_SEGMENTS),
        }
    }

    /// Adds an arrival to the rule's run, or opens one. `same_ttl` and `same_dscp`: only datagrams alike in these may
    /// leave together.
    #[inline(always)]
    pub(crate) fn join(
        &mut self,
        rule: u32,
        arrival: &Arrival<F>,
        same_ttl: bool,
        same_dscp: bool,
    ) -> Joined {
        let Some(place) = self.of_rule.get_mut(rule as usize) else { return Joined::Yes };
        if self.links.len() >= MAX_PIECES {
            return Joined::CloseAll;
        }
        let link = u16::try_from(self.links.len()).unwrap_or(NONE);
        if let Some(run) = self.open.get_mut(usize::from(*place)) {
            if !run.admits(arrival, same_ttl, same_dscp) {
                return Joined::CloseRule;
            }
            if let Some(tail) = self.links.get_mut(usize::from(run.tail)) {
                tail.next = link;
            }
            run.add(arrival, link);
        } else {
            if self.open.len() >= MAX_OPEN {
                return Joined::CloseAll;
            }
            *place = u16::try_from(self.open.len()).unwrap_or(NONE);
            let mut run = Run {
                rule,
                segment_bytes: arrival.segment_bytes,
                ttl: arrival.ttl,
                dscp: arrival.dscp,
                head: link,
                ..Run::default()
            };
            run.add(arrival, link);
            self.open.push(run);
        }
        self.links.push(Link { piece: arrival.piece, next: NONE });
        Joined::Yes
    }

    /// What the rule's open run holds and no flow has counted; after it, a flow has.
    pub(crate) fn count_open(&mut self, rule: u32) -> (u64, u64) {
        let place = self.of_rule.get(rule as usize).copied().unwrap_or(NONE);
        let Some(run) = self.open.get_mut(usize::from(place)) else { return (0, 0) };
        let uncounted = run.uncounted();
        run.counted = (run.datagrams, run.bytes);
        uncounted
    }

    /// Closes the rule's run and gives it. The rule's place in the list of open runs stays until [`Self::clear`], so
    /// that the others keep theirs.
    pub(crate) fn close(&mut self, rule: u32) -> Option<(Run, &[Piece<F>])> {
        let place = std::mem::replace(self.of_rule.get_mut(rule as usize)?, NONE);
        self.take(usize::from(place))
    }

    /// How many runs were opened since the last [`Self::clear`]; the places that [`Self::close_at`] takes.
    pub(crate) const fn opened(&self) -> usize {
        self.open.len()
    }

    /// Closes the run at a place and gives it, unless it was closed before.
    pub(crate) fn close_at(&mut self, place: usize) -> Option<(Run, &[Piece<F>])> {
        let rule = self.open.get(place)?.rule;
        let of_rule = self.of_rule.get_mut(rule as usize)?;
        if usize::from(*of_rule) == place {
            *of_rule = NONE;
            self.take(place)
        } else {
            None
        }
    }

    /// Forgets the closed runs; for when all are closed.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
        self.links.clear();
    }

    #[inline(always)]
    fn take(&mut self, place: usize) -> Option<(Run, &[Piece<F>])> {
        let run = *self.open.get(place)?;
        self.gathered.clear();
        let mut at = run.head;
        while let Some(link) = self.links.get(usize::from(at)).filter(|_| self.gathered.len() < MAX_SEGMENTS)
        {
            self.gathered.push(link.piece);
            at = link.next;
        }
        Some((run, &self.gathered))
    }
}

impl Run {
    /// Datagrams of the flow that the last one is of, and their bytes.
    #[inline]
    pub(crate) fn uncounted(&self) -> (u64, u64) {
        let (datagrams, bytes) = self.counted;
        (u64::from(self.datagrams - datagrams), u64::from(self.bytes - bytes))
    }

    #[inline(always)]
    fn admits<F>(&self, arrival: &Arrival<F>, same_ttl: bool, same_dscp: bool) -> bool {
        // A lone datagram may be shorter, and ends the run; the segments of a super-frame must be of the run's size.
        let fits = if arrival.datagrams == 1 {
            arrival.segment_bytes <= self.segment_bytes && arrival.segment_bytes > 0
        } else {
            arrival.segment_bytes == self.segment_bytes
        };
        fits && !self.ended
            && usize::from(self.datagrams) + usize::from(arrival.datagrams) <= MAX_SEGMENTS
            && self.bytes as usize + arrival.piece.bytes as usize <= MAX_SEND_BYTES
            && (!same_ttl || self.ttl == arrival.ttl)
            && (!same_dscp || self.dscp == arrival.dscp)
    }

    #[inline(always)]
    fn add<F>(&mut self, arrival: &Arrival<F>, link: u16) {
        self.datagrams += arrival.datagrams;
        self.first_matches += if arrival.first_match { arrival.datagrams } else { 0 };
        self.bytes += arrival.piece.bytes;
        self.pieces += 1;
        self.tail = link;
        let whole = u32::from(self.segment_bytes) * u32::from(arrival.datagrams);
        self.ended = arrival.piece.bytes < whole || self.segment_bytes == 0;
    }
}

#[cfg(test)]
mod tests;
