//! The Internet checksum: the ones-complement of the ones-complement sum of 16-bit words (RFC 1071).

/// A ones-complement sum in progress.
///
/// Words are added as the machine reads them, four bytes at a time: a ones-complement sum is the same in either
/// byte order except for a final swap, and may be folded from wider words at the end (RFC 1071, section 2).
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes. Only the last part of a sum may have an odd length: it is padded with a zero byte.
    ///
    /// The accumulator has room for 2³² words of four bytes; a frame has at most 2¹⁵.
    #[inline]
    #[must_use]
    pub fn add_bytes(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<4>();
        let mut sum = self.0;
        for word in words {
            sum += u64::from(u32::from_ne_bytes(*word));
        }
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        Self(sum + u64::from(u32::from_ne_bytes(last)))
    }

    /// Adds a 16-bit field of a header.
    #[inline]
    #[must_use]
    pub fn add_u16(self, number: u16) -> Self {
        Self(self.0 + u64::from(number.to_be()))
    }

    /// The folded sum. Over data that includes a correct checksum it is `0xffff`.
    #[inline]
    #[must_use]
    pub fn fold(self) -> u16 {
        // The upper half of a number plus itself with its halves swapped is their ones-complement sum: the carry of the
        // lower half goes into it.
        let sum = (self.0.wrapping_add(self.0.rotate_right(32)) >> 32) as u32;
        let sum = (sum.wrapping_add(sum.rotate_right(16)) >> 16) as u16;
        u16::from_be(sum)
    }

    /// The checksum to write into a header whose checksum field was summed as zero.
    #[inline]
    #[must_use]
    pub fn checksum(self) -> u16 {
        !self.fold()
    }

    /// Whether the checksum in the summed data is correct.
    #[inline]
    #[must_use]
    pub fn is_valid(self) -> bool {
        self.fold() == 0xffff
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::checksum::Sum16BitWords;
    use proptest::prelude::*;

    #[test]
    fn rfc_1071_example() {
        // Section 3: 00 01 f2 03 f4 f5 f6 f7 sums to ddf2.
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().add_bytes(&data).fold(), 0xddf2);
        assert_eq!(Sum::default().add_bytes(&data).checksum(), !0xddf2);
    }

    #[test]
    fn edge_cases_of_folding() {
        assert_eq!(Sum::default().fold(), 0);
        assert_eq!(Sum::default().add_bytes(&[0xff; 65_536]).fold(), 0xffff);
        assert_eq!(Sum(u64::MAX).fold(), 0xffff);
    }

    proptest! {
        #[test]
        fn equals_etherparse_at_all_lengths_and_alignments(
            data in proptest::collection::vec(any::<u8>(), 0..4096),
            skip in 0_usize..64,
        ) {
            let data = &data[skip.min(data.len())..];
            let oracle = Sum16BitWords::new().add_slice(data).ones_complement().to_be();
            prop_assert_eq!(Sum::default().add_bytes(data).checksum(), oracle);
        }

        #[test]
        fn parts_of_even_length_have_the_sum_of_the_whole(
            data in proptest::collection::vec(any::<u8>(), 0..512),
            cut: prop::sample::Index,
            number: u16,
        ) {
            let (first, second) = data.split_at(cut.index(data.len() / 2 + 1) * 2);
            let pieces = Sum::default().add_u16(number).add_bytes(first).add_bytes(second);
            let whole = [&number.to_be_bytes()[..], &data].concat();
            prop_assert_eq!(pieces.fold(), Sum::default().add_bytes(&whole).fold());
        }

        #[test]
        fn a_flipped_bit_invalidates_a_correct_checksum(
            mut data in proptest::collection::vec(any::<u8>(), 2..2048),
            place: prop::sample::Index,
            bit in 0..8_u32,
        ) {
            data[..2].fill(0);
            let checksum = Sum::default().add_bytes(&data).checksum();
            data[..2].copy_from_slice(&checksum.to_be_bytes());
            prop_assert!(Sum::default().add_bytes(&data).is_valid());
            let place = place.index(data.len());
            data[place] ^= 1 << bit;
            prop_assert!(!Sum::default().add_bytes(&data).is_valid());
        }
    }
}
