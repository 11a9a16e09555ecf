//! rtnetlink(7): building requests, walking answers. Only the attributes that MCR uses are decoded, so that a kernel
//! with new ones can't make a message unreadable.
//!
//! ```text
//! ┌ nlmsghdr 16 ┬ ifinfomsg/ifaddrmsg/rtmsg ┬ attribute ┬ attribute ┐   one datagram holds several of these,
//! │ len type …  │ fixed                     │ len type… │           │   each aligned to 4 bytes
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use crate::{Result, SysError};

/// One datagram of an answer; the kernel's dumps use up to 32 KiB.
const DATAGRAM_BYTES: usize = 64 * 1024;
const HEADER_BYTES: usize = 16;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// Nested and byte-order flags in an attribute's type (`NLA_TYPE_MASK`).
const ATTRIBUTE_TYPE_MASK: u16 = 0x3fff;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
pub(crate) const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_SETLINK: u16 = 19;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_DELADDR: u16 = 21;
pub(crate) const RTM_GETADDR: u16 = 22;
pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_GETROUTE: u16 = 26;
pub(crate) const RTM_GETNEIGH: u16 = 30;
pub(crate) const RTM_GETMDB: u16 = 86;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// One message of a datagram.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// What follows the header.
    pub(crate) body: &'a [u8],
}

/// The messages of a datagram; ends at the first that does not fit in it.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32_at(rest, 0)? as usize;
        let body = rest.get(HEADER_BYTES..length)?;
        let message =
            Message { kind: u16_at(rest, 4)?, flags: u16_at(rest, 6)?, sequence: u32_at(rest, 8)?, body };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes (type, value) of a message or of a nested attribute.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & ATTRIBUTE_TYPE_MASK;
        let value = rest.get(ATTRIBUTE_HEADER_BYTES..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u16::from_ne_bytes(*chunk))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk))
}

/// The text of a NUL-ended string attribute.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}

/// A request under construction.
#[derive(Debug)]
pub(crate) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A request of this type (`RTM_*`) whose fixed part is `fixed`.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        Self { bytes }
    }

    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.push_header(kind, value.len());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// An attribute whose value is `fixed` followed by what `content` adds.
    pub(crate) fn nested(mut self, kind: u16, fixed: &[u8], content: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.push_header(kind, 0);
        self.bytes.extend_from_slice(fixed);
        let mut request = content(self);
        let length = u16::try_from(request.bytes.len() - start).unwrap_or(u16::MAX);
        request.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        request
    }

    fn push_header(&mut self, kind: u16, value_bytes: usize) {
        let length = u16::try_from(ATTRIBUTE_HEADER_BYTES + value_bytes).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self, sequence: u32) -> Result<Vec<u8>> {
        let too_long = |_| SysError::from_errno("build netlink request", Errno::MSGSIZE);
        let length = u32::try_from(self.bytes.len()).map_err(too_long)?;
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        Ok(self.bytes)
    }
}

/// A route netlink socket of the namespace that its maker was in.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    datagram: Vec<u8>,
}

impl Socket {
    /// A socket that gets what is multicast to `groups` (`RTMGRP_*`).
    pub(crate) fn open(groups: u32) -> Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)
            .map_err(|errno| SysError::from_errno("socket AF_NETLINK", errno))?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups))
            .map_err(|errno| SysError::from_errno("bind AF_NETLINK", errno))?;
        Ok(Self { fd, sequence: 0, datagram: vec![0; DATAGRAM_BYTES] })
    }

    /// Asks for a receive buffer of this size, above the system's limit if this process may.
    pub(crate) fn set_receive_buffer(&self, bytes: usize) -> Result<()> {
        sockopt::set_socket_recv_buffer_size_force(&self.fd, bytes)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&self.fd, bytes))
            .map_err(|errno| SysError::from_errno("setsockopt SO_RCVBUF of AF_NETLINK", errno))
    }

    /// Sends a request and gives each message of its answer to `each`. Waits for the kernel, which answers at once.
    ///
    /// Returns whether the answer is of one moment (a dump is not if something changed while it ran).
    pub(crate) fn exchange(
        &mut self,
        step: &'static str,
        request: Request,
        mut each: impl FnMut(Message<'_>),
    ) -> Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let bytes = request.finish(sequence)?;
        rustix::net::sendto(&self.fd, &bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))
            .map_err(|errno| SysError::from_errno(step, errno))?;
        let mut consistent = true;
        loop {
            let Some(datagram) = self.receive(step)? else {
                self.wait(step)?;
                continue;
            };
            for message in messages(datagram).filter(|message| message.sequence == sequence) {
                consistent &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_DONE => return Ok(consistent),
                    NLMSG_ERROR => return answer(step, message.body).map(|()| consistent),
                    _ => each(message),
                }
            }
        }
    }

    /// The next datagram, or none if nothing is waiting. `ENOBUFS`: some were lost.
    pub(crate) fn receive(&mut self, step: &'static str) -> Result<Option<&[u8]>> {
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        let received =
            rustix::io::retry_on_intr(|| rustix::net::recv(&self.fd, self.datagram.as_mut_slice(), flags));
        match received {
            Ok((_, bytes)) if bytes > self.datagram.len() => {
                Err(SysError::new(step, io::Error::other("netlink datagram does not fit")))
            }
            Ok((_, bytes)) => Ok(self.datagram.get(..bytes)),
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(SysError::from_errno(step, errno)),
        }
    }

    fn wait(&self, step: &'static str) -> Result<()> {
        let mut fds = [rustix::event::PollFd::new(&self.fd, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(SysError::from_errno(step, errno)),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The result in an `nlmsgerr`: 0 or a negative error number.
fn answer(step: &'static str, body: &[u8]) -> Result<()> {
    let code = body.first_chunk().map_or(-libc::EBADMSG, |chunk| i32::from_ne_bytes(*chunk));
    if code == 0 {
        Ok(())
    } else {
        Err(SysError::new(step, io::Error::from_raw_os_error(code.saturating_neg())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_reads_back_as_it_was_built() {
        let bytes = Request::new(16, NLM_F_ACK, &[9; 16])
            .text(3, "eth0")
            .number(4, 1500)
            .nested(18, &[], |info| info.text(1, "veth").nested(2, &[7; 16], |data| data.text(3, "peer")))
            .finish(77)
            .unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].kind, all[0].flags, all[0].sequence), (16, NLM_F_ACK | NLM_F_REQUEST, 77));
        let outer: Vec<_> = attributes(&all[0].body[16..]).collect();
        assert_eq!(outer[0], (3, b"eth0\0".as_slice()));
        assert_eq!(u32_at(outer[1].1, 0), Some(1500));
        let inner: Vec<_> = attributes(outer[2].1).collect();
        assert_eq!(text(inner[0].1), "veth");
        assert_eq!(attributes(&inner[1].1[16..]).next(), Some((3, b"peer\0".as_slice())));
    }

    #[test]
    fn an_error_answer_carries_the_kernels_number() {
        assert!(answer("t", &0_i32.to_ne_bytes()).is_ok());
        assert_eq!(answer("t", &(-17_i32).to_ne_bytes()).unwrap_err().errno(), Some(17));
        assert!(answer("t", &[]).is_err());
        assert!(answer("t", &i32::MIN.to_ne_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(0_u8..32, 0..200)) {
            for message in messages(&bytes) {
                prop_assert!(attributes(message.body).count() <= message.body.len() / 4 + 1);
            }
            prop_assert!(messages(&bytes).count() <= bytes.len() / HEADER_BYTES + 1);
        }
    }
}
