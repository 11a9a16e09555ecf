//! The items. Pure: `F` is a descriptor, or its substitute in tests.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::protocol::{Change, Head, MAX_BATCH_BYTES, MAX_INLINE_BYTES, MAX_ITEM_FDS, MAX_NAME_BYTES};

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Number of items: one for each worker's parts, membership socket and unicast input.
    pub(super) items: usize,
    /// Descriptors, of all items together.
    pub(super) fds: usize,
    /// Bytes, of all items together.
    pub(super) bytes: usize,
}

/// A refused change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum StoreError {
    #[error("the message has {0} descriptors, its items say {1}")]
    Descriptors(usize, usize),
    #[error("an item is larger than it may be")]
    TooLarge,
    #[error("{0} items are kept, as many as may be")]
    TooManyItems(usize),
    #[error("{0} bytes are kept, as many as may be")]
    TooManyBytes(usize),
    #[error("{0} descriptors are kept, as many as may be")]
    TooManyDescriptors(usize),
}

#[derive(Debug)]
struct Item<F> {
    bytes: Vec<u8>,
    fds: Vec<F>,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Store<F> {
    items: BTreeMap<String, Item<F>>,
    limits: Limits,
}

impl<F> Store<F> {
    pub(super) fn new(limits: Limits) -> Self {
        Self { items: BTreeMap::new(), limits }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Applies these changes in order, or none of them. Removed descriptors are dropped.
    pub(super) fn apply(&mut self, changes: Vec<Change>, fds: Vec<F>) -> Result<(), StoreError> {
        self.check(&changes, fds.len())?;
        let mut fds = fds.into_iter();
        for change in changes {
            match change {
                Change::Remove(name) => {
                    self.items.remove(&name);
                }
                Change::Put(Head { name, bytes, fds: count }) => {
                    let fds = fds.by_ref().take(usize::from(count)).collect();
                    self.items.insert(name, Item { bytes, fds });
                }
            }
        }
        Ok(())
    }

    fn check(&self, changes: &[Change], fds: usize) -> Result<(), StoreError> {
        let puts = || {
            changes.iter().filter_map(|change| match change {
                Change::Put(head) => Some(head),
                Change::Remove(_) => None,
            })
        };
        let announced: usize = puts().map(|head| usize::from(head.fds)).sum();
        if announced != fds {
            return Err(StoreError::Descriptors(fds, announced));
        }
        let fits = |head: &Head| {
            head.name.len() <= MAX_NAME_BYTES
                && head.bytes.len() <= MAX_INLINE_BYTES + 1
                && usize::from(head.fds) <= MAX_ITEM_FDS
        };
        if !puts().all(fits) {
            return Err(StoreError::TooLarge);
        }
        let new = puts().filter(|head| !self.items.contains_key(&head.name)).count();
        if self.items.len() + new > self.limits.items {
            return Err(StoreError::TooManyItems(self.items.len()));
        }
        let held: usize = self.items.iter().map(|(name, item)| name.len() + item.bytes.len()).sum();
        let bytes: usize = puts().map(|head| head.name.len() + head.bytes.len()).sum();
        if bytes > 0 && held + bytes > self.limits.bytes {
            return Err(StoreError::TooManyBytes(held));
        }
        // Replaced items are not subtracted: for a moment both exist.
        let kept: usize = self.items.values().map(|item| item.fds.len()).sum();
        if fds > 0 && kept + fds > self.limits.fds {
            return Err(StoreError::TooManyDescriptors(kept));
        }
        Ok(())
    }

    /// Returns the items after this name, as many as fit into a message with this number of descriptors.
    pub(super) fn after(&self, name: Option<&str>, max_fds: usize) -> (Vec<Head>, Vec<&F>) {
        let from = name.map_or(Bound::Unbounded, Bound::Excluded);
        let mut heads = Vec::new();
        let mut fds = Vec::new();
        let mut bytes = 0;
        for (name, item) in self.items.range::<str, _>((from, Bound::Unbounded)) {
            bytes += name.len() + item.bytes.len() + 16;
            if !heads.is_empty() && (bytes > MAX_BATCH_BYTES || fds.len() + item.fds.len() > max_fds) {
                break;
            }
            fds.extend(&item.fds);
            let count = u8::try_from(item.fds.len()).unwrap_or(u8::MAX);
            heads.push(Head { name: name.clone(), bytes: item.bytes.clone(), fds: count });
        }
        (heads, fds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { items: 4, fds: 8, bytes: 100 };

    fn put(name: &str, bytes: &[u8], fds: u8) -> Change {
        Change::Put(Head { name: name.to_owned(), bytes: bytes.to_vec(), fds })
    }

    fn all(store: &Store<u32>) -> Vec<(String, Vec<u8>, Vec<u32>)> {
        let mut found = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let (heads, fds) = store.after(after.as_deref(), 3);
            let Some(last) = heads.last() else { return found };
            after = Some(last.name.clone());
            let mut fds = fds.into_iter();
            for head in heads {
                found.push((head.name, head.bytes, fds.by_ref().take(head.fds.into()).copied().collect()));
            }
        }
    }

    #[test]
    fn what_is_put_is_found_with_its_descriptors_until_it_is_removed() {
        let mut store = Store::new(LIMITS);
        store.apply(vec![put("b", b"x", 2), put("a", b"", 1)], vec![1, 2, 3]).unwrap();
        assert_eq!(all(&store), [("a".into(), vec![], vec![3]), ("b".into(), b"x".to_vec(), vec![1, 2])]);
        store.apply(vec![put("b", b"y", 0), Change::Remove("a".into())], vec![]).unwrap();
        assert_eq!(all(&store), [("b".into(), b"y".to_vec(), vec![])]);
        store.apply(vec![Change::Remove("nobody".into()), Change::Remove("b".into())], vec![]).unwrap();
        assert!(store.is_empty());
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let mut store = Store::new(LIMITS);
        store.apply(vec![put("a", b"x", 1)], vec![7]).unwrap();
        let before = all(&store);
        let long = "n".repeat(MAX_NAME_BYTES + 1);
        for (changes, fds) in [
            (vec![Change::Remove("a".into()), put("b", b"", 2)], vec![1]),
            (vec![put("b", b"", 0)], vec![1]),
            (vec![put(&long, b"", 0)], vec![]),
            (vec![put("b", &[0; MAX_INLINE_BYTES + 2], 0)], vec![]),
            (vec![put("b", &[0; 100], 0)], vec![]),
            (vec![put("b", b"", 9)], vec![0; 9]),
            (vec![put("b", b"", 4), put("c", b"", 4)], vec![0; 8]),
            (vec![put("b", b"", 0), put("c", b"", 0), put("d", b"", 0), put("e", b"", 0)], vec![]),
        ] {
            assert!(store.apply(changes.clone(), fds).is_err(), "{changes:?}");
            assert_eq!(all(&store), before, "{changes:?}");
        }
    }

    proptest! {
        /// A store behaves like a map that is read in chunks of any size.
        #[test]
        fn a_store_is_a_map(steps in proptest::collection::vec((0u8..6, 0u8..3, any::<u32>()), 0..60)) {
            let mut store = Store::new(Limits { items: 100, fds: 1000, bytes: 10_000 });
            let mut model = BTreeMap::new();
            for (name, fds, value) in steps {
                let name = name.to_string();
                if value % 4 == 0 {
                    store.apply(vec![Change::Remove(name.clone())], vec![]).unwrap();
                    model.remove(&name);
                } else {
                    let bytes = value.to_le_bytes().to_vec();
                    let held = vec![value; fds.into()];
                    store.apply(vec![put(&name, &bytes, fds)], held.clone()).unwrap();
                    model.insert(name, (bytes, held));
                }
            }
            let expected: Vec<_> = model.into_iter().map(|(name, (bytes, fds))| (name, bytes, fds)).collect();
            prop_assert_eq!(all(&store), expected);
        }
    }
}
