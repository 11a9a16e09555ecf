//! A tun interface (kernel's networking/tuntap.rst): frames without link header, written and read by a program. For
//! tests of interfaces such as WireGuard's.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::{Result, SysError, failed};

/// `_IOW('T', 202, int)` in linux/if_tun.h.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
/// `_IOW('T', 205, int)`.
const TUNSETLINK: libc::c_ulong = 0x4004_54cd;

/// Creates a tun interface in the calling thread's network namespace; it is down, and removed with the descriptor. Each
/// read and write is one IP packet.
///
/// # Errors
/// There is no /dev/net/tun, or the name is taken or longer than 15 bytes.
pub fn create_tun(name: &str) -> Result<OwnedFd> {
    let fd =
        rustix::fs::open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
            .map_err(failed("open /dev/net/tun"))?;
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(SysError::from_errno("name tun interface", rustix::io::Errno::NAMETOOLONG));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI).unwrap_or(0);
    // SAFETY: TUNSETIFF takes a pointer to an ifreq, which lives across the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, &raw mut request) };
    if result < 0 { Err(SysError::last("ioctl TUNSETIFF")) } else { Ok(fd) }
}

/// Changes the link type (ARPHRD_*, linux/if_arp.h) of the interface, which must be down. The frames stay the same, but
/// are taken for frames with a header of that type.
///
/// # Errors
/// `EBUSY` if it is up.
pub fn set_link_type(tun: &OwnedFd, arphrd: u16) -> Result<()> {
    // SAFETY: TUNSETLINK takes a number.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETLINK, libc::c_int::from(arphrd)) };
    if result < 0 { Err(SysError::last("ioctl TUNSETLINK")) } else { Ok(()) }
}
