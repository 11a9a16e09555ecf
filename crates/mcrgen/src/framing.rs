//! Headers of stream formats in front of the payload of `mcrgen`, for programs that merge or check streams by them.
//!
//! ```text
//!  plain │                            │ payload
//!  RTP   │ header, 12 bytes           │ payload      RFC 3550 section 5.1
//!  Mold  │ header, 20 │ length, 2     │ payload      MoldUDP64 1.00: a packet of one message
//! ```
//!
//! All bytes of these headers follow from the payload's own header, so that the receiver verifies them as well.

use crate::payload::{self, Header, Unusable};

const RTP_BYTES: usize = 12;
const MOLD_BYTES: usize = 22;
/// Version 2, without padding, extension and contributing sources.
const RTP_VERSION: u8 = 2 << 6;
/// The first dynamic payload type (RFC 3551 section 6).
const RTP_PAYLOAD_TYPE: u8 = 96;

/// What precedes the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Framing {
    #[default]
    Plain,
    /// One RTP packet, with a clock of 90 kHz.
    Rtp,
    /// One MoldUDP64 packet with one message.
    Mold,
}

impl Framing {
    const ALL: [Self; 3] = [Self::Plain, Self::Rtp, Self::Mold];

    /// Bytes before the payload.
    pub(crate) const fn header_bytes(self) -> usize {
        match self {
            Self::Plain => 0,
            Self::Rtp => RTP_BYTES,
            Self::Mold => MOLD_BYTES,
        }
    }

    /// Fills in a datagram, of at least [`payload::HEADER_BYTES`] more than [`Self::header_bytes`].
    pub(crate) fn write(self, header: &Header, datagram: &mut [u8]) {
        let (front, rest) = datagram.split_at_mut(self.header_bytes());
        front.copy_from_slice(&self.front(header, rest.len()));
        payload::write(header, rest);
    }

    /// Parses a datagram of any framing, and verifies every byte.
    pub(crate) fn read(datagram: &[u8]) -> Result<Header, Unusable> {
        for framing in Self::ALL {
            let Some((front, rest)) = datagram.split_at_checked(framing.header_bytes()) else { continue };
            match payload::read(rest) {
                Ok(header) if front == framing.front(&header, rest.len()) => return Ok(header),
                Ok(_) | Err(Unusable::Corrupted) => return Err(Unusable::Corrupted),
                Err(Unusable::Foreign) => {}
            }
        }
        Err(Unusable::Foreign)
    }

    /// The bytes before a payload of this length.
    fn front(self, header: &Header, payload_bytes: usize) -> Vec<u8> {
        match self {
            Self::Plain => Vec::new(),
            Self::Rtp => rtp(header).to_vec(),
            Self::Mold => mold(header, payload_bytes).to_vec(),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "RTP's fields wrap")]
fn rtp(header: &Header) -> [u8; RTP_BYTES] {
    let timestamp = (u128::from(header.time_ns) * 9 / 100_000) as u32;
    let source = (header.session as u32) ^ u32::from(header.stream);
    let mut bytes = [0; RTP_BYTES];
    bytes[0] = RTP_VERSION;
    bytes[1] = RTP_PAYLOAD_TYPE;
    bytes[2..4].copy_from_slice(&(header.sequence as u16).to_be_bytes());
    bytes[4..8].copy_from_slice(&timestamp.to_be_bytes());
    bytes[8..12].copy_from_slice(&source.to_be_bytes());
    bytes
}

fn mold(header: &Header, payload_bytes: usize) -> [u8; MOLD_BYTES] {
    let session = format!("{:05x}{:05}", header.session & 0xf_ffff, header.stream);
    let mut bytes = [0; MOLD_BYTES];
    bytes[..10].copy_from_slice(session.as_bytes());
    // The first message of a session is number 1.
    bytes[10..18].copy_from_slice(&header.sequence.wrapping_add(1).to_be_bytes());
    bytes[18..20].copy_from_slice(&1_u16.to_be_bytes());
    bytes[20..22].copy_from_slice(&u16::try_from(payload_bytes).unwrap_or(u16::MAX).to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::HEADER_BYTES;
    use proptest::prelude::*;

    fn header(sequence: u64) -> Header {
        Header {
            last: false,
            stream: 3,
            streams: 4,
            session: 0x1122_3344_5566_7788,
            sequence,
            planned_total: 0,
            time_ns: 2_000_000_000,
        }
    }

    #[test]
    fn rtp_counts_in_16_bits_by_a_clock_of_90_khz() {
        let mut datagram = [0; RTP_BYTES + HEADER_BYTES];
        Framing::Rtp.write(&header(0x1_ffff), &mut datagram);
        assert_eq!(datagram[..4], [0x80, 96, 0xff, 0xff]);
        assert_eq!(datagram[4..8], 180_000_u32.to_be_bytes());
        assert_eq!(datagram[8..12], 0x5566_778b_u32.to_be_bytes());
        assert_eq!(&datagram[12..16], b"MCRG");
    }

    #[test]
    fn mold_numbers_messages_from_1_and_tells_their_length() {
        let mut datagram = [0; MOLD_BYTES + HEADER_BYTES];
        Framing::Mold.write(&header(0), &mut datagram);
        assert_eq!(&datagram[..10], b"6778800003");
        assert_eq!(datagram[10..22], [0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 48]);
    }

    proptest! {
        #[test]
        fn reads_what_was_written_and_notices_each_changed_bit(
            framing in prop::sample::select(&Framing::ALL[..]), sequence: u64, bytes in HEADER_BYTES..300,
            place: prop::sample::Index, bit in 0u8..8,
        ) {
            let mut datagram = vec![0; framing.header_bytes() + bytes];
            framing.write(&header(sequence), &mut datagram);
            prop_assert_eq!(Framing::read(&datagram), Ok(header(sequence)));
            datagram[place.index(framing.header_bytes() + bytes)] ^= 1 << bit;
            prop_assert!(Framing::read(&datagram).is_err());
        }
    }
}
