//! One leg: its socket, its destinations, and what its path does to datagrams.

use super::delay::{Late, Path};
use crate::interrupt::Interrupt;
use crate::report::Outcome;
use mcr_sys::mmsg::{Ancillary, SendBatch, SocketAddress};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Maximum number of sends of a batch.
pub(super) const BATCH_SENDS: usize = 64;
/// Delay before a send to a full queue is repeated.
const FULL_QUEUE_PAUSE: Duration = Duration::from_micros(100);
/// After this number of delays (about two seconds) a datagram is dropped.
const FULL_QUEUE_TRIES: u32 = 15_000;

/// One entry of a batch: a datagram, or several of equal size for a segmented send.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) stream: usize,
    pub(super) datagrams: usize,
    pub(super) datagram_bytes: usize,
    pub(super) range: std::ops::Range<usize>,
}

/// A leg.
pub(crate) struct Line {
    wire: Wire,
    /// `None`: each datagram is sent at once.
    path: Option<Path>,
}

impl Line {
    /// `destinations`: of each stream.
    pub(crate) fn new(socket: OwnedFd, destinations: Vec<SocketAddress>, path: Option<Path>) -> Self {
        let wire = Wire {
            socket,
            destinations,
            batch: SendBatch::new(BATCH_SENDS, BATCH_SENDS),
            single: SendBatch::new(1, 1),
            segments: true,
            outcome: Outcome::default(),
        };
        Self { wire, path }
    }

    /// Another stream; returns its index.
    pub(super) fn add_destination(&mut self, destination: SocketAddress) -> usize {
        self.wire.destinations.push(destination);
        self.wire.destinations.len() - 1
    }

    pub(crate) fn outcome(&self) -> &Outcome {
        &self.wire.outcome
    }

    /// Whether several datagrams may be one send.
    pub(super) fn may_segment(&self) -> bool {
        self.wire.segments && self.path.is_none()
    }

    /// Returns when [`Self::flush`] has delayed datagrams to send, monotonic ns.
    pub(super) fn next_due_ns(&self) -> Option<u64> {
        self.path.as_ref()?.next_due_ns()
    }

    /// Takes a datagram of a batch that will be flushed; returns whether the path loses it.
    pub(super) fn loses(&mut self, now_ns: u64, stream: usize, datagram: &[u8]) -> bool {
        let lost = self.path.as_mut().is_some_and(|path| !path.admit(now_ns, stream, datagram));
        self.wire.outcome.left_out += u64::from(lost);
        lost
    }

    /// Nothing comes any more.
    pub(super) fn close(&mut self) {
        if let Some(path) = &mut self.path {
            path.close();
        }
    }

    /// Sends a batch; or what is due, if the path delays.
    pub(super) fn flush(&mut self, now_ns: u64, memory: &[u8], entries: &[Entry], interrupt: &mut Interrupt) {
        let Some(path) = &mut self.path else { return self.wire.send(memory, entries, interrupt) };
        loop {
            let (mut memory, mut due) = (Vec::new(), Vec::new());
            while due.len() < BATCH_SENDS
                && let Some(Late { stream, datagram, .. }) = path.take_due(now_ns)
            {
                let range = memory.len()..memory.len() + datagram.len();
                memory.extend_from_slice(&datagram);
                due.push(Entry { stream, datagrams: 1, datagram_bytes: datagram.len(), range });
            }
            if due.is_empty() {
                return;
            }
            self.wire.send(&memory, &due, interrupt);
        }
    }
}

/// Where a leg's datagrams leave.
struct Wire {
    socket: OwnedFd,
    destinations: Vec<SocketAddress>,
    batch: SendBatch,
    single: SendBatch,
    /// The device segments, as far as is known.
    segments: bool,
    outcome: Outcome,
}

