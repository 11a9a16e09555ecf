//! Worker processes: starting, messages, watching through pidfd and channel, reaping.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mcr_link::message::{self, FromWorker, Incoming, LINK_VERSION, ToWorker, WorkerStart};
use mcr_rules::log::WORKERS;
use mcr_sys::channel::Channel;
use mcr_sys::process::{PidFd, Signal};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::Executor;
use crate::async_fd::{Watched, watched};
use crate::core::actual::Death;
use crate::core::machine::Outcome;
use crate::core::plan::{PlannedInterface, WorkerId, WorkerSettings};

/// A worker whose channel is closed exits within this time, or is killed.
const END_DEADLINE: Duration = Duration::from_secs(1);

/// An event of a worker process.
#[derive(Debug)]
pub(crate) struct WorkerEvent {
    pub(crate) worker: WorkerId,
    /// Which of its processes; events of an earlier one are outdated.
    instance: u64,
    pub(crate) kind: WorkerEventKind,
}

/// What happened to a worker process.
#[derive(Debug)]
pub(crate) enum WorkerEventKind {
    Message(FromWorker),
    /// An invalid message, or a broken channel.
    ProtocolError(String),
    Ended,
}

/// A worker process that was not reaped yet.
#[derive(Debug)]
pub(super) struct WorkerProcess {
    instance: u64,
    pidfd: Arc<AsyncFd<Watched<PidFd>>>,
    /// `None` if it can't be reached, and only its exit is awaited.
    channel: Option<Arc<AsyncFd<Watched<Channel>>>>,
    /// The program it runs.
    pub(super) program: String,
    listener: AbortHandle,
}

impl WorkerProcess {
    /// Returns its channel and pidfd; `None` if it can't be reached.
    pub(super) fn descriptors(&self) -> Option<[BorrowedFd<'_>; 2]> {
        let channel = self.channel.as_ref()?;
        Some([channel.get_ref().0.as_fd(), self.pidfd.get_ref().0.as_fd()])
    }
}

impl Executor {
    pub(super) fn spawn<'a>(&mut self, id: &'a WorkerId, interface: &PlannedInterface) -> Outcome<'a> {
        let started = self.start_process(id, interface);
        match &started {
            Ok(pid) => tracing::info!(target: WORKERS, worker = %id, pid, "started"),
            Err(reason) => tracing::error!(target: WORKERS, worker = %id, "can't be started: {reason}"),
        }
        Outcome::Spawned(id, started.map(|pid| (pid, interface.settings)))
    }

    fn start_process(&mut self, id: &WorkerId, interface: &PlannedInterface) -> Result<u32, String> {
        self.ensure_send_lock(id, interface)?;
        let slot = self.slots.get(id).ok_or("it has no capture socket")?;
        let start = self.worker_start(id, interface);
        let (ours, theirs) = Channel::pair().map_err(|error| error.to_string())?;
        let fds = slot.descriptors();
        // Before it runs: the message waits in the channel.
        message::send(&ours, &ToWorker::Start(start), &fds).map_err(|error| error.to_string())?;
        let mut child =
            worker_command(id, theirs).spawn().map_err(|error| format!("start a process: {error}"))?;
        let program = self.program.clone();
        let process = PidFd::open(child.id())
            .map_err(|error| error.to_string())
            .and_then(|pidfd| self.watch(id, pidfd, Some(ours), program))
            .inspect_err(|_| {
                // A process that can't be watched must not run.
                let _ = child.kill().and_then(|()| child.wait());
            })?;
        self.processes.insert(id.clone(), process);
        Ok(child.id())
    }

    /// Begins to watch a process and to receive its messages.
    pub(super) fn watch(
        &mut self,
        id: &WorkerId,
        pidfd: PidFd,
        channel: Option<Channel>,
        program: String,
    ) -> Result<WorkerProcess, String> {
        let pidfd = Arc::new(watched(pidfd).map_err(|error| format!("watch its pidfd: {error}"))?);
        let channel =
            channel.map(watched).transpose().map_err(|error| format!("watch its channel: {error}"))?;
        let channel = channel.map(Arc::new);
        self.instances += 1;
        let instance = self.instances;
        let listening =
            listen(id.clone(), instance, channel.clone(), Arc::clone(&pidfd), self.events.clone());
        let listener = tokio::spawn(listening).abort_handle();
        Ok(WorkerProcess { instance, pidfd, channel, program, listener })
    }

    fn worker_start(&self, id: &WorkerId, interface: &PlannedInterface) -> WorkerStart {
        let WorkerSettings { io, ring_buffers, latency_budget_us, sandbox } = interface.settings;
        WorkerStart {
            version: LINK_VERSION,
            interface: id.interface.to_string(),
            core: id.core,
            link: interface.link,
            linked: interface.linked.clone(),
            mtu: interface.mtu,
            io,
            ring_buffers,
            latency_budget_us,
            sandbox,
            log_levels: self.worker_log.levels.clone(),
            log_json: self.worker_log.json,
        }
    }

    /// Sends a message. A worker that can't take one is stuck or dead: it is killed, and its death is handled as
    /// usual.
    pub(crate) fn tell(&mut self, id: &WorkerId, what: &ToWorker, fds: &[BorrowedFd<'_>]) -> bool {
        let Some(channel) = self.processes.get(id).and_then(|process| process.channel.as_ref()) else {
            return false;
        };
        match message::send(&channel.get_ref().0, what, fds) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(target: WORKERS, worker = %id, %error, "does not take messages; killed");
                self.signal(id, Signal::KILL);
                false
            }
        }
    }

    /// Sends a message to every worker.
    pub(crate) fn tell_all(&mut self, what: &ToWorker) {
        let all: Vec<WorkerId> = self.processes.keys().cloned().collect();
        for id in all {
            self.tell(&id, what, &[]);
        }
    }

    pub(super) fn stop(&mut self, id: &WorkerId) {
        tracing::debug!(target: WORKERS, worker = %id, "asked to end");
        self.tell(id, &ToWorker::Stop, &[]);
    }

    /// Sends a signal to a worker's process, if it has one.
    pub(crate) fn signal(&self, id: &WorkerId, signal: Signal) {
        if let Some(process) = self.processes.get(id) {
            // It may have exited meanwhile; its pidfd reports that.
            let _ = process.pidfd.get_ref().0.kill(signal);
        }
    }

    /// Every worker that has a process.
    pub(crate) fn running(&self) -> Vec<WorkerId> {
        self.processes.keys().cloned().collect()
    }

    /// Whether the event is of a current process.
    pub(crate) fn is_present(&self, event: &WorkerEvent) -> bool {
        self.processes.get(&event.worker).is_some_and(|process| process.instance == event.instance)
    }

    /// Reaps a process that exited. Returns how it exited.
    pub(crate) fn reap(&mut self, id: &WorkerId) -> Death {
        let Some(process) = self.processes.remove(id) else { return Death::of("it was not there") };
        let pidfd = &process.pidfd.get_ref().0;
        match pidfd.reap() {
            // A child of an earlier supervisor is reaped by its present parent.
            Ok(status) => Death::with(status.or_else(|| pidfd.exit_status())),
            Err(error) => Death::of(format!("it ended: {error}")),
        }
    }

    /// Stops receiving from workers: later messages are left to another supervisor.
    pub(crate) fn stop_listening(&mut self) {
        for process in self.processes.values() {
            process.listener.abort();
        }
    }
}

