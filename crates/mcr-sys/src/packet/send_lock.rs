//! Takes from a packet socket the ability to send.
//!
//! A socket with a transmit ring (`PACKET_TX_RING`, packet(7)) sends what the ring holds, and nothing else: `packet_sendmsg` of
//! the kernel takes the ring's way for every send, whatever its buffer says. The ring made here is one page that no process
//! maps, so it holds nothing, and a send returns 0. Receiving is not affected. The ring can't be removed while another holder
//! could tell (`EBUSY` while mapped) but by setsockopt(2), which a worker's system call filter denies; so is mmap(2) of the
//! socket, which would bring the ability back.
//!
//! Setting the ring waits for an RCU grace period (`synchronize_net`), 4 to 24 ms: not on a thread that must not wait.

use std::os::fd::BorrowedFd;

use crate::{Result, socket_option};

/// linux/if_packet.h.
const PACKET_TX_RING: libc::c_int = 13;

/// `struct tpacket_req`.
#[repr(C)]
struct RingRequest {
    block_bytes: u32,
    blocks: u32,
    frame_bytes: u32,
    frames: u32,
}

/// Locks a socket that is not bound yet. Options that change the ring's header (`PACKET_VNET_HDR`) must be set before:
/// afterwards they are `EBUSY`.
///
/// # Errors
/// ENOMEM; ENOPROTOOPT where the kernel has no packet rings.
pub(super) fn lock(fd: BorrowedFd<'_>) -> Result<()> {
    let page = u32::try_from(rustix::param::page_size()).unwrap_or(4_096);
    let request = RingRequest { block_bytes: page, blocks: 1, frame_bytes: page, frames: 1 };
    socket_option::set("set PACKET_TX_RING", fd, libc::SOL_PACKET, PACKET_TX_RING, &request)
}

/// Returns whether a socket with `PACKET_VNET_HDR` is locked: the option can't be set again then. On one that is not locked,
/// setting it again changes nothing.
pub(super) fn is_locked(fd: BorrowedFd<'_>) -> bool {
    const STEP: &str = "set PACKET_VNET_HDR again";
    let again = socket_option::set(STEP, fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1);
    again.is_err_and(|error| error.errno() == Some(libc::EBUSY))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::filter::FilterProgram;
    use crate::fixture::packets::{datagram, ethernet};
    use crate::fixture::{cable, receive_ours, take, texts_until, wanted};
    use crate::link::IfIndex;

    fn frame(text: &str) -> Vec<u8> {
        ethernet(&datagram("239.1.1.1", 5000, text))
    }

    /// A frame with the virtio header that the socket wants in front.
    fn forged() -> Vec<u8> {
        [vec![0; 10], frame("forged")].concat()
    }

    fn address(ifindex: IfIndex) -> libc::sockaddr_ll {
        let protocol = 0x0800_u16.to_be();
        let family = u16::try_from(libc::AF_PACKET).unwrap();
        libc::sockaddr_ll {
            sll_family: family,
            sll_protocol: protocol,
            sll_ifindex: ifindex.to_int(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [1, 0, 0x5e, 1, 1, 1, 0, 0],
        }
    }

    /// Each way to send on a socket: with and without address, to each of the interfaces. Returns what the kernel said.
    fn forge(fd: BorrowedFd<'_>, interfaces: [IfIndex; 2]) -> Vec<isize> {
        use std::os::fd::AsRawFd;
        let frame = forged();
        // SAFETY: the kernel reads `frame.len()` bytes of a live buffer.
        let plain = unsafe { libc::send(fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        // SAFETY: as above.
        let written = unsafe { libc::write(fd.as_raw_fd(), frame.as_ptr().cast(), frame.len()) };
        let to = interfaces.map(|ifindex| {
            let address = address(ifindex);
            let bytes = libc::socklen_t::try_from(size_of_val(&address)).unwrap();
            let address = (&raw const address).cast();
            // SAFETY: both pointers name live memory of the lengths beside them.
            unsafe { libc::sendto(fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, address, bytes) }
        });
        [plain, written].into_iter().chain(to).collect()
    }

    #[test]
    fn a_locked_socket_receives_and_sends_nothing() {
        let cable = cable();
        let observer = cable.there.run(|| {
            let all = FilterProgram::for_destinations(&[wanted("239.1.1.1", 5000)]);
            crate::fixture::capture(cable.there_index, &all, crate::packet::Fanout::New).0
        });
        let observer = observer.unwrap();
        let capture = cable.capture_here(&FilterProgram::for_destinations(&[wanted("239.1.1.1", 5000)]));
        assert!(capture.is_send_locked());
        let answers = forge(capture.as_fd(), [cable.here_index, IfIndex::new(1)]);
        assert!(answers.iter().all(|answer| *answer <= 0), "nothing was accepted: {answers:?}");

        // The same frame from a socket without the lock arrives, so it would have been seen, and ends the wait.
        cable.here.run(|| crate::fixture::send_frames(cable.here_index, &[frame("allowed")])).unwrap();
        assert_eq!(texts_until(&observer, "allowed"), Vec::<String>::new());
        cable.send_frames(&[frame("incoming")]);
        assert_eq!(receive_ours(&capture).1, "incoming");
        assert_eq!(take(&capture), None);
    }

    #[test]
    fn the_lock_is_recognized() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
        let cable = cable();
        let open = || socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None);
        let fd = cable.here.run(open).unwrap().unwrap();
        assert!(!is_locked(fd.as_fd()));
        socket_option::set("vnet", fd.as_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1).unwrap();
        assert!(!is_locked(fd.as_fd()), "asking does not lock it");
        lock(fd.as_fd()).unwrap();
        assert!(is_locked(fd.as_fd()));
    }
}
