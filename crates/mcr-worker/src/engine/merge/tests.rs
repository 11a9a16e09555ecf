//! Named cases, and a property test with a model as oracle.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use super::*;

mod cases;
mod mold;

const MS: u64 = 1_000_000;
/// Any time that is not near 0.
const START: u64 = 1_000_000_000_000;

/// A merge with its region, and what it has counted.
struct Bench {
    region: Vec<AtomicU64>,
    by: MergeBy,
    legs: usize,
    window_ms: u64,
    tally: Tally,
}

impl Bench {
    fn new(by: MergeBy, legs: usize, window_ms: u64) -> Self {
        let region: Vec<AtomicU64> = (0..REGION_WORDS).map(|_| AtomicU64::new(0)).collect();
        Words(&region).set(header::KEY, 77);
        Self { region, by, legs, window_ms, tally: Tally::default() }
    }

    fn rtp(legs: usize, window_ms: u64) -> Self {
        Self::new(MergeBy::Rtp, legs, window_ms)
    }

    fn merge(&self) -> Merge<'_> {
        let region = Words(&self.region);
        Merge { by: self.by, legs: self.legs, window_ns: self.window_ms * MS, region }
    }

    /// A payload on a leg, some nanoseconds after the start.
    fn copy(&mut self, leg: usize, payload: &[u8], at_ns: u64) -> Verdict {
        let mut tally = std::mem::take(&mut self.tally);
        let verdict = self.merge().judge(&Copied { leg, payload, now_ns: START + at_ns }, &mut tally);
        self.tally = tally;
        verdict
    }

    fn settle(&mut self, at_ns: u64) {
        let mut tally = std::mem::take(&mut self.tally);
        self.merge().settle(START + at_ns, &mut tally);
        self.tally = tally;
    }

    /// An RTP packet on a leg, at a millisecond; its timestamp follows from its number.
    fn packet(&mut self, leg: usize, number: u32, at_ms: u64) -> Verdict {
        self.copy(leg, &rtp(7, number, number.wrapping_mul(90)), at_ms * MS)
    }

    fn leaves(&mut self, leg: usize, number: u32, at_ms: u64) -> bool {
        matches!(self.packet(leg, number, at_ms), Verdict::Leave(_))
    }

    fn lost(&self) -> Vec<u64> {
        let legs = self.tally.legs.iter().take(self.legs).map(|leg| leg.lost);
        std::iter::once(self.tally.lost).chain(legs).collect()
    }
}

/// An RTP packet; the sequence number is the lower half of the number.
fn rtp(ssrc: u32, number: u32, timestamp: u32) -> Vec<u8> {
    let mut bytes = vec![0x80, 96];
    bytes.extend(&number.to_be_bytes()[2..]);
    bytes.extend(timestamp.to_be_bytes());
    bytes.extend(ssrc.to_be_bytes());
    bytes.extend(number.to_be_bytes());
    bytes
}

/// What happens to a packet on a leg: lost, or delayed, and how many copies arrive.
#[derive(Clone, Copy, Debug)]
struct Fate {
    lost: bool,
    delay_us: u64,
    copies: usize,
}

fn fate(most_us: u64) -> impl Strategy<Value = Fate> {
    (0..100_u32, 0..most_us, 0..20_u32).prop_map(|(loss, delay_us, twice)| Fate {
        lost: loss < 12,
        delay_us,
        copies: if twice == 0 { 2 } else { 1 },
    })
}

/// All arrivals in order of time: time in µs, leg, number.
fn arrivals(fates: &[Vec<Fate>], interval_us: u64, skews_us: &[u64]) -> Vec<(u64, usize, u32)> {
    let mut all = Vec::new();
    for (leg, fates) in fates.iter().enumerate() {
        for (number, fate) in (0_u32..).zip(fates).filter(|(_, fate)| !fate.lost) {
            let at = u64::from(number) * interval_us + skews_us.get(leg).copied().unwrap_or_default();
            for copy in 0..fate.copies {
                all.push((at + fate.delay_us + 3 * copy as u64, leg, number));
            }
        }
    }
    all.sort_unstable();
    all
}

