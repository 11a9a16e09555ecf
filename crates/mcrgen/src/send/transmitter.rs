//! Sends datagrams in batches, and handles errors.
//!
//! If a queue is full, the sender waits, so that no datagram is lost by sending too fast. Any other error is counted with its
//! cause, and leaves a gap in the stream's sequence numbers.

use super::round_robin::{RoundRobin, Run};
use crate::interrupt::Interrupt;
use crate::payload::{self, Header};
use crate::report::Outcome;
use crate::sizes::SizeRange;
use mcr_sys::clock::monotonic_ns;
use mcr_sys::mmsg::{Ancillary, MAX_SEGMENTS, MAX_SEND_BYTES, SendBatch, SocketAddress};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Maximum payload of a batch: large enough to amortize the system call, small enough for the caches.
const BATCH_BYTES: usize = 1 << 20;
/// Maximum number of sends of a batch.
const BATCH_SENDS: usize = 64;
/// Delay before a send to a full queue is repeated.
const FULL_QUEUE_PAUSE: Duration = Duration::from_micros(100);
/// After this number of delays (about two seconds) a datagram is dropped.
const FULL_QUEUE_TRIES: u32 = 15_000;

/// Parameters of the payloads of a run.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub(crate) session: u64,
    pub(crate) sizes: SizeRange,
    /// Selects the sizes, in the order of sending.
    pub(crate) random: fastrand::Rng,
}

pub(crate) struct Transmitter {
    socket: OwnedFd,
    destinations: Vec<SocketAddress>,
    content: Content,
    segments: usize,
    sends: usize,
    batch: SendBatch,
    single: SendBatch,
    memory: Vec<u8>,
    entries: Vec<Entry>,
    outcome: Outcome,
}

/// One entry of a batch: a datagram, or several of equal size for a segmented send.
#[derive(Debug, Clone)]
struct Entry {
    stream: usize,
    datagrams: usize,
    datagram_bytes: usize,
    range: std::ops::Range<usize>,
}

impl Transmitter {
    /// `segments`: maximum number of datagrams per send.
    pub(crate) fn new(
        socket: OwnedFd,
        destinations: Vec<SocketAddress>,
        content: Content,
        segments: usize,
    ) -> Self {
        let largest = content.sizes.maximum();
        let segments = segments.clamp(1, MAX_SEGMENTS).min(MAX_SEND_BYTES / largest).max(1);
        let sends = (BATCH_BYTES / (largest * segments)).clamp(1, BATCH_SENDS);
        Self {
            socket,
            destinations,
            segments: if content.sizes.fixed().is_some() { segments } else { 1 },
            content,
            sends,
            batch: SendBatch::new(sends, sends),
            single: SendBatch::new(1, 1),
            memory: vec![0; sends * segments * largest],
            entries: Vec::with_capacity(sends),
            outcome: Outcome::default(),
        }
    }

    pub(crate) fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Sends one batch of at most `limit` datagrams.
    pub(crate) fn send(&mut self, round_robin: &mut RoundRobin, limit: u64, interrupt: &mut Interrupt) {
        let time_ns = monotonic_ns();
        let mut left = usize::try_from(limit).unwrap_or(usize::MAX);
        while left > 0 && self.has_room() {
            let Some(run) = round_robin.next_run(left.min(self.segments)) else { break };
            left -= run.datagrams;
            self.write(run, round_robin, time_ns, false);
        }
        self.flush(interrupt);
    }

    /// Sends a last datagram on every stream, which announces the stream's actual total.
    pub(crate) fn close(&mut self, round_robin: &mut RoundRobin, interrupt: &mut Interrupt) {
        for stream in 0..round_robin.streams() {
            let run = round_robin.close(stream);
            self.write(run, round_robin, monotonic_ns(), true);
            if !self.has_room() {
                self.flush(interrupt);
            }
        }
        self.flush(interrupt);
    }

    fn has_room(&self) -> bool {
        let used = self.entries.last().map_or(0, |entry| entry.range.end);
        self.entries.len() < self.sends
            && used + self.segments * self.content.sizes.maximum() <= self.memory.len()
    }

    /// Appends the payloads of a run to the batch.
    fn write(&mut self, run: Run, round_robin: &RoundRobin, time_ns: u64, closing: bool) {
        let start = self.entries.last().map_or(0, |entry| entry.range.end);
        let mut end = start;
        let mut datagram_bytes = 0;
        for sequence in run.first_sequence..run.first_sequence + run.datagrams as u64 {
            datagram_bytes = self.content.sizes.pick(&mut self.content.random);
            let header = Header {
                last: closing || round_robin.is_last(run.stream, sequence),
                stream: run.stream,
                streams: round_robin.streams(),
                session: self.content.session,
                sequence,
                planned_total: round_robin.total(),
                time_ns,
            };
            payload::write(&header, &mut self.memory[end..end + datagram_bytes]);
            end += datagram_bytes;
        }
        let stream = run.stream.into();
        self.entries.push(Entry { stream, datagrams: run.datagrams, datagram_bytes, range: start..end });
    }

    fn flush(&mut self, interrupt: &mut Interrupt) {
        let Self { batch, single, memory, entries, destinations, socket, outcome, segments, .. } = self;
        let mut sending = batch.begin();
        for entry in entries.iter() {
            // `has_room` was checked before each run, so the push succeeds.
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
                *segments = 1;
            }
        });
        entries.clear();
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
