//! RTP (RFC 3550): the header, and what sequence numbers show of loss upstream of this host.

mod clock;

use clock::Clock;

/// Bytes of the fixed header.
const HEADER_BYTES: usize = 12;
/// A forward jump of this many packets or more is a restart rather than a loss (RFC 3550 §A.1, `MAX_DROPOUT`).
const MAX_DROPOUT: u16 = 3_000;
/// Number of packets, up to the newest, that are remembered to tell late packets from duplicates.
const WINDOW: u16 = 128;

/// An RTP packet's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtpHeader {
    /// Payload type.
    pub payload_type: u8,
    /// Sequence number; increments by one with each packet.
    pub sequence: u16,
    /// Sampling instant of the first octet of the payload, in units of the stream's clock.
    pub timestamp: u32,
    /// Synchronization source: identifies the stream.
    pub ssrc: u32,
    /// Where the payload starts.
    pub payload_offset: usize,
}

/// Parses the header of an RTP packet (RFC 3550 §5.1).
///
/// `None` for a version other than 2, RTCP (payload types 72 to 76), or a truncated header.
#[must_use]
pub fn parse_rtp(packet: &[u8]) -> Option<RtpHeader> {
    let [first, second, a, b, c, d, e, f, g, h, i, j] = *packet.first_chunk::<HEADER_BYTES>()?;
    let payload_type = second & 0x7f;
    if first >> 6 != 2 || (72..=76).contains(&payload_type) {
        return None;
    }
    let mut payload_offset = HEADER_BYTES + 4 * usize::from(first & 0xf);
    if first & 0x10 != 0 {
        let length =
            packet.get(payload_offset + 2..)?.first_chunk().map(|length| u16::from_be_bytes(*length))?;
        payload_offset += 4 + 4 * usize::from(length);
    }
    (payload_offset <= packet.len()).then_some(RtpHeader {
        payload_type,
        sequence: u16::from_be_bytes([a, b]),
        timestamp: u32::from_be_bytes([c, d, e, f]),
        ssrc: u32::from_be_bytes([g, h, i, j]),
        payload_offset,
    })
}

/// What the sequence number of a packet shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequence {
    /// The stream starts or restarts.
    Start,
    /// The packet is the newest.
    Next {
        /// Number of packets missing since the one before.
        missing: u16,
    },
    /// It was missing, and arrived after a newer one.
    Late,
    /// It was received before.
    Duplicate,
    /// Far from all others: the next packet shows whether the stream restarted.
    Stray,
}

/// The state of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RtpStream {
    started: bool,
    ssrc: u32,
    newest: u16,
    /// Bit `n`: the packet `n` before the newest was received, or is from before the start.
    received: u128,
    /// The sequence number after the last stray packet.
    after_stray: Option<u16>,
    transit: u32,
    /// Interarrival jitter in sixteenths of the clock's units.
    jitter: u32,
    clock: Clock,
}

impl RtpStream {
    /// Records a packet; `arrived_ns` is in nanoseconds of any clock.
    pub fn record(&mut self, header: &RtpHeader, arrived_ns: u64) -> Sequence {
        let found = self.sequence(header);
        match found {
            Sequence::Start => {
                self.clock = Clock::new(header.payload_type, header.timestamp, arrived_ns);
                self.restart_jitter(header, arrived_ns);
            }
            Sequence::Next { .. } | Sequence::Late => {
                if self.clock.measure(header.timestamp, arrived_ns) {
                    self.restart_jitter(header, arrived_ns);
                } else {
                    self.update_jitter(header, arrived_ns);
                }
            }
            Sequence::Duplicate | Sequence::Stray => {}
        }
        found
    }

    /// Interarrival jitter (RFC 3550 §6.4.1) in nanoseconds; 0 while the clock rate of the stream is unknown.
    #[must_use]
    pub fn jitter_ns(&self) -> u64 {
        self.clock.hz().map_or(0, |hz| u64::from(self.jitter) * 1_000_000_000 / (16 * u64::from(hz)))
    }

