//! Counters of a socket's queues: `SO_MEMINFO` (socket(7), sock_diag(7)).

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Result, SysError};

/// `SK_MEMINFO_VARS` of `linux/sock_diag.h`: fields of the answer, each 32 bits.
const FIELDS: usize = 9;
/// `SK_MEMINFO_DROPS`: the place of the drop counter.
const DROPS: usize = 8;

/// Datagrams that the kernel dropped at this socket since it was opened: its queue was full, the checksum was wrong, or
/// its filter rejected them. Wraps around at 2³².
///
/// # Errors
/// Linux before 4.11 has no `SO_MEMINFO`.
pub fn drops(socket: BorrowedFd<'_>) -> Result<u32> {
    const STEP: &str = "getsockopt SO_MEMINFO";
    let mut fields = [0_u32; FIELDS];
    let mut bytes = libc::socklen_t::try_from(size_of_val(&fields)).unwrap_or_default();
    // SAFETY: the pointer and the length name the live, exclusively borrowed array.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            fields.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    if answer != 0 {
        return Err(SysError::last(STEP));
    }
    if bytes as usize <= DROPS * size_of::<u32>() {
        return Err(SysError::invalid(STEP, "the kernel's answer has no drop counter"));
    }
    Ok(fields[DROPS])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn counts_what_did_not_fit() {
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("bind");
        rustix::net::sockopt::set_socket_recv_buffer_size(&receiver, 4096).expect("buffer size");
        assert_eq!(drops(receiver.as_fd()).expect("counter"), 0);
        let sender = UdpSocket::bind("127.0.0.1:0").expect("bind");
        for _ in 0..100 {
            sender.send_to(&[0; 1000], receiver.local_addr().expect("address")).expect("send");
        }
        assert!(drops(receiver.as_fd()).expect("counter") > 50);
    }
}
