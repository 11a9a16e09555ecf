//! Runs: consecutive datagrams of one rule that can be sent in one segmented send (`UDP_SEGMENT`, udp(7)): all of equal size
//! except the last, which may be shorter.
//!
//! ```text
//!  arrivals   A1 B1 A2 A3 B2 A4(short) A5        (rules A and B)
//!  runs       A: 1 2 3 4   A: 5   B: 1 2         the order within a rule is kept
//! ```

use mcr_sys::mmsg::{MAX_SEGMENTS, MAX_SEND_BYTES};

use super::arrival::Arrival;
use super::send::Piece;

/// Maximum number of open runs; one more closes them all.
pub(crate) const MAX_OPEN: usize = 512;
/// Maximum number of pieces of all open runs; one more closes them all.
pub(crate) const MAX_PIECES: usize = 2_048;

const NONE: u16 = u16::MAX;
const _: () = assert!(MAX_OPEN < NONE as usize, "the index of a run has 16 bits");
const _: () = assert!(MAX_PIECES < NONE as usize, "the index of a piece has 16 bits");

/// A run without its pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    /// The index of the rule in the table.
    pub(crate) rule: u32,
    pub(crate) segment_bytes: u16,
    pub(crate) datagrams: u16,
    /// Datagrams that are counted as matched here, and not for another rule.
    pub(crate) first_matches: u16,
    pub(crate) bytes: u32,
    /// Datagrams, and their bytes, that have been counted for an earlier flow.
    pub(crate) counted: (u16, u32),
    pub(crate) ttl: u8,
    pub(crate) dscp: u8,
    pieces: u16,
    head: u16,
    tail: u16,
    /// The last datagram is shorter: none may follow.
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
    /// The index of each rule's open run, or [`NONE`].
    of_rule: Box<[u16]>,
    links: Vec<Link<F>>,
    /// The pieces of the run being closed, in order.
    gathered: Vec<Piece<F>>,
}

/// The result of [`Runs::join`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// The datagrams are in the run of the rule.
    Yes,
    /// The run of the rule must be closed first.
    CloseRule,
    /// All runs must be closed first.
    CloseAll,
}

impl<F: Copy> Runs<F> {
    /// Creates the runs of a table with `rules` rules.
    pub(crate) fn new(rules: usize) -> Self {
        Self {
            open: Vec::with_capacity(MAX_OPEN),
            of_rule: vec![NONE; rules].into_boxed_slice(),
            links: Vec::with_capacity(MAX_PIECES),
            gathered: Vec::with_capacity(MAX_SEGMENTS),
        }
    }

    /// Adds datagrams to the run of a rule, or opens one. `same_ttl` and `same_dscp`: whether these must be equal in a run.
    #[inline(always)]
    pub(crate) fn join(
        &mut self,
        rule: u32,
        arrival: &Arrival<F>,
        same_ttl: bool,
        same_dscp: bool,
    ) -> Joined {
        let Some(index) = self.of_rule.get_mut(rule as usize) else { return Joined::Yes };
        if self.links.len() >= MAX_PIECES {
            return Joined::CloseAll;
        }
        let link = u16::try_from(self.links.len()).unwrap_or(NONE);
        if let Some(run) = self.open.get_mut(usize::from(*index)) {
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
            *index = u16::try_from(self.open.len()).unwrap_or(NONE);
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

    /// Returns the datagrams and bytes of the rule's open run that have not been counted for a flow, and marks them as counted.
    pub(crate) fn count_open(&mut self, rule: u32) -> (u64, u64) {
        let index = self.of_rule.get(rule as usize).copied().unwrap_or(NONE);
        let Some(run) = self.open.get_mut(usize::from(index)) else { return (0, 0) };
        let uncounted = run.uncounted();
        run.counted = (run.datagrams, run.bytes);
        uncounted
    }

    /// Closes the run of a rule and returns it. Its entry in the list stays until [`Self::clear`], so that the indices of other
    /// runs don't change.
    pub(crate) fn close(&mut self, rule: u32) -> Option<(&Run, &[Piece<F>])> {
        let index = std::mem::replace(self.of_rule.get_mut(rule as usize)?, NONE);
        self.take(usize::from(index))
    }

    /// The number of runs opened since the last [`Self::clear`]: the bound of the index of [`Self::close_at`].
    pub(crate) const fn opened(&self) -> usize {
        self.open.len()
    }

    /// Closes the run at an index and returns it, unless it is closed already.
    #[inline(always)]
    pub(crate) fn close_at(&mut self, index: usize) -> Option<(&Run, &[Piece<F>])> {
        let rule = self.open.get(index)?.rule;
        let of_rule = self.of_rule.get_mut(rule as usize)?;
        if usize::from(*of_rule) == index {
            *of_rule = NONE;
            self.take(index)
        } else {
            None
        }
    }

    /// Removes the closed runs; all must be closed.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
        self.links.clear();
    }

    #[inline(always)]
    fn take(&mut self, index: usize) -> Option<(&Run, &[Piece<F>])> {
        let run = self.open.get(index)?;
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
    /// The datagrams, and their bytes, that have not been counted for a flow yet: those of the last datagram's flow.
    #[inline]
    pub(crate) fn uncounted(&self) -> (u64, u64) {
        let (datagrams, bytes) = self.counted;
        (u64::from(self.datagrams - datagrams), u64::from(self.bytes - bytes))
    }

    /// A run of one datagram that is not in a frame.
    pub(crate) fn of_one(rule: u32, bytes: usize, (ttl, dscp): (u8, u8), first_match: bool) -> Self {
        let (size, bytes) =
            (u16::try_from(bytes).unwrap_or(u16::MAX), u32::try_from(bytes).unwrap_or(u32::MAX));
        let first_matches = u16::from(first_match);
        Self {
            rule,
            segment_bytes: size,
            datagrams: 1,
            first_matches,
            bytes,
            ttl,
            dscp,
            pieces: 1,
            ..Self::default()
        }
    }

    /// The datagrams that share a frame with others, without the first of each frame. A frame that is split over several runs
    /// counts as several.
    #[inline(always)]
    pub(crate) fn merged(&self) -> u16 {
        self.datagrams.saturating_sub(self.pieces)
    }

    #[inline(always)]
    fn admits<F>(&self, arrival: &Arrival<F>, same_ttl: bool, same_dscp: bool) -> bool {
        // A single datagram may be shorter, and ends the run; segments of a super-frame must have the size of the run.
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
