//! The payload of generated datagrams: a header that identifies the datagram, and filler that can be verified.
//!
//! ```text
//!  0               4     5     6       8         10        12              16
//!  +---------------+-----+-----+-------+---------+---------+---------------+
//!  | magic "MCRG"  | ver | flg | stream| streams | zero    | CRC-32        |
//!  +---------------+-----+-----+-------+---------+---------+---------------+
//!  | session (random per run)          | sequence (from 0 in each stream)  |
//!  +-----------------------------------+-----------------------------------+
//!  | planned total of the run, 0 = ?   | CLOCK_MONOTONIC ns at sending     |
//!  +-----------------------------------+-----------------------------------+
//! 48 | filler: a window of a fixed table, placed by stream and sequence …
//! ```
//!
//! All fields are in network byte order. The CRC covers everything but itself. The filler is compared as well, which detects
//! the bytes of another sequence number with a correct checksum.

use std::sync::LazyLock;

/// Bytes of the header: the smallest payload that `mcrgen` can send.
pub(crate) const HEADER_BYTES: usize = 48;
/// The largest payload of a UDP datagram over IPv4 (RFC 768: 65,535 minus the IP and UDP headers).
pub(crate) const MAX_PAYLOAD_BYTES: usize = 65_507;

const MAGIC: [u8; 4] = *b"MCRG";
const VERSION: u8 = 1;
const FLAG_LAST: u8 = 1;
const CRC: std::ops::Range<usize> = 12..16;
/// Number of offsets at which the filler of a datagram may start in the table.
const FILLER_OFFSETS: usize = 1 << 16;

/// Pseudo-random bytes; each datagram's filler is a window of them, so that filling is one copy, and checking one
/// comparison.
static FILLER: LazyLock<Vec<u8>> = LazyLock::new(|| {
    (0..(FILLER_OFFSETS + MAX_PAYLOAD_BYTES).div_ceil(8) as u64).flat_map(|i| mix(i).to_le_bytes()).collect()
});

/// The header of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// The last datagram of its stream: its sequence + 1 is the stream's actual total.
    pub(crate) last: bool,
    /// Index of the group that it was sent to, from 0.
    pub(crate) stream: u16,
    /// Number of streams of the sender's run.
    pub(crate) streams: u16,
    /// A random number per run, which distinguishes a restarted sender from the previous one.
    pub(crate) session: u64,
    /// Counts from 0 in each stream.
    pub(crate) sequence: u64,
    /// Number of datagrams that the run will send in all streams together; 0 if unknown.
    pub(crate) planned_total: u64,
    /// `CLOCK_MONOTONIC` of the sender, in ns.
    pub(crate) time_ns: u64,
}

/// Why a datagram can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// Not a datagram of `mcrgen` (of this version).
    Foreign,
    /// A datagram of `mcrgen` that was modified in transit.
    Corrupted,
}

impl Header {
    /// Returns the total of the stream if this datagram announces it: the actual one in the last datagram, else its share of
    /// the run's total.
    pub(crate) fn stream_total(&self) -> Option<u64> {
        if self.last {
            return Some(self.sequence.saturating_add(1));
        }
        (self.planned_total != 0).then(|| share(self.planned_total, self.streams, self.stream))
    }
}

/// Returns a stream's share of a run's total, which is distributed round robin.
pub(crate) fn share(total: u64, streams: u16, stream: u16) -> u64 {
    let streams = u64::from(streams.max(1));
    total / streams + u64::from(u64::from(stream) < total % streams)
}

/// Fills in a payload, of at least [`HEADER_BYTES`].
pub(crate) fn write(header: &Header, payload: &mut [u8]) {
    debug_assert!((HEADER_BYTES..=MAX_PAYLOAD_BYTES).contains(&payload.len()));
    payload[0..4].copy_from_slice(&MAGIC);
    payload[4] = VERSION;
    payload[5] = if header.last { FLAG_LAST } else { 0 };
    payload[6..8].copy_from_slice(&header.stream.to_be_bytes());
    payload[8..10].copy_from_slice(&header.streams.to_be_bytes());
    payload[10..16].fill(0);
    payload[16..24].copy_from_slice(&header.session.to_be_bytes());
    payload[24..32].copy_from_slice(&header.sequence.to_be_bytes());
    payload[32..40].copy_from_slice(&header.planned_total.to_be_bytes());
    payload[40..48].copy_from_slice(&header.time_ns.to_be_bytes());
    let filler = filler(header.stream, header.sequence, payload.len() - HEADER_BYTES);
    payload[HEADER_BYTES..].copy_from_slice(filler);
    let crc = checksum(payload);
    payload[CRC].copy_from_slice(&crc.to_be_bytes());
}

