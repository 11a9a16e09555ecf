//! One recvmsg(2) with the sender's address and ancillary data (cmsg(3)).

use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Result, SysError};

const HEADER: usize = size_of::<libc::cmsghdr>();
const CONTROL_BYTES: usize = 256;

/// Room for one received message.
#[repr(C, align(8))]
pub(crate) struct Control([u8; CONTROL_BYTES]);

/// A received message; the bytes are in the caller's buffer.
pub(crate) struct Message<A> {
    /// The sender's address.
    pub(crate) address: A,
    /// Its true length, which may exceed the buffer.
    pub(crate) bytes: usize,
    control: Control,
    control_bytes: usize,
}

/// Addresses of C that are valid whatever the kernel writes into them.
///
/// # Safety
/// All zeroes and every other bit pattern must be a valid value of the type.
pub(crate) unsafe trait Address: Copy {}
// SAFETY: integers and arrays of them.
unsafe impl Address for libc::sockaddr_ll {}
// SAFETY: integers and arrays of them.
unsafe impl Address for libc::sockaddr_in {}
// SAFETY: integers and arrays of them.
unsafe impl Address for libc::sockaddr_in6 {}

/// Receives one message without blocking; `None` if there is none.
pub(crate) fn receive<A: Address>(
    step: &'static str,
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> Result<Option<Message<A>>> {
    // SAFETY: `Address` promises that all zeroes is a valid value.
    let mut address: A = unsafe { std::mem::zeroed() };
    let mut control = Control([0; CONTROL_BYTES]);
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeroes is a valid msghdr: no address, no buffers.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = (&raw mut address).cast();
    header.msg_namelen = libc::socklen_t::try_from(size_of::<A>()).unwrap_or_default();
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_BYTES;
    // SAFETY: every pointer in the header names live memory of the length beside it.
    let received =
        unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT | libc::MSG_TRUNC) };
    match usize::try_from(received) {
        Ok(bytes) => Ok(Some(Message { address, bytes, control, control_bytes: header.msg_controllen })),
        Err(_) => {
            let error = SysError::last(step);
            match error.errno() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(None),
                _ => Err(error),
            }
        }
    }
}

impl<A> Message<A> {
    /// The data of the entry of this level and type.
    pub(crate) fn entry(&self, level: i32, kind: i32) -> Option<&[u8]> {
        let mut rest = self.control.0.get(..self.control_bytes)?;
        loop {
            let bytes = usize::from_ne_bytes(*rest.first_chunk()?);
            let word = |at: usize| rest.get(at..)?.first_chunk().map(|word| i32::from_ne_bytes(*word));
            let found = word(size_of::<usize>())? == level && word(size_of::<usize>() + 4)? == kind;
            if bytes < HEADER {
                return None;
            }
            if found {
                return rest.get(HEADER..bytes);
            }
            rest = rest.get(bytes.next_multiple_of(size_of::<usize>())..)?;
        }
    }
}
