//! Log lines to standard error, which the supervisor shares with its workers.

use mcr_link::log::{Level, LogLevels};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{Registry, fmt, reload};

/// Changes what is logged.
pub(super) struct LogControl {
    filter: reload::Handle<Targets, Registry>,
}

impl LogControl {
    /// Starts logging. In a process that logs already (tests), nothing changes but the handle is there.
    pub(super) fn start(levels: &LogLevels, json: bool) -> Self {
        let (filter, handle) = reload::Layer::new(targets(levels));
        let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
        let lines: Box<dyn Layer<Registry> + Send + Sync> =
            if json { lines.json().with_filter(filter).boxed() } else { lines.with_filter(filter).boxed() };
        // Another subscriber is in place only where a test runs workers as threads.
        let _ = tracing::subscriber::set_global_default(Registry::default().with(lines));
        Self { filter: handle }
    }

    /// Puts other levels into force.
    pub(super) fn set(&self, levels: &LogLevels) {
        // The filter is gone only if the subscriber is: then nobody logs.
        let _ = self.filter.reload(targets(levels));
    }
}

fn targets(levels: &LogLevels) -> Targets {
    let named = levels.facilities.iter().map(|(facility, level)| (facility.as_str(), filter(*level)));
    Targets::new().with_default(filter(levels.default)).with_targets(named)
}

const fn filter(level: Level) -> LevelFilter {
    match level {
        Level::Off => LevelFilter::OFF,
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    }
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