impl Wire {
    /// Sends at most [`BATCH_SENDS`] entries.
    fn send(&mut self, memory: &[u8], entries: &[Entry], interrupt: &mut Interrupt) {
        let Self { batch, single, destinations, socket, outcome, segments } = self;
        let mut sending = batch.begin();
        for entry in entries {
            // There is room for all of them.
            let _ = sending.push(
                destinations.get(entry.stream),
                &entry.ancillary(),
                [&memory[entry.range.clone()]],
            );
        }
        let mut retry = Retry { single, memory, socket: socket.as_fd(), interrupt, outcome };
        sending.send(socket.as_fd(), |index, result| {
            let Some(entry) = entries.get(index) else { return };
            let Some(destination) = destinations.get(entry.stream) else { return };
            if !retry.settle(entry, destination, result) {
                // The device can't segment: the rest of this batch is split, too; later batches are not segmented.
                *segments = false;
            }
        });
    }
}

impl Entry {
    fn ancillary(&self) -> Ancillary {
        let segment_bytes = (self.datagrams > 1).then(|| u16::try_from(self.datagram_bytes).ok()).flatten();
        Ancillary { segment_bytes, ..Ancillary::default() }
    }

    /// The datagrams of a segmented send, one by one.
    fn split(&self) -> impl Iterator<Item = Self> {
        let (stream, datagram_bytes, start) = (self.stream, self.datagram_bytes, self.range.start);
        (0..self.datagrams).map(move |index| Self {
            stream,
            datagrams: 1,
            datagram_bytes,
            range: start + index * datagram_bytes..start + (index + 1) * datagram_bytes,
        })
    }
}

/// Repeats failed sends before the rest of the batch, which keeps the order.
struct Retry<'a> {
    single: &'a mut SendBatch,
    memory: &'a [u8],
    socket: BorrowedFd<'a>,
    interrupt: &'a mut Interrupt,
    outcome: &'a mut Outcome,
}

impl Retry<'_> {
    /// Counts the outcome of an entry, after repeating the send if useful. Returns `false` if the device can't segment.
    fn settle(&mut self, entry: &Entry, destination: &SocketAddress, first: Result<usize, i32>) -> bool {
        let mut result = first;
        for _ in 0..FULL_QUEUE_TRIES {
            match result.map_err(Errno::from_raw_os_error) {
                Err(Errno::AGAIN | Errno::NOBUFS) if !self.interrupt.arrived() => {
                    self.outcome.waits += 1;
                    self.interrupt.wait(Some(FULL_QUEUE_PAUSE));
                }
                // An ICMP error for an earlier datagram of this socket; this one was not sent.
                Err(Errno::CONNREFUSED | Errno::HOSTUNREACH) => {
                    match mcr_sys::error_queue::drain(self.socket, |_, _| {}) {
                        0 => break,
                        errors => self.outcome.refused += errors as u64,
                    }
                }
                Err(Errno::IO | Errno::INVAL | Errno::MSGSIZE) if entry.datagrams > 1 => {
                    for datagram in entry.split() {
                        let result = self.resend(&datagram, destination);
                        self.settle(&datagram, destination, result);
                    }
                    return false;
                }
                _ => break,
            }
            result = self.resend(entry, destination);
        }
        match result {
            Ok(bytes) => {
                self.outcome.sent += entry.datagrams as u64;
                self.outcome.bytes += bytes as u64;
            }
            Err(errno) => {
                self.outcome.errors += entry.datagrams as u64;
                let cause = io::Error::from_raw_os_error(errno).to_string();
                *self.outcome.error_causes.entry(cause).or_default() += entry.datagrams as u64;
            }
        }
        true
    }

    fn resend(&mut self, entry: &Entry, destination: &SocketAddress) -> Result<usize, i32> {
        let mut result = Err(Errno::IO.raw_os_error());
        let mut sending = self.single.begin();
        if sending.push(Some(destination), &entry.ancillary(), [&self.memory[entry.range.clone()]]).is_ok() {
            sending.send(self.socket, |_, outcome| result = outcome);
        }
        result
    }
}
