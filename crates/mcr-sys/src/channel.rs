//! A channel of whole messages with file descriptors between the supervisor and one worker: a pair of unix
//! `SOCK_SEQPACKET` sockets (unix(7)). Neither side ever blocks in it; each waits with poll or its ring.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use crate::{Result, SysError, failed};

/// Maximum number of descriptors in one message. The kernel's own limit is 253 (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 64;

/// Maximum size of one message in bytes.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// What is asked for, so that the longest message fits an empty channel whatever `net.core.wmem_default` is: Linux's default,
/// which `net.core.wmem_max` of most hosts exceeds.
const SEND_BUFFER_BYTES: usize = 106_496;

/// One end of a channel.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
}

/// The result of one attempt to receive.
#[derive(Debug)]
pub enum Received {
    /// A whole message.
    Message {
        /// Its length in the buffer, bytes.
        bytes: usize,
        /// The descriptors that came with it, close-on-exec.
        fds: Vec<OwnedFd>,
    },
    /// No message is pending.
    WouldBlock,
    /// The other end is gone.
    Closed,
}

impl Channel {
    /// Two connected ends, close-on-exec and non-blocking.
    ///
    /// # Errors
    /// The process or the system is out of descriptors.
    pub fn pair() -> Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, other) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(failed("socketpair"))?;
        for end in [&one, &other] {
            // The kernel doubles what is asked for (socket(7)). A default that the host has raised stays.
            if rustix::net::sockopt::socket_send_buffer_size(end)
                .is_ok_and(|bytes| bytes < 2 * SEND_BUFFER_BYTES)
            {
                rustix::net::sockopt::set_socket_send_buffer_size(end, SEND_BUFFER_BYTES)
                    .map_err(failed("SO_SNDBUF of a channel"))?;
            }
        }
        Ok((Self { fd: one }, Self { fd: other }))
    }

    /// Sends one message of 1 to [`MAX_MESSAGE_BYTES`] bytes with duplicates of up to [`MAX_FDS`] descriptors.
    ///
    /// # Errors
    /// `EINVAL` for an empty message (indistinguishable from a closed channel) or too many descriptors,
    /// `EMSGSIZE` for one too long, `EAGAIN` if the channel is full, `EPIPE` or `ECONNRESET` if the other end is
    /// gone.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        const STEP: &str = "sendmsg on channel";
        if bytes.is_empty() || fds.len() > MAX_FDS {
            return Err(SysError::from_errno(STEP, Errno::INVAL));
        }
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(SysError::from_errno(STEP, Errno::MSGSIZE));
        }
        let sent = if fds.is_empty() {
            send_bytes(self.fd.as_fd(), bytes)
        } else {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(SysError::from_errno(STEP, Errno::INVAL));
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            rustix::io::retry_on_intr(|| {
                rustix::net::sendmsg(&self.fd, &[IoSlice::new(bytes)], &mut control, flags)
            })
            .map_err(failed(STEP))
        }?;
        if sent == bytes.len() { Ok(()) } else { Err(SysError::from_errno(STEP, Errno::MSGSIZE)) }
    }

    /// Receives the next message into `buffer`.
    ///
    /// # Errors
    /// `EMSGSIZE` if the buffer is too small for the message; another error if it carried more than [`MAX_FDS`]
    /// descriptors. The message is lost then and its descriptors are closed.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Received> {
        const STEP: &str = "recvmsg on channel";
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let message = match rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(&self.fd, &mut [IoSliceMut::new(buffer)], &mut control, flags)
        }) {
            Ok(message) => message,
            Err(Errno::AGAIN) => return Ok(Received::WouldBlock),
            // The other end closed with unread messages of ours.
            Err(Errno::CONNRESET) => return Ok(Received::Closed),
            Err(errno) => return Err(SysError::from_errno(STEP, errno)),
        };
        let mut fds = Vec::new();
        for ancillary in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = ancillary {
                fds.extend(received);
            }
        }
        // Alignment can leave room for one more than the limit. Fewer arrive if this process is at its descriptor limit;
        // the caller knows how many belong to the message.
        let cut = message.flags.contains(ReturnFlags::CTRUNC);
        if fds.len() > MAX_FDS || cut && fds.len() == MAX_FDS {
            return Err(SysError::new(STEP, io::Error::other("more descriptors than a message may have")));
        }
        if message.flags.contains(ReturnFlags::TRUNC) {
            return Err(SysError::from_errno(STEP, Errno::MSGSIZE));
        }
        if message.bytes == 0 {
            return Ok(Received::Closed);
        }
        Ok(Received::Message { bytes: message.bytes, fds })
    }
}

