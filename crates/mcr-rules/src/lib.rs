//! Rules and configurations: their types, what is valid, and the configuration file.
//!
//! Everything here is a value or a pure function: no socket, no clock, no logging. The supervisor, the control protocol and the
//! command line all speak in these types.
//!
//! | module | |
//! |---|---|
//! | [`InterfaceName`], [`RuleName`], [`RuleId`] | names that can't be confused or malformed |
//! | [`Input`], [`Output`], [`Rule`] | one rule |
//! | [`Merge`], [`MergeOptions`] | several inputs of one rule |
//! | [`RuleOptions`], [`InputOptions`], [`OutputOptions`], [`Ttl`], [`Dscp`], [`SourceAddress`], [`SourcePort`], [`StreamFormat`] | how it relays |
//! | [`Config`], [`Settings`] | everything that an operator configures |
//! | [`check`](fn@check) | what can be wrong although each value is well-formed |
//! | [`mod@file`] | JSON5 text to [`Config`] and back, each error with its place |
//! | [`change`] | how two configurations differ |
//! | [`limits`] | every bound, with its reason |
//! | [`log`] | log levels and facilities |

#[macro_use]
mod named;

pub mod change;
mod check;
mod config;
pub mod destination;
mod draft;
mod error;
pub mod file;
mod header_fields;
mod id;
pub mod limits;
pub mod log;
#[cfg(test)]
mod manual;
mod media_url;
mod merge;
mod name;
mod options;
mod origin;
mod path;
mod rule;
mod settings;

pub use check::{check, check_addition};
pub use config::Config;
pub use file::{ConfigError, Location};
pub use header_fields::{Dscp, HeaderFieldError, Ttl};
pub use id::{RuleId, RuleIdError};
pub use media_url::socket_address;
pub use merge::{MergeBy, MergeOptions, MergeOrder};
pub use name::{InterfaceName, NameError, RuleName};
pub use options::{InputOptions, OutputOptionError, OutputOptions, RuleOptions, StreamFormat};
pub use origin::{OriginError, SourceAddress, SourcePort};
pub use rule::{Input, Merge, Output, Rule};
pub use settings::{AggregateChoice, EarlyDropChoice, EngineChoice, IoChoice, SandboxChoice, Settings};
