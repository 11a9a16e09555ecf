//! The difference between a worker's rule set and the next one, so that only changed rules are sent and applied. The content
//! hash of the whole set verifies the result.

use std::cmp::Ordering;

use mcr_rules::RuleId;
use serde::{Deserialize, Serialize};

use super::{Own, RuleSet, RuleSetError, SharedRule};

/// See the module documentation. It applies only to its base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSetChange {
    /// Generation of the resulting set.
    pub generation: u64,
    /// Generation of the set that it starts from.
    pub base_generation: u64,
    /// Which datagrams are this host's own, all of it.
    pub own: Own,
    /// Removed rules, sorted by id.
    pub removed: Vec<RuleId>,
    /// New and changed rules, sorted by id.
    pub rules: Vec<SharedRule>,
}

impl RuleSetChange {
    /// Returns the difference between two sets, whose rules are sorted by id.
    #[must_use]
    pub fn between(before: &RuleSet, after: &RuleSet) -> Self {
        let (mut removed, mut rules) = (Vec::new(), Vec::new());
        let mut old = before.rules.iter().peekable();
        for rule in &after.rules {
            while let Some(passed) = old.next_if(|old| old.id < rule.id) {
                removed.push(passed.id);
            }
            if old.next_if(|old| old.id == rule.id) != Some(rule) {
                rules.push(rule.clone());
            }
        }
        removed.extend(old.map(|old| old.id));
        let own = after.own.clone();
        Self { generation: after.generation, base_generation: before.generation, own, removed, rules }
    }

    /// Returns the set after the change.
    ///
    /// # Errors
    /// The set is not the base of the change, or the result does not have the announced content hash.
    pub fn apply(self, before: &RuleSet, expected: u64) -> Result<RuleSet, RuleSetError> {
        let Self { generation, base_generation, own, removed, rules: changed } = self;
        if before.generation != base_generation {
            return Err(RuleSetError::WrongBase { expected: base_generation, found: before.generation });
        }
        let mut rules = Vec::with_capacity(before.rules.len() + changed.len());
        let mut changed = changed.into_iter().peekable();
        for old in &before.rules {
            while let Some(new) = changed.next_if(|new| new.id < old.id) {
                rules.push(new);
            }
            match changed.peek().map(|new| new.id.cmp(&old.id)) {
                Some(Ordering::Equal) => rules.extend(changed.next()),
                _ if removed.binary_search(&old.id).is_ok() => {}
                _ => rules.push(old.clone()),
            }
        }
        rules.extend(changed);
        RuleSet { generation, own, rules }.expect_hash(expected)
    }

    /// Encodes the change for the worker.
    ///
    /// # Errors
    /// Memory for the encoding can't be allocated.
    pub fn encode(&self) -> Result<Vec<u8>, RuleSetError> {
        Ok(postcard::to_stdvec(self)?)
    }

    /// Decodes the result of [`Self::encode`].
    ///
    /// # Errors
    /// The bytes are not a change.
    pub fn decode(bytes: &[u8]) -> Result<Self, RuleSetError> {
        Ok(postcard::from_bytes(bytes)?)
    }
}
