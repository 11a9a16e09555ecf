//! Composes datagrams in batches, and passes them to the legs.
//!
//! If a queue is full, the sender waits, so that no datagram is lost by sending too fast. Any other error is counted with its
//! cause, and leaves a gap in the stream's sequence numbers.

use super::line::{BATCH_SENDS, Entry, Line};
use super::round_robin::{RoundRobin, Run};
use crate::framing::Framing;
use crate::interrupt::Interrupt;
use crate::payload::Header;
use crate::sizes::SizeRange;
use mcr_sys::clock::monotonic_ns;
use mcr_sys::mmsg::{MAX_SEGMENTS, MAX_SEND_BYTES};

/// Maximum payload of a batch: large enough to amortize the system call, small enough for the caches.
const BATCH_BYTES: usize = 1 << 20;

/// Parameters of the payloads of a run.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub(crate) session: u64,
    pub(crate) framing: Framing,
    pub(crate) sizes: SizeRange,
    /// Selects the sizes, in the order of sending.
    pub(crate) random: fastrand::Rng,
}

pub(crate) struct Transmitter {
    lines: Vec<Line>,
    content: Content,
    segments: usize,
    sends: usize,
    memory: Vec<u8>,
    entries: Vec<Entry>,
    lost_by_all: u64,
}

impl Transmitter {
    /// `lines`: one for each leg; `segments`: maximum number of datagrams per send.
    pub(crate) fn new(lines: Vec<Line>, content: Content, segments: usize) -> Self {
        let largest = content.sizes.maximum();
        let segments = segments.clamp(1, MAX_SEGMENTS).min(MAX_SEND_BYTES / largest).max(1);
        let sends = (BATCH_BYTES / (largest * segments)).clamp(1, BATCH_SENDS);
        Self {
            lines,
            segments: if content.sizes.fixed().is_some() { segments } else { 1 },
            content,
            sends,
            memory: vec![0; sends * segments * largest],
            entries: Vec::with_capacity(sends),
            lost_by_all: 0,
        }
    }

    pub(crate) fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Number of datagrams that no leg carries.
    pub(crate) fn lost_by_all(&self) -> u64 {
        self.lost_by_all
    }

    /// Sends one batch of at most `limit` datagrams.
    pub(crate) fn send(&mut self, round_robin: &mut RoundRobin, limit: u64, interrupt: &mut Interrupt) {
        let time_ns = monotonic_ns();
        let segments = if self.lines.iter().all(Line::may_segment) { self.segments } else { 1 };
        let mut left = usize::try_from(limit).unwrap_or(usize::MAX);
        while left > 0 && self.has_room() {
            let Some(run) = round_robin.next_run(left.min(segments)) else { break };
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

    /// Returns when [`Self::release`] has something to send, monotonic ns.
    pub(crate) fn next_due_ns(&self) -> Option<u64> {
        self.lines.iter().filter_map(Line::next_due_ns).min()
    }

    /// Sends the delayed datagrams that are due.
    pub(crate) fn release(&mut self, interrupt: &mut Interrupt) {
        let now_ns = monotonic_ns();
        self.lines.iter_mut().for_each(|line| line.flush(now_ns, &[], &[], interrupt));
    }

    /// Lets what waits for a later datagram leave without one.
    pub(crate) fn finish(&mut self) {
        self.lines.iter_mut().for_each(Line::close);
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
            self.content.framing.write(&header, &mut self.memory[end..end + datagram_bytes]);
            end += datagram_bytes;
        }
        let stream = run.stream.into();
        self.entries.push(Entry { stream, datagrams: run.datagrams, datagram_bytes, range: start..end });
    }

    fn flush(&mut self, interrupt: &mut Interrupt) {
        let Self { lines, memory, entries, lost_by_all, .. } = self;
        let now_ns = monotonic_ns();
        for entry in entries.iter() {
            let datagram = &memory[entry.range.clone()];
            let losses = lines.iter_mut().map(|line| line.loses(now_ns, entry.stream, datagram));
            *lost_by_all += u64::from(losses.fold(true, |all, lost| all & lost));
        }
        lines.iter_mut().for_each(|line| line.flush(now_ns, memory, entries, interrupt));
        entries.clear();
    }
}
