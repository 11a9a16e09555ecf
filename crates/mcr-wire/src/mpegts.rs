//! MPEG transport streams (ISO/IEC 13818-1): the continuity counters of their packets (§2.4.3.3), which show loss upstream of
//! this host.
//!
//! ```text
//!  datagram: 1 to 7 packets of 188 bytes, or behind an RTP header (RFC 2250)
//!  packet:   0x47 │ error, start, priority, PID (13 bits) │ scrambling, adaptation (2), continuity (4) │ …
//! ```

use crate::rtp::parse_rtp;

/// Length of a packet.
pub const PACKET_BYTES: usize = 188;
/// Number of packet identifiers (PIDs): 13 bits.
pub const PIDS: usize = 8_192;

const SYNC: u8 = 0x47;
/// Null packets, whose continuity counter is undefined.
const NULL_PID: u16 = 0x1fff;
/// The counter of the last packet is known.
const KNOWN: u8 = 0x80;
/// The last packet was a duplicate, which is permitted once.
const DUPLICATED: u8 = 0x40;

/// What the packets of a datagram show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TsFindings {
    /// Packets.
    pub packets: u64,
    /// Packets whose continuity counter is not the expected one.
    pub discontinuities: u64,
    /// The datagram is not made of whole packets with their sync byte.
    pub malformed: bool,
}

/// Checks the packets of a datagram against those before. `continuity` is the state: a byte for each PID, zero before the
/// first datagram. If it is shorter, the other PIDs are not checked.
pub fn check_continuity(datagram: &[u8], continuity: &mut [u8]) -> TsFindings {
    let stream = transport_stream(datagram);
    let (packets, rest) = stream.as_chunks::<PACKET_BYTES>();
    let mut findings =
        TsFindings { malformed: packets.is_empty() || !rest.is_empty(), ..TsFindings::default() };
    for packet in packets {
        let [SYNC, high, low, flags, length, adaptation, ..] = *packet else {
            findings.malformed = true;
            continue;
        };
        findings.packets += 1;
        let pid = u16::from_be_bytes([high & 0x1f, low]);
        let transport_error = high & 0x80 != 0;
        // The header of a packet with the transport error indicator is unreliable.
        if transport_error || pid == NULL_PID {
            continue;
        }
        let (has_adaptation, has_payload) = (flags & 0x20 != 0, flags & 0x10 != 0);
        let discontinuity = has_adaptation && length > 0 && adaptation & 0x80 != 0;
        let Some(state) = continuity.get_mut(usize::from(pid)) else { continue };
        if !follows(state, flags & 0xf, has_payload, discontinuity) {
            findings.discontinuities += 1;
        }
    }
    findings
}

/// The transport stream in a datagram, which may be an RTP packet.
fn transport_stream(datagram: &[u8]) -> &[u8] {
    match datagram.first() {
        Some(&SYNC) => datagram,
        _ => parse_rtp(datagram).and_then(|header| datagram.get(header.payload_offset..)).unwrap_or(datagram),
    }
}