fn worker_command(id: &WorkerId, channel: Channel) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("mcrd")
        .args(["worker", id.interface.name.as_str(), &id.core.to_string()])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(channel)))
        .stdout(Stdio::null())
        // Ctrl-C in the terminal is handled by the supervisor, which stops its workers in order.
        .process_group(0);
    command
}

/// Forwards a worker's messages until it exits. Its last messages precede its exit event.
async fn listen(
    worker: WorkerId,
    instance: u64,
    channel: Option<Arc<AsyncFd<Watched<Channel>>>>,
    pidfd: Arc<AsyncFd<Watched<PidFd>>>,
    events: mpsc::Sender<WorkerEvent>,
) {
    let event = |kind| WorkerEvent { worker: worker.clone(), instance, kind };
    let mut ended = false;
    // A worker without channel has its own deadline.
    let silent = channel.is_none();
    while let (Some(channel), false) = (&channel, ended) {
        tokio::select! {
            ready = channel.readable() => match ready {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => break,
            },
            _ = pidfd.readable() => ended = true,
        }
        // Reserve first: this task may be aborted while it waits, and no message that was read may be lost.
        let Some(open) = pass_on(channel, &event, &events).await else { return };
        if !open {
            break;
        }
    }
    if silent {
        let _ = pidfd.readable().await;
    } else if !ended && tokio::time::timeout(END_DEADLINE, pidfd.readable()).await.is_err() {
        let _ = pidfd.get_ref().0.kill(Signal::KILL);
        let _ = pidfd.readable().await;
    }
    // The receiver is dropped only when the daemon ends.
    let _ = events.send(event(WorkerEventKind::Ended)).await;
}

/// Forwards all readable messages. Returns whether the channel is still open; `None` without a receiver.
async fn pass_on(
    channel: &AsyncFd<Watched<Channel>>,
    event: &impl Fn(WorkerEventKind) -> WorkerEvent,
    events: &mpsc::Sender<WorkerEvent>,
) -> Option<bool> {
    loop {
        let room = events.reserve().await.ok()?;
        match message::receive::<FromWorker>(&channel.get_ref().0) {
            Ok(Incoming::Message(message, _no_descriptors)) => {
                room.send(event(WorkerEventKind::Message(message)))
            }
            Ok(Incoming::WouldBlock) => return Some(true),
            Ok(Incoming::Closed) => return Some(false),
            Err(error) => {
                room.send(event(WorkerEventKind::ProtocolError(error.to_string())));
                return Some(false);
            }
        }
    }
}
