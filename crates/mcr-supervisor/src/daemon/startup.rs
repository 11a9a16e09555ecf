//! The config to start with: the startup file's, or the last good copy of it.

use std::path::Path;

use mcr_rules::Config;
use mcr_rules::log::CONFIG;

use crate::options::{DaemonError, DaemonOptions};
use crate::startup_file::{self, StartupError};

/// The config to start with, and where it is from.
pub(super) struct Startup {
    pub(super) config: Config,
    pub(super) from_file: bool,
    pub(super) notice: Option<String>,
}

impl Startup {
    /// What ran before goes on.
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

/// Says loudly that the startup file is not what runs.
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
