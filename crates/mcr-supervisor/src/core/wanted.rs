//! What a filter lets through, as sorted lists that are shared as long as they are the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use mcr_sys::filter::WantedDestination;

/// Destinations, each once, in ascending order.
pub type Wanted = Arc<[WantedDestination]>;

/// Whether two lists are the same.
pub(super) fn is_same(one: &Wanted, other: &Wanted) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

/// All that is in any of these lists: one of them, if it has everything.
pub(super) fn union<'a>(all: impl IntoIterator<Item = &'a Wanted>) -> Wanted {
    all.into_iter().fold(Arc::default(), |sum, wanted| {
        if is_same(&sum, wanted) || includes(&sum, wanted) {
            sum
        } else if includes(wanted, &sum) {
            Arc::clone(wanted)
        } else {
            let both: BTreeSet<WantedDestination> = sum.iter().chain(&**wanted).copied().collect();
            both.into_iter().collect()
        }
    })
}

/// Whether a list has everything that another has.
fn includes(all: &[WantedDestination], some: &[WantedDestination]) -> bool {
    let mut rest = all.iter();
    all.len() >= some.len() && some.iter().all(|one| rest.any(|other| other == one))
}
