//! The difference between two configurations: what `mcrctl diff` shows and what `load` changes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::id::RuleId;
use crate::rule::Rule;

/// The difference between two configurations. Rules are matched by their id, that is by their input: a rule that listens
/// to something else is another rule. Their order does not count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigDiff {
    /// Rules that only the new configuration has, in its order.
    pub added: Vec<Rule>,
    /// Rules that only the old configuration has, in its order.
    pub removed: Vec<Rule>,
    /// Rules of both with another name or other outputs: old and new, in the order of the new one.
    pub changed: Vec<(Rule, Rule)>,
    /// Whether a setting differs.
    pub settings_changed: bool,
    /// Whether the pinning of an interface differs.
    pub pinning_changed: bool,
}

impl ConfigDiff {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What changes from `old` to `new`. Both are expected to be valid: their inputs are unique.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> ConfigDiff {
    let mut remaining: BTreeMap<RuleId, &Rule> = old.rules.iter().map(|rule| (rule.id(), rule)).collect();
    let mut result = ConfigDiff {
        settings_changed: old.settings != new.settings,
        pinning_changed: old.pinning != new.pinning,
        ..ConfigDiff::default()
    };
    for rule in &new.rules {
        match remaining.remove(&rule.id()) {
            None => result.added.push(rule.clone()),
            Some(before) if before != rule => result.changed.push((before.clone(), rule.clone())),
            Some(_) => {}
        }
    }
    result.removed.extend(old.rules.iter().filter(|rule| remaining.contains_key(&rule.id())).cloned());
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::parse;

    fn config(rules: &str) -> Config {
        parse(&format!("{{ rules: [{rules}] }}")).unwrap()
    }

    const A: &str = "{ input: { interface: 'eth0', group: '239.1.1.1', port: 1 }, outputs: [{ interface: 'eth1', group: '239.2.2.2', port: 1 }] },";
    const B: &str = "{ input: { interface: 'eth0', group: '239.1.1.1', port: 2 }, outputs: [{ interface: 'eth1', group: '239.2.2.2', port: 2 }] },";
    const B_OTHER: &str = "{ name: 'b', input: { interface: 'eth0', group: '239.1.1.1', port: 2 }, outputs: [{ interface: 'eth1', group: '239.2.2.2', port: 3 }] },";

    #[test]
    fn rules_are_matched_by_their_input() {
        let old = config(&format!("{A}{B}"));
        let new = config(B_OTHER);
        let there = diff(&old, &new);
        assert_eq!(there.removed, [old.rules[0].clone()]);
        assert_eq!(there.changed, [(old.rules[1].clone(), new.rules[0].clone())]);
        assert!(
            there.added.is_empty() && !there.settings_changed && !there.pinning_changed && !there.is_empty()
        );
        let back = diff(&new, &old);
        assert_eq!(back.added, [old.rules[0].clone()]);
        assert_eq!(back.changed, [(new.rules[0].clone(), old.rules[1].clone())]);
    }

    #[test]
    fn order_is_no_difference_and_settings_are() {
        assert!(diff(&config(&format!("{A}{B}")), &config(&format!("{B}{A}"))).is_empty());
        let mut other = config(A);
        other.settings.worker_grace_s = 3;
        other.pinning.insert("eth0".parse().unwrap(), vec![1]);
        let found = diff(&config(A), &other);
        assert!(found.settings_changed && found.pinning_changed && found.added.is_empty());
    }
}
