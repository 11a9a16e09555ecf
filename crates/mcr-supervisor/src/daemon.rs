//! The daemon's event loop, on one thread. Every event goes to the core, which is then polled until it has no work.

mod adoption;
mod changes;
mod early_drop;
mod events;
mod explain;
mod fair_share;
mod handlers;
mod health;
mod notices;
mod ports;
mod replacement;
mod save;
mod start;
mod startup;
mod stop;
mod terminal;
mod trace;
mod upgrade;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use mcr_control::reply::AggregationReason;
use mcr_link::log::LogControl;
use mcr_rules::log::{NETWORK, WORKERS};
use mcr_sys::channel::Channel;
use mcr_sys::clock;
use mcr_sys::network::NetworkMonitor;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, sleep, sleep_until};

use self::changes::{InProgress, Waiting};
use self::notices::Notices;
use self::ports::closed;
use self::replacement::confirm;
use self::start::Server;
use self::upgrade::{Upgrade, progress};
use crate::async_fd::Watched;
use crate::core::aggregation::{Aggregated, words};
use crate::core::health::CHECK_EVERY;
use crate::core::machine::{Event, Machine, Output};
use crate::core::notices::{Notice, StateChange, sum_up};
use crate::core::ports::EXAMINE_EVERY;
use crate::core::rates::{Rates, SAMPLE_EVERY};
use crate::core::status;
use crate::event_bus::EventBus;
use crate::executor::{Executor, WorkerEvent};
use crate::options::{DaemonError, DaemonOptions};
use crate::request::Envelope;

pub use self::replacement::take_over;
pub use self::start::run;

/// Interval of full network dumps, in case events were lost (netlink(7)).
const AUDIT_EVERY: Duration = Duration::from_secs(30);
/// Minimum interval of dumps caused by overruns.
const DUMP_PAUSE: Duration = Duration::from_millis(250);
/// Delay of sampling the flows after the counters: with thousands of rules each takes some milliseconds, and requests
/// may be served in between.
const FLOWS_AFTER: Duration = Duration::from_millis(50);
/// The longest time the loop waits.
const IDLE: Duration = Duration::from_secs(3600);
/// More rounds of actions than any state needs; a bug in the core must not hang the loop.
const MAX_ROUNDS: usize = 1_000;

/// The state of the loop.
struct Daemon {
    options: DaemonOptions,
    machine: Machine,
    executor: Executor,
    log: LogControl,
    rates: Rates,
    /// When the flows are sampled next.
    flows_due: Option<Instant>,
    in_progress: Option<InProgress>,
    waiting: VecDeque<Waiting>,
    notices: Notices,
    /// Heavy requests that wait for their share of the loop, and when the next may be handled.
    heavy: VecDeque<Envelope>,
    heavy_not_before: Duration,
    /// When the network is dumped next, and when it was last dumped.
    next_dump: Instant,
    last_dump: Instant,
    /// When the workers' health was last checked.
    last_check: Duration,
    silent: health::Silent,
    explanations: explain::PendingExplanations,
    trace: trace::TraceRings,
    bus: EventBus,
    upgrade: Option<Upgrade>,
    /// This process's uid.
    own_uid: u32,
    terminal: terminal::Terminal,
}

/// Why the loop ends.
enum End {
    /// A signal was received.
    Stop,
    /// A replacement is ready to take over.
    HandOver,
}

/// Event sources of the loop.
struct Sources {
    monitor: AsyncFd<Watched<NetworkMonitor>>,
    worker_events: mpsc::Receiver<WorkerEvent>,
    requests: mpsc::Receiver<Envelope>,
    observed: mpsc::Receiver<explain::Observed>,
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    upgrade: Signal,
}