proptest! {
    /// With any loss, delay, reordering and duplication within the window, the union of the legs leaves, each packet once, and what is
    /// lost is exactly what is lost.
    #[test]
    fn the_union_of_the_legs_leaves_once(
        first in 65_000..66_000_u32,
        fates in proptest::collection::vec(proptest::collection::vec(fate(8_000), 400), 2..=4),
        skews in proptest::collection::vec(0..30_000_u64, 4),
        interval_us in 20..400_u64,
    ) {
        let legs = fates.len();
        let mut bench = Bench::rtp(legs, 50);
        let arrivals = arrivals(&fates, interval_us, &skews);
        let Some((begin, _, _)) = arrivals.first().copied() else { return Ok(()) };
        let mut left = BTreeSet::new();
        let (mut duplicates, mut came) = (0, BTreeSet::new());
        for (at, leg, number) in &arrivals {
            came.insert(*number);
            match bench.copy(*leg, &rtp(7, first + number, 90 * number), at * 1_000) {
                Verdict::Leave(_) => prop_assert!(left.insert(*number), "{number} left twice"),
                Verdict::Duplicate => duplicates += 1,
                other => prop_assert!(false, "{other:?} of {number} at {at} µs, begun at {begin}"),
            }
            bench.settle(at * 1_000);
        }
        prop_assert_eq!(&left, &came, "the union");
        prop_assert_eq!(duplicates + left.len(), arrivals.len());
        bench.settle(60_000 * MS);
        // What came before the packet that began the stream is not counted.
        let start = arrivals.first().map_or(0, |(_, _, number)| *number);
        let last = came.last().copied().unwrap_or_default();
        let counted = |number: &u32| (start..=last).contains(number);
        let on = |leg: usize| -> BTreeSet<u32> {
            arrivals.iter().filter(|(_, of, _)| *of == leg).map(|(_, _, number)| *number).filter(counted).collect()
        };
        let all = u64::from(last - start) + 1;
        let union = came.iter().filter(|number| counted(number)).count() as u64;
        prop_assert_eq!(bench.tally.lost, all - union);
        for leg in 0..legs {
            let own = on(leg);
            let others: BTreeSet<u32> = (0..legs).filter(|other| *other != leg).flat_map(on).collect();
            prop_assert_eq!(bench.tally.legs[leg].lost, all - own.len() as u64, "lost on leg {}", leg);
            prop_assert_eq!(bench.tally.legs[leg].unique, own.difference(&others).count() as u64, "unique {}", leg);
        }
    }

    /// By payload, each occurrence leaves once, as often as a leg brings it at most.
    #[test]
    fn by_payload_each_occurrence_leaves_once(
        fates in proptest::collection::vec(proptest::collection::vec(fate(8_000), 300), 2..=4),
        skews in proptest::collection::vec(0..30_000_u64, 4),
        kinds in 1..400_u32,
    ) {
        // Delays keep the order, so that occurrences of one payload can be told.
        let fates: Vec<Vec<Fate>> =
            fates.into_iter().map(|leg| leg.into_iter().map(|fate| Fate { delay_us: 0, copies: 1, ..fate }).collect()).collect();
        let mut bench = Bench::new(MergeBy::Payload, fates.len(), 50);
        let mut left = 0;
        let mut came = BTreeSet::new();
        for (at, leg, number) in arrivals(&fates, 1_000, &skews) {
            came.insert(number);
            let payload = (number % kinds).to_be_bytes();
            left += usize::from(matches!(bench.copy(leg, &payload, at * 1_000), Verdict::Leave(_)));
        }
        if kinds >= 300 {
            prop_assert_eq!(left, came.len());
        } else {
            // Which occurrence was lost can't be known; never more than came.
            prop_assert!(left <= came.len(), "{left} of {}", came.len());
        }
    }

    /// Whatever comes, nothing leaves twice on one leg's word, and nothing panics.
    #[test]
    fn hostile_numbers_take_only_themselves(
        noise in proptest::collection::vec((any::<u32>(), any::<u32>(), 0..3_u32), 300),
    ) {
        let mut bench = Bench::rtp(2, 50);
        let mut lost = 0;
        assert!(bench.leaves(0, u32::MAX, 0) && bench.leaves(0, 0, 0));
        for (number, (other, timestamp, ssrc)) in (1_u32..).zip(noise) {
            let at = u64::from(number);
            let noise = rtp(6 + ssrc, other, timestamp);
            bench.copy(1, &noise, at * MS);
            lost += u32::from(!bench.leaves(0, number, at));
        }
        prop_assert!(lost <= 3, "{lost} lost");
    }
}
