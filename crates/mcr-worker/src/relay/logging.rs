//! Log lines to standard error, which workers inherit from the supervisor.

use mcr_rules::log::LogLevels;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{Registry, fmt, reload};

/// Changes what is logged.
pub(super) struct LogControl {
    filter: reload::Handle<Targets, Registry>,
}

impl LogControl {
    /// Starts logging. In a process that logs already (tests), only the handle is made.
    pub(super) fn start(levels: &LogLevels, json: bool) -> Self {
        let (filter, handle) = reload::Layer::new(targets(levels));
        let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
        let lines: Box<dyn Layer<Registry> + Send + Sync> =
            if json { lines.json().with_filter(filter).boxed() } else { lines.with_filter(filter).boxed() };
        // There is another subscriber only if a test runs workers as threads.
        let _ = tracing::subscriber::set_global_default(Registry::default().with(lines));
        Self { filter: handle }
    }

    /// Changes the levels.
    pub(super) fn set(&self, levels: &LogLevels) {
        // Fails only if the subscriber is gone.
        let _ = self.filter.reload(targets(levels));
    }
}

/// Both sides write levels and targets alike; what can't be read would leave the default level.
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
