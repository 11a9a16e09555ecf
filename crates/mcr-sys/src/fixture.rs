//! Shared by the tests of this crate's sockets: a veth pair between two namespaces, packets built by hand, a raw sender.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use mcr_testnet::{LinkSetup, NetNamespace, RawPrefix, RawSender};

use crate::clock::monotonic;
use crate::filter::{FilterDestination, FilterProgram};
use crate::link::IfIndex;
use crate::packet::{Capture, CaptureOptions, CaptureReport, Fanout};
use crate::poll::wait_readable;
use crate::process::pin_to_core;

pub(crate) mod packets;

/// Deadline for everything that a test waits for.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

pub(crate) fn wanted(address: &str, port: u16) -> FilterDestination {
    FilterDestination { address: address.parse().unwrap(), port, promiscuous: false }
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
    let (here_index, there_index) = (index(&mut inside, "cable"), index(&mut outside, "cable"));
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
    let sender = raw_sender(ifindex);
    for frame in frames {
        sender.send(frame).unwrap();
    }
}

/// A raw sender in the namespace of the calling thread.
pub(crate) fn raw_sender(ifindex: IfIndex) -> RawSender {
    RawSender::open(ifindex.to_raw().into(), RawPrefix::None).unwrap()
}

/// The index of an interface. The test kit has the type of the library that it was built with.
pub(crate) fn index(setup: &mut LinkSetup, name: &str) -> IfIndex {
    IfIndex::new(setup.index(name).unwrap().to_raw())
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

/// The next of our frames, with its virtio header, on a socket that takes the kernel's own (MLD, neighbors) as well.
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
