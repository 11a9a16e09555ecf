//! The vocabulary of MCR: rules and configurations, and the file they are written in.
#![forbid(unsafe_code)]

mod config;
mod name;
mod rule;

pub use config::{Config, IoChoice, Settings};
pub use name::{InterfaceName, NameError, RuleName};
pub use rule::{Dscp, Input, Output, Rule, RuleId, RuleIdError, Ttl};