/// Whether the counter of a packet is the expected one. Packets without payload don't increment it, and after a discontinuity
/// indicator it may have any value.
fn follows(state: &mut u8, counter: u8, has_payload: bool, discontinuity: bool) -> bool {
    if discontinuity {
        // The counter continues from here, even without payload.
        *state = KNOWN | counter;
        return true;
    }
    if !has_payload {
        return true;
    }
    let (before, known, duplicated) = (*state & 0xf, *state & KNOWN != 0, *state & DUPLICATED != 0);
    if known && counter == before && !duplicated {
        *state |= DUPLICATED;
        return true;
    }
    *state = KNOWN | counter;
    !known || counter == (before + 1) & 0xf
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAYLOAD: u8 = 0x10;
    const ADAPTATION: u8 = 0x20;
    const BOTH: u8 = 0x30;

    fn packet(pid: u16, kind: u8, counter: u8, discontinuity: bool) -> Vec<u8> {
        let [high, low] = pid.to_be_bytes();
        let mut packet = vec![SYNC, high, low, kind | counter, 7, if discontinuity { 0x80 } else { 0 }];
        packet.resize(PACKET_BYTES, 0xff);
        packet
    }

    fn errors(packets: &[Vec<u8>]) -> u64 {
        let mut state = vec![0; PIDS];
        packets.iter().map(|packet| check_continuity(packet, &mut state).discontinuities).sum()
    }

    fn of(kinds: &[(u8, u8)]) -> u64 {
        errors(&kinds.iter().map(|(kind, counter)| packet(256, *kind, *counter, false)).collect::<Vec<_>>())
    }

    #[test]
    fn counters_wrap_and_gaps_are_errors() {
        assert_eq!(of(&[(PAYLOAD, 14), (PAYLOAD, 15), (BOTH, 0), (PAYLOAD, 1)]), 0);
        assert_eq!(of(&[(PAYLOAD, 3), (PAYLOAD, 5), (PAYLOAD, 6)]), 1);
    }

    #[test]
    fn packets_without_payload_do_not_increment_the_counter() {
        assert_eq!(of(&[(PAYLOAD, 3), (ADAPTATION, 3), (ADAPTATION, 3), (PAYLOAD, 4)]), 0);
        assert_eq!(of(&[(PAYLOAD, 3), (ADAPTATION, 3), (PAYLOAD, 5)]), 1);
    }

    #[test]
    fn a_packet_may_be_duplicated_once() {
        assert_eq!(of(&[(PAYLOAD, 3), (PAYLOAD, 3), (PAYLOAD, 4), (PAYLOAD, 4), (PAYLOAD, 5)]), 0);
        assert_eq!(of(&[(PAYLOAD, 3), (PAYLOAD, 3), (PAYLOAD, 3)]), 1);
    }

    #[test]
    fn an_indicated_discontinuity_is_no_error() {
        let announced = [
            packet(256, PAYLOAD, 3, false),
            packet(256, BOTH, 9, true),
            packet(256, PAYLOAD, 10, false),
            packet(256, ADAPTATION, 2, true),
            packet(256, PAYLOAD, 3, false),
        ];
        assert_eq!(errors(&announced), 0);
        let payload_only = [packet(256, PAYLOAD, 3, false), packet(256, PAYLOAD, 9, true)];
        assert_eq!(errors(&payload_only), 1, "without an adaptation field there is no indicator");
    }

    #[test]
    fn pids_are_independent_and_null_or_damaged_packets_ignored() {
        let mixed = [
            packet(256, PAYLOAD, 3, false),
            packet(257, PAYLOAD, 8, false),
            packet(0x1fff, PAYLOAD, 0, false),
            packet(0x1fff, PAYLOAD, 7, false),
            packet(256 | 0x8000, PAYLOAD, 11, false),
            packet(256, PAYLOAD, 4, false),
            packet(257, PAYLOAD, 9, false),
        ];
        assert_eq!(errors(&mixed), 0);
    }

    #[test]
    fn several_packets_in_a_datagram_and_behind_rtp() {
        let mut state = vec![0; PIDS];
        let seven: Vec<u8> = (0..7).flat_map(|counter| packet(256, PAYLOAD, counter, false)).collect();
        let fine = TsFindings { packets: 7, discontinuities: 0, malformed: false };
        assert_eq!(check_continuity(&seven, &mut state), fine);
        let mut rtp = vec![0x80, 33, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1];
        rtp.extend((7..14).flat_map(|counter| packet(256, PAYLOAD, counter, false)));
        assert_eq!(check_continuity(&rtp, &mut state), fine);
        assert!(check_continuity(&seven[..187], &mut state).malformed);
        assert!(check_continuity(b"", &mut state).malformed);
        assert!(check_continuity(&[0; 188], &mut state).malformed);
    }

    proptest! {
        /// Each gap is one error, unless the counter has wrapped over it.
        #[test]
        fn each_gap_is_one_error(kept in proptest::collection::vec(any::<bool>(), 1..200)) {
            let packets: Vec<_> = (0_u8..=255).cycle().zip(&kept).map(|(n, kept)| (n & 15, *kept)).collect();
            let mut gaps = 0;
            let (mut missing, mut started) = (0, false);
            for (_, kept) in &packets {
                if *kept {
                    // 15 missing packets look like a duplicate, 16 like none.
                    gaps += u64::from(started && missing % 16 != 0 && missing % 16 != 15);
                    (missing, started) = (0, true);
                } else {
                    missing += 1;
                }
            }
            prop_assume!(kept.split(|kept| *kept).all(|gap| gap.len() < 15));
            let sent: Vec<_> =
                packets.into_iter().filter(|(_, kept)| *kept).map(|(n, _)| packet(300, PAYLOAD, n, false)).collect();
            prop_assert_eq!(errors(&sent), gaps);
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..800), pids in 0..PIDS) {
            let mut state = vec![0; pids];
            let found = check_continuity(&bytes, &mut state);
            prop_assert!(found.discontinuities <= found.packets);
        }
    }
}