/// Parses a payload and verifies every byte.
pub(crate) fn read(payload: &[u8]) -> Result<Header, Unusable> {
    if payload.len() < MAGIC.len() || payload[..4] != MAGIC {
        return Err(Unusable::Foreign);
    }
    if !(HEADER_BYTES..=MAX_PAYLOAD_BYTES).contains(&payload.len()) {
        return Err(Unusable::Corrupted);
    }
    if number(payload, CRC) != u64::from(checksum(payload)) {
        return Err(Unusable::Corrupted);
    }
    if payload[4] != VERSION {
        return Err(Unusable::Foreign);
    }
    let header = Header {
        last: payload[5] & FLAG_LAST != 0,
        stream: u16::from_be_bytes([payload[6], payload[7]]),
        streams: u16::from_be_bytes([payload[8], payload[9]]),
        session: number(payload, 16..24),
        sequence: number(payload, 24..32),
        planned_total: number(payload, 32..40),
        time_ns: number(payload, 40..48),
    };
    let expected = filler(header.stream, header.sequence, payload.len() - HEADER_BYTES);
    if header.stream >= header.streams || payload[HEADER_BYTES..] != *expected {
        return Err(Unusable::Corrupted);
    }
    Ok(header)
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014). It is part of the payload format, so it is not taken from a
/// library, whose output may change.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn filler(stream: u16, sequence: u64, bytes: usize) -> &'static [u8] {
    let low_bits = (mix(sequence ^ (u64::from(stream) << 48)) & 0xffff).to_le_bytes();
    let start = usize::from(u16::from_le_bytes([low_bits[0], low_bits[1]]));
    &FILLER[start..start + bytes]
}

fn checksum(payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&payload[..CRC.start]);
    hasher.update(&payload[CRC.end..]);
    hasher.finalize()
}

/// A big-endian number of up to 8 bytes.
fn number(payload: &[u8], place: std::ops::Range<usize>) -> u64 {
    payload[place].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        Header {
            last: false,
            stream: 3,
            streams: 4,
            session: 0x1122_3344_5566_7788,
            sequence: 9,
            planned_total: 0,
            time_ns: 77,
        }
    }

    #[test]
    fn layout_is_fixed() {
        let mut payload = [0xff; HEADER_BYTES];
        write(&header(), &mut payload);
        assert_eq!(&payload[..12], b"MCRG\x01\x00\x00\x03\x00\x04\x00\x00");
        assert_eq!(payload[16..32], [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(payload[47], 77);
    }

    #[test]
    fn foreign_and_short_payloads() {
        assert_eq!(read(b""), Err(Unusable::Foreign));
        assert_eq!(read(b"MCR"), Err(Unusable::Foreign));
        assert_eq!(read(&[0; 1400]), Err(Unusable::Foreign));
        assert_eq!(read(b"MCRG"), Err(Unusable::Corrupted));
    }

    #[test]
    fn filler_of_another_sequence_number_with_a_correct_checksum_is_corruption() {
        let mut payload = vec![0; 200];
        write(&header(), &mut payload);
        payload[31] ^= 1;
        let crc = checksum(&payload);
        payload[CRC].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(read(&payload), Err(Unusable::Corrupted));
    }

    #[test]
    fn shares_of_the_total() {
        let total = |stream, planned_total| Header { stream, planned_total, ..header() }.stream_total();
        assert_eq!([0, 1, 2, 3].map(|stream| total(stream, 10)), [Some(3), Some(3), Some(2), Some(2)]);
        assert_eq!(total(0, 0), None);
        assert_eq!(Header { last: true, ..header() }.stream_total(), Some(10));
    }

    proptest! {
        #[test]
        fn reads_what_was_written(
            last: bool, stream in 0..u16::MAX, session: u64, sequence: u64, planned_total: u64, time_ns: u64,
            bytes in HEADER_BYTES..3000,
        ) {
            let header = Header { last, stream, streams: stream + 1, session, sequence, planned_total, time_ns };
            let mut payload = vec![0; bytes];
            write(&header, &mut payload);
            prop_assert_eq!(read(&payload), Ok(header));
        }

        #[test]
        fn any_changed_bit_and_any_truncation_is_detected(
            bytes in HEADER_BYTES..600, place: prop::sample::Index, bit in 0u8..8, cut: prop::sample::Index,
        ) {
            let mut payload = vec![0; bytes];
            write(&header(), &mut payload);
            prop_assert!(read(&payload[..cut.index(bytes)]).is_err());
            payload[place.index(bytes)] ^= 1 << bit;
            prop_assert!(read(&payload).is_err());
        }
    }
}
