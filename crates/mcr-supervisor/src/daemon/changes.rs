//! Config changes, one at a time: applied, awaited, answered.

use std::time::Duration;

use mcr_control::failure::{Failure, FailureKind};
use mcr_control::method::parameter::Ranged;
use mcr_control::method::{AddRule, Confirm, Handle, LoadConfig, Method, RemoveRule};
use mcr_control::reply::Done;
use mcr_rules::Config;
use mcr_rules::file::ConfigError;
use mcr_rules::log::CONFIG;
use mcr_sys::clock;

use super::Daemon;
use super::notices::seconds_until;
use crate::altname;
use crate::config_change::{Change, ConfigChange, LoadOptions, add, load, remove, sound_by_interface};
use crate::core::machine::Event;
use crate::request::Call;
use crate::startup_file;

/// Number of changes that may wait for the pending one.
const MAX_WAITING_CHANGES: usize = 64;

/// A queued change: begins it, at this time.
pub(super) type Waiting = Box<dyn FnOnce(&mut Daemon, Duration)>;

/// Replies to the client of a change.
type Answer = Box<dyn FnOnce(Result<(), Failure>)>;

/// The pending change.
pub(super) struct InProgress {
    what: String,
    /// Answers the client; `None` for a change without one: by the start, a signal or a deadline.
    answer: Option<Answer>,
    from_startup_file: bool,
}

impl InProgress {
    /// The change at the daemon's start.
    pub(super) fn start(what: String, from_startup_file: bool) -> Self {
        Self { what, answer: None, from_startup_file }
    }
}

impl Handle<AddRule> for Daemon {
    fn handle(&mut self, AddRule { rule }: AddRule, call: Call<AddRule>) {
        match rule.parse() {
            Ok(rule) => self.queue_change(Some(call), false, move |running| add(running, *rule)),
            Err(errors) => call.answer(Err(invalid(errors))),
        }
    }
}

impl Handle<RemoveRule> for Daemon {
    fn handle(&mut self, RemoveRule { rule }: RemoveRule, call: Call<RemoveRule>) {
        self.queue_change(Some(call), false, move |running| remove(running, &rule));
    }
}

impl Handle<LoadConfig> for Daemon {
    fn handle(&mut self, parameters: LoadConfig, call: Call<LoadConfig>) {
        let LoadConfig { config, replace, dry_run, confirm_s } = parameters;
        let options = LoadOptions {
            replace: replace.unwrap_or_default(),
            dry_run: dry_run.unwrap_or_default(),
            confirm_within: confirm_s.map(Ranged::get).map(Duration::from_secs),
        };
        match config.parse() {
            Ok(config) => self.queue_load(Some(call), config, options),
            Err(errors) => call.answer(Err(invalid(errors))),
        }
    }
}

impl Handle<Confirm> for Daemon {
    fn handle(&mut self, Confirm { revert }: Confirm, call: Call<Confirm>) {
        let revert = revert.unwrap_or_default();
        self.queue(Some(call), move |daemon, call, now| daemon.confirm(revert, call, now));
    }
}

impl Daemon {
    fn queue_load(&mut self, call: Option<Call<LoadConfig>>, config: Box<Config>, options: LoadOptions) {
        self.queue_change(call, options.dry_run, move |running| load(running, &config, options));
    }

    /// Queues a change; it is evaluated against the config that results from those before it.
    fn queue_change<M: Method>(
        &mut self,
        call: Option<Call<M>>,
        dry_run: bool,
        work_out: impl FnOnce(&Config) -> Change<M::Reply> + 'static,
    ) {
        self.queue(call, move |daemon, call, _| {
            let change = match daemon.machine.trial_deadline() {
                Some(until) if !dry_run => Err(confirmation_pending(until)),
                _ => work_out(daemon.machine.config()),
            };
            let sound = change.and_then(|change| {
                let config =
                    change.config.as_ref().map_or(Ok(()), |config| daemon.sound_by_interface(config));
                config.map(|()| change)
            });
            match sound {
                Ok(change) => daemon.begin(change, call),
                Err(failure) => daemon.refuse(call, failure),
            }
        });
    }

    /// Whether a config is sound by the altnames that the interfaces have now, too.
    fn sound_by_interface(&self, config: &Config) -> Result<(), Failure> {
        let network = self.machine.network();
        sound_by_interface(self.machine.config(), config, |name| {
            let link = network.link(name.as_str()).filter(|link| link.name != name.as_str())?;
            link.name.parse().ok()
        })
    }

    fn queue<M: Method>(
        &mut self,
        call: Option<Call<M>>,
        begin: impl FnOnce(&mut Self, Option<Call<M>>, Duration) + 'static,
    ) {
        if self.waiting.len() >= MAX_WAITING_CHANGES {
            let failure = Failure::new(FailureKind::Unavailable, "too many changes are waiting");
            answer(call, Err(failure.with_hint("try again in a moment")));
            return;
        }
        self.waiting.push_back(Box::new(move |daemon, now| begin(daemon, call, now)));
    }

    /// Begins the next change, if none is pending. Returns whether there was one.
    pub(super) fn begin_next_change(&mut self, now: Duration) -> bool {
        if self.machine.is_changing() {
            return false;
        }
        let Some(begin) = self.waiting.pop_front() else { return false };
        begin(self, now);
        true
    }

    fn refuse<M: Method>(&self, call: Option<Call<M>>, failure: Failure) {
        if call.is_some() {
            tracing::info!(target: CONFIG, "refused: {failure}");
            answer(call, Err(failure));
        } else {
            self.reload_refused(&failure.to_string());
        }
    }

