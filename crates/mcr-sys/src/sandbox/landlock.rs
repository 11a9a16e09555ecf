//! Landlock (landlock(7)) without a rule: no file can be opened, created or changed, no TCP port bound or connected to, and no
//! signal sent and no abstract unix socket reached outside of this process. Descriptors that are open already are not affected.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use crate::{Result, SysError};

/// `LANDLOCK_CREATE_RULESET_VERSION`.
const ASK_VERSION: libc::c_uint = 1;

/// `struct landlock_ruleset_attr`: what the domain handles, and so denies without a rule. Older kernels take a shorter one.
#[repr(C)]
struct Ruleset {
    /// `LANDLOCK_ACCESS_FS_*`.
    files: u64,
    /// `LANDLOCK_ACCESS_NET_*`, since version 4.
    network: u64,
    /// `LANDLOCK_SCOPE_*`, since version 6.
    scope: u64,
}

/// All rights to files of each version: 13 at first, then REFER, TRUNCATE and IOCTL_DEV.
const fn file_rights(version: u32) -> u64 {
    let rights = match version {
        1 => 13,
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    (1 << rights) - 1
}

/// Puts the domain in force for the calling thread, for good; threads and programs that it starts later inherit it. Needs
/// `no_new_privs`. Returns the version of the kernel's interface.
///
/// # Errors
/// The kernel has no Landlock (ENOSYS), or it is not switched on (EOPNOTSUPP), or a filter denies it (EPERM).
pub fn restrict() -> Result<u32> {
    let version = version()?;
    let ruleset = Ruleset {
        files: file_rights(version),
        network: if version >= 4 { 0b11 } else { 0 },
        scope: if version >= 6 { 0b11 } else { 0 },
    };
    let bytes = match version {
        0..4 => size_of::<u64>(),
        4..6 => 2 * size_of::<u64>(),
        _ => size_of::<Ruleset>(),
    };
    // SAFETY: the kernel reads `bytes` bytes of a live structure of at least that size.
    let answer =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const ruleset, bytes, 0_u32) };
    let fd = RawFd::try_from(answer).ok().filter(|fd| *fd >= 0);
    let fd = fd.ok_or_else(|| SysError::last("landlock_create_ruleset"))?;
    // SAFETY: the kernel made this descriptor for this call; nothing else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the call takes two numbers.
    let answer = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, raw(&fd), 0_u32) };
    if answer == 0 { Ok(version) } else { Err(SysError::last("landlock_restrict_self")) }
}

fn version() -> Result<u32> {
    let nothing = std::ptr::null::<Ruleset>();
    // SAFETY: with this flag the kernel takes no structure.
    let answer = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, ASK_VERSION) };
    u32::try_from(answer)
        .ok()
        .filter(|version| *version > 0)
        .ok_or_else(|| SysError::last("landlock_create_ruleset"))
}

fn raw(fd: &OwnedFd) -> RawFd {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}
