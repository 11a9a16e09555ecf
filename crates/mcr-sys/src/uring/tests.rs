use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::Duration;

use super::*;
use crate::clock::monotonic;
use crate::mmsg::{Ancillary, SocketAddress};
use crate::poll::wait_readable;

const GUARD: u16 = 3;
const INPUT: u16 = 1;

/// A ring that receives from `input`, and a socket to send through to `receiver`.
struct Bench {
    ring: Ring,
    input: FileSlot,
    output: FileSlot,
    input_address: std::net::SocketAddr,
    sender: UdpSocket,
    receiver: UdpSocket,
    destination: SocketAddress,
}

fn bench(buffers: u16, sends: u16) -> Bench {
    let socket = || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    };
    let (input, output, sender, receiver) = (socket(), socket(), socket(), socket());
    let mut ring = Ring::new(&RingOptions { buffers, buffer_bytes: 2_048, sends, restricted: true }).unwrap();
    let input_address = input.local_addr().unwrap();
    let (input, output) = (ring.register(input.as_fd()).unwrap(), ring.register(output.as_fd()).unwrap());
    ring.start_receive(input, 1).unwrap();
    let destination = SocketAddress::new(receiver.local_addr().unwrap());
    Bench { ring, input, output, input_address, sender, receiver, destination }
}

impl Bench {
    /// The next event but those of an empty input, which is waited for; a timer ends a wait that would never end.
    fn event(&mut self) -> Event {
        loop {
            match self.ring.next_event() {
                Some(Event::Timer { token: GUARD }) => panic!("nothing happened in time"),
                Some(Event::ReceiveEnded { errno: libc::EAGAIN }) => {
                    self.ring.poll_readable(self.input, INPUT).unwrap();
                }
                Some(Event::Readable { token: INPUT }) => self.ring.start_receive(self.input, 1).unwrap(),
                Some(event) => return event,
                None => {}
            }
            self.ring.start_timer(GUARD, Duration::from_secs(5)).unwrap();
            // A send that succeeds makes no completion to wait for.
            let wait = if self.ring.sends_in_flight() > 0 { Wait::No } else { Wait::Event };
            self.ring.enter(wait).unwrap();
        }
    }

    fn give(&self, payload: &[u8]) {
        self.sender.send_to(payload, self.input_address).unwrap();
    }

    fn received(&mut self) -> (BufferId, u32) {
        match self.event() {
            Event::Received { buffer, bytes } => (buffer, bytes),
            other => panic!("{other:?}"),
        }
    }

    fn forward(
        &mut self,
        pieces: &[Piece],
        segment_bytes: Option<u16>,
    ) -> std::result::Result<SendId, SendRefused> {
        let ancillary = Ancillary { segment_bytes, ..Ancillary::default() };
        let (socket, destination) = (self.output, self.destination);
        self.ring.send(&SendRequest { socket, destination: &destination, ancillary, pieces })
    }

    fn arrived(&self) -> Vec<u8> {
        let mut buffer = [0; 4_096];
        let bytes = self.receiver.recv(&mut buffer).unwrap();
        buffer[..bytes].to_vec()
    }
}

#[test]
fn the_probe_succeeds_where_a_ring_does() {
    probe(true).unwrap();
    probe(false).unwrap();
}

/// R39: of all operations on a restricted ring itself, two pass. Without a filter: the ring refuses by itself.
#[test]
fn a_restricted_ring_permits_two_operations_on_itself() {
    use std::os::fd::AsRawFd;
    let bench = bench(4, 4);
    let ring = bench.ring.io.as_raw_fd();
    let register = |operation: u32| {
        // SAFETY: every operation is refused, or fails for the null pointer.
        let answer = unsafe { libc::syscall(libc::SYS_io_uring_register, ring, operation, 0_usize, 0) };
        if answer < 0 { std::io::Error::last_os_error().raw_os_error() } else { None }
    };
    let passing: Vec<u32> = (0..256)
        .filter(|operation| ![Some(libc::EACCES), Some(libc::EINVAL)].contains(&register(*operation)))
        .collect();
    // The rest is EINVAL where the kernel does not know the operation, which would not do to tell them apart for these two.
    assert!(passing.iter().all(|operation| REGISTER_OPERATIONS.contains(operation)), "{passing:?}");
    for known in (0..24).filter(|operation| !REGISTER_OPERATIONS.contains(operation)) {
        assert_eq!(register(known), Some(libc::EACCES), "operation {known}");
    }
    for permitted in REGISTER_OPERATIONS {
        assert_ne!(register(*permitted), Some(libc::EACCES), "operation {permitted}");
    }
}

