//! A trace record: the outcome of an arrival, or of datagrams that were sent together.
//!
//! ```text
//!  word  0 sequence            6 ports, captured bytes, DSCP
//!        1 time, ns            7 source, 2 words
//!        2 arrival             9 destination, 2 words
//!        3 run                11 frame bytes, segment bytes
//!        4 kind … segments    12 the frame's first bytes, 20 words
//!        5 output, bytes
//! ```

use std::net::{IpAddr, Ipv4Addr};

use crate::reason::{DropReason, SkipReason};
use crate::rule_set::OutputSlot;
use mcr_wire::AddressBits;

/// Number of words of a record.
pub(super) const RECORD_WORDS: usize = 32;
/// The word at which the frame's first bytes start.
pub(super) const FRAME_AT: usize = 12;
/// Number of recorded bytes of a frame: the headers of IPv6 on Ethernet and 98 bytes of payload.
pub const FRAME_BYTES: usize = (RECORD_WORDS - FRAME_AT) * size_of::<u64>();

const NO_OUTPUT: u32 = u32::MAX;

/// A recorded event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceEvent {
    /// A frame for the rule's group and port was read from the capture socket.
    Received,
    /// The rule matched it; it is in this run.
    Matched,
    /// It was not relayed.
    Skipped(SkipReason),
    /// The datagrams of a run were sent on an output.
    Sent(OutputSlot),
    /// The datagrams of a run were not sent on an output; `errno` 0 if no system call failed.
    Dropped {
        /// The output.
        output: OutputSlot,
        /// The reason.
        reason: DropReason,
        /// The errno of the system call.
        errno: u16,
    },
}

/// Addresses and ports, source first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Source address; unspecified if it could not be read.
    pub source: (IpAddr, u16),
    /// Destination address; unspecified if it could not be read.
    pub destination: (IpAddr, u16),
}

impl Default for Flow {
    fn default() -> Self {
        let none = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        Self { source: none, destination: none }
    }
}

/// A decoded record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceRecord {
    /// Monotonic time in nanoseconds.
    pub time_ns: u64,
    /// The event.
    pub event: TraceEvent,
    /// The number of the arrival for the rule, from 1; for a run, that of its first traced arrival.
    pub arrival: u64,
    /// The number of the run (datagrams sent together), from 1; 0 if none.
    pub run: u64,
    /// Addresses and ports of the arrival.
    pub flow: Flow,
    /// TTL or hop limit on arrival.
    pub ttl: u8,
    /// DSCP on arrival.
    pub dscp: u8,
    /// Number of datagrams.
    pub segments: u16,
    /// Payload bytes of each but the last; 0 if unknown.
    pub segment_bytes: u16,
    /// Payload bytes of all datagrams.
    pub bytes: u32,
    /// The frame's length on arrival, including the link header.
    pub frame_bytes: u32,
    /// The frame's first bytes.
    pub frame: Vec<u8>,
}

/// An encoded record, without its sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words([u64; RECORD_WORDS]);

impl Default for Words {
    fn default() -> Self {
        Self([0; RECORD_WORDS])
    }
}

const fn low(word: u64) -> u32 {
    (word & 0xffff_ffff) as u32
}

const fn short(word: u64, at: u32) -> u16 {
    (word >> at & 0xffff) as u16
}

const fn byte(word: u64, at: u32) -> u8 {
    (word >> at & 0xff) as u8
}

fn address(ipv6: bool, upper: u64, lower: u64) -> IpAddr {
    AddressBits::from_halves(ipv6, [upper, lower]).into()
}

const IPV6_SOURCE: u8 = 1;
const IPV6_DESTINATION: u8 = 2;

impl Words {
    pub(super) fn copied(word: impl Fn(usize) -> u64) -> Self {
        let mut words = Self::default();
        words.0.iter_mut().enumerate().for_each(|(index, value)| *value = word(index));
        words
    }

