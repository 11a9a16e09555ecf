//! An io_uring (io_uring(7)) shaped for relaying datagrams: what is queued on one socket is received into a ring of
//! provided buffers, and sent on through many sockets straight out of those buffers.
//!
//! ```text
//!            kernel takes a buffer         Event::Received: one reference, ours
//!  buffer ring ───────────────▶ buffer ────────────────────▶ frame(): parse, match
//!      ▲                                                        │ send(): one reference more for each send
//!      │     reference 0                                        ▼
//!      └──────────────────────── release(), finish() ◀── Event::Sent
//! ```
//!
//! Sockets are registered once (`IORING_REGISTER_FILES`), so that the loop refers to them by number and no
//! descriptor can be closed under a send. Sends never wait: they carry `MSG_DONTWAIT`, so the kernel executes
//! them in order within [`Ring::enter`], and their outcomes are there when it returns. Only failures cost a completion: a
//! send that was submitted and has none has succeeded.
//!
//! A receive never waits either: waiting is for [`Ring::poll_readable`]. A receive that waits is carried on by the kernel
//! when datagrams arrive, even for a process that has been killed and is only waiting for its core: up to 32 datagrams
//! would be consumed and lost. A poll consumes none, so they stay in the socket for a replacement.

mod buffers;
mod probe;
mod restrictions;
mod sends;
#[cfg(test)]
mod tests;
mod wait;

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use buffers::Buffers;
use sends::SendSlots;

pub use buffers::BufferId;
pub use probe::probe;
pub use restrictions::{OPERATIONS, REGISTER_FILES_UPDATE, REGISTER_OPERATIONS, REGISTER_SYNC_CANCEL};
pub use sends::{Piece, SendId, SendRefused, SendRequest};
pub use wait::Wait;

use crate::{Result, SysError, failed};

/// The one group of provided buffers.
const BUFFER_GROUP: u16 = 0;
/// Submissions beside the sends: receive, polls, timers.
const OTHER_SUBMISSIONS: u32 = 16;
/// Timers that can run at one time.
const TIMERS: usize = 4;
/// Maximum number of registered sockets, whatever the descriptor limit allows.
const MAX_FILES: u64 = 16_384;

/// The capacity of a [`Ring`].
#[derive(Clone, Copy, Debug)]
pub struct RingOptions {
    /// Receive buffers; rounded up to a power of two, at most 32,768.
    pub buffers: u16,
    /// Room in each, in bytes.
    pub buffer_bytes: usize,
    /// Sends that can be under way at one time.
    pub sends: u16,
    /// Only what the relay uses can be submitted, on registered sockets (`restrictions`).
    pub restricted: bool,
}

/// The place of a registered socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileSlot(u32);

/// A completed operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A datagram arrived; the caller holds a reference to the buffer until [`Ring::release`].
    Received {
        /// Its buffer.
        buffer: BufferId,
        /// Its length, at most the buffer's.
        bytes: u32,
    },
    /// Receiving ended with this errno (EAGAIN: the socket is empty, or it is another's turn; ENOBUFS: no buffer was
    /// free); [`Ring::start_receive`] resumes it. 0 if the kernel gave no reason.
    ReceiveEnded {
        /// The errno.
        errno: i32,
    },
    /// A send completed; [`Ring::finish`] releases its buffers.
    Sent {
        /// Which.
        send: SendId,
        /// Bytes sent, or the errno.
        outcome: std::result::Result<u32, i32>,
    },
    /// A polled socket has something to read, or its peer is gone.
    Readable {
        /// As passed to [`Ring::poll_readable`].
        token: u16,
    },
    /// A timer ran out.
    Timer {
        /// As passed to [`Ring::start_timer`].
        token: u16,
    },
}

/// See the module. Dropped, it cancels what is under way before its memory goes.
pub struct Ring {
    io: IoUring,
    buffers: Buffers,
    sends: SendSlots,
    timers: Box<[types::Timespec; TIMERS]>,
    free_files: Vec<u32>,
    /// Receives under way.
    receiving: u16,
    /// The kernel can wait for a least time (Linux 6.12).
    min_wait: bool,
    /// Submissions of which it took nothing.
    refusals: wait::Refusals,
}

