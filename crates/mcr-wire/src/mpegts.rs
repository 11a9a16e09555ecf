//! MPEG transport streams (ISO/IEC 13818-1): the continuity counters of their packets (§2.4.3.3), which tell of loss
//! before the datagram came here.
//!
//! ```text
//!  datagram: 1 to 7 packets of 188 bytes, or behind an RTP header (RFC 2250)
//!  packet:   0x47 │ error, start, priority, PID (13 bits) │ scrambling, adaptation (2), continuity (4) │ …
//! ```

use crate::rtp::parse_rtp;

/// A packet's length.
pub const PACKET_BYTES: usize = 188;
/// Packet identifiers: 13 bits.
pub const PIDS: usize = 8_192;

const SYNC: u8 = 0x47;
/// Padding; its continuity counter means nothing.
const NULL_PID: u16 = 0x1fff;
/// The last packet's counter is known.
const KNOWN: u8 = 0x80;
/// The last packet was a repetition, which is permitted once.
const REPEATED: u8 = 0x40;

/// What a datagram's packets said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TsFindings {
    /// Packets.
    pub packets: u64,
    /// Of them, those whose continuity counter is not what must follow.
    pub discontinuities: u64,
    /// It is no transport stream: no whole packets, or one without its sync byte.
    pub malformed: bool,
}

/// Checks a datagram's packets against those before. `continuity` is the state, a byte for each PID, zero before the first
/// datagram; shorter ones leave the other PIDs unchecked.
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
        // The headers of a packet that is marked as damaged can't be believed.
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
        _ => parse_rtp(datagram).and_then(|header| datagram.get(header.payload_at..)).unwrap_or(datagram),
    }
}

/// Whether a packet's counter is right. Packets without payload don't count, and one that announces a discontinuity may
/// have any counter.
fn follows(state: &mut u8, counter: u8, has_payload: bool, discontinuity: bool) -> bool {
    if discontinuity {
        // Without payload, what follows it counts on from here.
        *state = KNOWN | counter;
        return true;
    }
    if !has_payload {
        return true;
    }
    let (before, known, repeated) = (*state & 0xf, *state & KNOWN != 0, *state & REPEATED != 0);
    if known && counter == before && !repeated {
        *state |= REPEATED;
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
    fn counters_go_round_and_what_is_missing_is_seen() {
        assert_eq!(of(&[(PAYLOAD, 14), (PAYLOAD, 15), (BOTH, 0), (PAYLOAD, 1)]), 0);
        assert_eq!(of(&[(PAYLOAD, 3), (PAYLOAD, 5), (PAYLOAD, 6)]), 1);
    }

    #[test]
    fn packets_of_an_adaptation_field_only_do_not_count() {
        assert_eq!(of(&[(PAYLOAD, 3), (ADAPTATION, 3), (ADAPTATION, 3), (PAYLOAD, 4)]), 0);
        assert_eq!(of(&[(PAYLOAD, 3), (ADAPTATION, 3), (PAYLOAD, 5)]), 1);
    }

    #[test]
    fn a_packet_may_be_repeated_once() {
        assert_eq!(of(&[(PAYLOAD, 3), (PAYLOAD, 3), (PAYLOAD, 4), (PAYLOAD, 4), (PAYLOAD, 5)]), 0);
        assert_eq!(of(&[(PAYLOAD, 3), (PAYLOAD, 3), (PAYLOAD, 3)]), 1);
    }

    #[test]
    fn an_announced_discontinuity_is_none() {
        let announced = [
            packet(256, PAYLOAD, 3, false),
            packet(256, BOTH, 9, true),
            packet(256, PAYLOAD, 10, false),
            packet(256, ADAPTATION, 2, true),
            packet(256, PAYLOAD, 3, false),
        ];
        assert_eq!(errors(&announced), 0);
        let payload_only = [packet(256, PAYLOAD, 3, false), packet(256, PAYLOAD, 9, true)];
        assert_eq!(errors(&payload_only), 1, "without an adaptation field nothing is announced");
    }

    #[test]
    fn pids_count_for_themselves_padding_does_not_and_damage_is_not_believed() {
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
        /// A stream of which packets are taken away has one error for each gap that does not end where the counter comes
        /// round.
        #[test]
        fn each_gap_is_one_error(kept in proptest::collection::vec(any::<bool>(), 1..200)) {
            let packets: Vec<_> = (0_u8..=255).cycle().zip(&kept).map(|(n, kept)| (n & 15, *kept)).collect();
            let mut gaps = 0;
            let (mut missing, mut begun) = (0, false);
            for (_, kept) in &packets {
                if *kept {
                    // 15 missing look like a repetition, 16 like none.
                    gaps += u64::from(begun && missing % 16 != 0 && missing % 16 != 15);
                    (missing, begun) = (0, true);
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
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..800), pids in 0..PIDS) {
            let mut state = vec![0; pids];
            let found = check_continuity(&bytes, &mut state);
            prop_assert!(found.discontinuities <= found.packets);
        }
    }
}
