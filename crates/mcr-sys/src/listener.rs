//! A listener: a unix SEQPACKET socket with a path, that other processes connect to for a [`Channel`].

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, socket_with};

use crate::channel::Channel;
use crate::{Result, SysError, failed};

/// Maximum number of pending connections (the backlog of listen(2)).
const BACKLOG: i32 = 8;

/// The listening side.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
}

fn socket() -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(failed("open a SEQPACKET socket"))
}

fn address(path: &Path) -> Result<SocketAddrUnix> {
    SocketAddrUnix::new(path).map_err(failed("name a socket"))
}

impl Listener {
    /// Binds the path, open to this user only, and listens. From then on, [`crate::credentials::peer`] returns
    /// the calling process to a peer that connects.
    ///
    /// # Errors
    /// `EADDRINUSE` if the path exists, `ENAMETOOLONG` if it is too long for a socket (107 bytes).
    pub fn open(path: &Path) -> Result<Self> {
        let fd = socket()?;
        rustix::net::bind(&fd, &address(path)?).map_err(failed("bind a SEQPACKET socket"))?;
        // Before listen(2), so that no connection precedes it.
        rustix::fs::chmod(path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
            .map_err(failed("close a socket to others"))?;
        rustix::net::listen(&fd, BACKLOG).map_err(failed("listen on a SEQPACKET socket"))?;
        Ok(Self { fd })
    }

    /// Accepts a pending connection, if there is one; never blocks.
    ///
    /// # Errors
    /// Out of descriptors or memory.
    pub fn accept(&self) -> Result<Option<Channel>> {
        match accept_with(&self.fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(fd) => Ok(Some(Channel::from(fd))),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(errno) => Err(SysError::from_errno("accept on a SEQPACKET socket", errno)),
        }
    }
}

crate::owned_fd::as_fd!(Listener, fd);

/// Connects to a listener.
///
/// # Errors
/// `ENOENT` if there is none, `ECONNREFUSED` if no process listens any more, `EAGAIN` if the backlog is full.
pub fn connect(path: &Path) -> Result<Channel> {
    let fd = socket()?;
    rustix::net::connect(&fd, &address(path)?).map_err(failed("connect to a SEQPACKET socket"))?;
    Ok(Channel::from(fd))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::channel::Received;
    use crate::credentials::peer;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_client_sees_the_listeners_credentials_and_messages_pass() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("listener");
        assert_eq!(connect(&path).unwrap_err().errno(), Some(libc::ENOENT));
        let listener = Listener::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(listener.accept().unwrap().is_none());
        let client = connect(&path).unwrap();
        let inside = listener.accept().unwrap().expect("a client");
        for end in [&client, &inside] {
            assert_eq!(peer(end.as_fd()).unwrap().pid.unsigned_abs(), std::process::id());
        }
        client.send(b"hello", &[]).unwrap();
        let mut buffer = [0; 16];
        assert!(matches!(inside.receive(&mut buffer).unwrap(), Received::Message { bytes: 5, .. }));
        assert_eq!(Listener::open(&path).unwrap_err().errno(), Some(libc::EADDRINUSE));
        drop(listener);
        assert_eq!(connect(&path).unwrap_err().errno(), Some(libc::ECONNREFUSED));
    }
}
