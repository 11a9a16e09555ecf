//! The ring of provided buffers (io_uring_register(2), `IORING_REGISTER_PBUF_RING`) and their reference counts.

use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::Result;
use crate::buffer_memory::{BufferMemory, SMALL_FRAME_BYTES};
use crate::mmsg::buffer_stride;

/// Maximum number of buffers of a ring.
const MAX_BUFFERS: u16 = 32_768;

/// A receive buffer of this ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BufferId(u16);

impl Default for BufferId {
    /// No buffer of any ring.
    fn default() -> Self {
        Self(u16::MAX)
    }
}

/// Buffers, the ring that offers them to the kernel, and a count of references to each. A buffer without references
/// belongs to the kernel and is not read here.
pub(super) struct Buffers {
    memory: BufferMemory,
    ring: BufferMemory,
    stride: usize,
    buffer_bytes: u32,
    references: Box<[u16]>,
    free: u16,
    tail: u16,
}

impl Buffers {
    pub(super) fn new(count: u16, buffer_bytes: usize) -> Result<Self> {
        let count = count.clamp(2, MAX_BUFFERS).next_power_of_two();
        let stride = buffer_stride(buffer_bytes.max(1));
        let memory = BufferMemory::new(usize::from(count), stride, SMALL_FRAME_BYTES)?;
        let ring = BufferMemory::new(usize::from(count), size_of::<BufRingEntry>(), 0)?;
        let mut buffers = Self {
            memory,
            ring,
            stride,
            buffer_bytes: u32::try_from(buffer_bytes.max(1)).unwrap_or(u32::MAX),
            references: vec![0; usize::from(count)].into_boxed_slice(),
            free: 0,
            tail: 0,
        };
        (0..count).for_each(|index| buffers.offer(index));
        buffers.publish();
        Ok(buffers)
    }

    pub(super) fn count(&self) -> u16 {
        u16::try_from(self.references.len()).unwrap_or(MAX_BUFFERS)
    }

    pub(super) const fn free(&self) -> u16 {
        self.free
    }

    pub(super) fn ring_address(&self) -> u64 {
        self.ring.start().expose_provenance() as u64
    }

    pub(super) const fn leak(&mut self) {
        self.memory.leak();
        self.ring.leak();
    }

    /// Writes a buffer into the next place of the ring; the kernel sees it after [`Self::publish`].
    #[inline]
    fn offer(&mut self, index: u16) {
        let mask = self.references.len() - 1;
        let place = usize::from(self.tail) & mask;
        let address = self.memory.start().wrapping_add(usize::from(index) * self.stride);
        let entry = self.ring.start().cast::<BufRingEntry>().wrapping_add(place);
        // SAFETY: `place` is masked to the ring's entries, its memory is zeroed (a valid entry) and aligned to a page,
        // and the kernel reads only places before the published tail, which this one is not.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address.expose_provenance() as u64);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(index);
        self.tail = self.tail.wrapping_add(1);
        self.free += 1;
    }

    /// Publishes every buffer offered so far to the kernel.
    #[inline]
    pub(super) fn publish(&mut self) {
        // SAFETY: the ring has at least two entries; the tail overlays the reserved field of the first.
        let tail = unsafe { BufRingEntry::tail(self.ring.start().cast()) };
        // SAFETY: `tail` is aligned, live for `&mut self`, and shared only with the kernel, which reads it atomically.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Release: the entries must be there before the tail that covers them.
        tail.store(self.tail, Ordering::Release);
    }

    /// The kernel has filled this buffer: its reference count is 1 now.
    #[inline]
    pub(super) fn taken(&mut self, index: u16) -> Option<BufferId> {
        let references = self.references.get_mut(usize::from(index))?;
        if *references != 0 {
            return None;
        }
        *references = 1;
        self.free = self.free.saturating_sub(1);
        Some(BufferId(index))
    }

    /// Adds a reference to a held buffer.
    #[inline]
    pub(super) fn hold(&mut self, buffer: BufferId) {
        if let Some(references) = self.references.get_mut(usize::from(buffer.0)).filter(|n| **n > 0) {
            *references = references.saturating_add(1);
        }
    }

    /// Drops a reference; the last one returns the buffer to the kernel.
    #[inline]
    pub(super) fn release(&mut self, buffer: BufferId) {
        let Some(references) = self.references.get_mut(usize::from(buffer.0)).filter(|n| **n > 0) else {
            return;
        };
        *references -= 1;
        if *references == 0 {
            self.offer(buffer.0);
        }
    }

    /// All of a buffer that is held once, by the caller; otherwise `None`.
    pub(super) fn writable(&mut self, buffer: BufferId) -> Option<&mut [u8]> {
        if self.references.get(usize::from(buffer.0)) != Some(&1) {
            return None;
        }
        let at = usize::from(buffer.0) * self.stride;
        // SAFETY: the range lies inside this buffer's stride. A held buffer is not in the ring, and no send refers to one that is
        // held once, so the kernel neither writes nor reads it; `&mut self` excludes other borrows.
        unsafe { self.memory.slice_mut(at, self.buffer_bytes as usize) }
    }

    /// Bytes of a held buffer; `None` if it is not held or they are outside of it.
    #[inline]
    pub(super) fn bytes(&self, buffer: BufferId, start: u32, bytes: u32) -> Option<&[u8]> {
        let held = self.references.get(usize::from(buffer.0)).is_some_and(|n| *n > 0);
        if !held || u64::from(start) + u64::from(bytes) > u64::from(self.buffer_bytes) {
            return None;
        }
        let at = usize::from(buffer.0) * self.stride + start as usize;
        // SAFETY: the range lies inside this buffer's stride. A held buffer is not in the ring, so the kernel does not
        // write it, and giving it back takes `&mut self`, which ends this borrow.
        unsafe { self.memory.slice(at, bytes as usize) }
    }
}
