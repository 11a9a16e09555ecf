//! The UDP sockets of a network namespace, and when one is closed (sock_diag(7)). No privilege is needed.
//!
//! ```text
//!  request  ┌ nlmsghdr 16 ┬ inet_diag_req_v2 56: family protocol … states │ inet_diag_sockid 48 ┐
//!  answer   ┌ nlmsghdr 16 ┬ inet_diag_msg 72: family state … │ inet_diag_sockid 48 │ … uid inode ┬ attributes ┐
//!  sockid   source port 2 │ destination port 2 │ source 16 │ destination 16 │ interface 4 │ cookie 8
//! ```

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{NLM_F_DUMP, NetlinkSerializable};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::Result;
use crate::link::IfIndex;
use crate::netlink::{Socket, attributes, messages};

/// `SOCK_DIAG_BY_FAMILY` (linux/sock_diag.h).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `SKNLGRP_INET_UDP_DESTROY` and `SKNLGRP_INET6_UDP_DESTROY` as bits of a multicast mask (linux/sock_diag.h).
const UDP_DESTROY_GROUPS: u32 = 1 << 1 | 1 << 3;
/// `INET_DIAG_SKV6ONLY` (linux/inet_diag.h).
const INET_DIAG_SKV6ONLY: u16 = 11;
const MESSAGE_BYTES: usize = 72;
/// A notification holds one socket.
const NOTIFICATION_BYTES: usize = 4096;
/// More ports than this are listed with all others, in one pass over the kernel's table.
const FEW_PORTS: usize = 4;

/// A UDP socket of this network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpSocket {
    /// The address it is bound to; unspecified for any.
    pub address: IpAddr,
    /// The port it is bound to.
    pub port: u16,
    /// It receives from one peer only.
    pub connected: bool,
    /// The interface it is bound to.
    pub interface: Option<IfIndex>,
    /// It takes no IPv4 datagrams (IPV6_V6ONLY).
    pub ipv6_only: bool,
    /// The user who opened it.
    pub uid: u32,
    /// Its inode, as `/proc/PID/fd` shows it.
    pub inode: u32,
}

impl UdpSocket {
    /// Reads a `struct inet_diag_msg` with its attributes.
    fn parse(message: &[u8]) -> Option<Self> {
        let half = |at: usize| Some(u16::from_be_bytes(*message.get(at..)?.first_chunk()?));
        let word = |at: usize| Some(u32::from_ne_bytes(*message.get(at..)?.first_chunk()?));
        let ipv6 = match i32::from(*message.first()?) {
            libc::AF_INET => false,
            libc::AF_INET6 => true,
            _ => return None,
        };
        let address = |at: usize| -> Option<IpAddr> {
            let bytes = message.get(at..)?;
            Some(if ipv6 {
                IpAddr::from(*bytes.first_chunk::<16>()?)
            } else {
                IpAddr::from(*bytes.first_chunk::<4>()?)
            })
        };
        let rest = message.get(MESSAGE_BYTES..)?;
        let only = attributes(rest).find(|attribute| attribute.kind() == INET_DIAG_SKV6ONLY);
        Some(Self {
            address: address(8)?,
            port: half(4)?,
            connected: half(6)? != 0,
            interface: Some(IfIndex::new(word(40)?)).filter(|ifindex| ifindex.to_raw() != 0),
            ipv6_only: only.is_some_and(|attribute| attribute.value().first() == Some(&1)),
            uid: word(64)?,
            inode: word(68)?,
        })
    }
}

/// A request for the UDP sockets of a family; port 0 for all.
struct Request {
    ipv6: bool,
    port: u16,
}

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        SOCK_DIAG_BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        56
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let family = if self.ipv6 { libc::AF_INET6 } else { libc::AF_INET };
        let protocol = libc::IPPROTO_UDP;
        let head = [family, protocol, 0, 0].map(|byte| u8::try_from(byte).unwrap_or_default());
        let states = u32::MAX.to_ne_bytes();
        let parts = [head.as_slice(), &states, &self.port.to_be_bytes()];
        buffer.fill(0);
        buffer.iter_mut().zip(parts.into_iter().flatten()).for_each(|(to, byte)| *to = *byte);
    }
}

/// Lists UDP sockets.
#[derive(Debug)]
pub struct UdpSockets {
    socket: Socket,
}

