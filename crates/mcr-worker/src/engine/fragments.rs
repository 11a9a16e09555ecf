//! Fragments: those that a rule may want are put together in [`mcr_wire::Reassembly`]. The datagram is written over the frame that completes
//! it, whose buffer has room, and goes through the loop once more, as if it had arrived whole.
//!
//! ```text
//!  process(): a fragment ─▶ take_fragment() ─ held ─▶ frames += 1, fragments += 1
//!                                 │
//!                                 ├─ complete ─▶ its frame again, whole ─▶ parse() ─▶ process(): received += 1 …
//!                                 └─ given up, now or later ─▶ received += 1, and a skip
//! ```
//!
//! So the accounting identity holds at any time. Nothing here runs for other frames.

use mcr_link::reason::SkipReason;
use mcr_link::telemetry::{PageWriter, Total};
use mcr_sys::clock::monotonic_ns;
use mcr_wire::{AddressBits, Fragment, Loss, Lost, Refusal, Taken, VNET_HEADER_BYTES, parse_fragment, peek};

use super::accounts::Accounts;
use super::index::DestinationKey;
use super::send::Egress;
use super::{Engine, Table};

impl<F: Copy> Engine<F> {
    /// Goes on with a frame for which [`Self::process`] returned true. Returns the number of bytes that are now in its buffer if it
    /// is to be processed again: a datagram that is complete.
    #[cold]
    #[inline(never)]
    pub(crate) fn process_further<const TRACED: bool, E: Egress<Frame = F>>(
        &mut self,
        frame: F,
        bytes: usize,
        page: &Accounts,
        egress: &mut E,
    ) -> Option<usize> {
        let buffer = egress.buffer(frame);
        let received = buffer.get(..bytes).unwrap_or_default();
        let parsed = self.parse_again(received);
        if parsed.as_ref().err() == Some(&Refusal::Fragment) {
            return self.take_fragment::<TRACED>(buffer, bytes, page);
        }
        let own = self.is_from_this_host(received);
        self.process_host_address::<TRACED, E>(frame, own, parsed, page, egress);
        None
    }

    /// Takes the fragment in the first bytes of a buffer. Returns the number of bytes of the frame in its place if that is a
    /// whole datagram now.
    pub(super) fn take_fragment<const TRACED: bool>(
        &mut self,
        buffer: &mut [u8],
        bytes: usize,
        page: &Accounts,
    ) -> Option<usize> {
        let frame = buffer.get(VNET_HEADER_BYTES..bytes).unwrap_or_default();
        let skip = |engine: &Self, frame: &[u8], reason| {
            page.count(Total::Received, 1);
            page.skip(reason, 1);
            engine.count_for_rules_of(frame, reason, page);
            if TRACED {
                page.trace(|tracer| tracer.refused(reason));
            }
        };
        let Some(fragment) = parse_fragment(frame, self.link) else {
            skip(self, frame, SkipReason::Fragment);
            return None;
        };
        if let Some(reason) =
            self.table.refuses_fragment(fragment.head.destination.into(), fragment.head.source.into())
        {
            skip(self, frame, reason);
            return None;
        }
        let data = frame.get(fragment.data.clone()).unwrap_or_default();
        let Self { reassembly, table, now_ns, .. } = self;
        let taken = reassembly.take(&fragment, data, *now_ns, |lost| count_lost(table, &lost, *now_ns, page));
        page.set_under_way(reassembly.under_way() as u64);
        if taken == Taken::Invalid {
            skip(self, frame, SkipReason::FragmentInvalid);
            return None;
        }
        page.count(Total::Fragments, 1);
        if taken != Taken::Complete {
            return None;
        }
        page.count(Total::Reassembled, 1);
        let (whole, refused) = match self.write_whole(&fragment, buffer) {
            None => (bytes, Some(SkipReason::FragmentInvalid)),
            Some(whole) => {
                let frame = buffer.get(VNET_HEADER_BYTES..whole).unwrap_or_default();
                (whole, self.is_unwanted(frame).then_some(SkipReason::Fragment))
            }
        };
        if let Some(reason) = refused {
            skip(self, buffer.get(VNET_HEADER_BYTES..whole).unwrap_or_default(), reason);
            return None;
        }
        // The frame comes again.
        page.count(Total::Frames, 1_u64.wrapping_neg());
        Some(whole)
    }

    /// Writes the datagram that is complete over its last fragment, with the link header of that one. Its checksum is neither
    /// verified nor partial: the sender's kernel computes it before it makes fragments.
    fn write_whole(&mut self, last: &Fragment, buffer: &mut [u8]) -> Option<usize> {
        let start = VNET_HEADER_BYTES + last.ip_offset;
        let bytes = self.reassembly.write_packet(buffer.get_mut(start..)?)?;
        buffer.get_mut(..VNET_HEADER_BYTES)?.fill(0);
        Some(start + bytes)
    }

    /// Whether a datagram that was put together is for rules without reassembly: their group has others with it.
    fn is_unwanted(&self, frame: &[u8]) -> bool {
        peek(frame, self.link).is_some_and(|seen| {
            let port = seen.ports.map_or(0, |(_, port)| port);
            let destination = DestinationKey::new(seen.destination, port);
            self.table.refuses_reassembled(destination, AddressBits::from(seen.source))
        })
    }

    /// Gives up the datagrams whose time is over. To be called often, also while nothing arrives.
    pub(crate) fn expire_fragments(&mut self, page: &PageWriter) {
        if self.reassembly.is_idle() {
            return;
        }
        let now_ns = monotonic_ns();
        let Self { reassembly, table, .. } = self;
        reassembly.expire(now_ns, |lost| count_lost(table, &lost, now_ns, page));
        page.set_under_way(reassembly.under_way() as u64);
    }
}

/// Counts a datagram that was given up.
fn count_lost(table: &Table, lost: &Lost, now_ns: u64, page: &PageWriter) {
    let reason = match lost.loss {
        Loss::Incomplete => SkipReason::FragmentIncomplete,
        Loss::Overlap => SkipReason::FragmentOverlap,
        Loss::Evicted => SkipReason::FragmentEvicted,
    };
    page.count(Total::Received, 1);
    page.skip(reason, 1);
    super::skips::count_for_rules(
        table,
        (lost.destination.into(), lost.port),
        lost.source.into(),
        (reason, 1),
        now_ns,
        page,
    );
}

#[cfg(test)]
mod tests;
