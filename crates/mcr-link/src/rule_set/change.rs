//! The difference between a worker's rule set and the next one: among thousands of rules only those that changed are sent
//! and applied. The hash of the whole set verifies the result.

use std::cmp::Ordering;
use std::net::IpAddr;

use mcr_rules::RuleId;
use serde::{Deserialize, Serialize};

use super::{RuleSet, RuleSetError, SharedRule};

/// See the module. It applies only to the set that it starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSetChange {
    /// Generation of the set that it makes.
    pub generation: u64,
    /// Generation of the set that it starts from.
    pub since: u64,
    /// All of this host's addresses.
    pub own_addresses: Vec<IpAddr>,
    /// Removed rules, sorted by id.
    pub gone: Vec<RuleId>,
    /// New and changed rules, sorted by id.
    pub rules: Vec<SharedRule>,
}

impl RuleSetChange {
    /// What is different between two sets, the rules of which are sorted by id.
    #[must_use]
    pub fn between(before: &RuleSet, after: &RuleSet) -> Self {
        let (mut gone, mut rules) = (Vec::new(), Vec::new());
        let mut old = before.rules.iter().peekable();
        for rule in &after.rules {
            while let Some(passed) = old.next_if(|old| old.id < rule.id) {
                gone.push(passed.id);
            }
            if old.next_if(|old| old.id == rule.id) != Some(rule) {
                rules.push(rule.clone());
            }
        }
        gone.extend(old.map(|old| old.id));
        let own_addresses = after.own_addresses.clone();
        Self { generation: after.generation, since: before.generation, own_addresses, gone, rules }
    }

    /// The set after the change.
    ///
    /// # Errors
    /// The set is not the one that the change starts from, or the outcome does not have the announced content hash.
    pub fn apply(self, before: &RuleSet, expected: u64) -> Result<RuleSet, RuleSetError> {
        let Self { generation, since, own_addresses, gone, rules: changed } = self;
        if before.generation != since {
            return Err(RuleSetError::Since { expected: since, found: before.generation });
        }
        let mut rules = Vec::with_capacity(before.rules.len() + changed.len());
        let mut changed = changed.into_iter().peekable();
        for old in &before.rules {
            while let Some(new) = changed.next_if(|new| new.id < old.id) {
                rules.push(new);
            }
            match changed.peek().map(|new| new.id.cmp(&old.id)) {
                Some(Ordering::Equal) => rules.extend(changed.next()),
                _ if gone.binary_search(&old.id).is_ok() => {}
                _ => rules.push(old.clone()),
            }
        }
        rules.extend(changed);
        RuleSet { generation, own_addresses, rules }.expect_hash(expected)
    }

    /// Encodes it for the worker.
    ///
    /// # Errors
    /// Memory for the encoding can't be allocated.
    pub fn encode(&self) -> Result<Vec<u8>, RuleSetError> {
        Ok(postcard::to_stdvec(self)?)
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// The bytes are not a change.
    pub fn decode(bytes: &[u8]) -> Result<Self, RuleSetError> {
        Ok(postcard::from_bytes(bytes)?)
    }
}
