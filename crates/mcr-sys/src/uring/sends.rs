//! Sends in flight: the message header, address, ancillary data and pieces of each, at fixed addresses.

use std::collections::VecDeque;

use super::FileSlot;
use super::buffers::{BufferId, Buffers};
use crate::mmsg::{Ancillary, Control, MAX_SEGMENTS, SocketAddress};

/// A part of a received frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// The frame's buffer.
    pub buffer: BufferId,
    /// Where the part starts.
    pub start: u32,
    /// Its length.
    pub bytes: u32,
}

/// A send request.
#[derive(Clone, Copy, Debug)]
pub struct SendRequest<'a> {
    /// The socket.
    pub socket: FileSlot,
    /// The destination.
    pub destination: &'a SocketAddress,
    /// Segmentation, header fields, source.
    pub ancillary: Ancillary,
    /// The payload, at most [`MAX_SEGMENTS`] pieces of held buffers. Each buffer has another reference until
    /// [`super::Ring::finish`].
    pub pieces: &'a [Piece],
}

/// Why a send was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendRefused {
    /// All slots are in flight: take events and finish sends.
    #[error("too many sends are under way")]
    NoRoom,
    /// Too many pieces, or a piece that is not inside a held buffer.
    #[error("a piece is not inside a held buffer")]
    BadPiece,
}

/// A send in flight, or completed and not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SendId(u16);

impl SendId {
    /// Its number, below the ring's number of sends: for tables beside the ring.
    #[must_use]
    pub const fn index(self) -> u16 {
        self.0
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    UnderWay,
    Ended,
}

#[repr(C)]
struct Slot {
    header: libc::msghdr,
    address: SocketAddress,
    control: Control,
    state: State,
    used: usize,
    bytes: u32,
    udp_header: [u8; 8],
    /// One more than pieces: that of the UDP header.
    vectors: [libc::iovec; MAX_SEGMENTS + 1],
    pieces: [Piece; MAX_SEGMENTS],
}

/// The slots, and which of them are free. The last one freed is used first: it is still in the cache.
pub(super) struct SendSlots {
    slots: Box<[Slot]>,
    free: Vec<u16>,
    under_way: usize,
    /// Those in flight, in the order in which they were queued; a failed one stays until its turn.
    queued: VecDeque<u16>,
    /// Number of them, from the first, that the kernel has executed.
    executed: usize,
}

impl SendSlots {
    pub(super) fn new(count: u16) -> Self {
        Self {
            slots: (0..count).map(|_| Slot::empty()).collect(),
            free: (0..count).rev().collect(),
            under_way: 0,
            // A slot that fails and is reused is in it twice.
            queued: VecDeque::with_capacity(2 * usize::from(count)),
            executed: 0,
        }
    }

    pub(super) const fn count(&self) -> usize {
        self.slots.len()
    }

    pub(super) const fn under_way(&self) -> usize {
        self.under_way
    }