    fn sequence(&mut self, header: &RtpHeader) -> Sequence {
        let sequence = header.sequence;
        if !self.started || self.ssrc != header.ssrc {
            return self.start(header);
        }
        let ahead = sequence.wrapping_sub(self.newest);
        let behind = self.newest.wrapping_sub(sequence);
        if ahead == 0 {
            return Sequence::Duplicate;
        }
        if ahead < MAX_DROPOUT {
            self.received = if ahead < WINDOW { self.received << ahead | 1 } else { 1 };
            (self.newest, self.after_stray) = (sequence, None);
            return Sequence::Next { missing: ahead - 1 };
        }
        if behind < WINDOW {
            let bit = 1_u128 << behind;
            if self.received & bit != 0 {
                return Sequence::Duplicate;
            }
            self.received |= bit;
            return Sequence::Late;
        }
        // Two consecutive packets: the sender restarted (RFC 3550 §A.1).
        if self.after_stray == Some(sequence) {
            return self.start(header);
        }
        self.after_stray = Some(sequence.wrapping_add(1));
        Sequence::Stray
    }

    fn start(&mut self, header: &RtpHeader) -> Sequence {
        // Packets from before the start are not missing, so they count as duplicates rather than late.
        *self = Self {
            started: true,
            ssrc: header.ssrc,
            newest: header.sequence,
            received: u128::MAX,
            ..Self::default()
        };
        Sequence::Start
    }

    fn restart_jitter(&mut self, header: &RtpHeader, arrived_ns: u64) {
        self.transit = self.transit_of(header, arrived_ns).unwrap_or_default();
        self.jitter = 0;
    }

    #[expect(clippy::cast_possible_truncation, reason = "timestamps wrap (RFC 3550 §5.1)")]
    fn transit_of(&self, header: &RtpHeader, arrived_ns: u64) -> Option<u32> {
        let arrival = u128::from(arrived_ns) * u128::from(self.clock.hz()?) / 1_000_000_000;
        Some((arrival as u32).wrapping_sub(header.timestamp))
    }

    /// RFC 3550 §A.8, with its integers.
    fn update_jitter(&mut self, header: &RtpHeader, arrived_ns: u64) {
        let Some(transit) = self.transit_of(header, arrived_ns) else { return };
        let difference = transit.wrapping_sub(std::mem::replace(&mut self.transit, transit));
        // The absolute value of a signed difference.
        let difference = difference.min(difference.wrapping_neg());
        let decay = (self.jitter + 8) >> 4;
        // A gap of hours must not overflow the sixteenths.
        self.jitter = (self.jitter - decay.min(self.jitter)).saturating_add(difference.min(u32::MAX >> 5));
        self.jitter = self.jitter.min(u32::MAX >> 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(sequence: u16, timestamp: u32) -> RtpHeader {
        RtpHeader { payload_type: 96, sequence, timestamp, ssrc: 7, payload_offset: 12 }
    }

    fn all(sequences: &[u16]) -> Vec<Sequence> {
        let mut stream = RtpStream::default();
        sequences.iter().map(|sequence| stream.record(&header(*sequence, 0), 0)).collect()
    }

    #[test]
    fn headers_with_sources_and_extensions() {
        let mut packet = vec![0x80, 0x80 | 33, 1, 2, 0, 0, 0, 9, 1, 1, 1, 1];
        let plain = parse_rtp(&packet).unwrap();
        assert_eq!((plain.payload_type, plain.sequence, plain.timestamp), (33, 0x102, 9));
        assert_eq!((plain.ssrc, plain.payload_offset), (0x0101_0101, 12));
        packet[0] = 0x91;
        packet.extend([0; 4]);
        assert_eq!(parse_rtp(&packet), None, "a missing extension");
        packet.extend([0xbe, 0xde, 0, 1, 0, 0, 0, 0]);
        assert_eq!(parse_rtp(&packet).unwrap().payload_offset, 12 + 4 + 8);
        assert_eq!(parse_rtp(&packet[..23]), None);
        packet[0] = 0x41;
        assert_eq!(parse_rtp(&packet), None, "version 1");
        assert_eq!(parse_rtp(&[0x80, 200, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0]), None, "RTCP");
    }

    #[test]
    fn gaps_late_packets_and_duplicates_across_the_wrap() {
        use Sequence::{Duplicate, Late, Next, Start, Stray};
        let next = Next { missing: 0 };
        assert_eq!(all(&[65_534, 65_535, 0, 1]), [Start, next, next, next]);
        assert_eq!(
            all(&[65_534, 2, 0, 0, 65_535, 2, 3]),
            [Start, Next { missing: 3 }, Late, Duplicate, Late, Duplicate, next]
        );
        assert_eq!(all(&[10, 9]), [Start, Duplicate], "a packet from before the start");
        assert_eq!(all(&[10, 40_000, 11, 40_000, 40_001, 40_002]), [Start, Stray, next, Stray, Start, next]);
        assert_eq!(all(&[10, 2_000]), [Start, Next { missing: 1_989 }]);
    }

    #[test]
    fn another_ssrc_is_another_stream() {
        let mut stream = RtpStream::default();
        stream.record(&header(1, 0), 0);
        assert_eq!(stream.record(&RtpHeader { ssrc: 8, ..header(500, 0) }, 0), Sequence::Start);
    }

    #[test]
    fn jitter_is_as_in_the_rfc() {
        // The same in floating point, as in §6.4.1: J += (|D| - J) / 16, with packets every 20 ms that are up to 5 ms late,
        // for each clock rate.
        for ticks in [1_800, 960, 160] {
            let mut stream = RtpStream::default();
            let (mut expected, mut before) = (0.0_f64, None);
            for n in 0..2_000_u32 {
                let late_ms = f64::from(n % 3) * 2.5;
                let arrived_ms = f64::from(n) * 20.0 + late_ms;
                let sequence = u16::try_from(n).unwrap();
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "test values are small"
                )]
                let arrived_ns = (arrived_ms * 1e6) as u64;
                stream.record(&header(sequence, n * ticks), arrived_ns);
                if let Some(before) = before.replace(late_ms) {
                    let difference: f64 = late_ms - before;
                    expected += (difference.abs() - expected) / 16.0;
                }
            }
            #[expect(clippy::cast_precision_loss, reason = "test values are small")]
            let found_ms = stream.jitter_ns() as f64 / 1e6;
            assert!((found_ms - expected).abs() < 0.05, "{found_ms} ms, expected {expected} ms");
        }
    }