#[test]
fn a_received_datagram_is_sent_from_its_buffer() {
    let mut bench = bench(4, 4);
    bench.give(b"head:payload");
    let (buffer, bytes) = bench.received();
    assert_eq!(bench.ring.frame(buffer, bytes), b"head:payload");
    assert_eq!(bench.ring.free_buffers(), 3);
    let piece = Piece { buffer, start: 5, bytes: 7 };
    let send = bench.forward(&[piece], None).unwrap();
    bench.ring.release(buffer);
    assert_eq!(bench.ring.free_buffers(), 3, "the send holds it");
    assert_eq!(bench.event(), Event::Sent { send, outcome: Ok(7) });
    assert_eq!(bench.ring.piece(&piece), b"payload");
    bench.ring.finish(send);
    assert_eq!((bench.ring.free_buffers(), bench.ring.sends_in_flight()), (4, 0));
    assert_eq!(bench.ring.frame(buffer, bytes), b"", "the kernel's buffers can't be read");
    assert_eq!(bench.arrived(), b"payload");
}

#[test]
fn pieces_of_several_buffers_leave_as_segments_of_one_send() {
    let mut bench = bench(8, 4);
    let mut pieces = Vec::new();
    for text in [b"aaaa", b"bbbb", b"cccc"] {
        bench.give(text);
        let (buffer, bytes) = bench.received();
        pieces.push(Piece { buffer, start: 0, bytes });
    }
    let send = bench.forward(&pieces, Some(4)).unwrap();
    pieces.iter().for_each(|piece| bench.ring.release(piece.buffer));
    assert_eq!(bench.event(), Event::Sent { send, outcome: Ok(12) });
    assert_eq!(bench.ring.pieces(send), pieces);
    bench.ring.finish(send);
    assert_eq!([(); 3].map(|()| bench.arrived()), [b"aaaa", b"bbbb", b"cccc"]);
    assert_eq!(bench.ring.free_buffers(), 8);
}

#[test]
fn receiving_ends_when_buffers_run_out_and_can_be_resumed() {
    let mut bench = bench(2, 2);
    (0..3_u8).for_each(|n| bench.give(&[n]));
    let (first, second) = (bench.received().0, bench.received().0);
    assert_eq!(bench.event(), Event::ReceiveEnded { errno: libc::ENOBUFS });
    assert!(!bench.ring.is_receiving());
    bench.ring.release(first);
    bench.ring.release(second);
    bench.ring.start_receive(bench.input, 1).unwrap();
    let (third, bytes) = bench.received();
    assert_eq!(bench.ring.frame(third, bytes), [2]);
}

#[test]
fn a_receive_takes_what_is_there_and_ends() {
    let mut bench = bench(8, 2);
    (0..3_u8).for_each(|n| bench.give(&[n]));
    bench.ring.enter(Wait::Event).unwrap();
    for n in 0..3 {
        let Some(Event::Received { buffer, bytes }) = bench.ring.next_event() else { panic!("datagram {n}") };
        assert_eq!(bench.ring.frame(buffer, bytes), [n]);
    }
    assert_eq!(bench.ring.next_event(), Some(Event::ReceiveEnded { errno: libc::EAGAIN }));
    assert!(!bench.ring.is_receiving());
    bench.give(&[3]);
    bench.ring.enter(Wait::No).unwrap();
    assert_eq!(bench.ring.next_event(), None, "what comes later stays in the socket");
}

