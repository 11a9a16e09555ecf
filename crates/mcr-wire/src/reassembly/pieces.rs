//! Which parts of one datagram have arrived.

use std::ops::Range;

/// The most fragments of a datagram. With the smallest MTU that is in use (IPv4: 576, RFC 791), the largest datagram has 119.
pub(super) const MAX_PIECES: usize = 256;

/// Ranges of a datagram, in bytes, sorted: none overlaps another.
#[derive(Clone, Debug)]
pub(super) struct Pieces {
    ranges: [(u16, u16); MAX_PIECES],
    count: usize,
    /// Bytes in all ranges.
    filled: usize,
    /// Where the datagram ends, once the last fragment has arrived.
    end: Option<usize>,
}

/// The result of [`Pieces::add`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// It fills a gap.
    New,
    /// There is a fragment with this range. The sender or the network has sent it twice if it has the same content.
    Again,
    /// It overlaps another fragment, contradicts the end of the datagram, or is one too many.
    Refused,
}

impl Pieces {
    pub(super) const EMPTY: Self = Self { ranges: [(0, 0); MAX_PIECES], count: 0, filled: 0, end: None };

    pub(super) const fn clear(&mut self) {
        (self.count, self.filled, self.end) = (0, 0, None);
    }

    /// Whether the first bytes have arrived.
    pub(super) fn has_first(&self) -> bool {
        self.ranges().first().is_some_and(|(start, _)| *start == 0)
    }

    /// The length of the datagram, if all of it has arrived.
    pub(super) fn complete(&self) -> Option<usize> {
        self.end.filter(|end| *end == self.filled)
    }

    fn ranges(&self) -> &[(u16, u16)] {
        self.ranges.get(..self.count).unwrap_or_default()
    }

    /// Adds a range that is not empty and ends at 65,535 at most; `more`: it is not the last one of the datagram.
    pub(super) fn add(&mut self, range: Range<usize>, more: bool) -> Added {
        let (Ok(start), Ok(end)) = (u16::try_from(range.start), u16::try_from(range.end)) else {
            return Added::Refused;
        };
        let last = self.ranges().last().map_or(0, |(_, end)| usize::from(*end));
        let contradicts_the_end = match self.end {
            Some(known) if more => range.end >= known,
            Some(known) => range.end != known,
            None => !more && last >= range.end,
        };
        if contradicts_the_end {
            return Added::Refused;
        }
        let place = self.ranges().partition_point(|(other, _)| *other < start);
        let before = place.checked_sub(1).and_then(|before| self.ranges().get(before));
        match (before, self.ranges().get(place)) {
            (_, Some(here)) if *here == (start, end) => return Added::Again,
            (Some((_, ends)), _) if *ends > start => return Added::Refused,
            (_, Some((starts, _))) if *starts < end => return Added::Refused,
            _ if self.count >= MAX_PIECES => return Added::Refused,
            _ => {}
        }
        self.ranges.copy_within(place..self.count, place + 1);
        if let Some(free) = self.ranges.get_mut(place) {
            *free = (start, end);
        }
        self.count += 1;
        self.filled += range.len();
        if !more {
            self.end = Some(range.end);
        }
        Added::New
    }
}
