//! The system call. Each command has an argument of its own, which is one member of `union bpf_attr` (linux/bpf.h).

use std::os::fd::{FromRawFd, OwnedFd};

use crate::{Result, SysError};

/// `enum bpf_cmd`.
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub(super) enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ProgramLoad = 5,
    #[cfg(any(test, feature = "test-env"))]
    ProgramTestRun = 10,
    ObjectInfo = 15,
    ProgramQuery = 16,
    LinkCreate = 28,
}

/// An argument: a member of `union bpf_attr`.
///
/// # Safety
/// The type has the layout of the member for its command, has no padding, and its pointers are valid for that command.
pub(super) unsafe trait Argument {}

/// A name of a map or program: up to 15 characters of `[A-Za-z0-9_.]`.
pub(super) const fn object_name(text: &str) -> [u8; 16] {
    let (mut name, bytes, mut at) = ([0; 16], text.as_bytes(), 0);
    while at < bytes.len() && at < 15 {
        name[at] = bytes[at];
        at += 1;
    }
    name
}

/// The address of something that the kernel reads or writes during the call.
pub(super) fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

/// Calls the kernel. Returns its answer, which is a descriptor for some commands.
///
/// # Errors
/// What the kernel says; `EPERM` without the capabilities, `ENOSYS` or `EPERM` where bpf(2) is not permitted at all.
pub(super) fn bpf<A: Argument>(step: &'static str, command: Command, argument: &mut A) -> Result<i32> {
    let size = size_of::<A>();
    // SAFETY: `Argument` guarantees that the kernel finds what it expects of this command within `size` bytes.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command as i32, std::ptr::from_mut(argument), size) };
    match i32::try_from(answer) {
        Ok(answer) if answer >= 0 => Ok(answer),
        _ => Err(SysError::last(step)),
    }
}

/// For commands that return a descriptor; it is close-on-exec.
pub(super) fn descriptor<A: Argument>(
    step: &'static str,
    command: Command,
    argument: &mut A,
) -> Result<OwnedFd> {
    let fd = bpf(step, command, argument)?;
    // SAFETY: the kernel has just made this descriptor for the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
