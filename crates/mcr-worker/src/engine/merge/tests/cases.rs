//! The cases of SMPTE ST 2022-7 that other implementations got wrong.

use super::*;

/// Packets of a leg, one each millisecond, from a number to before another. Returns how many leave.
fn run(bench: &mut Bench, leg: usize, numbers: std::ops::Range<u32>, at_ms: u64) -> usize {
    let start = numbers.start;
    numbers.filter(|number| bench.leaves(leg, *number, at_ms + u64::from(number - start))).count()
}

#[test]
fn both_legs_in_step_and_the_tables_of_skew() {
    for skew in [0, 10, 33, 49] {
        let mut bench = Bench::rtp(2, 50);
        let mut left = 0;
        for at in 0..300_u64 {
            left += usize::from(bench.leaves(0, u32::try_from(at).unwrap(), at));
            if at >= skew {
                let number = u32::try_from(at - skew).unwrap();
                assert_eq!(bench.packet(1, number, at), Verdict::Duplicate, "skew {skew} number {number}");
            }
        }
        bench.settle(400 * MS);
        assert_eq!((left, bench.tally.lost), (300, 0), "skew {skew}");
        assert_eq!(bench.tally.legs[1].lost, skew, "those that have not come yet");
        let skew_us = u64::from(bench.tally.legs[1].skew_us.unwrap());
        assert!(skew_us.abs_diff(1_000 * skew) < 40, "skew {skew} ms measured as {skew_us} µs");
    }
}

#[test]
fn the_window_decides_what_is_too_late() {
    for (late_ms, verdict) in [(49, true), (52, false)] {
        let mut bench = Bench::rtp(2, 50);
        run(&mut bench, 0, 0..10, 0);
        assert!(bench.leaves(0, 11, 11), "10 is missing from here");
        let late = bench.packet(1, 10, 11 + late_ms);
        assert_eq!(matches!(late, Verdict::Leave(_)), verdict, "{late_ms} ms");
        assert!(verdict || late == Verdict::TooLate);
    }
}

#[test]
fn a_gap_across_the_wrap() {
    let mut bench = Bench::rtp(2, 50);
    assert_eq!(run(&mut bench, 0, 65_530..65_535, 0), 5);
    assert_eq!(run(&mut bench, 0, 65_538..65_560, 8), 22);
    assert_eq!(run(&mut bench, 1, 65_530..65_560, 10), 3, "65,535 to 65,537");
    bench.settle(500 * MS);
    assert_eq!(bench.lost(), [0, 3, 0]);
}

#[test]
fn the_same_number_with_another_timestamp_is_another_packet() {
    let mut bench = Bench::rtp(2, 1_000);
    // 65,536 packets at 80 per ms: the numbers wrap within the window.
    for number in 0..70_000_u32 {
        let at_ns = u64::from(number) * 12_500;
        let packet = rtp(7, number, 90 * number);
        assert!(matches!(bench.copy(0, &packet, at_ns), Verdict::Leave(_)), "{number}");
        assert_eq!(bench.copy(1, &packet, at_ns), Verdict::Duplicate, "{number}");
    }
    assert_eq!(bench.tally.restarts, 0);
}

#[test]
fn a_restart_costs_one_packet_and_the_late_leg_does_not_switch_back() {
    for (first, ahead) in [(3_u32, true), (40_000, true), (3, false), (60_000, false)] {
        let mut bench = Bench::rtp(2, 50);
        let old = |number: u32| rtp(7, 20_000 + number, 900_000 + 90 * number);
        let new = |number: u32| {
            let base = if ahead { 50_000_000 } else { 1_000 };
            rtp(7, first + number, base + 90 * number)
        };
        let mut left = 0_u32;
        // The second leg is 20 ms behind.
        for at in 0..400_u32 {
            let first_leg = if at < 200 { old(at) } else { new(at - 200) };
            left += u32::from(matches!(bench.copy(0, &first_leg, u64::from(at) * MS), Verdict::Leave(_)));
            if at >= 20 {
                let second_leg = if at < 220 { old(at - 20) } else { new(at - 220) };
                left +=
                    u32::from(matches!(bench.copy(1, &second_leg, u64::from(at) * MS), Verdict::Leave(_)));
            }
        }
        assert!(left >= 399, "first {first}, ahead {ahead}: {left} of 400");
        assert!(left <= 400, "first {first}, ahead {ahead}: {left} of 400");
        assert_eq!(bench.tally.restarts, 1, "first {first}, ahead {ahead}");
        assert!(bench.tally.lost <= 1, "no phantom loss: {}", bench.tally.lost);
    }
}