/// The kind of operation that a completion belongs to, in the upper half of its user data.
mod tag {
    pub(super) const RECEIVE: u64 = 1;
    pub(super) const SEND: u64 = 2;
    pub(super) const POLL: u64 = 3;
    pub(super) const TIMER: u64 = 4;
}

const fn user_data(tag: u64, index: u16) -> u64 {
    tag << 32 | index as u64
}

impl Ring {
    /// Makes the ring with all its memory, registers the buffers, and restricts it.
    ///
    /// # Errors
    /// The kernel refuses: EPERM (sysctl `kernel.io_uring_disabled`, seccomp), ENOSYS, ENOMEM (memlock limit on old
    /// kernels), EINVAL (no buffer rings before Linux 5.19).
    pub fn new(options: &RingOptions) -> Result<Self> {
        let buffers = Buffers::new(options.buffers, options.buffer_bytes)?;
        let sends = SendSlots::new(options.sends.max(1));
        let entries = (u32::from(options.sends.max(1)) + OTHER_SUBMISSIONS).next_power_of_two();
        // Room for every completion that can be there at one time, so that the completion queue never overflows.
        let completions = (entries + u32::from(buffers.count())).next_power_of_two();
        let io = build(entries, completions, options.restricted).map_err(failed("io_uring_setup"))?;
        let files = file_limit();
        let min_wait = io.params().is_feature_min_timeout();
        io.submitter().register_files_sparse(files).map_err(failed("IORING_REGISTER_FILES2"))?;
        // SAFETY: the ring memory is in `buffers`, which `Drop` frees only after everything was cancelled.
        let registered = unsafe {
            io.submitter().register_buf_ring_with_flags(
                buffers.ring_address(),
                buffers.count(),
                BUFFER_GROUP,
                0,
            )
        };
        registered.map_err(failed("IORING_REGISTER_PBUF_RING"))?;
        if options.restricted {
            restrictions::restrict(&io)?;
            io.submitter().register_enable_rings().map_err(failed("IORING_REGISTER_ENABLE_RINGS"))?;
        }
        Ok(Self {
            io,
            buffers,
            sends,
            timers: Box::new([types::Timespec::new(); TIMERS]),
            free_files: (0..files).rev().collect(),
            receiving: 0,
            min_wait,
            refusals: wait::Refusals::default(),
        })
    }

    /// Registers a socket. The ring keeps it open until [`Self::unregister`], whatever becomes of the descriptor.
    ///
    /// # Errors
    /// No place is free (EMFILE), or the kernel refuses the socket.
    pub fn register(&mut self, socket: BorrowedFd<'_>) -> Result<FileSlot> {
        let step = "IORING_REGISTER_FILES_UPDATE";
        let slot = self
            .free_files
            .pop()
            .ok_or_else(|| SysError::new(step, std::io::Error::from_raw_os_error(libc::EMFILE)))?;
        match self.io.submitter().register_files_update(slot, &[socket.as_raw_fd()]) {
            Ok(_) => Ok(FileSlot(slot)),
            Err(error) => {
                self.free_files.push(slot);
                Err(SysError::new(step, error))
            }
        }
    }

    /// Forgets a registered socket. Sends under way on it still end.
    ///
    /// # Errors
    /// The kernel refuses; the place is not used again.
    pub fn unregister(&mut self, slot: FileSlot) -> Result<()> {
        self.io
            .submitter()
            .register_files_update(slot.0, &[-1])
            .map_err(failed("IORING_REGISTER_FILES_UPDATE"))?;
        self.free_files.push(slot.0);
        Ok(())
    }

    /// Receives from a registered socket what is there (multishot: one request, a buffer for each datagram), and ends with
    /// [`Event::ReceiveEnded`]; nothing if that is under way already. The kernel lets one request take some 32 datagrams, so
    /// `requests` of them are executed one after the other; each ends by itself.
    ///
    /// # Errors
    /// The submission queue can't be emptied.
    pub fn start_receive(&mut self, socket: FileSlot, requests: u16) -> Result<()> {
        if self.receiving > 0 {
            return Ok(());
        }
        let entry = opcode::RecvMulti::new(types::Fixed(socket.0), BUFFER_GROUP)
            .flags(libc::MSG_DONTWAIT)
            .build()
            .user_data(user_data(tag::RECEIVE, 0));
        for _ in 0..requests {
            self.push(&entry)?;
            self.receiving += 1;
        }
        Ok(())
    }

