//! Netlink sockets (netlink(7)) of routing (rtnetlink(7)) and of sock_diag(7): requests, dumps and events. `netlink-packet-core` frames the messages.
//!
//! ```text
//! ┌ nlmsghdr 16 ┬ ifinfomsg/ifaddrmsg/rtmsg ┬ attribute ┬ attribute ┐   one datagram holds several of these,
//! │ len type …  │ fixed                     │ len type… │           │   each aligned to 4 bytes
//! ```

use std::io;
use std::os::fd::OwnedFd;

use netlink_packet_core::{
    NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, NlaBuffer, NlasIterator,
};
use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use crate::{Result, SysError, failed};

/// One datagram of an answer; the kernel's dumps use up to 32 KiB.
const DATAGRAM_BYTES: usize = 64 * 1024;

/// The messages of a datagram, up to the first that does not fit in it.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(rest).ok()?;
        rest = rest.get((message.length() as usize).next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes of a message or of a nested attribute, up to the first that does not fit.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(bytes).map_while(std::result::Result::ok)
}

/// A netlink socket of the network namespace it was opened in.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    datagram: Vec<u8>,
}

impl Socket {
    /// A socket of route netlink that receives what the kernel multicasts to `groups` (`RTMGRP_*`); 0 for requests only.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn open(groups: u32) -> Result<Self> {
        Self::open_family(groups, None)
    }

    /// A socket of sock_diag.
    pub(crate) fn open_sock_diag(groups: u32) -> Result<Self> {
        Self::open_family(groups, Some(SOCK_DIAG))
    }

    /// A socket of netfilter.
    pub(crate) fn open_netfilter() -> Result<Self> {
        Self::open_family(0, Some(NETFILTER))
    }

    fn open_family(groups: u32, family: Option<Protocol>) -> Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, family)
            .map_err(failed("socket AF_NETLINK"))?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups)).map_err(failed("bind AF_NETLINK"))?;
        Ok(Self { fd, sequence: 0, datagram: vec![0; DATAGRAM_BYTES] })
    }

    /// Sets the receive buffer, above `net.core.rmem_max` if this process may.
    pub(crate) fn set_receive_buffer(&self, bytes: usize) -> Result<()> {
        sockopt::set_socket_recv_buffer_size_force(&self.fd, bytes)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&self.fd, bytes))
            .map_err(failed("setsockopt SO_RCVBUF of AF_NETLINK"))
    }

    /// Sends a request with `flags` (`NLM_F_*`; `NLM_F_REQUEST` is added) and passes what follows the header of each
    /// message of the answer to `each`. Blocks until the kernel has answered.
    ///
    /// Returns whether the answer is consistent: a dump is not if something changed while it ran.
    ///
    /// # Errors
    /// The kernel's error number.
    pub fn exchange(
        &mut self,
        step: &'static str,
        flags: u16,
        request: impl NetlinkSerializable,
        mut each: impl FnMut(&[u8]),
    ) -> Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let bytes = encode(flags, sequence, request);
        rustix::net::sendto(&self.fd, &bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))
            .map_err(failed(step))?;
        let mut consistent = true;
        loop {
            let Some(datagram) = self.receive(step)? else {
                self.wait(step)?;
                continue;
            };
            for message in messages(datagram).filter(|message| message.sequence_number() == sequence) {
                consistent &= message.flags() & NLM_F_DUMP_INTR == 0;
                match message.message_type() {
                    NLMSG_DONE => return Ok(consistent),
                    NLMSG_ERROR => return acknowledgment(step, message.payload()).map(|()| consistent),
                    _ => each(message.payload()),
                }
            }
        }
    }

    /// The next datagram, or `None` if none is pending. `ENOBUFS`: some were lost.
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

crate::owned_fd::as_fd!(Socket, fd);

fn encode(flags: u16, sequence: u32, request: impl NetlinkSerializable) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags | NLM_F_REQUEST;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// The result in a `struct nlmsgerr`: 0 or a negative error number.
fn acknowledgment(step: &'static str, body: &[u8]) -> Result<()> {
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
    use netlink_packet_core::NLM_F_ACK;
    use netlink_packet_route::RouteNetlinkMessage;
    use proptest::prelude::*;

    #[test]
    fn a_request_has_its_flags_and_sequence_number() {
        let bytes = encode(NLM_F_ACK, 77, RouteNetlinkMessage::GetLink(Default::default()));
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].message_type(), all[0].flags()), (libc::RTM_GETLINK, NLM_F_ACK | NLM_F_REQUEST));
        assert_eq!((all[0].sequence_number(), all[0].payload().len()), (77, 16));
    }

    #[test]
    fn an_error_carries_the_kernels_number() {
        assert!(acknowledgment("t", &0_i32.to_ne_bytes()).is_ok());
        assert_eq!(acknowledgment("t", &(-17_i32).to_ne_bytes()).unwrap_err().errno(), Some(17));
        assert!(acknowledgment("t", &[]).is_err());
        assert!(acknowledgment("t", &i32::MIN.to_ne_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn iteration_over_any_bytes_ends(bytes in prop::collection::vec(0_u8..32, 0..200)) {
            for message in messages(&bytes) {
                prop_assert!(attributes(message.payload()).count() <= message.payload().len() / 4 + 1);
            }
            prop_assert!(messages(&bytes).count() <= bytes.len() / 16 + 1);
        }
    }
}
