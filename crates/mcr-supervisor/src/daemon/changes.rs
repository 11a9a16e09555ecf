//! Changes of the config, one at a time: put in force, awaited, answered.

use std::time::Duration;

use mcr_link::log::CONFIG;
use mcr_sys::clock;
use tokio::sync::oneshot;

use super::Daemon;
use super::notices::seconds_until;
use crate::config_change::{Wish, wish};
use crate::request::{Answer, Reply, Request, RequestError, RequestErrorKind};
use crate::startup_file;

/// Changes that may wait for the one under way.
const MAX_WAITING_CHANGES: usize = 64;

/// A change whose turn has not come.
pub(super) struct Waiting {
    pub(super) request: Request,
    /// `None` if nobody waits: a signal asked for it.
    pub(super) answer: Option<oneshot::Sender<Answer>>,
}

/// The change under way.
pub(super) struct InProgress {
    what: String,
    answer: Option<(oneshot::Sender<Answer>, Reply)>,
    /// It puts in force what the startup file says.
    from_startup_file: bool,
}

impl InProgress {
    /// The change that starts the daemon.
    pub(super) fn start(what: String, from_startup_file: bool) -> Self {
        Self { what, answer: None, from_startup_file }
    }
}

impl Daemon {
    /// Takes a change in; it is begun when those before it are done.
    pub(super) fn queue_change(&mut self, request: Request, answer: Option<oneshot::Sender<Answer>>) {
        if self.waiting.len() >= MAX_WAITING_CHANGES {
            let failure = RequestError::new(RequestErrorKind::Unavailable, "too many changes are waiting");
            reply(answer, Err(failure.with_hint("try again in a moment")));
            return;
        }
        self.waiting.push_back(Waiting { request, answer });
    }

    /// Finishes the change under way, or begins the next. Gives whether there may be new actions.
    pub(super) fn go_on_with_changes(&mut self, now: Duration) -> bool {
        let was_undoing = self.machine.is_undoing();
        if let Some(result) = self.machine.finish_change(now) {
            self.finished(result);
            return true;
        }
        if self.machine.is_undoing() != was_undoing {
            return true;
        }
        if self.machine.is_changing() {
            return false;
        }
        if self.machine.trial_deadline().is_some_and(|until| until <= now) {
            tracing::warn!(target: CONFIG, "the last load was not confirmed in time; the config before it returns");
            self.end_trial(None, now);
            return true;
        }
        let Some(Waiting { request, answer }) = self.waiting.pop_front() else { return false };
        if let Request::Confirm { revert } = request {
            self.confirm(revert, answer, now);
            return true;
        }
        let dry_run = matches!(request, Request::LoadConfig { dry_run: true, .. });
        if let Some(until) = self.machine.trial_deadline().filter(|_| !dry_run) {
            self.refuse(answer, confirmation_pending(until));
            return true;
        }
        match wish(self.machine.config(), &request) {
            Some(Ok(wish)) => self.begin(wish, answer),
            Some(Err(failure)) => self.refuse(answer, failure),
            None => {}
        }
        true
    }

    fn refuse(&self, answer: Option<oneshot::Sender<Answer>>, failure: RequestError) {
        if answer.is_some() {
            tracing::info!(target: CONFIG, "refused: {failure}");
            reply(answer, Err(failure));
        } else {
            self.reload_refused(&failure.to_string());
        }
    }

    fn confirm(&mut self, revert: bool, answer: Option<oneshot::Sender<Answer>>, now: Duration) {
        if self.machine.trial_deadline().is_none() {
            let failure =
                RequestError::new(RequestErrorKind::NothingToConfirm, "no load waits to be confirmed");
            let hint = "it may have returned by itself: `mcrctl diff FILE` tells, and the daemon's log";
            reply(answer, Err(failure.with_hint(hint)));
        } else if revert {
            tracing::info!(target: CONFIG, "the last load is taken back");
            self.end_trial(answer, now);
        } else {
            self.machine.confirm();
            tracing::info!(target: CONFIG, "the last load is confirmed");
            reply(answer, Ok(Reply::Done));
        }
    }

