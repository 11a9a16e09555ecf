//! A send: datagrams that are sent together on one output, until their outcome is counted.

use std::num::NonZeroU8;
use std::rc::Rc;

use mcr_link::reason::DropReason;
use mcr_sys::mmsg::{Ancillary, SocketAddress};

use super::accounts::Accounts;
use super::origin::SenderIndex;
use super::path::Path;
use super::tracing::{Failure, Mark, NO_MARK};

/// A part of a received frame; `F` is how the receiver names its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece<F> {
    pub(crate) frame: F,
    /// The offset in the frame.
    pub(crate) start: u32,
    /// The length.
    pub(crate) bytes: u32,
}

/// A send without its bytes. Its datagrams are due: it is consumed by [`Self::settle`] or [`Self::refuse`], and can't be cloned,
/// so that each datagram is counted once.
#[derive(Debug)]
#[must_use = "its datagrams are due: settle or refuse it"]
pub(crate) struct SendMeta {
    pub(crate) path: Rc<Path>,
    /// The size of all datagrams together.
    pub(crate) bytes: u32,
    pub(crate) datagrams: u16,
    /// The size of each but the last, which may be shorter; the size of the only one.
    pub(crate) segment_bytes: u16,
    /// The TTL, if it differs from the socket's.
    pub(crate) ttl: Option<NonZeroU8>,
    /// The mark of the run, if it is traced.
    pub(crate) mark: Mark,
    /// The traffic class, if it differs from the socket's.
    pub(crate) traffic_class: Option<u8>,
    /// Who sent the datagrams, for an output that keeps it.
    pub(crate) sender: SenderIndex,
}

const _: () = assert!(size_of::<SendMeta>() <= 24, "it is moved for each send");

impl SendMeta {
    /// What the send asks of the kernel beyond the settings of the socket; `payload` are its bytes.
    #[inline]
    pub(crate) fn ancillary<'p>(&self, payload: impl Iterator<Item = &'p [u8]>) -> Ancillary {
        let (source, udp_header) = match &self.path.origin {
            None => (None, None),
            Some(origin) => {
                let (source, udp_header) = origin.of(self.sender, &self.path.address, payload);
                (Some(source), udp_header)
            }
        };
        Ancillary {
            segment_bytes: (self.datagrams > 1).then_some(self.segment_bytes),
            ttl: self.ttl.map(NonZeroU8::get),
            traffic_class: self.traffic_class,
            source,
            udp_header,
        }
    }

    /// Where to send, as the socket takes it.
    #[inline]
    pub(crate) fn destination(&self) -> &SocketAddress {
        match &self.path.origin {
            Some(origin) if origin.port.is_some() => &origin.raw_address,
            _ => &self.path.address,
        }
    }

    /// Splits off one datagram of this size as a separate send. `None` if none is left.
    pub(crate) fn split_off(&mut self, bytes: u32) -> Option<Self> {
        self.datagrams = self.datagrams.checked_sub(1)?;
        self.bytes = self.bytes.saturating_sub(bytes);
        Some(Self { path: Rc::clone(&self.path), bytes, datagrams: 1, ..*self })
    }

    /// Splits the send into one send for each datagram.
    pub(crate) fn split<F: Copy>(
        mut self,
        page: &Accounts,
        pieces: &[Piece<F>],
        mut send: impl FnMut(Self, Piece<F>),
    ) {
        for piece in datagrams(pieces, self.segment_bytes) {
            if let Some(one) = self.split_off(piece.bytes) {
                send(one, piece);
            }
        }
        self.refuse_rest(page);
    }

    /// Counts datagrams that remain after all should have been split off.
    pub(crate) fn refuse_rest(self, page: &Accounts) {
        debug_assert!(self.datagrams == 0, "each datagram starts in one of the pieces: {self:?}");
        if self.datagrams > 0 {
            self.refuse(page, DropReason::NoBuffer);
        }
    }

    /// Counts the outcome reported by the kernel.
    #[inline]
    pub(crate) fn settle(self, page: &Accounts, outcome: Result<(), i32>) {
        match outcome {
            Ok(()) => page.sent(self.path.slot, self.datagrams.into(), self.bytes.into()),
            Err(errno) => {
                page.dropped(self.path.slot, DropReason::from_errno(errno), self.datagrams.into(), errno);
            }
        }
        if self.mark != NO_MARK {
            self.trace(page, outcome.map_err(|errno| (DropReason::from_errno(errno), errno)));
        }
    }

    /// Counts datagrams that were not passed to the kernel.
    #[inline]
    pub(crate) fn refuse(self, page: &Accounts, reason: DropReason) {
        page.dropped(self.path.slot, reason, self.datagrams.into(), 0);
        if self.mark != NO_MARK {
            self.trace(page, Err((reason, 0)));
        }
    }

    #[cold]
    fn trace(&self, page: &Accounts, outcome: Result<(), Failure>) {
        let sizes = (self.datagrams, self.bytes, self.segment_bytes);
        page.trace(|tracer| tracer.settled(self.mark, self.path.slot, sizes, outcome));
    }
}

/// The datagrams in the pieces of a send, one by one.
pub(crate) fn datagrams<F: Copy>(
    pieces: &[Piece<F>],
    segment_bytes: u16,
) -> impl Iterator<Item = Piece<F>> + '_ {
    let size = u32::from(segment_bytes).max(1);
    pieces.iter().flat_map(move |piece| {
        (0..piece.bytes.div_ceil(size).max(1)).map(move |number| {
            let offset = number * size;
            Piece { start: piece.start + offset, bytes: size.min(piece.bytes - offset), ..*piece }
        })
    })
}

/// Executes sends.
pub(crate) trait Egress {
    /// The receiver's frame handle.
    type Frame: Copy;

    /// The whole buffer of a frame that was received and of which nothing is sent; empty if frames can't be written.
    fn buffer(&mut self, _frame: Self::Frame) -> &mut [u8] {
        &mut []
    }

    /// The first bytes of a frame that was received; empty if frames can't be read.
    fn frame(&self, _frame: Self::Frame, _bytes: usize) -> &[u8] {
        &[]
    }

    /// Sends one datagram that is not in a frame, after all that was sent before; counts the outcome.
    fn send_copy(&mut self, page: &Accounts, meta: SendMeta, _payload: &[u8]) {
        meta.refuse(page, DropReason::NoBuffer);
    }

    /// Sends the datagrams in the pieces, each of which starts with a datagram; counts the outcome now or later.
    fn send(&mut self, page: &Accounts, meta: SendMeta, pieces: &[Piece<Self::Frame>]);
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
            assert_eq!(datagrams(&pieces, segment_bytes).collect::<Vec<_>>(), expected);
        }
    }
}
