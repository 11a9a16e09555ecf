//! Credentials of the peer of a unix socket (unix(7), `SO_PEERCRED` and `SO_PEERGROUPS`). The kernel records them when
//! the peer connects; the peer can't forge them.

use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Result, SysError, failed};

/// The credentials of a connected peer, at the time it connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Process; 0 if it is not visible in our process namespace.
    pub pid: i32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Peer {
    /// Returns whether the group is the peer's own or one of its supplementary groups.
    #[must_use]
    pub fn is_in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

/// The peer of a connected unix stream or SEQPACKET socket.
///
/// # Errors
/// The socket is no connected unix socket.
pub fn peer(socket: BorrowedFd<'_>) -> Result<Peer> {
    let credentials =
        rustix::net::sockopt::socket_peercred(socket).map_err(failed("getsockopt SO_PEERCRED"))?;
    Ok(Peer {
        uid: credentials.uid.as_raw(),
        gid: credentials.gid.as_raw(),
        pid: rustix::process::Pid::as_raw(Some(credentials.pid)),
        groups: peer_groups(socket)?,
    })
}

/// The result of a read from a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Number of bytes; 0 at the end of the stream.
    pub bytes: usize,
    /// Descriptors came with them, and were closed.
    pub descriptors: bool,
}

/// Reads from a unix stream without room for descriptors: the kernel closes those that were sent (unix(7)) and says so.
/// Never blocks.
///
/// # Errors
/// `WouldBlock`, or the connection failed.
pub fn receive_without_descriptors(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> std::io::Result<Received> {
    let mut room = [std::io::IoSliceMut::new(buffer)];
    let mut none = rustix::net::RecvAncillaryBuffer::default();
    let message = rustix::net::recvmsg(socket, &mut room, &mut none, rustix::net::RecvFlags::DONTWAIT)?;
    Ok(Received {
        bytes: message.bytes,
        descriptors: message.flags.contains(rustix::net::ReturnFlags::CTRUNC),
    })
}

/// `NGROUPS_MAX`: a process has no more groups (setgroups(2)).
const MAX_GROUPS: usize = 65_536;

fn peer_groups(socket: BorrowedFd<'_>) -> Result<Vec<u32>> {
    const STEP: &str = "getsockopt SO_PEERGROUPS";
    let mut groups = vec![0_u32; 32];
    loop {
        // At most 256 KiB: it fits.
        let mut bytes = libc::socklen_t::try_from(groups.len() * size_of::<u32>()).unwrap_or_default();
        // SAFETY: the kernel writes at most `bytes` bytes, which is what the vector holds.
        let answer = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        if answer == 0 {
            groups.truncate(bytes as usize / size_of::<u32>());
            return Ok(groups);
        }
        let error = SysError::last(STEP);
        // ERANGE: too little room; the kernel said in `bytes` how much it needs.
        let needed = bytes as usize / size_of::<u32>();
        if error.errno() != Some(libc::ERANGE) || needed <= groups.len() || needed > MAX_GROUPS {
            return Err(error);
        }
        groups.resize(needed, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn sees_this_process() {
        let (a, _b) = UnixStream::pair().unwrap();
        let peer = peer(a.as_fd()).unwrap();
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.gid, rustix::process::getegid().as_raw());
        assert_eq!(peer.pid.unsigned_abs(), std::process::id());
        let own: Vec<u32> = rustix::process::getgroups().unwrap().iter().map(|gid| gid.as_raw()).collect();
        assert_eq!(peer.groups, own);
        assert!(peer.is_in_group(peer.gid));
        assert!(!peer.is_in_group(u32::MAX - 1));
    }

    /// A thread may have groups of its own (the system call, unlike the C library's function, changes one thread).
    #[test]
    fn more_groups_than_the_first_guess() {
        let many: Vec<libc::gid_t> = (1000..1100).collect();
        let seen = std::thread::scope(|scope| {
            let many = &many;
            scope
                .spawn(move || {
                    // SAFETY: the list is live and has the stated length.
                    let answer = unsafe { libc::syscall(libc::SYS_setgroups, many.len(), many.as_ptr()) };
                    if answer != 0 {
                        return None;
                    }
                    let (a, _b) = UnixStream::pair().unwrap();
                    Some(peer(a.as_fd()).unwrap().groups)
                })
                .join()
                .unwrap()
        });
        match seen {
            Some(groups) => assert_eq!(groups, many),
            None => println!("skipped: may not set groups here"),
        }
    }

    #[test]
    fn a_tcp_peer_has_no_credentials() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(peer(stream.as_fd()).is_err());
    }
}
