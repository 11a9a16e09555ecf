//! MoldUDP64.

use super::*;

fn mold(session: &[u8; 10], sequence: u64, count: u16) -> Vec<u8> {
    let mut bytes = session.to_vec();
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(count.to_be_bytes());
    if count != 0xffff {
        for message in 0..u64::from(count) {
            bytes.extend([0, 8]);
            bytes.extend((sequence + message).to_be_bytes());
        }
    }
    bytes
}

const ONE: &[u8; 10] = b"SESSION  1";
const TWO: &[u8; 10] = b"SESSION  2";
const THREE: &[u8; 10] = b"SESSION  3";

fn bench() -> Bench {
    Bench::new(MergeBy::Moldudp64, 2, 50)
}

impl Bench {
    fn mold(&mut self, leg: usize, (session, sequence, count): (&[u8; 10], u64, u16), at_ms: u64) -> bool {
        matches!(self.copy(leg, &super::mold::mold(session, sequence, count), at_ms * MS), Verdict::Leave(_))
    }
}

#[test]
fn messages_leave_once_however_they_are_packed() {
    let mut bench = bench();
    assert!(bench.mold(0, (ONE, 1, 10), 0));
    assert!(!bench.mold(1, (ONE, 1, 4), 1) && !bench.mold(1, (ONE, 5, 6), 1));
    assert!(bench.mold(1, (ONE, 11, 3), 2) && !bench.mold(0, (ONE, 11, 3), 3));
    // Overlapping: 14 is new.
    assert!(bench.mold(0, (ONE, 12, 3), 4));
    // 15 to 19 are missing; the other leg has them in two packets.
    assert!(bench.mold(0, (ONE, 20, 5), 5));
    assert!(bench.mold(1, (ONE, 17, 2), 6) && bench.mold(1, (ONE, 15, 2), 6));
    assert!(!bench.mold(1, (ONE, 15, 4), 6) && bench.mold(1, (ONE, 19, 2), 6));
    bench.settle(500 * MS);
    assert_eq!(bench.tally.lost, 0);
}

#[test]
fn a_gap_is_lost_after_the_window() {
    let mut bench = bench();
    assert!(bench.mold(0, (ONE, 1, 1), 0) && bench.mold(0, (ONE, 5, 1), 1));
    bench.settle(60 * MS);
    assert_eq!(bench.tally.lost, 3);
    assert_eq!(bench.copy(1, &mold(ONE, 3, 1), 70 * MS), Verdict::TooLate);
    assert_eq!(bench.copy(1, &mold(ONE, 5, 1), 70 * MS), Verdict::Duplicate);
}

#[test]
fn a_lower_number_is_no_restart_and_a_late_old_session_is_known() {
    let mut bench = bench();
    assert!(bench.mold(0, (ONE, 1_000, 10), 0));
    assert!(!bench.mold(0, (ONE, 1, 10), 1));
    assert!(bench.mold(0, (TWO, 1, 1), 2));
    assert!(!bench.mold(1, (ONE, 1_000, 10), 3) && bench.mold(1, (ONE, 1_010, 1), 3));
    assert!(!bench.mold(1, (TWO, 1, 1), 4) && bench.mold(1, (THREE, 1, 1), 5));
}

#[test]
fn heartbeats_and_ends_come_from_the_leg_that_leads() {
    let mut bench = bench();
    assert!(bench.mold(1, (ONE, 1, 1), 0));
    for at in [10, 1_000, 2_000] {
        assert!(bench.mold(1, (ONE, 2, 0), at) && !bench.mold(0, (ONE, 2, 0), at));
    }
    assert!(!bench.mold(0, (ONE, 2, 0), 3_400) && bench.mold(0, (ONE, 2, 0), 3_600));
    assert!(!bench.mold(1, (ONE, 2, 0), 3_700), "the other one leads now");
    assert!(bench.mold(0, (ONE, 2, 0xffff), 3_800) && bench.mold(0, (ONE, 2, 0xffff), 3_900));
    assert!(!bench.mold(1, (ONE, 2, 0xffff), 3_900));
}

#[test]
fn a_number_far_ahead_takes_nothing() {
    let mut bench = bench();
    assert!(bench.mold(0, (ONE, 1, 1), 0));
    assert!(bench.mold(1, (ONE, 1 << 60, 1), 1));
    for number in 2..200 {
        assert!(bench.mold(0, (ONE, number, 1), number), "{number}");
    }
}

#[test]
fn the_legs_are_counted_by_packets() {
    let mut bench = bench();
    for number in 0..100_u64 {
        bench.mold(0, (ONE, number, 1), number);
        if number % 10 != 0 {
            bench.mold(1, (ONE, number, 1), number);
        }
    }
    bench.settle(500 * MS);
    assert_eq!(bench.lost(), [0, 0, 10]);
    assert_eq!(bench.tally.legs[0].unique, 10);
}

proptest! {
    /// Each message leaves, and no packet that has only messages that have left.
    #[test]
    fn the_union_of_the_messages_leaves(
        a in proptest::collection::vec((1..12_u16, 0..100_u32, 0..9_u64), 150),
        b in proptest::collection::vec((1..12_u16, 0..100_u32, 0..9_u64), 150),
        skew in 0..30_u64,
    ) {
        let mut bench = bench();
        let mut packets = Vec::new();
        for (leg, all) in [(0, &a), (1, &b)] {
            let mut sequence = 1_u64;
            for (count, loss, delay) in all {
                // A message each millisecond.
                let at = sequence + delay + if leg == 1 { skew } else { 0 };
                if *loss >= 10 && sequence < 500 {
                    packets.push((at, leg, sequence, *count));
                }
                sequence += u64::from(*count);
            }
        }
        packets.sort_unstable();
        let (mut left, mut came) = (BTreeSet::new(), BTreeSet::new());
        for (number, (at, leg, sequence, count)) in packets.iter().enumerate() {
            let messages: BTreeSet<u64> = (*sequence..*sequence + u64::from(*count)).collect();
            let new = !messages.is_subset(&left);
            came.extend(&messages);
            let before_the_first = number > 0 && *sequence < packets[0].2;
            let leaves = bench.mold(*leg, (ONE, *sequence, *count), *at);
            prop_assert!(leaves == new || before_the_first, "{sequence} + {count} on {leg} at {at}");
            if leaves {
                left.extend(messages);
            }
        }
        let first = packets.first().map_or(0, |packet| packet.2);
        let came: BTreeSet<u64> = came.into_iter().filter(|message| *message >= first).collect();
        let left: BTreeSet<u64> = left.into_iter().filter(|message| *message >= first).collect();
        prop_assert_eq!(left, came);
    }
}
