//! Waiting until one of several descriptors has something to read (poll(2)).

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::{Result, SysError};

/// Waits until one of the descriptors is readable, has an error or lost its peer, and tells which; all `false` when
/// the time is over or a signal came. `None` waits without end.
///
/// # Errors
/// poll(2) refuses.
pub fn wait_readable<const N: usize>(
    descriptors: [BorrowedFd<'_>; N],
    timeout: Option<Duration>,
) -> Result<[bool; N]> {
    let mut entries = descriptors.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    });
    match poll(&mut entries, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(entries.map(|entry| !entry.revents().is_empty())),
        Err(errno) => Err(SysError::from_errno("poll", errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn tells_which_descriptor_is_readable() {
        let (a, b) = UnixDatagram::pair().unwrap();
        let soon = Some(Duration::from_millis(1));
        assert_eq!(wait_readable([a.as_fd(), b.as_fd()], soon).unwrap(), [false, false]);
        a.send(b"x").unwrap();
        assert_eq!(wait_readable([a.as_fd(), b.as_fd()], None).unwrap(), [false, true]);
    }
}
