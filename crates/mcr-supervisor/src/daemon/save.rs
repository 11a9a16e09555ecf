//! `SaveConfig`, and the copy of the last good startup file. Written in another thread: disks can be slow.

use std::path::Path;

use mcr_control::failure::{Failure, FailureKind};
use mcr_control::method::{Handle, SaveConfig, SaveReply};
use mcr_rules::Config;
use mcr_rules::log::CONFIG;

use super::Daemon;
use super::changes::confirmation_pending;
use crate::request::Call;
use crate::startup_file::{self, Saved, StartupError};

impl Handle<SaveConfig> for Daemon {
    fn handle(&mut self, SaveConfig { path }: SaveConfig, call: Call<SaveConfig>) {
        let is_startup_file = path.is_none();
        // The saved config would outlive the trial.
        if is_startup_file && let Some(until) = self.machine.trial_deadline() {
            call.answer(Err(confirmation_pending(until)));
            return;
        }
        let path = path.map_or_else(|| self.options.config.clone(), Into::into);
        let config: Config = self.machine.config().clone();
        let (notices, copy) = (self.notices.clone(), self.options.last_good.clone());
        tokio::task::spawn_blocking(move || {
            let result = startup_file::save(&path, &config);
            if result.is_ok() && is_startup_file {
                notices.startup_file_in_force();
                copy.iter().for_each(|copy| keep_copy(copy, &path, &config));
            }
            call.answer(result.map_err(file_failure).map(saved));
        });
    }
}

impl Daemon {
    /// Saves the config loaded from the startup file for `--last-good`.
    pub(super) fn keep_last_good(&self) {
        let Some(copy) = self.options.last_good.clone() else { return };
        let (path, config) = (self.options.config.clone(), self.machine.config().clone());
        tokio::task::spawn_blocking(move || keep_copy(&copy, &path, &config));
    }
}

fn keep_copy(copy: &Path, startup_file: &Path, config: &Config) {
    match startup_file::keep_copy(copy, startup_file, config) {
        Ok(()) => tracing::debug!(target: CONFIG, file = %copy.display(), "kept as the last good file"),
        Err(error) => {
            let hint = error.hint().unwrap_or_default();
            tracing::error!(target: CONFIG, hint, "the last good file can't be stored: {error}");
        }
    }
}

fn saved(saved: Saved) -> SaveReply {
    let Saved { path, backup } = saved;
    tracing::info!(target: CONFIG, file = %path.display(), "saved");
    if let Some(backup) = &backup {
        tracing::info!(target: CONFIG, file = %backup.display(), "the previous file had comments and is kept as a backup");
    }
    SaveReply { path: path.display().to_string(), backup: backup.map(|backup| backup.display().to_string()) }
}

pub(super) fn file_failure(error: StartupError) -> Failure {
    match error {
        StartupError::Invalid { errors, .. } => Failure::invalid(errors),
        other => {
            let hint = other.hint();
            let failure = Failure::new(FailureKind::FileFailed, other.to_string());
            match hint {
                Some(hint) => failure.with_hint(hint),
                None => failure,
            }
        }
    }
}
