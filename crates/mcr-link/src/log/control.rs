//! The log of one process: formats tracing events, filters them by facility, and passes the lines to a [`Sink`].

use std::sync::Arc;

use mcr_rules::log::{Facility, Level, LogLevels};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{Registry, fmt, reload};

use super::sink::{Sink, standard_error};

/// The log levels in force and the handle to change them. Dropping it waits a limited time until the lines are written.
#[derive(Debug)]
pub struct LogControl {
    filter: reload::Handle<Targets, Registry>,
    levels: LogLevels,
    json: bool,
    sink: Arc<Sink>,
}

impl LogControl {
    /// Starts logging. Lines are queued until [`Self::spawn_writer`]. In a process that already logs (a test with workers as
    /// threads), the existing log is kept.
    #[must_use]
    pub fn start(levels: &LogLevels, json: bool) -> Self {
        let (filter, handle) = reload::Layer::new(targets(levels));
        let sink = Arc::new(Sink::new(standard_error));
        let writer = Arc::clone(&sink);
        let lines = fmt::layer().with_writer(move || writer.line()).with_ansi(false);
        let lines: Box<dyn Layer<Registry> + Send + Sync> =
            if json { lines.json().with_filter(filter).boxed() } else { lines.with_filter(filter).boxed() };
        let _ = tracing::subscriber::set_global_default(Registry::default().with(lines));
        Self { filter: handle, levels: levels.clone(), json, sink }
    }

    /// Starts the thread that writes the lines; further calls have no effect. Privileges are per thread, so this is called
    /// after privileges are dropped.
    pub fn spawn_writer(&self) {
        self.sink.spawn_writer();
    }

    /// Starts the thread that writes the lines, and waits until it has confined itself by `confine`. Afterwards this process
    /// starts no thread.
    ///
    /// # Errors
    /// Those of `confine`; then there is no such thread.
    pub fn spawn_confined_writer<E: Send + 'static>(
        &self,
        confine: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) -> Result<(), E> {
        self.sink.spawn_writer_after(confine, true)
    }

    /// The log levels in force.
    #[must_use]
    pub fn levels(&self) -> &LogLevels {
        &self.levels
    }

    /// Whether lines are JSON.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Changes the level of one facility, or of all.
    pub fn set(&mut self, facility: Option<Facility>, level: Level) {
        self.levels.set(facility, level);
        self.apply();
    }

    /// Replaces all levels.
    pub fn replace(&mut self, levels: &LogLevels) {
        self.levels = levels.clone();
        self.apply();
    }

    fn apply(&self) {
        // Fails only if another subscriber was installed.
        let _ = self.filter.reload(targets(&self.levels));
    }
}

impl Drop for LogControl {
    fn drop(&mut self) {
        self.sink.flush();
    }
}

/// `LogLevels` and `Targets` have the same syntax; a value that does not parse results in the default level.
fn targets(levels: &LogLevels) -> Targets {
    levels.to_string().parse().unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level as TracingLevel;

    #[test]
    fn facilities_have_their_own_level() {
        let levels: LogLevels = "warn,dataplane=debug,workers=off".parse().unwrap();
        let targets = targets(&levels);
        for (facility, level, shown) in [
            ("dataplane", TracingLevel::DEBUG, true),
            ("dataplane", TracingLevel::TRACE, false),
            ("workers", TracingLevel::ERROR, false),
            ("config", TracingLevel::WARN, true),
            ("config", TracingLevel::INFO, false),
        ] {
            assert_eq!(targets.would_enable(facility, &level), shown, "{facility} {level}");
        }
    }
}
