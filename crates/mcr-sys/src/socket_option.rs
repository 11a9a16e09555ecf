//! setsockopt(2) and getsockopt(2) for the options that neither rustix nor socket2 offers.

use std::mem::{MaybeUninit, size_of, size_of_val};
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Result, SysError};

/// Sets an option whose value is a plain number or structure of C.
///
/// `T` must be what the kernel expects for this option: it reads exactly `size_of::<T>()` bytes.
pub(crate) fn set<T>(
    step: &'static str,
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> Result<()> {
    // No option's structure is larger than some hundred bytes.
    let bytes = libc::socklen_t::try_from(size_of_val(value)).unwrap_or_default();
    // SAFETY: the kernel reads `bytes` bytes of a live value, and keeps no pointer to it.
    let answer =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), bytes) };
    if answer == 0 { Ok(()) } else { Err(SysError::last(step)) }
}

/// Numbers and structures of C that are valid whatever the kernel writes into them.
///
/// # Safety
/// Every bit pattern must be a valid value of the type.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: any 32 bits are an integer.
unsafe impl Plain for libc::c_int {}

/// Reads an option whose value is a plain structure of C.
pub(crate) fn get<T: Plain>(
    step: &'static str,
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
) -> Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut bytes = libc::socklen_t::try_from(size_of::<T>()).unwrap_or_default();
    // SAFETY: the kernel writes at most `bytes` bytes, which is the size of the value.
    let answer =
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut bytes) };
    if answer != 0 {
        return Err(SysError::last(step));
    }
    // SAFETY: it was all zeros before the kernel wrote, and `Plain` types have no invalid bit pattern.
    Ok(unsafe { value.assume_init() })
}
