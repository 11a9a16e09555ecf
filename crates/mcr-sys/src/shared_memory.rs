//! Memory that two processes share, in memory files that can't shrink under a reader (memfd_create(2), `F_ADD_SEALS`
//! in fcntl(2)).
//!
//! Two kinds: *words*, 64-bit counters that one process writes and others read; and *sealed bytes*, written once.

use std::ffi::c_void;
use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::{Result, SysError, failed};

const WORD_BYTES: usize = size_of::<u64>();

/// The seals that keep a mapping valid: the size is fixed, and the seals can't be removed.
const SIZE_SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// A mapping of `words` 64-bit words, unmapped on drop.
#[derive(Debug)]
struct Mapping {
    address: NonNull<AtomicU64>,
    words: NonZeroUsize,
}

// SAFETY: the mapping belongs to the process and not to a thread, and its words are only accessed as atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` offers atomic operations only.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, words: usize, protection: ProtFlags) -> Result<Self> {
        check_words(fd, words, words)?;
        Self::of_fixed(fd, words, protection)
    }

    /// Maps the first words of something that has them for as long as it is mapped.
    fn of_fixed(fd: BorrowedFd<'_>, words: usize, protection: ProtFlags) -> Result<Self> {
        let length = byte_length(words)?;
        // SAFETY: a new mapping at an address that the kernel picks aliases no memory of ours. What is mapped keeps its size: the
        // seals that were checked keep a file's, and the kernel does not resize maps. So no access within `length` can fault.
        let address = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), length.get(), protection, MapFlags::SHARED, fd, 0)
        }
        .map_err(failed("mmap shared memory"))?;
        let refused = || invalid("mmap shared memory", "the kernel gave no address");
        Ok(Self {
            address: NonNull::new(address.cast()).ok_or_else(refused)?,
            words: NonZeroUsize::new(words).ok_or_else(refused)?,
        })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: `address` is page-aligned and maps exactly `words` words for as long as `self` exists; every bit
        // pattern is a valid AtomicU64, and other processes' stores are seen through atomics only.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.words.get()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let address: *mut c_void = self.address.as_ptr().cast();
        // SAFETY: exactly what `new` mapped; no reference into it outlives `self`.
        let result = unsafe { rustix::mm::munmap(address, self.words.get() * WORD_BYTES) };
        debug_assert!(result.is_ok(), "munmap of our own mapping: {result:?}");
    }
}

/// Shared words that this process may change. Several mappings of one file see each other's stores.
#[derive(Debug)]
pub struct WritableWords(Mapping);

impl WritableWords {
    /// Creates a memory file of `words` zeroes, fixed in size. It is sparse: untouched pages take no memory.
    ///
    /// # Errors
    /// The kernel refuses the memory file, or `words` is 0.
    pub fn create(name: &str, words: usize) -> Result<OwnedFd> {
        let length = byte_length(words)?;
        let fd = memory_file(name)?;
        rustix::fs::ftruncate(&fd, length.get() as u64).map_err(failed("ftruncate memory file"))?;
        seal(&fd, SIZE_SEALS)?;
        Ok(fd)
    }

    /// Maps a file that [`Self::create`] made.
    ///
    /// # Errors
    /// The file is not sealed in its size, is not exactly `words` long, or can't be mapped.
    pub fn map(fd: BorrowedFd<'_>, words: usize) -> Result<Self> {
        Mapping::new(fd, words, ProtFlags::READ | ProtFlags::WRITE).map(Self)
    }

    /// Maps the whole of a file that [`Self::create`] made, which has at least this many words.
    ///
    /// # Errors
    /// As for [`Self::map`].
    pub fn map_at_least(fd: BorrowedFd<'_>, words: usize) -> Result<Self> {
        let words = check_words(fd, words, usize::MAX / WORD_BYTES)?;
        Mapping::of_fixed(fd, words, ProtFlags::READ | ProtFlags::WRITE).map(Self)
    }

    /// The words.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        self.0.words()
    }
}

/// Shared words that this process can only read: no operation of this type stores, and the mapping itself is
/// read-only.
#[derive(Debug)]
pub struct ReadOnlyWords(Mapping);

impl ReadOnlyWords {
    /// Maps a file that [`WritableWords::create`] made.
    ///
    /// # Errors
    /// The file is not sealed in its size, is not exactly `words` long, or can't be mapped.
    pub fn map(fd: BorrowedFd<'_>, words: usize) -> Result<Self> {
        Mapping::new(fd, words, ProtFlags::READ).map(Self)
    }

