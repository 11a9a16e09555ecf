//! Slots of one worker's telemetry page, for its rules and for their outputs.
//!
//! A slot belongs to its key while the key is in use. After that it is not reassigned before the worker has
//! acknowledged a rule set without the key: until then the worker may still count there. Freed slots are reused,
//! lowest first, so that the sparse page stays small.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Slots by key. `K` is unique, also among past rules or outputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(deserialize = "K: Deserialize<'de> + Ord"))]
pub(crate) struct Slots<K> {
    capacity: u32,
    live: BTreeMap<K, u32>,
    /// Slots of released keys: free once this generation is acknowledged.
    leaving: Vec<Leaving<K>>,
    free: BTreeSet<u32>,
    /// The lowest slot that was never used.
    fresh: u32,
    #[serde(skip)]
    revision: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Leaving<K> {
    generation: u64,
    key: K,
    slot: u32,
}

impl<K: Ord + Clone> Slots<K> {
    /// Creates this number of slots, all free.
    pub(crate) fn new(capacity: u32) -> Self {
        Self {
            capacity,
            live: BTreeMap::new(),
            leaving: Vec::new(),
            free: BTreeSet::new(),
            fresh: 0,
            revision: 0,
        }
    }

    /// Returns the slot of a key, assigning a free one if it has none. `None` if all are taken; slots of released
    /// keys become free with the worker's next acknowledgement.
    pub(crate) fn take(&mut self, key: &K) -> Option<u32> {
        if let Some(slot) = self.live.get(key) {
            return Some(*slot);
        }
        self.revision += 1;
        // Released and taken again before the acknowledgement: it keeps its slot.
        if let Some(place) = self.leaving.iter().position(|leaving| leaving.key == *key) {
            let Leaving { slot, .. } = self.leaving.swap_remove(place);
            self.live.insert(key.clone(), slot);
            return Some(slot);
        }
        let slot = match self.free.pop_first() {
            Some(slot) => slot,
            None if self.fresh < self.capacity => {
                self.fresh += 1;
                self.fresh - 1
            }
            None => return None,
        };
        self.live.insert(key.clone(), slot);
        Some(slot)
    }

    /// Releases one key: the rule set of this generation is the first without it.
    pub(crate) fn leave(&mut self, generation: u64, key: &K) {
        if let Some((key, slot)) = self.live.remove_entry(key) {
            self.revision += 1;
            self.leaving.push(Leaving { generation, key, slot });
        }
    }

    /// Releases every key for which `stays` returns false: the rule set of this generation is the first without them.
    pub(crate) fn retain(&mut self, generation: u64, mut stays: impl FnMut(&K) -> bool) {
        let gone: Vec<K> = self.live.keys().filter(|key| !stays(key)).cloned().collect();
        gone.iter().for_each(|key| self.leave(generation, key));
    }

    /// The worker applied this generation. Returns the keys and slots that became free.
    pub(crate) fn acknowledged(&mut self, generation: u64) -> Vec<(K, u32)> {
        let (freed, leaving) = std::mem::take(&mut self.leaving)
            .into_iter()
            .partition::<Vec<_>, _>(|l: &Leaving<K>| l.generation <= generation);
        self.leaving = leaving;
        self.revision += u64::from(!freed.is_empty());
        self.free.extend(freed.iter().map(|l: &Leaving<K>| l.slot));
        freed.into_iter().map(|l| (l.key, l.slot)).collect()
    }

    /// Every key and slot that may still be counted in.
    pub(crate) fn counting(&self) -> impl Iterator<Item = (&K, u32)> {
        let live = self.live.iter().map(|(key, slot)| (key, *slot));
        live.chain(self.leaving.iter().map(|l| (&l.key, l.slot)))
    }

    /// The newest generation by which a key was released that is not acknowledged.
    pub(crate) fn newest_leaving(&self) -> u64 {
        self.leaving.iter().map(|leaving| leaving.generation).max().unwrap_or_default()
    }

    /// Number of slots that were ever used.
    pub(crate) fn used(&self) -> u32 {
        self.fresh
    }

    /// Increases with every change.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether every key has the same slot, released ones in any order.
    #[cfg(test)]
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        let leaving = |slots: &Self| -> BTreeMap<(u64, K), u32> {
            slots.leaving.iter().map(|l| ((l.generation, l.key.clone()), l.slot)).collect()
        };
        self.live == other.live && self.free == other.free && leaving(self) == leaving(other)
    }

    /// Whether no slot is taken twice or beyond the capacity: for data of another origin.
    pub(crate) fn is_sound(&self, capacity: u32) -> bool {
        let taken: Vec<u32> =
            self.counting().map(|(_, slot)| slot).chain(self.free.iter().copied()).collect();
        let distinct: BTreeSet<u32> = taken.iter().copied().collect();
        self.capacity == capacity
            && self.fresh <= capacity
            && distinct.len() == taken.len()
            && distinct.last().is_none_or(|last| *last < self.fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_place_is_kept_and_used_again_only_after_the_acknowledgement() {
        let mut slots = Slots::new(2);
        assert_eq!((slots.take(&'a'), slots.take(&'b'), slots.take(&'a')), (Some(0), Some(1), Some(0)));
        slots.retain(7, |key| *key == 'b');
        assert_eq!(slots.take(&'c'), None, "a's place may still be counted in");
        assert!(slots.acknowledged(6).is_empty());
        assert_eq!(slots.counting().count(), 2);
        assert_eq!(slots.acknowledged(7), [('a', 0)]);
        assert_eq!(slots.take(&'c'), Some(0));
        assert_eq!(slots.take(&'b'), Some(1));
    }

    #[test]
    fn who_returns_before_the_acknowledgement_keeps_the_place() {
        let mut slots = Slots::new(8);
        assert_eq!((slots.take(&'a'), slots.take(&'b')), (Some(0), Some(1)));
        slots.retain(2, |key| *key == 'b');
        assert_eq!(slots.take(&'a'), Some(0));
        assert!(slots.acknowledged(2).is_empty());
    }

    proptest! {
        /// In any sequence, no two keys share a slot, and no slot is lost.
        #[test]
        fn places_are_never_shared(steps in proptest::collection::vec((0u8..3, any::<u8>()), 1..200)) {
            let mut slots = Slots::new(16);
            let mut generation = 0;
            for (step, byte) in steps {
                match step {
                    0 => drop(slots.take(&(byte % 24))),
                    1 => {
                        generation += 1;
                        slots.retain(generation, |key| (key ^ byte) % 3 != 0);
                    }
                    _ => drop(slots.acknowledged(generation.saturating_sub(u64::from(byte % 3)))),
                }
                let used: Vec<u32> = slots.counting().map(|(_, slot)| slot).collect();
                let unique: BTreeSet<u32> = used.iter().copied().collect();
                prop_assert_eq!(used.len(), unique.len());
                prop_assert!(unique.is_disjoint(&slots.free));
                prop_assert_eq!(unique.len() + slots.free.len(), slots.fresh as usize);
                prop_assert!(slots.fresh <= 16);
                prop_assert!(slots.is_sound(16) && !slots.is_sound(17));
            }
        }
    }
}
