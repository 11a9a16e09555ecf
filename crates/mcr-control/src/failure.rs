//! Why the daemon refuses a request: the errors of `io.mcr.Control`.

use mcr_rules::file::ConfigError;
use serde::{Deserialize, Serialize};

/// The name of an `io.mcr.Control` error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The client's user may not do this.
    PermissionDenied,
    /// The config, or the rule, has errors; [`Failure::errors`] has all of them.
    InvalidConfig,
    /// No rule has this id or name.
    RuleNotFound,
    /// A rule with this input or name is there already.
    RuleExists,
    /// The client speaks another major version of the protocol.
    VersionMismatch,
    /// The change could not be put in force; the running config is as it was before.
    ApplyFailed,
    /// A load waits to be confirmed; nothing else changes meanwhile.
    ConfirmationPending,
    /// No load waits to be confirmed, or not any more.
    NothingToConfirm,
    /// The startup file is unknown, or can't be read or written; the running config is untouched.
    FileFailed,
    /// The daemon has too much to do, or ends; the request may be repeated.
    Unavailable,
    /// The bytes are no request: too long, too deep, too slow, not JSON. The connection is closed.
    BadRequest,
}

impl FailureKind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::PermissionDenied,
        Self::InvalidConfig,
        Self::RuleNotFound,
        Self::RuleExists,
        Self::VersionMismatch,
        Self::ApplyFailed,
        Self::ConfirmationPending,
        Self::NothingToConfirm,
        Self::FileFailed,
        Self::Unavailable,
        Self::BadRequest,
    ];

    /// The error's name, without the interface.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PermissionDenied => "PermissionDenied",
            Self::InvalidConfig => "InvalidConfig",
            Self::RuleNotFound => "RuleNotFound",
            Self::RuleExists => "RuleExists",
            Self::VersionMismatch => "VersionMismatch",
            Self::ApplyFailed => "ApplyFailed",
            Self::ConfirmationPending => "ConfirmationPending",
            Self::NothingToConfirm => "NothingToConfirm",
            Self::FileFailed => "FileFailed",
            Self::Unavailable => "Unavailable",
            Self::BadRequest => "BadRequest",
        }
    }
}

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Which error.
    pub kind: FailureKind,
    /// The cause, for people.
    pub message: String,
    /// What to do next, where that is known.
    pub hint: Option<String>,
    /// For [`FailureKind::InvalidConfig`]: everything that is wrong.
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