/// Sends without descriptors. With sendmmsg(2), because a confined worker sends its datagrams by that call, and so needs no
/// other one for its answers.
fn send_bytes(socket: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize> {
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: an mmsghdr of zeros is valid: null pointers with zero lengths.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_iov = &raw mut vector;
    message.msg_hdr.msg_iovlen = 1;
    loop {
        // SAFETY: the one header names one vector, which names live memory that the kernel only reads.
        let sent = unsafe {
            libc::sendmmsg(socket.as_raw_fd(), &raw mut message, 1, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
        };
        if sent == 1 {
            return Ok(message.msg_len as usize);
        }
        let error = SysError::last("sendmmsg on channel");
        if error.errno() != Some(libc::EINTR) {
            return Err(error);
        }
    }
}

crate::owned_fd::owned_fd!(Channel);

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    fn received(channel: &Channel, buffer: &mut [u8]) -> (Vec<u8>, Vec<OwnedFd>) {
        match channel.receive(buffer).unwrap() {
            Received::Message { bytes, fds } => (buffer[..bytes].to_vec(), fds),
            other => panic!("expected a message, got {other:?}"),
        }
    }

    fn memory_file(text: &str) -> File {
        let mut file = File::from(rustix::fs::memfd_create("t", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn messages_keep_their_bounds_and_their_descriptors() {
        let (one, other) = Channel::pair().unwrap();
        let files: Vec<File> = (0..MAX_FDS).map(|number| memory_file(&number.to_string())).collect();
        let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        one.send(b"first", &borrowed).unwrap();
        one.send(b"second", &[]).unwrap();

        let mut buffer = [0; 64];
        let (bytes, fds) = received(&other, &mut buffer);
        assert_eq!((bytes.as_slice(), fds.len()), (b"first".as_slice(), MAX_FDS));
        for (number, fd) in fds.into_iter().enumerate() {
            let flags = rustix::io::fcntl_getfd(&fd).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            let (mut file, mut text) = (File::from(fd), String::new());
            file.rewind().unwrap();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, number.to_string());
        }
        assert_eq!(received(&other, &mut buffer).0, b"second");
        assert!(matches!(other.receive(&mut buffer).unwrap(), Received::WouldBlock));
    }

    #[test]
    fn the_longest_message_passes_and_one_byte_more_is_refused() {
        let (one, other) = Channel::pair().unwrap();
        let longest = vec![7; MAX_MESSAGE_BYTES];
        one.send(&longest, &[]).unwrap();
        let mut buffer = vec![0; MAX_MESSAGE_BYTES];
        assert_eq!(received(&other, &mut buffer).0, longest);

        let longer = vec![7; MAX_MESSAGE_BYTES + 1];
        assert_eq!(one.send(&longer, &[]).unwrap_err().errno(), Some(libc::EMSGSIZE));
        assert_eq!(one.send(&[], &[]).unwrap_err().errno(), Some(libc::EINVAL));
        let many = vec![one.as_fd(); MAX_FDS + 1];
        assert_eq!(one.send(b"x", &many).unwrap_err().errno(), Some(libc::EINVAL));
    }

    #[test]
    fn a_buffer_too_small_is_an_error_and_leaks_no_descriptor() {
        let (one, other) = Channel::pair().unwrap();
        let (left, right) = Channel::pair().unwrap();
        one.send(b"too long", &[right.as_fd()]).unwrap();
        drop(right);
        assert_eq!(other.receive(&mut [0; 4]).unwrap_err().errno(), Some(libc::EMSGSIZE));
        assert!(
            matches!(left.receive(&mut [0; 4]).unwrap(), Received::Closed),
            "the descriptor is still open"
        );
    }

    #[test]
    fn more_descriptors_than_agreed_are_an_error_and_are_closed() {
        for count in [MAX_FDS + 1, MAX_FDS * 2] {
            let (one, other) = Channel::pair().unwrap();
            let (left, right) = Channel::pair().unwrap();
            let many = vec![right.as_fd(); count];
            let mut space = vec![MaybeUninit::uninit(); 4096];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&many)));
            rustix::net::sendmsg(&one, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
            drop(right);
            other.receive(&mut [0; 4]).unwrap_err();
            assert!(
                matches!(left.receive(&mut [0; 4]).unwrap(), Received::Closed),
                "a descriptor is still open"
            );
        }
    }

    #[test]
    fn a_closed_peer_is_reported_by_both_calls() {
        let (one, other) = Channel::pair().unwrap();
        one.send(b"last words", &[]).unwrap();
        drop(one);
        let mut buffer = [0; 64];
        assert_eq!(received(&other, &mut buffer).0, b"last words");
        assert!(matches!(other.receive(&mut buffer).unwrap(), Received::Closed));
        assert_eq!(other.send(b"x", &[]).unwrap_err().errno(), Some(libc::EPIPE));

        let (one, other) = Channel::pair().unwrap();
        other.send(b"never read", &[]).unwrap();
        drop(one);
        assert!(matches!(other.receive(&mut buffer).unwrap(), Received::Closed));
    }

    #[test]
    fn a_full_channel_refuses_instead_of_blocking() {
        let (one, _other) = Channel::pair().unwrap();
        let message = vec![0; MAX_MESSAGE_BYTES];
        let refused = (0..1000).find_map(|_| one.send(&message, &[]).err()).expect("never full");
        assert_eq!(refused.errno(), Some(libc::EAGAIN));
    }
}
