//! Replacement by another binary; if it fails, this supervisor continues (see `handover`).

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mcr_control::failure::{Failure, FailureKind};
use mcr_control::method::{self, Handle, UpgradeReply};
use mcr_link::message::{self, Incoming};
use mcr_rules::log::CONTROL;
use mcr_sys::channel::Channel;
use mcr_sys::process::{PidFd, Signal};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::adoption::Adoption;
use super::changes::answer;
use super::start::{Server, prepare};
use super::{Daemon, Sources};
use crate::async_fd::{Watched, watched};
use crate::handover::{CONFIRM_DEADLINE, FromReplacement, READY_DEADLINE, ToReplacement};
use crate::options::{DaemonError, DaemonOptions};
use crate::request::Call;

/// Time for pending answers to be written before connections end.
const LAST_ANSWERS: std::time::Duration = std::time::Duration::from_millis(300);

/// A running replacement.
pub(super) struct Upgrade {
    program: PathBuf,
    channel: AsyncFd<Watched<Channel>>,
    process: AsyncFd<Watched<PidFd>>,
    deadline: Instant,
    /// Its version, once it is ready.
    ready: Option<String>,
    call: Option<Call<method::Upgrade>>,
}

pub(super) enum Progress {
    Message(FromReplacement),
    Failed(String),
}

impl Upgrade {
    fn start(program: &Path, options: &DaemonOptions) -> Result<Self, String> {
        let (ours, theirs) = Channel::pair().map_err(|error| error.to_string())?;
        let mut child = Command::new(program)
            .arg("take-over")
            .args(&options.arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("{} can't be started: {error}", program.display()))?;
        let watch = || -> Result<_, String> {
            let process = PidFd::open(child.id()).map_err(|error| error.to_string())?;
            let process = watched(process).map_err(|error| error.to_string())?;
            Ok((process, watched(ours).map_err(|error| error.to_string())?))
        };
        let (process, channel) = watch().inspect_err(|_| {
            let _ = child.kill().and_then(|()| child.wait());
        })?;
        let deadline = Instant::now() + READY_DEADLINE;
        Ok(Self { program: program.to_owned(), channel, process, deadline, ready: None, call: None })
    }

    /// Waits for the next message, the exit, or the deadline.
    pub(super) async fn progress(&self) -> Progress {
        loop {
            match message::receive::<FromReplacement>(&self.channel.get_ref().0) {
                Ok(Incoming::Message(FromReplacement::Failed { reason }, _)) => {
                    return Progress::Failed(reason);
                }
                Ok(Incoming::Message(message, _)) => return Progress::Message(message),
                Ok(Incoming::WouldBlock) => {}
                Ok(Incoming::Closed) => return self.how_it_ended().await,
                Err(error) => return Progress::Failed(format!("protocol error: {error}")),
            }
            tokio::select! {
                biased;
                ready = self.channel.readable() => if let Ok(mut ready) = ready { ready.clear_ready() },
                // Its last messages are read first, in the next iteration.
                _ = self.process.readable() => if self.is_silent() { return self.how_it_ended().await },
                () = sleep_until(self.deadline) => {
                    let done = if self.ready.is_some() { "did not confirm" } else { "was not ready" };
                    return Progress::Failed(format!("it {done} in time"));
                }
            }
        }
    }

    fn is_silent(&self) -> bool {
        mcr_sys::poll::readable_among(&[self.channel.get_ref().0.as_fd()], Some(std::time::Duration::ZERO))
            .is_ok_and(|ready| !ready.contains(&true))
            || self.process.get_ref().0.has_ended().unwrap_or(true)
    }

    async fn how_it_ended(&self) -> Progress {
        if timeout_at(self.deadline, self.process.readable()).await.is_err() {
            return Progress::Failed("it hung up".to_owned());
        }
        Progress::Failed(match self.process.get_ref().0.reap() {
            Ok(Some(status)) => format!("it ended with {status}"),
            _ => "it ended".to_owned(),
        })
    }

    /// Kills it: this supervisor stops.
    pub(super) async fn abandon(self) {
        self.kill().await;
        failed(self.call, "mcrd is stopping");
    }

    /// Kills it, and waits for its exit.
    async fn kill(&self) {
        let _ = self.process.get_ref().0.kill(Signal::KILL);
        let _ = timeout_at(Instant::now() + READY_DEADLINE, self.process.readable()).await;
        let _ = self.process.get_ref().0.reap();
    }
}

/// Waits forever if there is no upgrade.
pub(super) async fn progress(upgrade: Option<&Upgrade>) -> Progress {
    match upgrade {
        Some(upgrade) => upgrade.progress().await,
        None => std::future::pending().await,
    }
}

/// The path this program was started from; if the file was replaced, that is the replacement.
fn own_program() -> std::io::Result<PathBuf> {
    let path = std::fs::read_link("/proc/self/exe")?;
    // The kernel marks a replaced or removed file (proc_pid_exe(5)).
    let replaced = path.to_str().and_then(|path| path.strip_suffix(" (deleted)"));
    Ok(replaced.map_or_else(|| path.clone(), PathBuf::from))
}

impl Handle<method::Upgrade> for Daemon {
    fn handle(&mut self, method::Upgrade { binary }: method::Upgrade, call: Call<method::Upgrade>) {
        let peer = call.peer();
        tracing::info!(target: CONTROL, uid = peer.uid, pid = peer.pid, "upgrade requested");
        self.begin_upgrade(binary.map(Into::into), Some(call));
    }
}

