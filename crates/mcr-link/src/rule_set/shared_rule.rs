//! A rule of a rule set with its hashes, which are computed once. Consecutive sets share unchanged rules, so that large sets
//! are built, hashed and compared quickly.

use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::RelayRule;
use super::table_hash::{TableHash, add_rule};

/// A rule, shared by rule sets.
#[derive(Clone, Debug)]
pub struct SharedRule(Arc<Hashed>);

#[derive(Debug)]
struct Hashed {
    rule: RelayRule,
    content: u64,
    facts: TableHash,
}

impl SharedRule {
    /// The hash of its encoding (XXH3, 64 bits).
    #[must_use]
    pub fn content_hash(&self) -> u64 {
        self.0.content
    }

    /// The facts that this rule adds to a table.
    #[must_use]
    pub fn facts(&self) -> TableHash {
        self.0.facts
    }
}

impl From<RelayRule> for SharedRule {
    fn from(rule: RelayRule) -> Self {
        // Encoding to memory does not fail for these types; an empty encoding would be reported as drift.
        let bytes = postcard::to_stdvec(&rule).unwrap_or_default();
        let mut facts = TableHash::default();
        add_rule(&mut facts, &rule);
        Self(Arc::new(Hashed { content: xxhash_rust::xxh3::xxh3_64(&bytes), facts, rule }))
    }
}

impl Deref for SharedRule {
    type Target = RelayRule;

    fn deref(&self) -> &RelayRule {
        &self.0.rule
    }
}

impl PartialEq for SharedRule {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.rule == other.0.rule
    }
}

impl Eq for SharedRule {}

impl Serialize for SharedRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.rule.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SharedRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        RelayRule::deserialize(deserializer).map(Self::from)
    }
}