/// So a worker that dies has a limited number in hand (SPECIFICATION.md, R1). Before Linux 6.8 a request takes what is there.
#[test]
fn one_call_takes_a_limited_number_for_each_request() {
    let mut bench = bench(256, 2);
    bench.ring.enter(Wait::No).unwrap();
    assert_eq!(bench.ring.next_event(), Some(Event::ReceiveEnded { errno: libc::EAGAIN }));
    (0..200).for_each(|_| bench.give(b"x"));
    for (requests, most) in [(1, 33), (4, 132)] {
        bench.ring.start_receive(bench.input, requests).unwrap();
        bench.ring.enter(Wait::No).unwrap();
        let mut taken = 0;
        while let Some(event) = bench.ring.next_event() {
            if let Event::Received { buffer, .. } = event {
                taken += 1;
                bench.ring.release(buffer);
            }
        }
        assert!((16..=most).contains(&taken), "{requests} requests took {taken}");
        assert!(!bench.ring.is_receiving());
    }
}

#[test]
fn more_sends_than_slots_are_refused_until_some_are_finished() {
    let mut bench = bench(2, 2);
    bench.give(b"x");
    let (buffer, bytes) = bench.received();
    let piece = Piece { buffer, start: 0, bytes };
    let sends = [bench.forward(&[piece], None).unwrap(), bench.forward(&[piece], None).unwrap()];
    assert_eq!(bench.forward(&[piece], None), Err(SendRefused::NoRoom));
    bench.ring.finish(sends[0]);
    assert_eq!(bench.forward(&[piece], None), Err(SendRefused::NoRoom), "it has not ended");
    for send in sends {
        assert_eq!(bench.event(), Event::Sent { send, outcome: Ok(1) });
        bench.ring.finish(send);
    }
    assert!(bench.forward(&[piece], None).is_ok());
}

#[test]
fn bytes_that_are_not_held_are_refused() {
    let mut bench = bench(4, 4);
    bench.give(b"four");
    let (buffer, _) = bench.received();
    let outside = Piece { buffer, start: 2_000, bytes: 49 };
    assert_eq!(bench.forward(&[outside], None), Err(SendRefused::BadPiece));
    bench.ring.release(buffer);
    bench.ring.release(buffer);
    assert_eq!(bench.ring.free_buffers(), 4, "a second release changes nothing");
    let returned = Piece { buffer, start: 0, bytes: 4 };
    assert_eq!(bench.forward(&[returned], None), Err(SendRefused::BadPiece));
    assert_eq!(bench.forward(&[returned; 65], None), Err(SendRefused::BadPiece));
    assert_eq!(bench.ring.sends_in_flight(), 0);
}

#[test]
fn a_failed_send_has_its_errno_and_the_next_succeeds() {
    let mut bench = bench(4, 4);
    bench.give(&[9; 1_000]);
    let (buffer, bytes) = bench.received();
    // 1,000 bytes in segments of 4 are more than the kernel cuts in one send.
    let bad = bench.forward(&[Piece { buffer, start: 0, bytes }], Some(4)).unwrap();
    let good = bench.forward(&[Piece { buffer, start: 0, bytes: 2 }], None).unwrap();
    assert_eq!(bench.event(), Event::Sent { send: bad, outcome: Err(libc::EINVAL) });
    assert_eq!(bench.event(), Event::Sent { send: good, outcome: Ok(2) });
    assert_eq!(bench.arrived(), [9, 9]);
}

#[test]
fn a_polled_socket_reports_once_that_it_is_readable() {
    let mut bench = bench(2, 2);
    let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let socket = bench.ring.register(ours.as_fd()).unwrap();
    bench.ring.poll_readable(socket, 7).unwrap();
    bench.ring.enter(Wait::No).unwrap();
    assert_eq!(bench.ring.next_event(), Some(Event::ReceiveEnded { errno: libc::EAGAIN }));
    assert_eq!(bench.ring.next_event(), None);
    theirs.send(b"x").unwrap();
    assert_eq!(bench.event(), Event::Readable { token: 7 });
    bench.ring.unregister(socket).unwrap();
}