impl Daemon {
    /// Runs until a signal stops it, or a replacement has taken over. `before` is the channel to the predecessor.
    async fn run(
        self,
        sources: Sources,
        mut server: Server,
        mut before: Option<&Channel>,
    ) -> Result<(), DaemonError> {
        let (mut daemon, mut sources) = (self, sources);
        loop {
            match daemon.serve(&mut sources, &mut server, &mut before).await? {
                End::Stop => break,
                End::HandOver => match daemon.hand_over(sources, &mut server).await? {
                    Some(resumed) => (daemon, sources) = resumed,
                    None => return Ok(()),
                },
            }
        }
        drop(sources.requests);
        daemon.stop(&mut sources.worker_events, server).await;
        Ok(())
    }

    /// Handles events until it has to end.
    async fn serve(
        &mut self,
        sources: &mut Sources,
        server: &mut Server,
        before: &mut Option<&Channel>,
    ) -> Result<End, DaemonError> {
        let service = self.options.service.clone();
        let mut watchdog = tokio::time::interval(service.watchdog_interval().unwrap_or(IDLE));
        let mut sample = tokio::time::interval(SAMPLE_EVERY);
        sample.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut check = tokio::time::interval(CHECK_EVERY);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut examine = tokio::time::interval(EXAMINE_EVERY);
        examine.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut nothing_new = false;
        loop {
            if !std::mem::take(&mut nothing_new) {
                self.settle();
            }
            if !self.machine.is_changing() {
                if server.open() {
                    service.tell("READY=1");
                }
                before.take().into_iter().for_each(confirm);
            }
            if self.may_hand_over() {
                return Ok(End::HandOver);
            }
            let keeper = self.executor.watch_keeper();
            let closed_sockets = self.executor.watch_ports(&self.machine);
            let attacher = self.executor.watch_attacher();
            tokio::select! {
                // Deaths before requests: a client's answer reflects what has happened.
                biased;
                _ = sources.terminate.recv() => return Ok(End::Stop),
                _ = sources.interrupt.recv() => return Ok(End::Stop),
                Some(event) = sources.worker_events.recv() => self.worker_event(event),
                ready = sources.monitor.readable_mut() => {
                    let mut ready = ready.map_err(|source| DaemonError::Runtime { step: "wait for netlink", source })?;
                    let events = ready.get_inner_mut().0.read_events();
                    ready.clear_ready();
                    self.network_events(events);
                }
                () = sleep_until(self.next_dump) => {
                    self.audit(&mut sources.monitor);
                    // Returns memory freed after a burst of requests to the host.
                    mcr_sys::process::release_free_memory();
                }
                _ = sources.hang_up.recv() => self.hung_up(),
                _ = sources.upgrade.recv() => self.begin_upgrade(None, None),
                progress = progress(self.upgrade.as_ref()) => self.upgrade_progress(progress).await,
                () = said(keeper.as_ref()) => self.executor.read_keeper(clock::monotonic()),
                () = closed(closed_sockets.as_ref(), &self.machine) => nothing_new = !self.examine_ports(),
                () = said(attacher.as_ref()) => nothing_new = !self.attacher_spoke(),
                _ = sample.tick() => nothing_new = !self.sample(),
                _ = examine.tick() => nothing_new = !self.examine_ports(),
                () = due(self.flows_due) => {
                    self.sample_flows();
                    nothing_new = true;
                }
                _ = watchdog.tick() => {
                    service.tell("WATCHDOG=1");
                    nothing_new = true;
                }
                _ = check.tick() => {
                    let traced = self.settle_traces();
                    nothing_new = !self.check_health() && !traced;
                }
                () = sleep(self.until_deadline()) => {}
                Some(observed) = sources.observed.recv() => nothing_new = !self.finish_explanation(observed),
                // Clients last: a flood of requests must not starve the loop's other work.
                () = sleep(self.until_heavy()), if !self.heavy.is_empty() => nothing_new = !self.serve_heavy(),
                Some(envelope) = sources.requests.recv() => nothing_new = !self.take_in(envelope),
            }
        }
    }

