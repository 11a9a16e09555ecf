//! What a filter accepts, as sorted lists, shared while they are equal.

use std::collections::BTreeSet;
use std::sync::Arc;

use mcr_sys::filter::FilterDestination;

/// Destinations, unique, in ascending order.
pub(crate) type FilterSet = Arc<[FilterDestination]>;

/// Whether two lists are equal.
pub(super) fn is_same(one: &FilterSet, other: &FilterSet) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

/// The union of the lists: one of them, if it contains all others.
pub(super) fn union<'a>(all: impl IntoIterator<Item = &'a FilterSet>) -> FilterSet {
    all.into_iter().fold(Arc::default(), |sum, wanted| {
        if is_same(&sum, wanted) || includes(&sum, wanted) {
            sum
        } else if includes(wanted, &sum) {
            Arc::clone(wanted)
        } else {
            let both: BTreeSet<FilterDestination> = sum.iter().chain(&**wanted).copied().collect();
            both.into_iter().collect()
        }
    })
}

/// Whether a list contains another.
fn includes(all: &[FilterDestination], some: &[FilterDestination]) -> bool {
    let mut rest = all.iter();
    all.len() >= some.len() && some.iter().all(|one| rest.any(|other| other == one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(ports: &BTreeSet<u16>) -> FilterSet {
        let address = [239, 1, 1, 1].into();
        ports.iter().map(|port| FilterDestination { address, port: *port, promiscuous: false }).collect()
    }

    proptest! {
        #[test]
        fn a_union_has_all_of_each_once_and_in_order(
            sets in proptest::collection::vec(proptest::collection::btree_set(0u16..12, 0..8), 0..4),
        ) {
            let lists: Vec<FilterSet> = sets.iter().map(list).collect();
            let all = list(&sets.iter().flatten().copied().collect());
            let sum = union(&lists);
            prop_assert_eq!(&sum, &all);
        }
    }

    #[test]
    fn a_list_that_has_everything_is_shared() {
        let (some, all) = (list(&BTreeSet::from([2])), list(&BTreeSet::from([1, 2, 3])));
        assert!(Arc::ptr_eq(&union([&some, &all, &some]), &all));
    }
}