impl Daemon {
    /// Starts a replacement; `call` is `None` for a signal.
    pub(super) fn begin_upgrade(&mut self, binary: Option<PathBuf>, call: Option<Call<method::Upgrade>>) {
        if self.upgrade.is_some() {
            let failure = Failure::new(FailureKind::Unavailable, "an upgrade is under way");
            return answer(call, Err(failure.with_hint("try again when it is done")));
        }
        let program = binary.map_or_else(own_program, Ok).map_err(|error| error.to_string());
        match program.and_then(|program| Upgrade::start(&program, &self.options)) {
            Ok(upgrade) => {
                tracing::info!(target: CONTROL, program = %upgrade.program.display(), "upgrade: the replacement is started");
                self.upgrade = Some(Upgrade { call, ..upgrade });
            }
            Err(reason) => failed(call, &reason),
        }
    }

    /// Handles a message or the exit of the replacement while this supervisor serves.
    pub(super) async fn upgrade_progress(&mut self, progress: Progress) {
        let reason = match progress {
            Progress::Message(FromReplacement::Ready { version }) => {
                tracing::info!(target: CONTROL, version, "upgrade: the replacement is ready");
                if let Some(upgrade) = &mut self.upgrade {
                    upgrade.ready = Some(version);
                }
                return;
            }
            Progress::Message(other) => format!("it sent {other:?} out of order"),
            Progress::Failed(reason) => reason,
        };
        if let Some(upgrade) = self.upgrade.take() {
            upgrade.kill().await;
            failed(upgrade.call, &reason);
        }
    }

    /// Whether the handover can start.
    pub(super) fn may_hand_over(&self) -> bool {
        let ready = self.upgrade.as_ref().is_some_and(|upgrade| upgrade.ready.is_some());
        ready && !self.machine.is_changing() && self.waiting.is_empty()
    }

    /// Hands everything over to the replacement. `Ok(None)`: done, and this process must exit without side effects.
    /// Otherwise this supervisor continues.
    pub(super) async fn hand_over(
        mut self,
        mut sources: Sources,
        server: &mut Server,
    ) -> Result<Option<(Self, Sources)>, DaemonError> {
        let Some(mut upgrade) = self.upgrade.take() else { return Ok(Some((self, sources))) };
        server.gate.pause(true);
        // Messages received so far are handled; later ones are left to the replacement, or to this supervisor if it
        // resumes.
        self.executor.stop_listening();
        while let Ok(event) = sources.worker_events.try_recv() {
            self.worker_event(event);
        }
        self.executor.store(&self.machine, &[]);
        upgrade.deadline = Instant::now() + CONFIRM_DEADLINE;
        let progress = match server.gate.descriptors().map_err(|error| error.to_string()).and_then(|fds| {
            let fds = fds.each_ref().map(AsFd::as_fd);
            message::send(&upgrade.channel.get_ref().0, &ToReplacement::HandOver, &fds)
                .map_err(|error| error.to_string())
        }) {
            Ok(()) => upgrade.progress().await,
            Err(reason) => Progress::Failed(reason),
        };
        let reason = match progress {
            Progress::Message(FromReplacement::Confirmed) => {
                self.step_down(upgrade, sources, server).await;
                return Ok(None);
            }
            Progress::Message(other) => format!("it sent {other:?} out of order"),
            Progress::Failed(reason) => reason,
        };
        upgrade.kill().await;
        let resumed = self.resume(sources)?;
        server.gate.pause(false);
        failed(upgrade.call, &reason);
        Ok(Some(resumed))
    }

    async fn step_down(mut self, upgrade: Upgrade, mut sources: Sources, server: &mut Server) {
        let pid = upgrade.process.get_ref().0.pid().unwrap_or_default();
        let version = upgrade.ready.unwrap_or_default();
        tracing::info!(target: CONTROL, pid, version, "upgrade: done, the replacement is in charge");
        self.options.service.tell(&format!("MAINPID={pid}"));
        server.gate.leave_file();
        answer(upgrade.call, Ok(UpgradeReply { version, pid }));
        let mut unanswered = std::mem::take(&mut self.heavy);
        unanswered.extend(std::iter::from_fn(|| sources.requests.try_recv().ok()));
        for envelope in unanswered {
            let failure = Failure::new(FailureKind::Unavailable, "another mcrd has taken over");
            envelope.pending.refuse(failure.with_hint("try again: it serves the same socket"));
        }
        sleep(LAST_ANSWERS).await;
    }

    /// Adopts again from the keeper what this supervisor, or a failed replacement, left there.
    fn resume(self, sources: Sources) -> Result<(Self, Sources), DaemonError> {
        let Self { options, log, executor, waiting, heavy, bus, own_uid, .. } = self;
        let Sources { requests, terminate, interrupt, hang_up, upgrade, .. } = sources;
        // Closes its descriptors only: the keeper has them all.
        drop(executor);
        let adoption = Adoption::look_for(&options.socket, own_uid);
        let (mut daemon, prepared) = prepare(options, log, requests, adoption, None)?;
        (daemon.waiting, daemon.heavy, daemon.bus) = (waiting, heavy, bus);
        Ok((daemon, Sources { terminate, interrupt, hang_up, upgrade, ..prepared }))
    }
}

fn failed(call: Option<Call<method::Upgrade>>, reason: &str) {
    tracing::error!(target: CONTROL, "upgrade: failed, this mcrd continues: {reason}");
    let message = format!("the upgrade failed and the running mcrd continues: {reason}");
    let failure = Failure::new(FailureKind::ApplyFailed, message);
    answer(call, Err(failure.with_hint("see mcrd's log; the next attempt may succeed")));
}
