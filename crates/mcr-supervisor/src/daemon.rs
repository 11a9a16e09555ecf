//! The daemon's one loop, on one thread. Every event only tells the core something; then the core is asked for actions
//! until it has none.

mod answers;
mod changes;
mod events;
mod explain;
mod health;
mod heavy;
mod notices;
mod start;
mod stop;

use std::collections::VecDeque;
use std::time::Duration;

use mcr_link::log::{NETWORK, WORKERS};
use mcr_sys::clock;
use mcr_sys::network::NetworkMonitor;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, sleep, sleep_until};

use self::changes::{InProgress, Waiting};
use self::notices::Notices;
use self::start::Server;
use crate::core::health::CHECK_EVERY;
use crate::core::machine::Machine;
use crate::core::notices::{Notice, StateChange, sum_up};
use crate::core::rates::{Rates, SAMPLE_EVERY};
use crate::core::status;
use crate::event_bus::EventBus;
use crate::hands::{Hands, WorkerEvent};
use crate::log::LogControl;
use crate::options::{DaemonError, DaemonOptions};
use crate::readiness::Watched;
use crate::request::Envelope;

pub use self::start::run;

/// The network is dumped and compared this often, although its events tell the same (KERNEL_FACTS.md 38).
const AUDIT_EVERY: Duration = Duration::from_secs(30);
/// Overruns lead to dumps no more often than this.
const DUMP_PAUSE: Duration = Duration::from_millis(250);
/// The loop looks after itself at least this often.
const IDLE: Duration = Duration::from_secs(3600);
/// More rounds of actions than any state needs; a fault of the core must not hang the loop.
const MAX_ROUNDS: usize = 1_000;

/// What the loop decides with and acts on.
struct Daemon {
    options: DaemonOptions,
    machine: Machine,
    hands: Hands,
    log: LogControl,
    rates: Rates,
    in_progress: Option<InProgress>,
    waiting: VecDeque<Waiting>,
    notices: Notices,
    /// Requests that wait for their share of the loop, and when the next may have it.
    heavy: VecDeque<Envelope>,
    heavy_not_before: Duration,
    /// When the network is dumped next, and when that was done last.
    next_dump: Instant,
    last_dump: Instant,
    /// When the workers' health was looked at last.
    last_check: Duration,
    silent: health::Silent,
    desk: explain::Desk,
    bus: EventBus,
}

/// What the loop waits for.
struct Sources {
    monitor: AsyncFd<Watched<NetworkMonitor>>,
    news: mpsc::Receiver<WorkerEvent>,
    requests: mpsc::Receiver<Envelope>,
    observed: mpsc::Receiver<explain::Observed>,
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Daemon {
    /// Runs until a signal says stop.
    async fn run(mut self, mut sources: Sources, mut server: Server) -> Result<(), DaemonError> {
        let mut sample = tokio::time::interval(SAMPLE_EVERY);
        sample.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut check = tokio::time::interval(CHECK_EVERY);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut nothing_new = false;
        loop {
            if !std::mem::take(&mut nothing_new) {
                self.settle();
            }
            if !self.machine.is_changing() {
                server.open();
            }
            tokio::select! {
                // Deaths before requests: a client that asks sees what has happened.
                biased;
                _ = sources.terminate.recv() => break,
                _ = sources.interrupt.recv() => break,
                Some(event) = sources.news.recv() => self.worker_event(event),
                ready = sources.monitor.readable_mut() => {
                    let mut ready = ready.map_err(|source| DaemonError::Runtime { step: "wait for netlink", source })?;
                    let events = ready.get_inner_mut().0.read_events();
                    ready.clear_ready();
                    self.network_events(events);
                }
                () = sleep_until(self.next_dump) => self.audit(&mut sources.monitor),
                _ = sources.hang_up.recv() => self.reload(),
                _ = sample.tick() => nothing_new = !self.sample(),
                _ = check.tick() => nothing_new = !self.check_health(),
                () = sleep(self.until_deadline()) => {}
                Some(observed) = sources.observed.recv() => nothing_new = !self.finish_explanation(observed),
                // Clients last: a flood of requests must not keep the loop from its own duties.
                () = sleep(self.until_heavy()), if !self.heavy.is_empty() => nothing_new = !self.serve_heavy(),
                Some(envelope) = sources.requests.recv() => nothing_new = !self.take_in(envelope),
            }
        }
        drop(sources.requests);
        self.stop(&mut sources.news, server).await;
        Ok(())
    }

    fn until_deadline(&self) -> Duration {
        self.machine.next_deadline().map_or(IDLE, |at| at.saturating_sub(clock::monotonic()))
    }

    /// Runs the core's actions until there are none, and what follows from that.
    fn settle(&mut self) {
        for _ in 0..MAX_ROUNDS {
            self.hands.terms.settings = self.machine.config().settings.clone();
            let now = clock::monotonic();
            let actions = self.machine.actions(now);
            if actions.is_empty() && !self.go_on_with_changes(now) {
                // What is said while a change is under way would be half the truth.
                if !self.machine.is_changing() {
                    self.log_states();
                }
                return;
            }
            for action in actions {
                self.hands.execute(action, &mut self.machine, now);
            }
        }
        tracing::error!(target: WORKERS, "the reconciliation does not come to rest");
    }

    fn log_states(&mut self) {
        let notices = sum_up(self.machine.state_changes());
        notices.iter().for_each(log_notice);
        self.bus.tell(&self.machine, &notices);
    }

    /// Samples the counters. Gives whether there is something to tell.
    fn sample(&mut self) -> bool {
        self.hands.collect_kernel_drops();
        let counts = crate::statistics::counts(&self.machine, &self.hands);
        let now = clock::monotonic();
        self.rates.sample(now, &counts);
        self.bus.tell_flows(&self.machine, now, &counts);
        self.machine.sample_rate_limits(now, &counts)
    }
}

fn log_notice(notice: &Notice) {
    let (state, reason) = match notice {
        Notice::One(StateChange { state, reason, .. }) | Notice::Many { state, reason, .. } => {
            (state, reason)
        }
    };
    let because = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let what = match notice {
        Notice::One(StateChange { output: None, .. }) => format!("rule is {}{because}", state.name()),
        Notice::One(StateChange { output: Some(output), .. }) => {
            format!("output {output} is {}{because}", state.name())
        }
        Notice::Many { outputs: false, count, .. } => format!("{count} rules are {}{because}", state.name()),
        Notice::Many { outputs: true, count, .. } => format!("{count} outputs are {}{because}", state.name()),
    };
    let rule = match notice {
        Notice::One(change) => Some(tracing::field::display(change.id)),
        Notice::Many { .. } => None,
    };
    match reason {
        None => tracing::info!(target: NETWORK, rule, "{what}"),
        Some(reason) if status::is_passing(reason) => tracing::debug!(target: NETWORK, rule, "{what}"),
        Some(_) => tracing::warn!(target: NETWORK, rule, "{what}"),
    }
}