    fn until_deadline(&self) -> Duration {
        let next = [
            self.machine.next_deadline(),
            self.executor.keeper_deadline(),
            self.executor.attacher_deadline(),
        ];
        let next = next.into_iter().flatten().min();
        next.map_or(IDLE, |at| at.saturating_sub(clock::monotonic()))
    }

    /// Executes the core's actions until there are no more.
    fn settle(&mut self) {
        self.executor.ensure_keeper(self.machine.config().settings.sandbox, clock::monotonic());
        self.ensure_attacher();
        for _ in 0..MAX_ROUNDS {
            let now = clock::monotonic();
            match self.machine.poll(now) {
                Some(Output::Actions(actions)) => {
                    // Before anything is sent to a worker.
                    self.executor.store(&self.machine, &actions);
                    self.executor.prepare(&actions);
                    for action in actions {
                        self.executor.execute(action, &mut self.machine, now);
                    }
                }
                Some(Output::Found { worker, finding }) => health::log_finding(&worker, &finding),
                Some(Output::Changed { result, remark }) => self.finished(result, remark),
                Some(Output::TrialExpired) => self.trial_expired(),
                Some(Output::States(changes)) => self.tell_states(changes),
                Some(Output::Aggregated(changes)) => changes.iter().for_each(log_aggregation),
                None if self.begin_next_change(now) => {}
                None if self.settle_traces() => {}
                None => {
                    // Before a client gets its answer.
                    self.executor.store(&self.machine, &[]);
                    if !self.machine.is_changing() {
                        self.bus.tell(&self.machine, &[]);
                    }
                    return;
                }
            }
        }
        tracing::error!(target: WORKERS, "reconciliation does not converge");
    }

    fn tell_states(&mut self, changes: Vec<StateChange>) {
        let notices = sum_up(changes);
        notices.iter().for_each(log_notice);
        self.bus.tell(&self.machine, &notices);
    }

    /// Samples the counters. Returns whether there may be actions to execute.
    fn sample(&mut self) -> bool {
        self.executor.collect_kernel_drops();
        self.executor.store(&self.machine, &[]);
        self.executor.examine_kernel_engine(&mut self.machine, clock::monotonic());
        self.explanations.hear_reports(self.machine.plan());
        let counts = crate::statistics::counts(&self.machine, &self.executor);
        let now = clock::monotonic();
        self.rates.sample(now, &counts);
        self.flows_due = Some(Instant::now() + FLOWS_AFTER);
        let received = crate::statistics::received(&self.executor);
        let aggregation = self.machine.handle(now, Event::Received(&received));
        self.machine.handle(now, Event::Counted(&counts)) || aggregation
    }

    /// Samples the flows.
    fn sample_flows(&mut self) {
        self.flows_due = None;
        let flows = crate::statistics::flows(&self.executor);
        self.bus.tell_flows(&self.machine, clock::monotonic(), &self.rates, &flows);
    }
}

fn log_aggregation(change: &Aggregated) {
    let Aggregated { interface, on, reason } = change;
    let told = words(interface, *on, *reason);
    match reason {
        AggregationReason::NotPermitted
        | AggregationReason::KernelTooOld
        | AggregationReason::Unsupported => {
            tracing::warn!(target: NETWORK, "{told}; `mcrctl doctor` tells what can be done");
        }
        // Each trial that fails, and those that follow.
        AggregationReason::Trial | AggregationReason::DoesNotPay => {
            tracing::debug!(target: NETWORK, "{told}")
        }
        _ => tracing::info!(target: NETWORK, "{told}"),
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

/// Waits until a time; forever for `None`.
async fn due(at: Option<Instant>) {
    match at {
        None => std::future::pending().await,
        Some(at) => sleep_until(at).await,
    }
}

/// Waits until a channel is readable or closed; forever for `None`.
async fn said(channel: Option<&Arc<AsyncFd<Watched<Channel>>>>) {
    match channel {
        None => std::future::pending().await,
        Some(channel) => {
            // Can't fail while the runtime exists.
            if let Ok(mut ready) = channel.readable().await {
                ready.clear_ready();
            }
        }
    }
}
