//! Memory for receive buffers: zeroed and at a fixed address.
//!
//! A worker's buffers have room for super-frames and mostly hold small frames. The part that small frames use is populated
//! from the start, since page faults stall the data path; the rest is populated when it is first written. Huge pages make
//! no difference in speed and stall the first super-frames for tens of milliseconds (decision 012).

use std::ffi::c_void;
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::{Result, SysError, failed};

/// Size of a frame with an MTU of 1,500 bytes, with all headers.
pub(crate) const SMALL_FRAME_BYTES: usize = 2_048;

/// See the module.
pub(crate) struct BufferMemory {
    mapping: NonNull<c_void>,
    bytes: usize,
    leaked: bool,
}

// SAFETY: this value alone owns the mapping, which is not tied to a thread.
unsafe impl Send for BufferMemory {}

impl BufferMemory {
    /// Maps `buffers` of `stride` bytes; the first `used` bytes of each are populated at once.
    ///
    /// # Errors
    /// ENOMEM: the address space or its limit is used up.
    pub(crate) fn new(buffers: usize, stride: usize, used: usize) -> Result<Self> {
        let step = "map buffer memory";
        let no_room = || SysError::new(step, std::io::Error::from_raw_os_error(libc::ENOMEM));
        let bytes = buffers.checked_mul(stride).ok_or_else(no_room)?.max(1);
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let mapping =
            unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, access, flags) }.map_err(failed(step))?;
        let memory = Self { mapping: NonNull::new(mapping).ok_or_else(no_room)?, bytes, leaked: false };
        for buffer in 0..buffers {
            memory.back(buffer * stride, used.min(stride));
        }
        Ok(memory)
    }

    /// Populates a range now. Kernels before 5.14 do it when it is written.
    fn back(&self, from: usize, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let page = rustix::param::page_size();
        let start = from / page * page;
        let end = (from + bytes).next_multiple_of(page).min(self.bytes.next_multiple_of(page));
        let address = self.mapping.as_ptr().wrapping_byte_add(start);
        // SAFETY: the range lies in the mapping, which this value owns.
        let _ = unsafe { madvise(address, end - start, Advice::LinuxPopulateWrite) };
    }

    /// The first byte. It stays valid until the value is dropped, or for ever after [`Self::leak`].
    pub(crate) const fn start(&self) -> *mut u8 {
        self.mapping.as_ptr().cast()
    }

    /// A range of the bytes; `None` if it is outside of the memory.
    ///
    /// # Safety
    /// Neither the kernel nor another borrow writes them while the slice exists.
    #[inline]
    pub(crate) unsafe fn slice(&self, from: usize, bytes: usize) -> Option<&[u8]> {
        if from.checked_add(bytes)? > self.bytes {
            return None;
        }
        let start = self.start().wrapping_add(from);
        // SAFETY: the range is inside the mapping, which is zeroed memory until written, and the caller keeps writers out.
        Some(unsafe { std::slice::from_raw_parts(start, bytes) })
    }

    /// A range of the bytes, to be written; `None` if it is outside of the memory.
    ///
    /// # Safety
    /// The kernel neither reads nor writes them while the slice exists.
    pub(crate) unsafe fn slice_mut(&mut self, from: usize, bytes: usize) -> Option<&mut [u8]> {
        if from.checked_add(bytes)? > self.bytes {
            return None;
        }
        let start = self.start().wrapping_add(from);
        // SAFETY: the range is inside the mapping, which is zeroed memory until written; `&mut self` excludes other borrows, and
        // the caller the kernel.
        Some(unsafe { std::slice::from_raw_parts_mut(start, bytes) })
    }

    /// Leaks the memory, because the kernel may still write into it.
    pub(crate) const fn leak(&mut self) {
        self.leaked = true;
    }
}

impl Drop for BufferMemory {
    fn drop(&mut self) {
        if !self.leaked {
            // SAFETY: the mapping was made by `new`, is unmapped once, and no borrow outlives the value.
            let _ = unsafe { munmap(self.mapping.as_ptr(), self.bytes) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zeroed_and_bounded() {
        for (buffers, stride) in [(1, 1), (3, 4_096), (7, 65_600)] {
            let memory = BufferMemory::new(buffers, stride, 2_048).unwrap();
            let bytes = buffers * stride;
            // SAFETY: the memory has no other user.
            let all = unsafe { memory.slice(0, bytes) }.unwrap();
            assert!(all.iter().all(|byte| *byte == 0));
            // SAFETY: as above.
            assert!(unsafe { memory.slice(1, bytes) }.is_none());
            // SAFETY: as above.
            assert!(unsafe { memory.slice(usize::MAX, 2) }.is_none());
        }
        assert!(BufferMemory::new(usize::MAX, 2, 0).is_err());
        assert!(BufferMemory::new(1, usize::MAX, 0).is_err());
    }

    #[test]
    fn only_what_small_frames_use_is_populated() {
        let page = rustix::param::page_size();
        let memory = BufferMemory::new(16, 16 * page, 100).unwrap();
        let mut backed = vec![0_u8; 256];
        // SAFETY: mincore(2) writes one byte for each page of a mapping that lives.
        let answer = unsafe { libc::mincore(memory.mapping.as_ptr(), 256 * page, backed.as_mut_ptr()) };
        assert_eq!(answer, 0);
        let backed: Vec<usize> = (0..256).filter(|at| backed[*at] & 1 != 0).collect();
        assert_eq!(backed, (0..256).step_by(16).collect::<Vec<_>>());
    }
}
