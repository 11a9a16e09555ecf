//! The keyed hash of a payload: 64 bits, so that a sender who does not know the key can't make two payloads alike.

/// Folds a product to 64 bits, as `wyhash` does.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the halves of the product are combined")]
fn fold(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    product as u64 ^ (product >> 64) as u64
}

/// The hash of a payload and its length.
pub(crate) fn hash(payload: &[u8], key: u64) -> u64 {
    const ODD: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];
    let mut state = key ^ payload.len() as u64;
    let (chunks, rest) = payload.as_chunks::<16>();
    let halves = |chunk: &[u8; 16]| {
        let bits = u128::from_le_bytes(*chunk);
        #[expect(clippy::cast_possible_truncation, reason = "the halves are hashed separately")]
        (bits as u64, (bits >> 64) as u64)
    };
    for chunk in chunks {
        let (low, high) = halves(chunk);
        state = fold(low ^ ODD[0] ^ key, high ^ ODD[1] ^ state);
    }
    let mut last = [0; 16];
    if let Some(place) = last.get_mut(..rest.len()) {
        place.copy_from_slice(rest);
    }
    let (low, high) = halves(&last);
    state = fold(low ^ ODD[0] ^ key, high ^ ODD[1] ^ state);
    fold(state ^ ODD[0], key | 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn payloads_that_differ_in_a_bit_or_in_length_have_other_hashes() {
        let mut all = BTreeSet::new();
        let base = [7_u8; 67];
        for length in 0..=base.len() {
            assert!(all.insert(hash(&base[..length], 5)), "length {length}");
        }
        for bit in 0..8 * base.len() {
            let mut other = base;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(all.insert(hash(&other, 5)), "bit {bit}");
        }
        assert_ne!(hash(&base, 5), hash(&base, 7));
    }
}