#[test]
fn another_source_on_both_legs_on_one_and_flapping() {
    let packet = |ssrc: u32, number: u32| rtp(ssrc, number, 90 * number);
    let mut bench = Bench::rtp(2, 50);
    let mut copy = |leg, ssrc, number, at: u32| {
        matches!(bench.copy(leg, &packet(ssrc, number), u64::from(at) * MS), Verdict::Leave(_))
    };
    let mut left = 0;
    for at in 0..100 {
        left += u32::from(copy(0, 7, at, at)) + u32::from(copy(1, 7, at, at));
    }
    assert_eq!(left, 100);
    // A packet of another source now and then is not relayed, and costs nothing.
    for at in 100..200 {
        left += u32::from(copy(0, 7, at, at)) + u32::from(copy(1, 7, at, at));
        assert!(!copy(1, 9, 5 * at, at));
    }
    assert_eq!(left, 200);
    // Both change: one packet.
    for at in 200..300 {
        left += u32::from(copy(0, 9, at, at)) + u32::from(copy(1, 9, at, at));
    }
    assert_eq!(left, 299);
    // One leg changes: it may lie, and takes over when the other one has been silent for the window.
    let (mut old, mut new) = (0, 0);
    for at in 300..600 {
        new += u32::from(copy(0, 11, at, at));
        if at < 500 {
            old += u32::from(copy(1, 9, at, at));
        }
    }
    assert_eq!(old, 200);
    assert!((47..=50).contains(&new), "{new}");
}

/// A source that is made to look like the stream's by one packet in its numbers does not end the stream.
#[test]
fn a_leg_that_lies_about_the_source_takes_nothing() {
    let mut bench = Bench::rtp(2, 50);
    let mut left = 0;
    for at in 0..1_000_u32 {
        left += u32::from(bench.leaves(0, 10_000 + at, at.into()));
        // One packet before the first, which leaves; then two consecutive ones of another source, again and again.
        let lie = if at == 1 { rtp(7, 9_000, 5) } else { rtp(6, 46 * (at % 2), 0) };
        bench.copy(1, &lie, u64::from(at) * MS);
    }
    assert_eq!((left, bench.tally.restarts), (1_000, 0));
}

#[test]
fn a_leg_that_replays_costs_nothing() {
    let mut bench = Bench::rtp(2, 50);
    let mut left = 0;
    for at in 0..30_000_u32 {
        // From 12 s on, the second leg repeats what it sent 10 s ago, for 10 s.
        let second = if (12_000..22_000).contains(&at) { at - 10_000 } else { at };
        left += u32::from(bench.leaves(1, second, at.into()));
        left += u32::from(bench.leaves(0, at, at.into()));
    }
    assert_eq!((left, bench.tally.restarts), (30_000, 0));
}

#[test]
fn both_lose_the_same_and_the_start_has_a_gap() {
    let mut bench = Bench::rtp(2, 50);
    for number in (3..100_u32).filter(|number| ![40, 41, 60].contains(number)) {
        assert!(bench.leaves(0, number, number.into()));
    }
    for number in (0..100_u32).filter(|number| ![40, 41, 70].contains(number)) {
        let leaves = bench.leaves(1, number, 100);
        assert_eq!(leaves, number == 60, "{number}");
    }
    bench.settle(1_000 * MS);
    assert_eq!(bench.tally.lost, 2, "40 and 41; what was before the first is not counted");
}

#[test]
fn disjoint_legs_and_one_leg_alone() {
    let mut bench = Bench::rtp(2, 50);
    for number in 0..1_000_u32 {
        assert!(bench.leaves(usize::from(number % 2 == 1), number, number.into()));
    }
    bench.settle(5_000 * MS);
    assert_eq!(bench.lost(), [0, 500, 500]);
    assert_eq!(bench.tally.legs.map(|leg| leg.unique), [500, 500, 0, 0]);
}

#[test]
fn duplicates_within_a_leg() {
    let mut bench = Bench::rtp(2, 50);
    for number in 0..100_u32 {
        assert!(bench.leaves(0, number, number.into()));
        assert!(!bench.leaves(0, number, number.into()));
    }
    bench.settle(5_000 * MS);
    assert_eq!(bench.lost(), [0, 0, 100]);
}

#[test]
fn a_leg_without_link_is_not_charged() {
    let mut bench = Bench::rtp(2, 50);
    bench.tally.down = 0b10;
    run(&mut bench, 0, 0..100, 0);
    bench.settle(5_000 * MS);
    assert_eq!(bench.lost(), [0, 0, 0]);
}

#[test]
fn an_outage_of_all_legs_is_counted_and_one_injected_number_takes_itself() {
    let mut bench = Bench::rtp(2, 50);
    run(&mut bench, 0, 0..100, 0);
    assert_eq!(run(&mut bench, 0, 3_100..3_200, 3_100), 100);
    bench.settle(9_000 * MS);
    assert_eq!(bench.tally.lost, 3_000);
    // A number far ahead, on the other leg.
    assert!(bench.leaves(1, 5_000, 9_001));
    assert_eq!(run(&mut bench, 0, 3_200..4_990, 9_002), 1_790);
    bench.settle(19_000 * MS);
    assert_eq!(bench.tally.lost, 3_000);
}

