//! Hands datagrams to the kernel in batches, and knows what to do when it refuses.
//!
//! A queue that is full is waited for: nothing is lost by a sender that is too fast. Any other refusal is counted with
//! its cause, and leaves a gap in the stream's sequence.

use super::round_robin::{RoundRobin, Run};
use crate::interrupt::Interrupt;
use crate::payload::{self, Header};
use crate::sizes::SizeRange;
use mcr_sys::clock::monotonic_ns;
use mcr_sys::mmsg::{Ancillary, MAX_SEGMENTS, MAX_SEND_BYTES, SendBatch, SocketAddress};
use rustix::io::Errno;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Payload that one batch carries at the most: enough to make the system call cheap, small enough for the caches.
const BATCH_BYTES: usize = 1 << 20;
/// Sends of one batch at the most.
const BATCH_SENDS: usize = 64;
/// Pause before a full queue is tried again.
const FULL_QUEUE_PAUSE: Duration = Duration::from_micros(100);
/// After this number of pauses with full queues (about two seconds) a datagram is dropped.
const FULL_QUEUE_TRIES: u32 = 15_000;

/// What became of the datagrams.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Outcome {
    pub(crate) sent: u64,
    /// Payload bytes of the sent datagrams.
    pub(crate) bytes: u64,
    /// Datagrams that the kernel refused; a receiver counts them as lost.
    pub(crate) errors: u64,
    /// The same by cause.
    pub(crate) error_causes: BTreeMap<String, u64>,
    /// Number of waits for space in the kernel's queues.
    pub(crate) waits: u64,
    /// ICMP errors of unreachable destinations: these datagrams were sent but not received.
    pub(crate) refused: u64,
}

/// Parameters of the payloads of a run.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub(crate) session: u64,
    pub(crate) sizes: SizeRange,
    /// Chooses the sizes, in the order of sending.
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
    parcels: Vec<Parcel>,
    outcome: Outcome,
}

/// One entry of a batch: a datagram, or several of equal size for the device to cut apart.
#[derive(Debug, Clone)]
struct Parcel {
    stream: usize,
    datagrams: usize,
    datagram_bytes: usize,
    place: std::ops::Range<usize>,
}

impl Transmitter {
    /// `segments`: the most datagrams that one send may carry.
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
            parcels: Vec::with_capacity(sends),
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

    /// Sends one last datagram of every stream, which carries the stream's final total.
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
        let used = self.parcels.last().map_or(0, |parcel| parcel.place.end);
        self.parcels.len() < self.sends
            && used + self.segments * self.content.sizes.maximum() <= self.memory.len()
    }

    /// Appends the payloads of a run to the batch.
    fn write(&mut self, run: Run, round_robin: &RoundRobin, time_ns: u64, closing: bool) {
        let start = self.parcels.last().map_or(0, |parcel| parcel.place.end);
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
        self.parcels.push(Parcel { stream, datagrams: run.datagrams, datagram_bytes, place: start..end });
    }

    fn flush(&mut self, interrupt: &mut Interrupt) {
        let Self { batch, single, memory, parcels, destinations, socket, outcome, segments, .. } = self;
        let mut sending = batch.begin();
        for parcel in parcels.iter() {
            // `has_room` was checked before each run.
            let _ = sending.push(
                destinations.get(parcel.stream),
                &parcel.ancillary(),
                [&memory[parcel.place.clone()]],
            );
        }
        let mut retry = Retry { single, memory, socket: socket.as_fd(), interrupt, outcome };
        sending.send(socket.as_fd(), |place, result| {
            let Some(parcel) = parcels.get(place) else { return };
            let Some(destination) = destinations.get(parcel.stream) else { return };
            if !retry.settle(parcel, destination, result) {
                // The device can't segment: the rest of this batch goes the same way, later ones are not segmented.
                *segments = 1;
            }
        });
        parcels.clear();
    }
}

impl Parcel {
    fn ancillary(&self) -> Ancillary {
        let segment_bytes = (self.datagrams > 1).then(|| u16::try_from(self.datagram_bytes).ok()).flatten();
        Ancillary { segment_bytes, ..Ancillary::default() }
    }

    /// The datagrams of a segmented send, one by one.
    fn apart(&self) -> impl Iterator<Item = Self> {
        let (stream, datagram_bytes, start) = (self.stream, self.datagram_bytes, self.place.start);
        (0..self.datagrams).map(move |index| Self {
            stream,
            datagrams: 1,
            datagram_bytes,
            place: start + index * datagram_bytes..start + (index + 1) * datagram_bytes,
        })
    }
}

/// Sends again what a batch could not, before the rest of the batch goes on: the order is kept.
struct Retry<'a> {
    single: &'a mut SendBatch,
    memory: &'a [u8],
    socket: BorrowedFd<'a>,
    interrupt: &'a mut Interrupt,
    outcome: &'a mut Outcome,
}

impl Retry<'_> {
    /// Counts what became of a parcel, after trying again where that helps. `false` if the device can't segment.
    fn settle(&mut self, parcel: &Parcel, destination: &SocketAddress, first: Result<usize, i32>) -> bool {
        let mut result = first;
        for _ in 0..FULL_QUEUE_TRIES {
            match result.map_err(Errno::from_raw_os_error) {
                Err(Errno::AGAIN | Errno::NOBUFS) if !self.interrupt.arrived() => {
                    self.outcome.waits += 1;
                    self.interrupt.wait(Some(FULL_QUEUE_PAUSE));
                }
                // The network's answer to an earlier datagram of this socket; this one was not even tried.
                Err(Errno::CONNREFUSED | Errno::HOSTUNREACH) => {
                    match mcr_sys::error_queue::drain(self.socket, |_| {}) {
                        0 => break,
                        answers => self.outcome.refused += answers as u64,
                    }
                }
                Err(Errno::IO | Errno::INVAL | Errno::MSGSIZE) if parcel.datagrams > 1 => {
                    for datagram in parcel.apart() {
                        let result = self.again(&datagram, destination);
                        self.settle(&datagram, destination, result);
                    }
                    return false;
                }
                _ => break,
            }
            result = self.again(parcel, destination);
        }
        match result {
            Ok(bytes) => {
                self.outcome.sent += parcel.datagrams as u64;
                self.outcome.bytes += bytes as u64;
            }
            Err(errno) => {
                self.outcome.errors += parcel.datagrams as u64;
                let cause = io::Error::from_raw_os_error(errno).to_string();
                *self.outcome.error_causes.entry(cause).or_default() += parcel.datagrams as u64;
            }
        }
        true
    }

    fn again(&mut self, parcel: &Parcel, destination: &SocketAddress) -> Result<usize, i32> {
        let mut result = Err(Errno::IO.raw_os_error());
        let mut sending = self.single.begin();
        if sending.push(Some(destination), &parcel.ancillary(), [&self.memory[parcel.place.clone()]]).is_ok()
        {
            sending.send(self.socket, |_, outcome| result = outcome);
        }
        result
    }
}
