//! Why the daemon refuses a request: the errors of `io.mcr.Control`.

use mcr_rules::file::ConfigError;
use serde::{Deserialize, Serialize};

mcr_rules::named! {
    /// The name of an `io.mcr.Control` error.
    #[derive(Default)]
    pub enum FailureKind {
        /// The client's user may not do this.
        PermissionDenied = "PermissionDenied",
        /// The config, or the rule, has errors; [`Failure::errors`] has all of them.
        InvalidConfig = "InvalidConfig",
        /// No rule has this id or name.
        RuleNotFound = "RuleNotFound",
        /// A rule with this input or name is there already.
        RuleExists = "RuleExists",
        /// The client speaks another major version of the protocol.
        VersionMismatch = "VersionMismatch",
        /// The change could not be put in force; the running config is as it was before.
        ApplyFailed = "ApplyFailed",
        /// A load waits to be confirmed; nothing else changes meanwhile.
        ConfirmationPending = "ConfirmationPending",
        /// No load waits to be confirmed, or not any more.
        NothingToConfirm = "NothingToConfirm",
        /// The startup file is unknown, or can't be read or written; the running config is untouched.
        FileFailed = "FileFailed",
        /// The daemon has too much to do, or ends; the request may be repeated.
        Unavailable = "Unavailable",
        /// The bytes are no request: too long, too deep, too slow, not JSON. The connection is closed.
        #[default]
        BadRequest = "BadRequest",
    }
}

/// A refused request. Its JSON is what an error of `io.mcr.Control` tells, without the kind, which is its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failure {
    /// Which error.
    #[serde(skip)]
    pub kind: FailureKind,
    /// The cause, for people.
    pub message: String,
    /// What to do next, where that is known.
    pub hint: Option<String>,
    /// For [`FailureKind::InvalidConfig`]: everything that is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ConfigError>,
}

impl Failure {
    /// A failure with a cause.
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, errors: Vec::new() }
    }

    /// A config or rule with errors.
    #[must_use]
    pub fn invalid(errors: Vec<ConfigError>) -> Self {
        let message = match errors.as_slice() {
            [] => "the config is not valid".to_owned(),
            [only] => only.to_string(),
            [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
        };
        Self { kind: FailureKind::InvalidConfig, message, hint: None, errors }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
