//! The initial config: from the startup file, or its last good copy.

use std::path::Path;

use mcr_rules::Config;
use mcr_rules::log::CONFIG;

use crate::options::{DaemonError, DaemonOptions};
use crate::startup_file::{self, StartupError};

/// The initial config, and its origin.
pub(super) struct Startup {
    pub(super) config: Config,
    pub(super) from_file: bool,
    pub(super) notice: Option<String>,
}

impl Startup {
    /// The config of an earlier supervisor is kept.
    pub(super) fn goes_on(config: Config) -> Self {
        Self { config, from_file: false, notice: None }
    }
}

pub(super) fn startup_config(options: &DaemonOptions) -> Result<Startup, DaemonError> {
    match startup_file::load(&options.config) {
        Ok(config) => {
            tracing::info!(target: CONFIG, file = %options.config.display(), "startup file read");
            Ok(Startup { config, from_file: true, notice: None })
        }
        Err(StartupError::Missing(path)) if !options.config_required => {
            tracing::info!(target: CONFIG, file = %path.display(), "no startup file: starting without rules");
            Ok(Startup { config: Config::default(), from_file: false, notice: None })
        }
        Err(error) => match &options.last_good {
            Some(copy) => last_good(copy, error),
            None => Err(error.into()),
        },
    }
}

/// Warns that the running config is not the startup file.
fn last_good(copy: &Path, startup: StartupError) -> Result<Startup, DaemonError> {
    tracing::error!(target: CONFIG, "the startup file can't be used: {startup}");
    match startup_file::load(copy) {
        Ok(config) => {
            let first = startup.to_string().lines().next().unwrap_or_default().to_owned();
            let notice = format!(
                "started from the last good file {}, since the startup file can't be used: {first}",
                copy.display()
            );
            tracing::error!(target: CONFIG, "{notice}");
            Ok(Startup { config, from_file: false, notice: Some(notice) })
        }
        Err(copy) => Err(DaemonError::LastGood { startup, copy }),
    }
}