    fn end_trial(&mut self, answer: Option<oneshot::Sender<Answer>>, now: Duration) {
        if self.machine.end_trial(now) {
            self.in_progress = Some(InProgress {
                what: "the config before the last load is in force again".to_owned(),
                answer: answer.map(|answer| (answer, Reply::Done)),
                from_startup_file: false,
            });
        }
    }

    fn begin(&mut self, wish: Wish, answer: Option<oneshot::Sender<Answer>>) {
        let Wish { config, unacknowledged, confirm_within, reply: answered, what } = wish;
        let from_startup_file = answer.is_none();
        let Some(config) = config else {
            if from_startup_file {
                tracing::info!(target: CONFIG, "reloaded: nothing has changed");
                self.startup_file_in_force();
            }
            reply(answer, Ok(answered));
            return;
        };
        if config.settings != self.machine.config().settings {
            tracing::info!(target: CONFIG, "changed settings hold for workers and sockets that are made from now on");
        }
        let now = clock::monotonic();
        match confirm_within {
            Some(within) => self.machine.begin_trial(config, within, now),
            None => self.machine.begin_change(config, unacknowledged, now),
        };
        for core in self.machine.missing_cores() {
            tracing::warn!(target: CONFIG, core, "pinning names a core that this process can't use");
        }
        let answer = answer.map(|answer| (answer, answered));
        self.in_progress = Some(InProgress { what, answer, from_startup_file });
    }

    fn startup_file_in_force(&self) {
        self.notices.startup_file_in_force();
        self.keep_last_good();
    }

    fn finished(&mut self, result: Result<(), String>) {
        let Some(InProgress { what, answer, from_startup_file }) = self.in_progress.take() else { return };
        if let Some(remark) = self.machine.take_remark() {
            tracing::warn!(target: CONFIG, "not acknowledged by all workers yet: {remark}");
        }
        let result = match result {
            Ok(()) => {
                tracing::info!(target: CONFIG, "{what}");
                if let Some(until) = self.machine.trial_deadline() {
                    let left = seconds_until(until, clock::monotonic());
                    tracing::warn!(target: CONFIG, "it returns in {left} s unless it is confirmed");
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
                let message = format!("the change is undone: {reason}");
                Err(RequestError::new(RequestErrorKind::ApplyFailed, message)
                    .with_hint("see `mcrctl workers` and the daemon's log"))
            }
        };
        if let Some((answer, answered)) = answer {
            reply(Some(answer), result.map(|()| answered));
        }
    }

    /// Puts the startup file in force, as it is now. Errors leave everything as it runs.
    pub(super) fn reload(&mut self) {
        match startup_file::load(&self.options.config) {
            Ok(config) => {
                let config = Box::new(config);
                let request =
                    Request::LoadConfig { config, replace: true, dry_run: false, confirm_within: None };
                self.queue_change(request, None);
            }
            Err(error) => self.reload_refused(&error.to_string()),
        }
    }

    fn reload_refused(&self, reason: &str) {
        tracing::error!(target: CONFIG, "reload refused, nothing is changed: {reason}");
        let first = reason.lines().next().unwrap_or_default();
        self.notices.reload_failed(format!("the last reload of the startup file was refused: {first}"));
    }
}

/// Why nothing else changes while a load waits to be confirmed.
pub(super) fn confirmation_pending(until: Duration) -> RequestError {
    let left = seconds_until(until, clock::monotonic());
    let message =
        format!("a load waits to be confirmed and returns in {left} s; nothing else changes until then");
    RequestError::new(RequestErrorKind::ConfirmationPending, message)
        .with_hint("`mcrctl confirm` keeps it, `mcrctl confirm --revert` takes it back")
}

/// Answers, if anybody is waiting; a client that has gone is no error.
pub(super) fn reply(answer: Option<oneshot::Sender<Answer>>, result: Answer) {
    if let Some(answer) = answer {
        let _ = answer.send(result);
    }
}