    /// Returns whether a receive is in flight.
    #[must_use]
    pub const fn is_receiving(&self) -> bool {
        self.receiving > 0
    }

    /// Reports once when a registered socket is readable, immediately if it is.
    ///
    /// # Errors
    /// The submission queue can't be emptied.
    pub fn poll_readable(&mut self, socket: FileSlot, token: u16) -> Result<()> {
        let events = u32::try_from(libc::POLLIN).unwrap_or_default();
        let entry = opcode::PollAdd::new(types::Fixed(socket.0), events)
            .build()
            .user_data(user_data(tag::POLL, token));
        self.push(&entry)
    }

    /// Starts a timer that ends once; `token` is below 4. A second one of the same token runs beside the first.
    ///
    /// # Errors
    /// The submission queue can't be emptied.
    pub fn start_timer(&mut self, token: u16, after: Duration) -> Result<()> {
        let place = usize::from(token) % TIMERS;
        let Some(time) = self.timers.get_mut(place) else { return Ok(()) };
        *time = after.into();
        // It has no socket; a restricted ring requires the flag of every operation.
        let entry = opcode::Timeout::new(time)
            .build()
            .flags(squeue::Flags::FIXED_FILE)
            .user_data(user_data(tag::TIMER, token));
        self.push(&entry)
    }

    /// Queues a send. It is executed in the next [`Self::enter`], after all that were queued before it.
    ///
    /// # Errors
    /// Too many sends are under way, or the request names bytes that the caller does not hold.
    pub fn send(&mut self, request: &SendRequest<'_>) -> std::result::Result<SendId, SendRefused> {
        let (id, message) = self.sends.prepare(request, &mut self.buffers)?;
        let entry = opcode::SendMsg::new(types::Fixed(request.socket.0), message)
            .flags(libc::MSG_DONTWAIT.unsigned_abs())
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(user_data(tag::SEND, id.index()));
        if self.push(&entry).is_err() {
            self.sends.abandon(id, &mut self.buffers);
            return Err(SendRefused::NoRoom);
        }
        Ok(id)
    }

    /// Maximum number of sends in flight.
    #[must_use]
    pub const fn send_count(&self) -> usize {
        self.sends.count()
    }

    /// Number of buffers.
    #[must_use]
    pub fn buffer_count(&self) -> u16 {
        self.buffers.count()
    }

    /// Sends that were queued and have not ended.
    #[must_use]
    pub const fn sends_in_flight(&self) -> usize {
        self.sends.under_way()
    }

    /// The pieces of a send that is not finished.
    #[must_use]
    pub fn pieces(&self, send: SendId) -> &[Piece] {
        self.sends.pieces(send)
    }

    /// Gives back what an ended send held; nothing if it has not ended.
    #[inline]
    pub fn finish(&mut self, send: SendId) {
        self.sends.finish(send, &mut self.buffers);
    }

    /// The first `bytes` of a buffer that the caller or a send holds; empty if it is not held.
    #[inline]
    #[must_use]
    pub fn frame(&self, buffer: BufferId, bytes: u32) -> &[u8] {
        self.buffers.bytes(buffer, 0, bytes).unwrap_or_default()
    }

    /// The whole buffer of a frame, of which no send holds a part; otherwise empty.
    pub fn buffer(&mut self, buffer: BufferId) -> &mut [u8] {
        self.buffers.writable(buffer).unwrap_or_default()
    }

    /// The bytes of a piece; empty if its buffer is not held.
    #[must_use]
    pub fn piece(&self, piece: &Piece) -> &[u8] {
        self.buffers.bytes(piece.buffer, piece.start, piece.bytes).unwrap_or_default()
    }

    /// Drops the caller's reference from [`Event::Received`].
    #[inline]
    pub fn release(&mut self, buffer: BufferId) {
        self.buffers.release(buffer);
    }

    /// Buffers that the kernel may receive into.
    #[must_use]
    pub const fn free_buffers(&self) -> u16 {
        self.buffers.free()
    }

