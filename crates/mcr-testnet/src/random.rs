//! Random numbers that a seed repeats.

/// SplitMix64 (Steele, Lea, Flood 2014): small, and good enough to choose faults and bits with.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 if that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        // The modulus favours small numbers by less than one in 2³².
        usize::try_from(self.bits() >> 32).unwrap_or_default() % end.max(1)
    }

    /// A number from the range, both ends included.
    ///
    /// # Panics
    /// The range is wider than 16 bits allow, which can't be.
    pub fn within(&mut self, range: std::ops::RangeInclusive<u16>) -> u16 {
        let (start, end) = (usize::from(*range.start()), usize::from(*range.end()));
        u16::try_from(start + self.below(end + 1 - start)).expect("a number of the range")
    }

    /// One of several.
    ///
    /// # Panics
    /// There are none.
    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// Puts a list in random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for end in (1..list.len()).rev() {
            list.swap(end, self.below(end + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_a_shuffle_loses_nothing() {
        let shuffled = |seed| {
            let mut list: Vec<u8> = (0..100).collect();
            Random::new(seed).shuffle(&mut list);
            list
        };
        assert_eq!(shuffled(7), shuffled(7));
        assert_ne!(shuffled(7), shuffled(8));
        let mut sorted = shuffled(7);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<u8>>());
        let mut random = Random::new(1);
        assert!((0..1_000).all(|_| (5..=7).contains(&random.within(5..=7))));
    }
}