    /// Maps the first words of a file that [`WritableWords::create`] made.
    ///
    /// # Errors
    /// The file is not sealed in its size, is shorter, or can't be mapped.
    pub fn map_start(fd: BorrowedFd<'_>, words: usize) -> Result<Self> {
        check_words(fd, words, usize::MAX / WORD_BYTES)?;
        Mapping::of_fixed(fd, words, ProtFlags::READ).map(Self)
    }

    /// Maps an array of the kernel (`BPF_F_MMAPABLE`), whose size is fixed and was checked by the caller.
    pub(crate) fn map_array(fd: BorrowedFd<'_>, words: usize) -> Result<Self> {
        Mapping::of_fixed(fd, words, ProtFlags::READ).map(Self)
    }

    /// The word at `index`, read with acquire ordering; 0 beyond the end.
    #[must_use]
    pub fn load(&self, index: usize) -> u64 {
        self.0.words().get(index).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Number of words.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.words.get()
    }

    /// Always false: a mapping has at least one word.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }
}

/// Creates an immutable memory file with these bytes.
///
/// # Errors
/// The kernel refuses the memory file, or there is no memory for it.
pub fn sealed_bytes(name: &str, bytes: &[u8]) -> Result<OwnedFd> {
    let mut file = File::from(memory_file(name)?);
    file.write_all(bytes).map_err(failed("write memory file"))?;
    let fd = OwnedFd::from(file);
    seal(&fd, SIZE_SEALS | SealFlags::WRITE)?;
    Ok(fd)
}

/// Reads what [`sealed_bytes`] wrote.
///
/// # Errors
/// The file could still change (a seal is missing), or is longer than `max_bytes` (`EFBIG`).
pub fn read_sealed(fd: BorrowedFd<'_>, max_bytes: usize) -> Result<Vec<u8>> {
    const STEP: &str = "read sealed memory file";
    check_seals(fd, SIZE_SEALS | SealFlags::WRITE)?;
    let length = file_bytes(fd)?;
    if length > max_bytes as u64 {
        return Err(SysError::from_errno(STEP, rustix::io::Errno::FBIG));
    }
    let Some(length) = usize::try_from(length).ok().and_then(NonZeroUsize::new) else {
        return Ok(Vec::new());
    };
    // Mapped, not read: a worker may map files anyway, and so needs one system call less. The seals keep the content.
    // SAFETY: a new mapping at an address that the kernel picks aliases no memory of ours.
    let address = unsafe {
        rustix::mm::mmap(std::ptr::null_mut(), length.get(), ProtFlags::READ, MapFlags::PRIVATE, fd, 0)
    }
    .map_err(failed(STEP))?;
    // SAFETY: the mapping has this length, which the seals fix, and nothing can write to a file with the seal F_SEAL_WRITE.
    let bytes = unsafe { std::slice::from_raw_parts(address.cast::<u8>(), length.get()) }.to_vec();
    // SAFETY: exactly what was mapped; no reference to it is left.
    let result = unsafe { rustix::mm::munmap(address, length.get()) };
    debug_assert!(result.is_ok(), "munmap of our own mapping: {result:?}");
    Ok(bytes)
}

fn memory_file(name: &str) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 don't know NOEXEC_SEAL.
    match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        result => result,
    }
    .map_err(failed("memfd_create"))
}

fn seal(fd: &OwnedFd, seals: SealFlags) -> Result<()> {
    rustix::fs::fcntl_add_seals(fd, seals).map_err(failed("fcntl F_ADD_SEALS"))
}

fn check_seals(fd: BorrowedFd<'_>, wanted: SealFlags) -> Result<()> {
    let seals = rustix::fs::fcntl_get_seals(fd).map_err(failed("fcntl F_GET_SEALS"))?;
    if seals.contains(wanted) {
        Ok(())
    } else {
        Err(invalid("check shared memory", "the memory file is not sealed"))
    }
}

/// Checks that a file is sealed in its size, of at least `least` and at most `most` words. Returns their number.
fn check_words(fd: BorrowedFd<'_>, least: usize, most: usize) -> Result<usize> {
    check_seals(fd, SIZE_SEALS)?;
    let (least, most) = (byte_length(least)?.get() as u64, most.saturating_mul(WORD_BYTES) as u64);
    let bytes = file_bytes(fd)?;
    let words = usize::try_from(bytes).unwrap_or_default() / WORD_BYTES;
    if (least..=most).contains(&bytes) && bytes.is_multiple_of(WORD_BYTES as u64) {
        Ok(words)
    } else {
        Err(invalid("check shared memory", "the memory file has another size"))
    }
}

