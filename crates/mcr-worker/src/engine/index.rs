//! The hash table of destinations: open addressing, a power of two of buckets, at most half full.

use std::net::IpAddr;

use mcr_wire::AddressBits;

/// Destination address and port of a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DestinationKey {
    pub(crate) address: AddressBits,
    pub(crate) port: u16,
}

impl DestinationKey {
    #[inline]
    pub(crate) fn new(address: IpAddr, port: u16) -> Self {
        Self { address: address.into(), port }
    }

    /// A fixed multiplicative hash, without a random seed, since the keys are from the configuration.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the halves are hashed separately")]
    const fn hash(self) -> u64 {
        const ODD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
        let bits = self.address.bits;
        let low = bits as u64 ^ (self.port as u64) << 48 ^ (self.address.ipv6 as u64) << 40;
        let high = (bits >> 64) as u64;
        let product = (low as u128 ^ ODD >> 64).wrapping_mul((high ^ ODD as u64) as u128 | 1);
        let folded = product as u64 ^ (product >> 64) as u64;
        folded.wrapping_mul(ODD as u64 | 1)
    }
}

/// Maps a destination to its index in a list.
#[derive(Debug)]
pub(crate) struct DestinationIndex {
    /// Index + 1; 0: empty. The length is a power of two.
    buckets: Box<[u32]>,
    shift: u32,
}

impl DestinationIndex {
    /// An index of distinct keys, by their index in the slice.
    pub(crate) fn build(keys: &[DestinationKey]) -> Self {
        let size = (keys.len() * 2).next_power_of_two().max(2);
        let mut index = Self { buckets: vec![0; size].into_boxed_slice(), shift: 64 - size.trailing_zeros() };
        for (number, key) in (1_u32..).zip(keys) {
            let mut at = index.home(*key);
            while index.buckets.get(at).is_some_and(|bucket| *bucket != 0) {
                at = (at + 1) & (size - 1);
            }
            if let Some(bucket) = index.buckets.get_mut(at) {
                *bucket = number;
            }
        }
        index
    }

    /// The index of a key; `is_at` compares it with the key at an index.
    #[inline]
    pub(crate) fn find(&self, key: DestinationKey, is_at: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = self.home(key);
        loop {
            // Terminates, because half of the buckets are empty.
            let index = self.buckets.get(at)?.checked_sub(1)?;
            if is_at(index) {
                return Some(index);
            }
            at = (at + 1) & (self.buckets.len() - 1);
        }
    }

    /// The initial bucket. The upper bits of a multiplicative hash are distributed best.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the shift leaves the bits of a bucket number")]
    const fn home(&self, key: DestinationKey) -> usize {
        (key.hash() >> self.shift) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    #[test]
    fn each_key_is_found_and_no_other() {
        let keys: Vec<_> = (0..5_000_u32)
            .map(|n| {
                DestinationKey::new(Ipv4Addr::from_bits(0xef00_0000 + n / 4).into(), 5_000 + (n % 4) as u16)
            })
            .collect();
        let index = DestinationIndex::build(&keys);
        for (index_of_key, key) in (0..).zip(&keys) {
            let found = index.find(*key, |at| keys[at as usize] == *key);
            assert_eq!(found, Some(index_of_key));
            let other = DestinationKey { port: 1, ..*key };
            assert_eq!(index.find(other, |at| keys[at as usize] == other), None);
        }
    }

    #[test]
    fn consecutive_groups_are_spread() {
        let size = 1_024;
        let homes: BTreeSet<u64> = (0..size / 2)
            .map(|n| DestinationKey::new(Ipv4Addr::from_bits(0xef01_0100 + n).into(), 5_000).hash() >> 54)
            .collect();
        assert!(homes.len() > 320, "512 groups are in {} of 1,024 buckets", homes.len());
    }

    #[test]
    fn address_families_are_distinct() {
        let mapped: IpAddr = "::239.1.1.1".parse().unwrap();
        let v4: IpAddr = "239.1.1.1".parse().unwrap();
        assert_ne!(AddressBits::from(mapped), AddressBits::from(v4));
        assert_eq!(DestinationIndex::build(&[]).find(DestinationKey::new(v4, 1), |_| true), None);
    }
}
