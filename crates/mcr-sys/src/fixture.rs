//! What the tests of this crate's sockets share: a cable between two namespaces, hand-made packets, a raw sender.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::clock::monotonic;
use crate::filter::{FilterDestination, FilterProgram};
use crate::link::IfIndex;
use crate::link_setup::LinkSetup;
use crate::namespace::NetNamespace;
use crate::packet::{Capture, CaptureOptions, CaptureReport, Fanout};
use crate::poll::wait_readable;
use crate::process::pin_to_core;

pub(crate) mod packets;

/// No test waits longer than this for something that must come.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

pub(crate) fn wanted(address: &str, port: u16) -> FilterDestination {
    FilterDestination { address: address.parse().unwrap(), port }
}

/// A cable from `there` (10.9.0.1, fd09::1) to `here` (10.9.0.2, fd09::2), called `cable` at both ends.
pub(crate) struct Cable {
    pub(crate) here: NetNamespace,
    pub(crate) there: NetNamespace,
    pub(crate) here_index: IfIndex,
    pub(crate) there_index: IfIndex,
}

pub(crate) fn cable() -> Cable {
    let (here, there) = (NetNamespace::create().unwrap(), NetNamespace::create().unwrap());
    let mut inside = LinkSetup::in_namespace(&here).unwrap();
    inside.create_veth("cable", "cable", &there).unwrap();
    let mut outside = LinkSetup::in_namespace(&there).unwrap();
    for (setup, host) in [(&mut inside, 2), (&mut outside, 1)] {
        setup.disable_automatic_ipv6("cable").unwrap();
        setup.add_address("cable", IpAddr::from([10, 9, 0, host]), 24).unwrap();
        setup.add_address("cable", IpAddr::from([0xfd09, 0, 0, 0, 0, 0, 0, host.into()]), 64).unwrap();
        setup.set_up("lo", true).unwrap();
    }
    for setup in [&mut inside, &mut outside] {
        setup.set_up("cable", true).unwrap();
    }
    let (here_index, there_index) = (inside.index("cable").unwrap(), outside.index("cable").unwrap());
    Cable { here, there, here_index, there_index }
}

impl Cable {
    pub(crate) fn capture_here(&self, filter: &FilterProgram) -> Capture {
        self.here.run(|| capture(self.here_index, filter, Fanout::New).0).unwrap()
    }

    /// Sends frames as they are from `there`, all on one core, so that they arrive in order.
    pub(crate) fn send_frames(&self, frames: &[Vec<u8>]) {
        self.there.run(|| send_frames(self.there_index, frames)).unwrap();
    }
}

pub(crate) fn capture(ifindex: IfIndex, filter: &FilterProgram, fanout: Fanout) -> (Capture, CaptureReport) {
    Capture::open(&CaptureOptions { ifindex, filter, receive_buffer_bytes: 1 << 20, fanout }).unwrap()
}

/// Sends frames as they are, in the namespace of the calling thread, which stays on one core from then on.
pub(crate) fn send_frames(ifindex: IfIndex, frames: &[Vec<u8>]) {
    pin_to_core(crate::process::online_cores().unwrap()[0]).unwrap();
    let socket = raw_socket();
    for frame in frames {
        send_frame(&socket, ifindex, frame);
    }
}

/// A packet socket that receives nothing.
pub(crate) fn raw_socket() -> OwnedFd {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap()
}

pub(crate) fn send_frame(socket: &OwnedFd, ifindex: IfIndex, frame: &[u8]) {
    // SAFETY: all zeroes is a valid sockaddr_ll.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
    to.sll_ifindex = ifindex.to_int();
    if let Some(ether_type) = frame.get(12..14) {
        to.sll_protocol = u16::from_ne_bytes([ether_type[0], ether_type[1]]);
    }
    let to_bytes = libc::socklen_t::try_from(size_of_val(&to)).unwrap();
    // SAFETY: both pointers name live memory of the stated lengths.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            to_bytes,
        )
    };
    assert_eq!(usize::try_from(sent), Ok(frame.len()), "{}", std::io::Error::last_os_error());
}

/// The next frame with its virtio header; waits for it.
pub(crate) fn receive(capture: &Capture) -> Vec<u8> {
    let end = monotonic() + DEADLINE;
    loop {
        if let Some(frame) = take(capture) {
            return frame;
        }
        let left = end.checked_sub(monotonic()).expect("no frame arrived in time");
        wait_readable([capture.as_fd()], Some(left)).unwrap();
    }
}

/// The next frame with its virtio header, if it is there already.
pub(crate) fn take(capture: &Capture) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 70_000];
    match rustix::net::recv(capture, buffer.as_mut_slice(), rustix::net::RecvFlags::empty()) {
        Ok((_, bytes)) => {
            buffer.truncate(bytes);
            Some(buffer)
        }
        Err(rustix::io::Errno::AGAIN) => None,
        Err(error) => panic!("{error}"),
    }
}

/// The UDP payloads that arrive, up to and without the one that says `end`. The tests' frames are short, so the payload
/// is found from behind: each ends in a text in angle brackets.
pub(crate) fn texts_until(capture: &Capture, end: &str) -> Vec<String> {
    let mut texts = Vec::new();
    loop {
        let text = packets::text_of(&receive(capture));
        if text == end {
            return texts;
        }
        texts.push(text);
    }
}

/// The next of our frames, with its virtio header, on a socket that takes the kernel's own (MLD, neighbours) as well.
pub(crate) fn receive_ours(capture: &Capture) -> (Vec<u8>, String) {
    loop {
        let frame = receive(capture);
        if let Some(text) = packets::find_text(&frame) {
            return (frame, text);
        }
    }
}

/// Waits until the filter of a UDP socket has refused this many datagrams since it was opened.
pub(crate) fn wait_for_drops(socket: BorrowedFd<'_>, count: u32) {
    let end = monotonic() + DEADLINE;
    loop {
        let drops = crate::socket_memory::drops(socket).unwrap();
        assert!(drops <= count, "{drops} datagrams instead of {count}");
        if drops == count {
            return;
        }
        assert!(monotonic() < end, "{drops} datagrams instead of {count}");
        std::thread::yield_now();
    }
}