#[test]
fn a_ring_under_load_can_be_dropped() {
    for _ in 0..20 {
        let mut bench = bench(4, 4);
        (0..8_u8).for_each(|n| bench.give(&[n]));
        bench.ring.enter(Wait::No).unwrap();
    }
}

/// With the kernel's minimum wait and without it: events that are pending at the start are coalesced, later ones are not.
#[test]
fn a_coalescing_wait_is_bounded_by_its_budget() {
    let budget = Duration::from_millis(50);
    for min_wait in [true, false] {
        let mut bench = bench(4, 4);
        bench.ring.min_wait &= min_wait;
        bench.ring.enter(Wait::No).unwrap();
        assert_eq!(bench.ring.next_event(), Some(Event::ReceiveEnded { errno: libc::EAGAIN }));
        for comes_later in [false, true] {
            bench.ring.poll_readable(bench.input, INPUT).unwrap();
            let start = monotonic();
            let sender = bench.sender.try_clone().unwrap();
            let to = bench.input_address;
            let thread = std::thread::spawn(move || {
                if comes_later {
                    wait_readable([], Some(budget * 3)).unwrap();
                }
                sender.send_to(b"another", to).unwrap();
            });
            bench.ring.enter(Wait::Coalesce(budget)).unwrap();
            let took = monotonic() - start;
            assert_eq!(bench.ring.next_event(), Some(Event::Readable { token: INPUT }), "{min_wait}");
            let least = if comes_later { budget * 3 } else { budget };
            assert!(took >= least && took < least + Duration::from_millis(900), "{min_wait}: {took:?}");
            thread.join().unwrap();
            bench.ring.start_receive(bench.input, 1).unwrap();
            let (buffer, _) = bench.received();
            bench.ring.release(buffer);
            while bench.ring.is_receiving() {
                bench.ring.enter(Wait::No).unwrap();
                let _ = bench.ring.next_event();
            }
        }
    }
}

/// Of two sends the first fails: it has its own outcome, and its number may be used again.
#[test]
fn failures_and_successes_of_one_submission_are_distinguished() {
    let mut bench = bench(4, 4);
    bench.give(b"payload");
    let (buffer, _) = bench.received();
    let piece = [Piece { buffer, start: 0, bytes: 7 }];
    let nowhere = SocketAddress::new((std::net::Ipv4Addr::LOCALHOST, 0).into());
    let (socket, ancillary) = (bench.output, Ancillary::default());
    let request = SendRequest { socket, destination: &nowhere, ancillary, pieces: &piece };
    let refused = bench.ring.send(&request).unwrap();
    let sent = bench.forward(&piece, None).unwrap();
    bench.ring.enter(Wait::No).unwrap();
    let outcomes: Vec<_> = std::iter::from_fn(|| bench.ring.next_event())
        .filter(|event| matches!(event, Event::Sent { .. }))
        .collect();
    assert_eq!(
        outcomes,
        [
            Event::Sent { send: refused, outcome: Err(libc::EINVAL) },
            Event::Sent { send: sent, outcome: Ok(7) }
        ]
    );
    for send in [refused, sent] {
        bench.ring.finish(send);
    }
    assert_eq!(bench.ring.sends_in_flight(), 0);
    let again = bench.forward(&piece, None).unwrap();
    bench.ring.enter(Wait::No).unwrap();
    assert_eq!(bench.event(), Event::Sent { send: again, outcome: Ok(7) });
}

/// A loop that always has work, and so never waits, gets timer events.
#[test]
fn a_timer_ends_in_calls_that_do_not_wait() {
    let mut bench = bench(4, 4);
    bench.ring.start_timer(0, Duration::from_millis(10)).unwrap();
    let deadline = monotonic() + Duration::from_secs(5);
    while monotonic() < deadline {
        bench.ring.enter(Wait::No).unwrap();
        while let Some(event) = bench.ring.next_event() {
            if event == (Event::Timer { token: 0 }) {
                return;
            }
        }
    }
    panic!("expected the timer's event within 5 s of calls, saw none");
}