fn byte_length(words: usize) -> Result<NonZeroUsize> {
    words
        .checked_mul(WORD_BYTES)
        .and_then(NonZeroUsize::new)
        .ok_or_else(|| invalid("size shared memory", "impossible number of words"))
}

fn file_bytes(fd: BorrowedFd<'_>) -> Result<u64> {
    let status = rustix::fs::fstat(fd).map_err(failed("fstat memory file"))?;
    Ok(u64::try_from(status.st_size).unwrap_or(0))
}

fn invalid(step: &'static str, message: &'static str) -> SysError {
    SysError::new(step, io::Error::new(io::ErrorKind::InvalidData, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_store_is_seen_by_every_mapping() {
        let fd = WritableWords::create("t", 600).unwrap();
        let (writer, reader) =
            (WritableWords::map(fd.as_fd(), 600).unwrap(), ReadOnlyWords::map(fd.as_fd(), 600).unwrap());
        drop(fd);
        assert_eq!((reader.len(), reader.is_empty(), reader.load(599)), (600, false, 0));
        writer.words()[599].store(u64::MAX - 1, Ordering::Release);
        writer.words()[0].store(7, Ordering::Release);
        assert_eq!((reader.load(0), reader.load(599), reader.load(600)), (7, u64::MAX - 1, 0));
    }

    #[test]
    fn untouched_words_take_no_memory() {
        let fd = WritableWords::create("t", 1 << 20).unwrap();
        assert_eq!(rustix::fs::fstat(&fd).unwrap().st_blocks, 0);
    }

    #[test]
    fn the_file_can_neither_shrink_nor_grow_nor_be_unsealed() {
        let fd = WritableWords::create("t", 512).unwrap();
        for bytes in [0, 4095, 4097] {
            assert_eq!(rustix::fs::ftruncate(&fd, bytes), Err(rustix::io::Errno::PERM), "{bytes}");
        }
        assert_eq!(rustix::fs::fcntl_add_seals(&fd, SealFlags::WRITE), Err(rustix::io::Errno::PERM));
    }

    #[test]
    fn only_sealed_files_of_the_right_size_are_mapped() {
        let sealed = WritableWords::create("t", 512).unwrap();
        for words in [0, 511, 513, usize::MAX, usize::MAX / 8] {
            assert!(WritableWords::map(sealed.as_fd(), words).is_err(), "{words}");
            assert!(ReadOnlyWords::map(sealed.as_fd(), words).is_err(), "{words}");
        }
        let open = memory_file("t").unwrap();
        rustix::fs::ftruncate(&open, 4096).unwrap();
        assert!(ReadOnlyWords::map(open.as_fd(), 512).is_err(), "not sealed");
        let socket = crate::channel::Channel::pair().unwrap().0;
        assert!(ReadOnlyWords::map(socket.as_fd(), 512).is_err(), "not a memory file");
        assert!(WritableWords::create("t", 0).is_err());
        assert!(WritableWords::map_at_least(sealed.as_fd(), 513).is_err(), "too short");
        assert_eq!(WritableWords::map_at_least(sealed.as_fd(), 100).unwrap().words().len(), 512);
        assert_eq!(ReadOnlyWords::map_start(sealed.as_fd(), 100).unwrap().len(), 100);
    }

    #[test]
    fn sealed_bytes_read_back_from_every_holder_and_can_not_change() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let fd = sealed_bytes("t", &bytes).unwrap();
        assert_eq!(read_sealed(fd.as_fd(), bytes.len()).unwrap(), bytes);
        assert_eq!(read_sealed(fd.as_fd(), bytes.len()).unwrap(), bytes, "the second reader");
        assert_eq!(read_sealed(fd.as_fd(), bytes.len() - 1).unwrap_err().errno(), Some(libc::EFBIG));
        assert_eq!(rustix::io::pwrite(&fd, b"x", 0), Err(rustix::io::Errno::PERM));
        assert_eq!(read_sealed(sealed_bytes("t", b"").unwrap().as_fd(), 10).unwrap(), b"");

        let words = WritableWords::create("t", 512).unwrap();
        assert!(read_sealed(words.as_fd(), 4096).is_err(), "still writable");
    }
}
