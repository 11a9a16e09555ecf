//! Conditions that an operator should know of: shown by `mcrctl list` and `mcrctl version` while they last.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mcr_control::reply::StatusReply;
use mcr_sys::clock;

use super::Daemon;

/// Texts, by what clears them. Clones share them: a save completes in another thread.
#[derive(Clone, Debug, Default)]
pub(super) struct Notices(Arc<Mutex<Texts>>);

#[derive(Debug, Default)]
struct Texts {
    /// Cleared when the startup file was loaded or written.
    startup: Option<String>,
    /// Likewise.
    reload: Option<String>,
}

impl Notices {
    fn texts(&self) -> std::sync::MutexGuard<'_, Texts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The daemon did not start from the startup file.
    pub(super) fn started_otherwise(&self, text: String) {
        self.texts().startup = Some(text);
    }

    /// The running config differs from the startup file.
    pub(super) fn reload_failed(&self, text: String) {
        self.texts().reload = Some(text);
    }

    /// The startup file is the running config.
    pub(super) fn startup_file_in_force(&self) {
        *self.texts() = Texts::default();
    }

    fn all(&self) -> Vec<String> {
        let texts = self.texts();
        texts.startup.iter().chain(&texts.reload).cloned().collect()
    }
}

impl Daemon {
    pub(super) fn status(&self) -> StatusReply {
        let mut notices = self.notices.all();
        let left = self.machine.trial_deadline().map(|until| seconds_until(until, clock::monotonic()));
        if let Some(left) = left {
            notices.push(format!("the last load returns in {left} s unless `mcrctl confirm` keeps it"));
        }
        StatusReply {
            startup_file: self.options.config.display().to_string(),
            confirm_within_s: left,
            notices,
        }
    }
}

/// Rounded up: while it shows 1, confirming is still possible.
pub(super) fn seconds_until(until: Duration, now: Duration) -> u64 {
    until.saturating_sub(now).as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}
