//! The error queue of a UDP socket (`IP_RECVERR`, ip(7)): errors that the network reported after a datagram was sent.
//! Such an error fails the socket's next send, whatever its destination, so a sender needs to know which one caused it.

use std::mem::zeroed;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::mmsg::{SocketAddress, find};

/// Maximum number of errors taken in one call: enough for the worst burst of ICMP messages, and a bound on the time.
pub const MAX_TAKEN: usize = 64;

/// Room for the ancillary data of one error: a `sock_extended_err`, the offender's address, their headers.
const CONTROL_BYTES: usize = 256;

/// Takes the errors pending on a socket, at most [`MAX_TAKEN`], without blocking, and passes the destination of the
/// datagram that caused each, if it is known, with the error (`errno`). Returns their number.
pub fn drain(socket: BorrowedFd<'_>, mut error: impl FnMut(Option<SocketAddr>, i32)) -> usize {
    #[repr(C, align(8))]
    struct Ancillary([u8; CONTROL_BYTES]);

    let mut taken = 0;
    while taken < MAX_TAKEN {
        let mut address = SocketAddress::EMPTY;
        let mut control = Ancillary([0; CONTROL_BYTES]);
        // SAFETY: a msghdr of zeros is valid: null pointers with zero lengths.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_name = std::ptr::from_mut(&mut address).cast();
        message.msg_namelen = SocketAddress::CAPACITY;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = CONTROL_BYTES as _;
        let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
        // SAFETY: name and control point to live memory of the stated lengths; there is no payload to write.
        let answer = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
        if answer < 0 {
            break;
        }
        let destination = if message.msg_namelen == 0 { None } else { address.get() };
        let control = control.0.get(..message.msg_controllen as usize).unwrap_or_default();
        error(destination, errno(control).unwrap_or(libc::EPROTO));
        taken += 1;
    }
    taken
}

/// `ee_errno`, the first word of a `struct sock_extended_err`.
fn errno(control: &[u8]) -> Option<i32> {
    let error = find(control, libc::SOL_IP, libc::IP_RECVERR)
        .or_else(|| find(control, libc::SOL_IPV6, libc::IPV6_RECVERR))?;
    error.first_chunk().map(|word| i32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn a_closed_port_is_named_by_the_queue() {
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket2::SockRef::from(&socket).set_nonblocking(true).unwrap();
        let on: libc::c_int = 1;
        // SAFETY: the option's value is a live `int` of the stated size.
        let answer = unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_IP, libc::IP_RECVERR, (&raw const on).cast(), 4)
        };
        assert_eq!(answer, 0);
        assert_eq!(drain(socket.as_fd(), |_, _| panic!("nothing was sent")), 0);
        socket.send_to(b"x", closed).unwrap();
        // On loopback the answer is there when the send returns.
        let mut seen = Vec::new();
        assert_eq!(drain(socket.as_fd(), |destination, errno| seen.push((destination, errno))), 1);
        assert_eq!(seen, [(Some(closed), libc::ECONNREFUSED)]);
    }
}