    fn confirm(&mut self, revert: bool, call: Option<Call<Confirm>>, now: Duration) {
        if self.machine.trial_deadline().is_none() {
            let failure = Failure::new(FailureKind::NothingToConfirm, "no load waits to be confirmed");
            let hint = "it may have been rolled back already: see `mcrctl diff FILE` and the daemon's log";
            answer(call, Err(failure.with_hint(hint)));
        } else if revert {
            tracing::info!(target: CONFIG, "the last load is reverted");
            self.end_trial(call, now);
        } else {
            self.machine.handle(now, Event::Confirm);
            tracing::info!(target: CONFIG, "the last load is confirmed");
            answer(call, Ok(Done {}));
        }
    }

    fn end_trial(&mut self, call: Option<Call<Confirm>>, now: Duration) {
        if self.machine.handle(now, Event::Revert) {
            self.trial_ends(call);
        }
    }

    fn trial_ends(&mut self, call: Option<Call<Confirm>>) {
        self.in_progress = Some(InProgress {
            what: "the config before the last load is in force again".to_owned(),
            answer: call.map(|call| when_done(call, Done {})),
            from_startup_file: false,
        });
    }

    /// The load on trial was not confirmed in time.
    pub(super) fn trial_expired(&mut self) {
        tracing::warn!(target: CONFIG, "the last load was not confirmed in time and is rolled back");
        self.trial_ends(None);
    }

    fn begin<M: Method>(&mut self, change: ConfigChange<M::Reply>, call: Option<Call<M>>) {
        let ConfigChange { config, unacknowledged, confirm_within, reply, what } = change;
        let from_startup_file = call.is_none();
        let Some(config) = config else {
            if from_startup_file {
                tracing::info!(target: CONFIG, "reloaded: no change");
                self.startup_file_in_force();
            }
            answer(call, Ok(reply));
            return;
        };
        let change = Event::Change { config, unacknowledged, confirm_within };
        self.machine.handle(clock::monotonic(), change);
        for core in self.machine.missing_cores() {
            tracing::warn!(target: CONFIG, core, "pinning names a core that this process can't use");
        }
        let answer = call.map(|call| when_done(call, reply));
        self.in_progress = Some(InProgress { what, answer, from_startup_file });
    }

    fn startup_file_in_force(&self) {
        self.notices.startup_file_in_force();
        self.keep_last_good();
    }

    pub(super) fn finished(&mut self, result: Result<(), String>, remark: Option<String>) {
        let Some(InProgress { what, answer, from_startup_file }) = self.in_progress.take() else { return };
        if let Some(remark) = remark {
            tracing::warn!(target: CONFIG, "not acknowledged by all workers yet: {remark}");
        }
        let result = match result {
            Ok(()) => {
                tracing::info!(target: CONFIG, "{what}");
                if let Some(until) = self.machine.trial_deadline() {
                    let left = seconds_until(until, clock::monotonic());
                    tracing::warn!(target: CONFIG, "it is rolled back in {left} s unless it is confirmed");
                }
                if from_startup_file {
                    self.startup_file_in_force();
                }
                Ok(())
            }
            Err(reason) => {
                tracing::error!(target: CONFIG, "undone: {what}: {reason}");
                if from_startup_file {
                    self.reload_refused(&reason);
                }
                let message = format!("the change is rolled back: {reason}");
                Err(Failure::new(FailureKind::ApplyFailed, message)
                    .with_hint("see `mcrctl workers` and the daemon's log"))
            }
        };
        if let Some(answer) = answer {
            answer(result);
        }
    }

    /// SIGHUP: a reload, unless the terminal has gone.
    pub(super) fn hung_up(&mut self) {
        if self.terminal.has_hung_up() {
            tracing::info!(target: CONFIG, "the terminal that mcrd was started in has hung up: nothing changes");
        } else {
            self.reload();
        }
    }

    /// Applies the startup file as it is now. On an error the running config stays unchanged.
    pub(super) fn reload(&mut self) {
        match startup_file::load(&self.options.config) {
            Ok(config) => {
                let options = LoadOptions { replace: true, ..LoadOptions::default() };
                self.queue_load(None, Box::new(config), options);
            }
            Err(error) => self.reload_refused(&error.to_string()),
        }
    }

    fn reload_refused(&self, reason: &str) {
        tracing::error!(target: CONFIG, "reload refused, nothing changed: {reason}");
        let first = reason.lines().next().unwrap_or_default();
        self.notices.reload_failed(format!("the last reload of the startup file was refused: {first}"));
    }
}

/// A refused config or rule, with the interfaces that are meant by altnames.
pub(super) fn invalid(mut errors: Vec<ConfigError>) -> Failure {
    altname::resolve(&mut errors);
    Failure::invalid(errors)
}

/// The failure of other changes while a load awaits confirmation.
pub(super) fn confirmation_pending(until: Duration) -> Failure {
    let left = seconds_until(until, clock::monotonic());
    let message =
        format!("a load waits to be confirmed and returns in {left} s; nothing else changes until then");
    Failure::new(FailureKind::ConfirmationPending, message)
        .with_hint("`mcrctl confirm` keeps it, `mcrctl confirm --revert` takes it back")
}

/// Answers, if a client is waiting.
pub(super) fn answer<M: Method>(call: Option<Call<M>>, result: Result<M::Reply, Failure>) {
    if let Some(call) = call {
        call.answer(result);
    }
}

/// Answers once the change is in force, or with the reason why it is not.
fn when_done<M: Method>(call: Call<M>, reply: M::Reply) -> Box<dyn FnOnce(Result<(), Failure>)> {
    Box::new(move |result| call.answer(result.map(|()| reply)))
}