#[test]
fn faster_streams_get_more_slots() {
    // 30 packets per ms for a window of 450 ms: 13,500.
    let mut bench = Bench::rtp(2, 450);
    let packet = |number: u32| rtp(7, number, 3 * number);
    let mut left = 0;
    for number in 0..40_000_u32 {
        let at_ns = u64::from(number) * 33_333;
        if number % 10 != 0 {
            left += u32::from(matches!(bench.copy(0, &packet(number), at_ns), Verdict::Leave(_)));
        }
        if number >= 13_000 {
            let late = packet(number - 13_000);
            left += u32::from(matches!(bench.copy(1, &late, at_ns), Verdict::Leave(_)));
        }
    }
    bench.settle(9_000 * MS);
    assert_eq!(left, 36_000 + 2_700);
    assert_eq!(bench.tally.lost, 1_300);
}

#[test]
fn what_is_no_rtp_is_merged_by_payload() {
    let mut bench = Bench::rtp(2, 50);
    let rtcp = [0x81, 200, 0, 1, 0, 0, 0, 9];
    let short = [0x80; 11];
    let lying_extension = [&[0x90, 96][..], &[0; 10], &[0, 0, 0xff, 0xff]].concat();
    for payload in [&rtcp[..], &short, &lying_extension, &[]] {
        assert_eq!(bench.copy(0, payload, 0), Verdict::Leave(None));
        assert_eq!(bench.copy(1, payload, 5 * MS), Verdict::Duplicate);
        assert_eq!(bench.copy(1, payload, 6 * MS), Verdict::Leave(None), "its second occurrence");
        assert_eq!(bench.copy(0, payload, 7 * MS), Verdict::Duplicate);
    }
    // Padding and CSRCs are no matter.
    let mut padded = rtp(7, 1, 1);
    padded[0] |= 0x22;
    padded.extend([0; 8]);
    assert!(matches!(bench.copy(0, &padded, 9 * MS), Verdict::Leave(Some(_))));
    assert_eq!(bench.copy(1, &padded, 9 * MS), Verdict::Duplicate);
}

#[test]
fn payloads_that_differ_are_noticed() {
    let mut bench = Bench::rtp(2, 50);
    for number in 0..320_u32 {
        let packet = rtp(7, number, 90 * number);
        let mut other = packet.clone();
        other.push(u8::from(number >= 160));
        bench.copy(0, &[&packet[..], &[0]].concat(), u64::from(number) * MS);
        bench.copy(1, &other, u64::from(number) * MS);
    }
    assert_eq!(bench.tally.differing, 10, "one in 16 is compared");
}

#[test]
fn repeats_of_a_payload_survive() {
    let mut bench = Bench::new(MergeBy::Payload, 2, 50);
    let mut copy = |leg, at: u64| matches!(bench.copy(leg, b"beat", at * MS), Verdict::Leave(_));
    assert!(copy(0, 0) && copy(0, 10));
    assert!(!copy(1, 20) && !copy(1, 21));
    assert!(copy(1, 22) && !copy(0, 30));
    assert!(copy(0, 100), "the window is over");
}

#[test]
fn a_stream_that_resumes_after_minutes_begins_anew() {
    let mut bench = Bench::rtp(2, 50);
    run(&mut bench, 0, 0..100, 0);
    assert!(bench.leaves(0, 50, 300_000), "the clock of the slots has wrapped");
    assert!(bench.leaves(0, 51, 300_001));
}

#[test]
fn a_million_sources_take_no_memory_and_no_packet() {
    let mut bench = Bench::rtp(2, 50);
    for number in 0..1_000_000_u32 {
        let noise = rtp(1_000 + number, number.wrapping_mul(2_654_435_761), number);
        bench.copy(1, &noise, u64::from(number) * 1_000);
        if number % 100 == 0 {
            let packet = rtp(7, number / 100, number);
            let verdict = bench.copy(0, &packet, u64::from(number) * 1_000);
            assert!(number < 200 || matches!(verdict, Verdict::Leave(_)), "{number}: {verdict:?}");
        }
    }
    assert!(bench.tally.restarts <= 1, "{}", bench.tally.restarts);
}

#[test]
fn a_replacement_of_the_worker_continues() {
    let mut bench = Bench::rtp(2, 50);
    run(&mut bench, 0, 0..100, 0);
    // Only the region is left.
    bench.tally = Tally::default();
    for number in 60..100 {
        assert_eq!(bench.packet(1, number, 100), Verdict::Duplicate);
    }
    assert!(bench.leaves(0, 100, 101));
}