    /// The words after the sequence number.
    pub(super) fn content(&self, with_frame: bool) -> impl Iterator<Item = u64> + '_ {
        let used = if with_frame { RECORD_WORDS } else { FRAME_AT };
        let captured = if with_frame { u64::MAX } else { !(0xffff << 32) };
        let masked = move |(index, word): (usize, &u64)| if index == 6 { *word & captured } else { *word };
        self.0.iter().enumerate().take(used).skip(1).map(masked)
    }

    /// Sets a frame's length and first bytes.
    pub fn set_frame(&mut self, frame: &[u8]) {
        let length = frame.len().min(FRAME_BYTES);
        let frame_bytes = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        self.put(11, 0xffff_ffff, u64::from(frame_bytes));
        self.put(6, 0xffff << 32, (length as u64) << 32);
        let kept = frame.get(..length).unwrap_or_default();
        let target = self.0.iter_mut().skip(FRAME_AT);
        for (word, bytes) in target.zip(kept.chunks(size_of::<u64>())) {
            let mut padded = [0; size_of::<u64>()];
            padded.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            *word = u64::from_le_bytes(padded);
        }
    }

    fn put(&mut self, index: usize, mask: u64, value: u64) {
        if let Some(word) = self.0.get_mut(index) {
            *word = *word & !mask | value & mask;
        }
    }

    fn set(&mut self, index: usize, value: u64) {
        self.put(index, u64::MAX, value);
    }

    fn get(&self, index: usize) -> u64 {
        self.0.get(index).copied().unwrap_or_default()
    }

    /// Sets addresses, ports, TTL and DSCP.
    pub fn set_flow(&mut self, flow: &Flow, ttl: u8, dscp: u8) {
        let (source, destination) = (AddressBits::from(flow.source.0), AddressBits::from(flow.destination.0));
        let flags = (u8::from(source.ipv6) * IPV6_SOURCE) | (u8::from(destination.ipv6) * IPV6_DESTINATION);
        self.put(4, 0xffff << 16, u64::from(ttl) << 16 | u64::from(flags) << 24);
        self.put(6, 0xffff_ffff, u64::from(flow.source.1) | u64::from(flow.destination.1) << 16);
        self.put(6, 0xffff << 48, u64::from(dscp) << 48);
        for (place, half) in (7..).zip(source.halves().into_iter().chain(destination.halves())) {
            self.set(place, half);
        }
    }

    /// Sets the number of datagrams, and their payload bytes in total and each.
    pub fn set_sizes(&mut self, segments: u16, bytes: u32, segment_bytes: u16) {
        self.put(4, 0xffff << 48, u64::from(segments) << 48);
        self.put(5, 0xffff_ffff << 32, u64::from(bytes) << 32);
        self.put(11, 0xffff << 32, u64::from(segment_bytes) << 32);
    }

    /// Sets the numbers of the arrival and of the run.
    pub fn set_numbers(&mut self, arrival: u64, run: u64) {
        self.set(2, arrival);
        self.set(3, run);
    }

    /// Sets the event and its time.
    pub fn set_event(&mut self, time_ns: u64, event: TraceEvent) {
        let (kind, reason, errno, output) = match event {
            TraceEvent::Received => (1_u8, 0, 0, NO_OUTPUT),
            TraceEvent::Matched => (2, 0, 0, NO_OUTPUT),
            TraceEvent::Skipped(reason) => (3, reason.index(), 0, NO_OUTPUT),
            TraceEvent::Sent(output) => (4, 0, 0, output.0),
            TraceEvent::Dropped { output, reason, errno } => (5, reason.index(), errno, output.0),
        };
        self.set(1, time_ns);
        self.put(4, 0xffff, u64::from(kind) | (reason as u64 & 0xff) << 8);
        self.put(4, 0xffff << 32, u64::from(errno) << 32);
        self.put(5, 0xffff_ffff, u64::from(output));
    }
}

impl TraceRecord {
    /// Decodes a record; `None` if its event or reason is unknown to this version.
    #[must_use]
    pub fn decode(words: &Words) -> Option<Self> {
        let (what, sizes, ports, lengths) = (words.get(4), words.get(5), words.get(6), words.get(11));
        let reason = usize::from(byte(what, 8));
        let output = OutputSlot(low(sizes));
        let event = match byte(what, 0) {
            1 => TraceEvent::Received,
            2 => TraceEvent::Matched,
            3 => TraceEvent::Skipped(*SkipReason::ALL.get(reason)?),
            4 => TraceEvent::Sent(output),
            5 => {
                let reason = *DropReason::ALL.get(reason)?;
                TraceEvent::Dropped { output, reason, errno: short(what, 32) }
            }
            _ => return None,
        };
        let flags = byte(what, 24);
        let captured = usize::from(short(ports, 32)).min(FRAME_BYTES);
        let frame = words.0.iter().skip(FRAME_AT).flat_map(|word| word.to_le_bytes()).take(captured);
        Some(Self {
            time_ns: words.get(1),
            event,
            arrival: words.get(2),
            run: words.get(3),
            flow: Flow {
                source: (address(flags & IPV6_SOURCE != 0, words.get(7), words.get(8)), short(ports, 0)),
                destination: (
                    address(flags & IPV6_DESTINATION != 0, words.get(9), words.get(10)),
                    short(ports, 16),
                ),
            },
            ttl: byte(what, 16),
            dscp: byte(ports, 48),
            segments: short(what, 48),
            segment_bytes: short(lengths, 32),
            bytes: low(sizes >> 32),
            frame_bytes: low(lengths),
            frame: frame.collect(),
        })
    }
}