    /// Submits everything that is queued, gives the free buffers to the kernel, and waits as asked to.
    ///
    /// # Errors
    /// io_uring_enter(2) failed for a reason that trying again does not cure, or again and again for one that it should.
    pub fn enter(&mut self, wait: Wait) -> Result<()> {
        self.buffers.publish();
        let result = wait::enter(&mut self.io, wait, self.min_wait, &mut self.refusals);
        if self.io.submission().is_empty() {
            self.sends.submitted();
        }
        result
    }

    /// Takes the next event that is there.
    #[inline]
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            let Some(completion) = self.io.completion().next() else {
                let (send, bytes) = self.sends.next_success()?;
                return Some(Event::Sent { send, outcome: Ok(bytes) });
            };
            if let Some(event) = self.event(&completion) {
                return Some(event);
            }
        }
    }

    #[inline]
    fn event(&mut self, completion: &cqueue::Entry) -> Option<Event> {
        let (data, result, flags) = (completion.user_data(), completion.result(), completion.flags());
        let index = u16::try_from(data & 0xffff).unwrap_or_default();
        match data >> 32 {
            tag::RECEIVE => self.received(result, flags),
            tag::SEND => {
                let send = self.sends.ended(index)?;
                Some(Event::Sent { send, outcome: u32::try_from(result).map_err(|_| -result) })
            }
            tag::POLL => Some(Event::Readable { token: index }),
            tag::TIMER => Some(Event::Timer { token: index }),
            _ => None,
        }
    }

    #[inline]
    fn received(&mut self, result: i32, flags: u32) -> Option<Event> {
        let more = cqueue::more(flags);
        if !more {
            self.receiving = self.receiving.saturating_sub(1);
        }
        let taken = cqueue::buffer_select(flags).and_then(|index| self.buffers.taken(index));
        match (taken, u32::try_from(result)) {
            (Some(buffer), Ok(bytes)) => Some(Event::Received { buffer, bytes }),
            (Some(buffer), Err(_)) => {
                self.buffers.release(buffer);
                Some(Event::ReceiveEnded { errno: -result })
            }
            (None, _) if more => None,
            (None, _) => Some(Event::ReceiveEnded { errno: result.min(0).unsigned_abs().cast_signed() }),
        }
    }

    fn push(&mut self, entry: &squeue::Entry) -> Result<()> {
        // SAFETY: what an entry points to (message headers, timers, buffers) exists as long as the ring, and stays
        // unchanged until the submission: a slot is not reused before its completion.
        if unsafe { self.io.submission().push(entry) }.is_ok() {
            return Ok(());
        }
        self.enter(Wait::No)?;
        // SAFETY: as above.
        unsafe { self.io.submission().push(entry) }.map_err(|_| {
            SysError::new("io_uring submission queue", std::io::Error::from_raw_os_error(libc::EBUSY))
        })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let cancelled = self
            .io
            .submitter()
            .register_sync_cancel(Some(types::Timespec::new().sec(1)), types::CancelBuilder::any());
        let nothing_left = matches!(&cancelled, Err(error) if error.raw_os_error() == Some(libc::ENOENT))
            || cancelled.is_ok();
        if !nothing_left {
            // The kernel may still write into the buffers: better to lose the memory than to share it.
            self.buffers.leak();
        }
    }
}

/// The kernel versions differ in what they take; each step asks for less. The first runs completion work only inside
/// `enter`, on the one thread that uses the ring; its flag makes a call that does not wait run it too.
fn build(entries: u32, completions: u32, disabled: bool) -> std::io::Result<IoUring> {
    let mut plain = IoUring::builder();
    plain.setup_cqsize(completions);
    if disabled {
        plain.setup_r_disabled();
    }
    let mut cooperative = plain.clone();
    cooperative.setup_submit_all().setup_coop_taskrun().setup_taskrun_flag();
    let mut deferred = plain.clone();
    deferred.setup_submit_all().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    deferred.build(entries).or_else(|_| cooperative.build(entries)).or_else(|_| plain.build(entries))
}

/// Number of sockets that can be registered: no more than a process may have open.
fn file_limit() -> u32 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    u32::try_from(limit.unwrap_or(MAX_FILES).clamp(1, MAX_FILES)).unwrap_or(1)
}
