//! Waiting until one of several descriptors has data to read (poll(2)).

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::{Result, SysError, failed};

/// Sets the timer slack of the calling thread to the minimum, instead of 50 µs (`PR_SET_TIMERSLACK`, prctl(2)).
pub fn set_exact_timers() -> Result<()> {
    rustix::thread::set_current_timer_slack(Some(std::num::NonZeroU64::MIN))
        .map_err(failed("set timer slack"))
}

/// Waits until one of the descriptors is readable, has an error or lost its peer, and returns which; all `false` after
/// the timeout or a signal. `None` waits forever.
pub fn wait_readable<const N: usize>(
    descriptors: [BorrowedFd<'_>; N],
    timeout: Option<Duration>,
) -> Result<[bool; N]> {
    let mut entries = descriptors.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    wait(&mut entries, timeout)?;
    Ok(entries.map(|entry| !entry.revents().is_empty()))
}

/// [`wait_readable`] for any number of descriptors.
pub fn readable_among(descriptors: &[BorrowedFd<'_>], timeout: Option<Duration>) -> Result<Vec<bool>> {
    let mut entries: Vec<PollFd<'_>> =
        descriptors.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    wait(&mut entries, timeout)?;
    Ok(entries.iter().map(|entry| !entry.revents().is_empty()).collect())
}

/// Waits until something can be sent, or the peer is gone; `false` after the timeout or a signal.
pub fn wait_writable(descriptor: BorrowedFd<'_>, timeout: Duration) -> Result<bool> {
    let mut entries = [PollFd::from_borrowed_fd(descriptor, PollFlags::OUT)];
    wait(&mut entries, Some(timeout))?;
    Ok(entries.iter().any(|entry| !entry.revents().is_empty()))
}

fn wait(entries: &mut [PollFd<'_>], timeout: Option<Duration>) -> Result<()> {
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    });
    match poll(entries, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(SysError::from_errno("poll", errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn returns_which_descriptor_is_readable() {
        let (a, b) = UnixDatagram::pair().unwrap();
        let soon = Some(Duration::from_millis(1));
        assert_eq!(wait_readable([a.as_fd(), b.as_fd()], soon).unwrap(), [false, false]);
        a.send(b"x").unwrap();
        assert_eq!(wait_readable([a.as_fd(), b.as_fd()], None).unwrap(), [false, true]);
    }

    #[test]
    fn any_number_of_descriptors_and_room_to_send() {
        let (a, b) = UnixDatagram::pair().unwrap();
        let now = Duration::ZERO;
        assert_eq!(readable_among(&[a.as_fd(), b.as_fd()], Some(now)).unwrap(), [false, false]);
        assert!(wait_writable(a.as_fd(), now).unwrap());
        a.set_nonblocking(true).unwrap();
        while a.send(&[0; 1000]).is_ok() {}
        assert!(!wait_writable(a.as_fd(), now).unwrap(), "the queue is full");
        assert_eq!(readable_among(&[a.as_fd(), b.as_fd()], None).unwrap(), [false, true]);
        assert_eq!(readable_among(&[], Some(now)).unwrap(), [] as [bool; 0]);
    }
}
