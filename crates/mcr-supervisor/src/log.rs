//! Log lines to standard error, with levels by facility that change while everything runs.

use mcr_rules::log::{Facility, Level, LogLevels};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{Registry, fmt, reload};

/// The log's levels and the way to change them.
#[derive(Debug)]
pub(crate) struct LogControl {
    filter: reload::Handle<Targets, Registry>,
    levels: LogLevels,
    json: bool,
}

impl LogControl {
    /// Starts logging. In a process that logs already (tests), that goes on as it is.
    #[must_use]
    pub(crate) fn start(levels: &LogLevels, json: bool) -> Self {
        let (filter, handle) = reload::Layer::new(targets(levels));
        let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
        let lines: Box<dyn Layer<Registry> + Send + Sync> =
            if json { lines.json().with_filter(filter).boxed() } else { lines.with_filter(filter).boxed() };
        let _ = tracing::subscriber::set_global_default(Registry::default().with(lines));
        Self { filter: handle, levels: levels.clone(), json }
    }

    /// The levels in force.
    #[must_use]
    pub(crate) fn levels(&self) -> &LogLevels {
        &self.levels
    }

    /// Whether lines are JSON.
    #[must_use]
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Changes the level of one facility, or of all.
    pub(crate) fn set(&mut self, facility: Option<Facility>, level: Level) {
        self.levels.set(facility, level);
        // The filter is gone only if the subscriber is: then nobody logs.
        let _ = self.filter.reload(targets(&self.levels));
    }
}

/// Both sides write levels and targets alike; what can't be read would leave the default level.
fn targets(levels: &LogLevels) -> Targets {
    levels.to_string().parse().unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO))
}
