//! What crosses between supervisor and worker: one byte says what, the rest is its encoding.

use mcr_link::message::{FromWorker, ToWorker};
use mcr_link::rule_set::{RuleSet, RuleSetChange};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Asserts the property.
///
/// # Panics
/// It does not hold.
pub fn check(data: &[u8]) {
    let [what, bytes @ ..] = data else { return };
    match what % 3 {
        0 => drop(round_trip::<ToWorker>(bytes)),
        1 => drop(round_trip::<FromWorker>(bytes)),
        _ => {
            drop(round_trip::<RuleSetChange>(bytes));
            let Some(set) = round_trip::<RuleSet>(bytes) else { return };
            let (hash, table) = (set.content_hash(), set.table_hash());
            let written = set.encode().expect("a rule set can be written");
            let read = RuleSet::decode(&written, hash).expect("what was written");
            assert_eq!((read.table_hash(), &read), (table, &set));
            assert!(RuleSet::decode(&written, hash ^ 1).is_err(), "another hash was accepted");
            let later = RuleSet { generation: set.generation.wrapping_add(1), ..set };
            assert_eq!(
                (later.content_hash(), later.table_hash()),
                (hash, table),
                "the generation is no content"
            );
        }
    }
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<T> {
    let value: T = postcard::from_bytes(bytes).ok()?;
    let written = postcard::to_stdvec(&value).expect("what was read can be written");
    assert_eq!(postcard::from_bytes::<T>(&written).as_ref(), Ok(&value));
    Some(value)
}
