//! Receiving in batches.

use std::mem::zeroed;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::address::SocketAddress;
use super::ancillary::Control;
use super::buffer_stride;
use crate::buffer_memory::{BufferMemory, SMALL_FRAME_BYTES};
use crate::{Result, SysError, socket_option};

/// The capacity of a [`ReceiveBatch`].
#[derive(Clone, Copy, Debug)]
pub struct ReceiveOptions {
    /// Datagrams per system call.
    pub messages: usize,
    /// Buffer size of each, bytes; longer datagrams are truncated and marked.
    pub buffer_bytes: usize,
}

/// Buffers and headers for recvmmsg(2).
pub struct ReceiveBatch {
    stride: usize,
    buffer_bytes: usize,
    memory: BufferMemory,
    headers: Box<[libc::mmsghdr]>,
    pieces: Box<[libc::iovec]>,
    addresses: Box<[SocketAddress]>,
    controls: Box<[Control]>,
    received: usize,
    /// Number of headers, from the first, that the kernel has written since they were prepared.
    used: usize,
}

/// One received datagram.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedMessage<'a> {
    /// The datagram, as much of it as fits the buffer.
    pub payload: &'a [u8],
    /// It is longer than the buffer.
    pub truncated: bool,
    /// The sender; `None` on sockets without addresses (packet sockets).
    pub source: Option<SocketAddr>,
    /// The payload is several datagrams of this size, the last may be shorter (`UDP_GRO`, see
    /// [`receive_segmented`]).
    pub segment_bytes: Option<u16>,
}

// SAFETY: the raw pointers inside `headers` and `pieces` point into the batch's own heap memory and are only followed
// by the kernel during `receive`, which holds the batch exclusively.
unsafe impl Send for ReceiveBatch {}

impl ReceiveBatch {
    /// A batch with its memory, which the kernel provides when it is first written.
    ///
    /// # Errors
    /// ENOMEM: the address space has no room for the buffers.
    pub fn new(options: &ReceiveOptions) -> Result<Self> {
        let messages = options.messages.max(1);
        let stride = buffer_stride(options.buffer_bytes.max(1));
        // SAFETY: an mmsghdr of zeros is valid: null pointers with zero lengths.
        let header: libc::mmsghdr = unsafe { zeroed() };
        Ok(Self {
            stride,
            buffer_bytes: options.buffer_bytes.max(1),
            memory: BufferMemory::new(messages, stride, SMALL_FRAME_BYTES)?,
            headers: vec![header; messages].into_boxed_slice(),
            pieces: vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; messages]
                .into_boxed_slice(),
            addresses: vec![SocketAddress::EMPTY; messages].into_boxed_slice(),
            controls: vec![Control::EMPTY; messages].into_boxed_slice(),
            received: 0,
            used: messages,
        })
    }

    /// Receives the pending datagrams, at most as many as the batch holds; never blocks. Returns their number.
    ///
    /// # Errors
    /// recvmmsg(2) failed with anything but EAGAIN; a packet socket reports ENETDOWN once per outage.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<usize> {
        self.received = 0;
        self.prepare();
        let count = u32::try_from(self.headers.len()).unwrap_or(u32::MAX);
        // SAFETY: `prepare` made every header point to live, exclusively borrowed memory of the stated lengths.
        let got = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        if let Ok(got) = usize::try_from(got) {
            self.received = got;
            self.used = got;
            return Ok(got);
        }
        let error = std::io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR) => Ok(0),
            _ => Err(SysError::new("recvmmsg", error)),
        }
    }

    /// Prepares the headers that the kernel has written; the others still are.
    fn prepare(&mut self) {
        let memory = self.memory.start();
        let pieces = self.pieces.as_mut_ptr();
        let addresses = self.addresses.as_mut_ptr();
        let controls = self.controls.as_mut_ptr();
        for (place, header) in self.headers.iter_mut().take(self.used).enumerate() {
            // `wrapping_add` stays inside the allocations: each has `headers.len()` elements (strides).
            let piece = pieces.wrapping_add(place);
            let base = memory.wrapping_add(place * self.stride);
            // SAFETY: `piece` points to an element of `self.pieces`, which nothing else borrows now.
            unsafe { *piece = libc::iovec { iov_base: base.cast(), iov_len: self.buffer_bytes } };
            header.msg_hdr.msg_name = addresses.wrapping_add(place).cast();
            header.msg_hdr.msg_namelen = SocketAddress::CAPACITY;
            header.msg_hdr.msg_iov = piece;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = controls.wrapping_add(place).cast();
            header.msg_hdr.msg_controllen = super::CONTROL_BYTES as _;
            header.msg_hdr.msg_flags = 0;
            header.msg_len = 0;
        }
        self.used = 0;
    }

    /// Number of datagrams that the last [`Self::receive`] returned.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.received
    }

    /// Returns whether the last [`Self::receive`] returned none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.received == 0
    }

    /// Maximum number of datagrams of one [`Self::receive`].
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.headers.len()
    }

    /// One of the datagrams of the last [`Self::receive`].
    #[must_use]
    pub fn message(&self, place: usize) -> Option<ReceivedMessage<'_>> {
        let header = self.headers.get(..self.received)?.get(place)?;
        let start = place * self.stride;
        let bytes = (header.msg_len as usize).min(self.buffer_bytes);
        let control_bytes = header.msg_hdr.msg_controllen;
        Some(ReceivedMessage {
            // SAFETY: the kernel writes the buffers only during `receive`, which takes `&mut self`.
            payload: unsafe { self.memory.slice(start, bytes) }?,
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            source: if header.msg_hdr.msg_namelen == 0 { None } else { self.addresses.get(place)?.get() },
            segment_bytes: self.controls.get(place)?.segment_bytes(control_bytes as _),
        })
    }

    /// The whole buffer of one of the datagrams of the last [`Self::receive`]; empty if there is none.
    pub fn buffer(&mut self, place: usize) -> &mut [u8] {
        if place >= self.received {
            return &mut [];
        }
        // SAFETY: the kernel reads and writes the buffers only during `receive`, which takes `&mut self`, and during sends that
        // borrow from `self`.
        unsafe { self.memory.slice_mut(place * self.stride, self.buffer_bytes) }.unwrap_or_default()
    }

    /// Sets the length of one of the datagrams of the last [`Self::receive`], after its buffer was written.
    pub fn set_bytes(&mut self, place: usize, bytes: usize) {
        if let Some(header) = self.headers.get_mut(..self.received).and_then(|all| all.get_mut(place)) {
            header.msg_len = u32::try_from(bytes.min(self.buffer_bytes)).unwrap_or_default();
        }
    }

    /// The payloads of the datagrams of the last [`Self::receive`].
    pub fn iter(&self) -> impl Iterator<Item = ReceivedMessage<'_>> {
        (0..self.received).filter_map(|place| self.message(place))
    }
}

/// Turns on `UDP_GRO` (udp(7)): runs of datagrams of equal size arrive as one; their size is
/// [`ReceivedMessage::segment_bytes`]. The buffers should hold 64 KiB.
///
/// # Errors
/// The kernel has no `UDP_GRO` (before 5.0), or the socket is not UDP.
pub fn receive_segmented(socket: BorrowedFd<'_>) -> Result<()> {
    socket_option::set("setsockopt UDP_GRO", socket, libc::SOL_UDP, libc::UDP_GRO, &1)
}
