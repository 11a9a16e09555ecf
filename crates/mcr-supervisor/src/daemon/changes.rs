//! Changes of the config, one at a time: put in force, awaited, answered.

use std::time::Duration;

use mcr_link::log::CONFIG;
use mcr_sys::clock;
use tokio::sync::oneshot;

use super::Daemon;
use crate::request::{Answer, Reply, Request, RequestError, RequestErrorKind};
use crate::requests::{Wish, wish};
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
}

impl InProgress {
    /// A change that nobody waits for.
    pub(super) fn without_answer(what: String) -> Self {
        Self { what, answer: None }
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
        if let Some(result) = self.machine.finish_change(now) {
            self.finished(result);
            return true;
        }
        if self.machine.is_changing() {
            return false;
        }
        let Some(Waiting { request, answer }) = self.waiting.pop_front() else { return false };
        match wish(self.machine.config(), &request) {
            Some(Ok(wish)) => self.begin(wish, answer),
            Some(Err(failure)) => {
                tracing::info!(target: CONFIG, "refused: {failure}");
                reply(answer, Err(failure));
            }
            None => {}
        }
        true
    }

    fn begin(&mut self, wish: Wish, answer: Option<oneshot::Sender<Answer>>) {
        let Wish { config, unacknowledged, reply: answered, what } = wish;
        let Some(config) = config else {
            reply(answer, Ok(answered));
            return;
        };
        if config.settings != self.machine.config().settings {
            tracing::info!(target: CONFIG, "changed settings hold for workers and sockets that are made from now on");
        }
        self.machine.begin_change(config, unacknowledged, clock::monotonic());
        for core in self.machine.missing_cores() {
            tracing::warn!(target: CONFIG, core, "pinning names a core that this process can't use");
        }
        self.in_progress = Some(InProgress { what, answer: answer.map(|answer| (answer, answered)) });
    }

    fn finished(&mut self, result: Result<(), String>) {
        let Some(InProgress { what, answer }) = self.in_progress.take() else { return };
        let result = match result {
            Ok(()) => {
                tracing::info!(target: CONFIG, "{what}");
                Ok(())
            }
            Err(reason) => {
                tracing::error!(target: CONFIG, "undone: {what}: {reason}");
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
                let request = Request::LoadConfig { config: Box::new(config), replace: true, dry_run: false };
                self.queue_change(request, None);
            }
            Err(error) => tracing::error!(target: CONFIG, "reload refused, nothing is changed: {error}"),
        }
    }
}

/// Answers, if anybody is waiting; a client that has gone is no error.
pub(super) fn reply(answer: Option<oneshot::Sender<Answer>>, result: Answer) {
    if let Some(answer) = answer {
        let _ = answer.send(result);
    }
}
