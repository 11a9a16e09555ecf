//! One send as a value: which output, which bytes, in which segments.

use std::num::NonZeroU8;

use mcr_link::reason::DropReason;
use mcr_sys::mmsg::Ancillary;

use super::accounts::Accounts;
use super::table::{Table, TableOutput};
use super::tracing::{Failure, Mark, NO_MARK};

/// A part of a received frame; `F` is how the receiver names its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece<F> {
    pub(crate) frame: F,
    /// Where the part starts in the frame.
    pub(crate) start: u32,
    /// Its length.
    pub(crate) bytes: u32,
}

/// The datagrams of one send: each but the last has `segment_bytes`, and each piece starts with a datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payload<'a, F> {
    pub(crate) pieces: &'a [Piece<F>],
    pub(crate) datagrams: u16,
    /// The size of each but the last; the size of the only one.
    pub(crate) segment_bytes: u16,
    /// Of all datagrams together.
    pub(crate) bytes: u32,
}

/// Datagrams that are to leave on one output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transmission<'a, F> {
    /// The output's place in the table.
    pub(crate) output: u32,
    pub(crate) payload: Payload<'a, F>,
    /// TTL to send with, where the socket's own is not the one.
    pub(crate) ttl: Option<u8>,
    /// Traffic class to send with, where the socket's own is not the one.
    pub(crate) traffic_class: Option<u8>,
    /// Of the run, if it is traced.
    pub(crate) mark: Mark,
}

/// A transmission without its bytes: what must be remembered of a send until its outcome is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SendMeta {
    pub(crate) output: u32,
    pub(crate) datagrams: u16,
    pub(crate) segment_bytes: u16,
    pub(crate) bytes: u32,
    /// Never 0, so that a meta with its mark is as small as one without.
    pub(crate) ttl: Option<NonZeroU8>,
    pub(crate) mark: Mark,
    pub(crate) traffic_class: Option<u8>,
}

const _: () = assert!(size_of::<SendMeta>() == 16, "a meta is copied for each send");

impl SendMeta {
    /// What the send asks of the kernel beyond the socket's settings.
    #[inline]
    pub(crate) fn ancillary(&self) -> Ancillary {
        Ancillary {
            segment_bytes: (self.datagrams > 1).then_some(self.segment_bytes),
            ttl: self.ttl.map(NonZeroU8::get),
            traffic_class: self.traffic_class,
        }
    }

    /// One of the datagrams, of this many bytes, by itself.
    #[inline]
    pub(crate) fn alone(&self, bytes: u32) -> Self {
        Self { datagrams: 1, bytes, ..*self }
    }
}

impl<F> Transmission<'_, F> {
    /// The transmission without its bytes.
    #[inline]
    pub(crate) fn meta(&self) -> SendMeta {
        SendMeta {
            output: self.output,
            datagrams: self.payload.datagrams,
            segment_bytes: self.payload.segment_bytes,
            bytes: self.payload.bytes,
            ttl: self.ttl.and_then(NonZeroU8::new),
            mark: self.mark,
            traffic_class: self.traffic_class,
        }
    }
}

impl<F: Copy> Payload<'_, F> {
    /// The datagrams one by one.
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = Piece<F>> + '_ {
        let size = u32::from(self.segment_bytes).max(1);
        self.pieces.iter().flat_map(move |piece| {
            (0..piece.bytes.div_ceil(size).max(1)).map(move |number| {
                let offset = number * size;
                Piece { start: piece.start + offset, bytes: size.min(piece.bytes - offset), ..*piece }
            })
        })
    }
}

/// Executes sends. Each ends in [`settle`], then or later.
pub(crate) trait Egress {
    /// How the receiver names its frames.
    type Frame: Copy;

    /// Sends the datagrams of one output, whose socket the table knows.
    fn transmit(&mut self, table: &Table, page: &Accounts, transmission: &Transmission<'_, Self::Frame>);
}

/// Enters the outcome of a send into the accounts.
#[inline]
pub(crate) fn settle(page: &Accounts, output: &TableOutput, meta: &SendMeta, outcome: Result<(), i32>) {
    let datagrams = u64::from(meta.datagrams);
    match outcome {
        Ok(()) => page.sent(output.slot, datagrams, u64::from(meta.bytes)),
        Err(errno) => page.dropped(output.slot, DropReason::from_errno(errno), datagrams, errno),
    }
    if meta.mark != NO_MARK {
        trace(page, output, meta, outcome.map_err(|errno| (DropReason::from_errno(errno), errno)));
    }
}

/// Enters datagrams that were not given to the kernel into the accounts.
#[inline]
pub(crate) fn refuse(page: &Accounts, output: &TableOutput, meta: &SendMeta, reason: DropReason) {
    page.dropped(output.slot, reason, u64::from(meta.datagrams), 0);
    if meta.mark != NO_MARK {
        trace(page, output, meta, Err((reason, 0)));
    }
}

#[cold]
fn trace(page: &Accounts, output: &TableOutput, meta: &SendMeta, outcome: Result<(), Failure>) {
    let sizes = (meta.datagrams, meta.bytes, meta.segment_bytes);
    page.trace(|tracer| tracer.settled(meta.mark, output.slot, sizes, outcome));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_of_several_pieces() {
        let piece = |frame, start, bytes| Piece { frame, start, bytes };
        for (pieces, segment_bytes, expected) in [
            (vec![piece(0, 42, 100)], 100, vec![piece(0, 42, 100)]),
            (vec![piece(0, 42, 0)], 0, vec![piece(0, 42, 0)]),
            (
                vec![piece(0, 42, 200), piece(1, 52, 130)],
                100,
                vec![piece(0, 42, 100), piece(0, 142, 100), piece(1, 52, 100), piece(1, 152, 30)],
            ),
        ] {
            let bytes = pieces.iter().map(|piece| piece.bytes).sum();
            let payload = Payload { pieces: &pieces, datagrams: 0, segment_bytes, bytes };
            assert_eq!(payload.datagrams().collect::<Vec<_>>(), expected);
        }
    }
}