impl UdpSockets {
    /// Opens a socket for requests, in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel has no sock_diag, or out of file descriptors.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Socket::open_sock_diag(0)? })
    }

    /// Returns the UDP sockets that are bound to one of these ports, both families.
    ///
    /// # Errors
    /// `ENOENT`: the kernel has no `udp_diag`.
    pub fn bound_to(&mut self, ports: &[u16]) -> Result<Vec<UdpSocket>> {
        let asked = if ports.len() <= FEW_PORTS { ports } else { &[0] };
        let mut found = Vec::new();
        for (port, ipv6) in asked.iter().flat_map(|port| [(*port, false), (*port, true)]) {
            self.socket.exchange("list UDP sockets", NLM_F_DUMP, Request { ipv6, port }, |message| {
                found.extend(UdpSocket::parse(message).filter(|socket| ports.contains(&socket.port)));
            })?;
        }
        Ok(found)
    }
}

/// Receives which UDP sockets are closed. Non-blocking.
#[derive(Debug)]
pub struct ClosedUdpSockets {
    socket: Socket,
}

impl ClosedUdpSockets {
    /// Begins to receive, in the calling thread's network namespace.
    ///
    /// # Errors
    /// As [`UdpSockets::open`].
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Socket::open_sock_diag(UDP_DESTROY_GROUPS)? })
    }

    /// Takes all notifications. Returns whether a socket with one of these ports is among them, or some were lost.
    #[must_use]
    pub fn read(&self, ports: &[u16]) -> bool {
        let mut datagram = [0; NOTIFICATION_BYTES];
        let mut found = false;
        loop {
            match rustix::net::recv(&self.socket, datagram.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((_, bytes)) => {
                    let received = datagram.get(..bytes).unwrap_or_default();
                    let closed = messages(received).filter_map(|message| UdpSocket::parse(message.payload()));
                    found |= closed.fold(false, |any, socket| any | ports.contains(&socket.port));
                }
                Err(Errno::AGAIN) => return found,
                Err(Errno::INTR) => {}
                // ENOBUFS: an overrun, reported once.
                Err(_) => return true,
            }
        }
    }
}

impl AsFd for ClosedUdpSockets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket as StdSocket};

    use mcr_testnet::NetNamespace;

    use super::*;
    use crate::absorber;

    #[test]
    fn sockets_of_both_families_are_listed_with_what_they_are_bound_to() {
        let host = NetNamespace::create().unwrap();
        let test = || {
            let bind = |place: &str| StdSocket::bind(place.parse::<SocketAddr>().unwrap()).unwrap();
            let [four, six, other] = ["0.0.0.0:7000", "[::]:7001", "0.0.0.0:7002"].map(bind);
            let inode = |socket: &StdSocket| absorber::inode(socket.as_fd()).unwrap();
            let mut sockets = UdpSockets::open().unwrap();
            for ports in [&[7000, 7001][..], &[7000, 7001, 1, 2, 3]] {
                let mut found = sockets.bound_to(ports).unwrap();
                found.sort_by_key(|socket| socket.port);
                let [one, two] = found[..] else { panic!("{found:?}") };
                assert_eq!((one.address, one.port, one.inode), ([0; 4].into(), 7000, inode(&four)));
                assert_eq!((two.address, two.port, two.inode), ([0_u8; 16].into(), 7001, inode(&six)));
                assert_eq!((one.connected, one.interface, two.ipv6_only), (false, None, false));
            }
            assert_eq!(sockets.bound_to(&[7002]).unwrap()[0].inode, inode(&other));
            assert_eq!(sockets.bound_to(&[]).unwrap(), []);
        };
        host.run(test).unwrap();
    }

    #[test]
    fn a_closed_socket_is_noticed_by_its_port() {
        let host = NetNamespace::create().unwrap();
        let test = || {
            let closed = ClosedUdpSockets::open().unwrap();
            for (place, ports, expected) in
                [("0.0.0.0:7000", [7000], true), ("[::]:7000", [7000], true), ("0.0.0.0:7000", [7001], false)]
            {
                drop(StdSocket::bind(place).unwrap());
                let wait = Some(crate::fixture::DEADLINE);
                assert_eq!(crate::poll::wait_readable([closed.as_fd()], wait).unwrap(), [true], "{place}");
                assert_eq!(closed.read(&ports), expected, "{place}");
                assert!(!closed.read(&ports), "all were taken");
            }
        };
        host.run(test).unwrap();
    }

    #[test]
    fn messages_that_are_too_short_are_none() {
        for length in 0..MESSAGE_BYTES {
            assert_eq!(UdpSocket::parse(&vec![2; length]), None);
        }
        assert!(UdpSocket::parse(&[2; MESSAGE_BYTES]).is_some());
    }
}