    proptest! {
        /// With any loss, duplication and reordering within the window, each packet that did not arrive is lost, and each that
        /// arrived twice is a duplicate.
        #[test]
        fn counts_are_exact_at_the_end(
            first: u16,
            fate in proptest::collection::vec((0..4_u8, 0..20_u64), 2..300),
        ) {
            let mut sent = vec![(0, first)];
            let (mut lost, mut doubled) = (0_i64, 0);
            for (n, (fate, delay)) in (1_u16..).zip(&fate) {
                let sequence = first.wrapping_add(n);
                let at = u64::from(n);
                match fate {
                    0 => lost += 1,
                    1 => sent.push((at + delay, sequence)),
                    2 => { sent.push((at, sequence)); sent.push((at + delay, sequence)); doubled += 1; }
                    _ => sent.push((at, sequence)),
                }
            }
            let end = first.wrapping_add(u16::try_from(fate.len()).unwrap()).wrapping_add(1);
            sent.sort_by_key(|(at, _)| *at);
            sent.push((u64::MAX, end));
            let mut stream = RtpStream::default();
            let (mut missing, mut double) = (0_i64, 0);
            for (_, sequence) in sent {
                match stream.record(&header(sequence, 0), 0) {
                    Sequence::Next { missing: n } => missing += i64::from(n),
                    Sequence::Late => missing -= 1,
                    Sequence::Duplicate => double += 1,
                    Sequence::Start | Sequence::Stray => {}
                }
            }
            prop_assert_eq!((missing, double), (lost, doubled));
        }

        #[test]
        fn arbitrary_packets_do_not_panic(packets in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..40), any::<u64>()), 0..40)) {
            let mut stream = RtpStream::default();
            for (mut packet, at) in packets {
                if let Some(first) = packet.first_mut() {
                    *first = *first & 0x3f | 0x80;
                }
                if let Some(header) = parse_rtp(&packet) {
                    prop_assert!(header.payload_offset <= packet.len());
                    stream.record(&header, at);
                    let _ = stream.jitter_ns();
                }
            }
        }
    }
}