    /// Fills a slot and holds the buffers of its pieces; the pointer is valid until the slot is finished.
    #[inline]
    pub(super) fn prepare(
        &mut self,
        request: &SendRequest<'_>,
        buffers: &mut Buffers,
    ) -> Result<(SendId, *const libc::msghdr), SendRefused> {
        if request.pieces.len() > MAX_SEGMENTS {
            return Err(SendRefused::BadPiece);
        }
        let id = SendId(*self.free.last().ok_or(SendRefused::NoRoom)?);
        let slot = self.slots.get_mut(usize::from(id.0)).ok_or(SendRefused::NoRoom)?;
        let headers = usize::from(request.ancillary.udp_header.is_some());
        let mut vectors = slot.vectors.iter_mut();
        if let Some(header) = request.ancillary.udp_header
            && let Some(vector) = vectors.next()
        {
            slot.udp_header = header;
            let start = std::ptr::from_mut(&mut slot.udp_header).cast();
            *vector = libc::iovec { iov_base: start, iov_len: header.len() };
        }
        for ((vector, kept), piece) in vectors.zip(&mut slot.pieces).zip(request.pieces) {
            let bytes = buffers.bytes(piece.buffer, piece.start, piece.bytes).ok_or(SendRefused::BadPiece)?;
            *vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            *kept = *piece;
        }
        request.pieces.iter().for_each(|piece| buffers.hold(piece.buffer));
        self.free.pop();
        self.queued.push_back(id.0);
        self.under_way += 1;
        slot.used = request.pieces.len();
        slot.bytes = request.pieces.iter().map(|piece| piece.bytes).sum();
        slot.state = State::UnderWay;
        slot.address = *request.destination;
        let ipv6 = slot.address.bytes() == SocketAddress::CAPACITY;
        let control_bytes = slot.control.write(&request.ancillary, ipv6);
        slot.header.msg_name = std::ptr::from_mut(&mut slot.address).cast();
        slot.header.msg_namelen = slot.address.bytes();
        slot.header.msg_iov = slot.vectors.as_mut_ptr();
        slot.header.msg_iovlen = (headers + slot.used) as _;
        slot.header.msg_control = match control_bytes {
            0 => std::ptr::null_mut(),
            _ => std::ptr::from_mut(&mut slot.control).cast(),
        };
        slot.header.msg_controllen = control_bytes as _;
        Ok((id, std::ptr::from_ref(&slot.header)))
    }

    /// Frees a slot that was never submitted.
    pub(super) fn abandon(&mut self, id: SendId, buffers: &mut Buffers) {
        self.ended(id.0);
        self.finish(id, buffers);
    }

    /// The kernel has executed all that were queued; those that failed have completions.
    #[inline]
    pub(super) fn submitted(&mut self) {
        self.executed = self.queued.len();
    }

    /// The next send that was executed and has no completion, with its bytes. Only when no completion is left.
    #[inline]
    pub(super) fn next_success(&mut self) -> Option<(SendId, u32)> {
        while self.executed > 0 {
            self.executed -= 1;
            let index = self.queued.pop_front()?;
            if let Some(id) = self.ended(index) {
                return Some((id, self.slots.get(usize::from(index)).map_or(0, |slot| slot.bytes)));
            }
        }
        None
    }

    /// Records a completion of the slot.
    #[inline]
    pub(super) fn ended(&mut self, index: u16) -> Option<SendId> {
        let slot = self.slots.get_mut(usize::from(index)).filter(|slot| slot.state == State::UnderWay)?;
        slot.state = State::Ended;
        self.under_way -= 1;
        Some(SendId(index))
    }

    pub(super) fn pieces(&self, id: SendId) -> &[Piece] {
        self.slots
            .get(usize::from(id.0))
            .filter(|slot| slot.state != State::Free)
            .and_then(|slot| slot.pieces.get(..slot.used))
            .unwrap_or_default()
    }

    #[inline]
    pub(super) fn finish(&mut self, id: SendId, buffers: &mut Buffers) {
        let Some(slot) = self.slots.get_mut(usize::from(id.0)).filter(|slot| slot.state == State::Ended)
        else {
            return;
        };
        slot.state = State::Free;
        slot.pieces.iter().take(slot.used).for_each(|piece| buffers.release(piece.buffer));
        self.free.push(id.0);
    }
}

impl Slot {
    fn empty() -> Self {
        // SAFETY: a msghdr of zeros is valid: null pointers with zero lengths.
        let header: libc::msghdr = unsafe { std::mem::zeroed() };
        Self {
            header,
            address: SocketAddress::EMPTY,
            control: Control::EMPTY,
            state: State::Free,
            used: 0,
            bytes: 0,
            udp_header: [0; 8],
            vectors: [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; MAX_SEGMENTS + 1],
            pieces: [Piece::default(); MAX_SEGMENTS],
        }
    }
}
