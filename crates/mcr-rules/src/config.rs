//! Everything that an operator configures.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::RuleId;
use crate::name::InterfaceName;
use crate::rule::Rule;
use crate::settings::Settings;

/// A configuration: the running one in memory, or the startup one in its file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Cores for the workers of an interface. Interfaces that are not named get one worker on a core that the planner selects.
    pub pinning: BTreeMap<InterfaceName, Vec<u16>>,
    /// The rules, in the order of the file.
    pub rules: Vec<Rule>,
    /// The settings.
    pub settings: Settings,
}

impl Config {
    /// The rule with this id.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.id() == id)
    }

    /// The rule with this name.
    #[must_use]
    pub fn rule_named(&self, name: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.name.as_ref().is_some_and(|own| own.as_str() == name))
    }
}
