//! A forged frame, from the capture socket by every way that a worker has: none arrives.

use std::os::fd::AsFd;
use std::time::Duration;

use mcr_sys::filter::{FilterDestination, FilterProgram};
use mcr_sys::packet::{Capture, CaptureOptions, Fanout};
use mcr_sys::test_env::tracer::{Outcome, RingMemory, Traced};
use mcr_testnet::frames::{UdpFrame, sender};
use mcr_testnet::{Host, IoBackend, RawPrefix, Topology, wait_for};

use super::{EACCES, packet_sockets, pid_of, worker_of};
use crate::scenario::{input, output, relay, rule};

const SENDMSG: u8 = 9;
const FIXED_FILE: u8 = 1;
const EBADF: i32 = 9;
const FORGED: &[u8] = b"forged by a worker";
const ALLOWED: &[u8] = b"sent by the test, on the same interface";

/// Captures the frames on an interface.
fn observer(host: &Host, interface: &str) -> Capture {
    let ifindex = host.index(interface);
    let ifindex = mcr_sys::link::IfIndex::new(ifindex.to_raw());
    let wanted = FilterDestination {
        address: "239.9.9.9".parse().expect("an address"),
        port: 5000,
        promiscuous: false,
    };
    let filter = FilterProgram::for_destinations(&[wanted]);
    let options =
        CaptureOptions { ifindex, filter: &filter, receive_buffer_bytes: 1 << 20, fanout: Fanout::New };
    host.run(|| Capture::open(&options)).expect("a capture socket").0
}

/// How many frames with each payload arrive, up to the allowed one.
fn forged_until_allowed(observer: &Capture) -> usize {
    let mut forged = 0;
    wait_for("the frame that is allowed", Duration::from_secs(10), || {
        let mut buffer = vec![0; 70_000];
        let Ok((_, bytes)) =
            rustix::net::recv(observer.as_fd(), buffer.as_mut_slice(), rustix::net::RecvFlags::DONTWAIT)
        else {
            return Err(forged);
        };
        let has = |text: &[u8]| buffer[..bytes].windows(text.len()).any(|window| window == text);
        forged += usize::from(has(FORGED));
        if has(ALLOWED) { Ok(()) } else { Err(forged) }
    });
    forged
}

fn frame(payload: &[u8]) -> Vec<u8> {
    UdpFrame::new(
        "10.1.0.9:5000".parse().expect("an address"),
        "239.9.9.9:5000".parse().expect("an address"),
        payload,
    )
    .bytes()
}

/// A message with the frame and the virtio header that the socket expects, in scratch memory; returns the place of its header.
fn write_message(traced: &Traced) -> u64 {
    let at = traced.scratch();
    let frame = [vec![0; 10], frame(FORGED)].concat();
    let vector_at = at + 1_024;
    traced.write(at, &frame).expect("write");
    traced.write(vector_at, &[at.to_ne_bytes(), (frame.len() as u64).to_ne_bytes()].concat()).expect("write");
    let header_at = at + 2_048;
    // `struct msghdr`: name, its length, vectors, their number, control, its length, flags.
    let header = [0, 0, vector_at, 1, 0, 0, 0, 0].map(u64::to_ne_bytes).concat();
    traced.write(header_at, &header).expect("write");
    header_at
}

/// Through the worker's own ring, on the registered socket and on its descriptor: the way that no system call filter sees.
#[test]
fn through_the_ring() {
    let topology = Topology::sender_relay_receiver();
    let daemon = relay(&topology, IoBackend::Uring, &[rule(input("239.1.1.1"), [output("239.2.2.2")])]);
    let observer = observer(&topology.sender, "eth0");
    let pid = pid_of(&worker_of(&daemon, "eth0"));
    let [capture] = packet_sockets(pid)[..] else { panic!("one packet socket") };
    let ring = RingMemory::of(pid).expect("a ring");
    let mut traced = Traced::attach(pid).expect("attach");
    let header = write_message(&traced);
    // The capture socket is the first that the worker registers.
    for (descriptor, flags, expected) in
        [(0, FIXED_FILE, 0), (capture, 0, -EACCES), (capture, FIXED_FILE, -EBADF)]
    {
        let mut entry = [0_u8; 64];
        (entry[0], entry[1]) = (SENDMSG, flags);
        entry[4..8].copy_from_slice(&descriptor.to_ne_bytes());
        entry[16..24].copy_from_slice(&header.to_ne_bytes());
        entry[24..28].copy_from_slice(&1_u32.to_ne_bytes());
        let result = traced.submit(&ring, &entry).expect("a result");
        // A send on the socket looks into its ring, finds nothing, and returns 0.
        assert_eq!(result, expected, "descriptor {descriptor} with flags {flags}");
    }
    drop(traced);
    sender(&topology.relay, "eth0", RawPrefix::None).send(&frame(ALLOWED)).expect("send");
    assert_eq!(forged_until_allowed(&observer), 0, "frames arrived");
    assert_eq!(pid_of(&worker_of(&daemon, "eth0")), pid, "the worker goes on");
}

on_both_backends! {
    /// By system calls: the filter kills the worker.
    fn by_a_system_call(io) {
        let topology = Topology::sender_relay_receiver();
        let mut daemon = relay(&topology, io, &[rule(input("239.1.1.1"), [output("239.2.2.2")])]);
        daemon.expect_sandbox_kills();
        let observer = observer(&topology.sender, "eth0");
        let pid = pid_of(&worker_of(&daemon, "eth0"));
        let [capture] = packet_sockets(pid)[..] else { panic!("one packet socket") };
        let mut traced = Traced::attach(pid).expect("attach");
        let header = write_message(&traced);
        // sendmmsg(2) is in the list, for other sockets.
        let outcome = traced.call(307, [capture.into(), header, 1, 0, 0, 0]).expect("a call");
        assert_eq!(outcome, Outcome::Killed(31));
        drop(traced);
        sender(&topology.relay, "eth0", RawPrefix::None).send(&frame(ALLOWED)).expect("send");
        assert_eq!(forged_until_allowed(&observer), 0, "frames arrived");
    }
}
