//! Sending in batches.

use std::marker::PhantomData;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::address::SocketAddress;
use super::ancillary::{Ancillary, Control};

/// Headers for sendmmsg(2). The payload stays where the caller has it.
///
/// ```text
///  begin() ─▶ Sending ─ push() … push() ─▶ send(socket, outcome)
/// ```
pub struct SendBatch {
    headers: Box<[libc::mmsghdr]>,
    addresses: Box<[SocketAddress]>,
    controls: Box<[Control]>,
    /// The UDP header of each, on raw sockets.
    udp_headers: Box<[[u8; 8]]>,
    pieces: Box<[libc::iovec]>,
}

// SAFETY: the raw pointers inside are written and followed only while a `Sending` holds the batch exclusively.
unsafe impl Send for SendBatch {}

/// The batch has no room for another datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the send batch is full")]
pub struct BatchFull;

/// Datagrams being gathered for one send; `'payload` is the memory they point to.
pub struct Sending<'batch, 'payload> {
    batch: &'batch mut SendBatch,
    messages: usize,
    pieces: usize,
    payload: PhantomData<&'payload [u8]>,
}

/// What [`Sending::execute`] reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The outcome of the datagram at a position: the bytes sent, or the errno.
    Outcome(usize, Result<usize, i32>),
    /// A call of the kernel ended before its last datagram. sendmmsg(2) reports an error only if the first datagram of a call
    /// fails, so a pending error of the socket, which fails one send and is gone, may be in no outcome.
    EndedEarly,
}

impl SendBatch {
    /// A batch with room for this number of datagrams and of pieces of payload in all.
    #[must_use]
    pub fn new(messages: usize, pieces: usize) -> Self {
        // SAFETY: an mmsghdr of zeros is valid: null pointers with zero lengths.
        let header: libc::mmsghdr = unsafe { zeroed() };
        Self {
            headers: vec![header; messages].into_boxed_slice(),
            addresses: vec![SocketAddress::EMPTY; messages].into_boxed_slice(),
            controls: vec![Control::EMPTY; messages].into_boxed_slice(),
            udp_headers: vec![[0; 8]; messages].into_boxed_slice(),
            pieces: vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; pieces]
                .into_boxed_slice(),
        }
    }

    /// An empty batch to push datagrams into.
    pub const fn begin<'payload>(&mut self) -> Sending<'_, 'payload> {
        Sending { batch: self, messages: 0, pieces: 0, payload: PhantomData }
    }
}

impl<'payload> Sending<'_, 'payload> {
    /// Adds a datagram whose payload is the pieces in their order; `destination` is `None` on a connected socket.
    ///
    /// # Errors
    /// There is no room; the batch is unchanged.
    pub fn push(
        &mut self,
        destination: Option<&SocketAddress>,
        ancillary: &Ancillary,
        payload: impl IntoIterator<Item = &'payload [u8]>,
    ) -> Result<(), BatchFull> {
        let place = self.messages;
        let batch = &mut *self.batch;
        let (Some(header), Some(address), Some(control)) =
            (batch.headers.get_mut(place), batch.addresses.get_mut(place), batch.controls.get_mut(place))
        else {
            return Err(BatchFull);
        };
        let mut end = self.pieces;
        if let Some(header) = ancillary.udp_header {
            let (Some(place), Some(entry)) = (batch.udp_headers.get_mut(place), batch.pieces.get_mut(end))
            else {
                return Err(BatchFull);
            };
            *place = header;
            *entry = libc::iovec { iov_base: std::ptr::from_mut(place).cast(), iov_len: header.len() };
            end += 1;
        }
        for piece in payload {
            let entry = batch.pieces.get_mut(end).ok_or(BatchFull)?;
            *entry = libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() };
            end += 1;
        }
        *address = destination.copied().unwrap_or(SocketAddress::EMPTY);
        let ipv6 = address.bytes() == SocketAddress::CAPACITY;
        header.msg_hdr.msg_namelen = address.bytes();
        header.msg_hdr.msg_controllen = control.write(ancillary, ipv6) as _;
        header.msg_hdr.msg_iovlen = (end - self.pieces) as _;
        self.messages += 1;
        self.pieces = end;
        Ok(())
    }

    /// Number of datagrams pushed.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.messages
    }

    /// Returns whether none was pushed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Sends in order, without blocking. Each datagram has one outcome: its position, and the bytes sent or the errno. A
    /// failure does not stop the datagrams after it, and is reported before they are sent.
    pub fn send(self, socket: BorrowedFd<'_>, mut outcome: impl FnMut(usize, Result<usize, i32>)) {
        self.execute(socket, |progress| {
            if let Progress::Outcome(position, result) = progress {
                outcome(position, result);
            }
        });
    }

    /// As [`Self::send`], and reports where a call of the kernel ended early.
    pub fn execute(mut self, socket: BorrowedFd<'_>, mut report: impl FnMut(Progress)) {
        self.link();
        let mut at = 0;
        while at < self.messages {
            let Some(rest) = self.batch.headers.get_mut(at..self.messages) else { return };
            let count = u32::try_from(rest.len()).unwrap_or(u32::MAX);
            // SAFETY: `link` made every header point to live memory: the batch's own arrays, and payload that
            // `'payload` keeps borrowed until this call ends. The kernel only reads it.
            let sent =
                unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
            let Ok(sent) = usize::try_from(sent) else {
                let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
                if errno != libc::EINTR {
                    report(Progress::Outcome(at, Err(errno)));
                    at += 1;
                }
                continue;
            };
            for (place, header) in rest.iter().take(sent).enumerate() {
                report(Progress::Outcome(at + place, Ok(header.msg_len as usize)));
            }
            if sent == 0 {
                // Not documented for sendmmsg; a failure, so that the loop ends and each datagram has its outcome.
                report(Progress::Outcome(at, Err(libc::EIO)));
            }
            if sent < rest.len() {
                report(Progress::EndedEarly);
            }
            at += sent.max(1);
        }
    }

    /// Points each header to its address, ancillary data and pieces.
    fn link(&mut self) {
        let batch = &mut *self.batch;
        let addresses = batch.addresses.as_mut_ptr();
        let controls = batch.controls.as_mut_ptr();
        let mut piece = batch.pieces.as_mut_ptr();
        for (place, header) in batch.headers.iter_mut().take(self.messages).enumerate() {
            let header = &mut header.msg_hdr;
            header.msg_name = match header.msg_namelen {
                0 => std::ptr::null_mut(),
                _ => addresses.wrapping_add(place).cast(),
            };
            header.msg_control = match header.msg_controllen {
                0 => std::ptr::null_mut(),
                _ => controls.wrapping_add(place).cast(),
            };
            header.msg_iov = piece;
            piece = piece.wrapping_add(header.msg_iovlen);
        }
    }
}
