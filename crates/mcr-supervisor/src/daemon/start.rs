//! From options to the running loop.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use mcr_link::log::LogControl;
use mcr_rules::log::{CONFIG, CONTROL};
use mcr_sys::clock;
use mcr_sys::network::NetworkMonitor;
use mcr_sys::privileges::give_up_bpf;
use mcr_sys::process::{Status, online_cores, use_all_descriptors};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::adoption::Adoption;
use super::changes::InProgress;
use super::notices::Notices;
use super::startup::{Startup, startup_config};
use super::{AUDIT_EVERY, Daemon, Sources};
use crate::async_fd::watched;
use crate::attacher::{self, Started, may_attach};
use crate::control_server::{Access, ControlSocket, Gate, ServerLimits, serve};
use crate::core::flows::Flows;
use crate::core::machine::{Event, Machine, Unacknowledged};
use crate::core::rates::Rates;
use crate::executor::{Executor, Identity, WorkerLog};
use crate::keeper::keeper_socket;
use crate::options::{DaemonError, DaemonOptions};
use crate::request::{Envelope, MAX_WAITING_REQUESTS};

/// CAP_NET_RAW, by its bit (linux/capability.h).
const CAP_NET_RAW: u32 = 13;

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// It can't start: the startup file has errors, another daemon has the socket, or privileges are missing.
pub fn run(options: DaemonOptions) -> Result<(), DaemonError> {
    // Before there is a thread: capabilities are a thread's.
    let attacher = start_privileged()?;
    let log = LogControl::start(&options.log_levels, options.log_json);
    log.spawn_writer();
    // Before any worker is started: workers inherit it.
    descriptor_limit();
    let own_uid = own_identity()?;
    let socket = ControlSocket::bind(&options.socket)?;
    let access = Access::look_up(own_uid, options.observers.as_deref())?;
    runtime()?.block_on(async move {
        let (requests, received) = mpsc::channel(MAX_WAITING_REQUESTS);
        let server = Server::waiting(socket, access, requests)?;
        let adoption = Adoption::look_for(&options.socket, own_uid);
        let (daemon, sources) = prepare(options, log, received, adoption, attacher)?;
        daemon.run(sources, server, None).await
    })
}

/// Starts the attacher if this process is not root and has the capabilities for it, and gives those up: it talks to clients.
/// Root could get them back.
fn start_privileged() -> Result<Option<Started>, DaemonError> {
    if effective_uid(&Status::read(None)?) == 0 || !may_attach() {
        return Ok(None);
    }
    let started = attacher::start();
    give_up_bpf()?;
    started.map(Some).map_err(DaemonError::Attacher)
}

/// Returns this process's uid, after checking its capabilities.
pub(super) fn own_identity() -> Result<u32, DaemonError> {
    let own = Status::read(None)?;
    check_capabilities(&own)?;
    Ok(effective_uid(&own))
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, DaemonError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| DaemonError::Runtime { step: "set up the runtime", source })
}

fn check_capabilities(own: &Status) -> Result<(), DaemonError> {
    let effective = own.field("CapEff").first().and_then(|hex| u64::from_str_radix(hex, 16).ok());
    match effective {
        Some(set) if set & (1 << CAP_NET_RAW) == 0 => Err(DaemonError::Capability("CAP_NET_RAW")),
        _ => Ok(()),
    }
}

/// Of real, effective, saved and file system uid, the second (proc_pid_status(5)).
fn effective_uid(own: &Status) -> u32 {
    own.field("Uid").get(1).and_then(|uid| uid.parse().ok()).unwrap_or_default()
}

/// Creates the loop and its event sources. With an adoption, it resumes from an earlier supervisor's state.
pub(super) fn prepare(
    options: DaemonOptions,
    log: LogControl,
    requests: mpsc::Receiver<Envelope>,
    adoption: Option<Adoption>,
    attacher: Option<Started>,
) -> Result<(Daemon, Sources), DaemonError> {
    let failed = |step| move |source| DaemonError::Runtime { step, source };
    let mut monitor = NetworkMonitor::open()?;
    let (links, addresses) = monitor.dump()?;
    let mut machine = Machine::new(online_cores()?, options.io);
    machine.handle(clock::monotonic(), Event::NetworkDump { links, addresses });
    let running = adoption.as_ref().and_then(|adoption| adoption.config(&options));
    let startup = running.map_or_else(|| startup_config(&options), |config| Ok(Startup::goes_on(config)))?;
    let Startup { config, from_file, notice } = startup;
    let notices = Notices::default();
    notice.into_iter().for_each(|notice| notices.started_otherwise(notice));
    let worker_log = WorkerLog { levels: log.levels().clone(), json: log.is_json() };
    let (mut executor, worker_events) = Executor::new(worker_log, identity(&options)?);
    let flows = if adoption.is_some() { Flows::adopted() } else { Flows::default() };
    let what = match adoption {
        None => format!("started with {} rules", config.rules.len()),
        Some(adoption) => adoption.enter(&mut machine, &mut executor),
    };
    match attacher {
        Some(unused) if executor.has_attacher() => unused.end(),
        Some(started) => {
            let report = executor.use_attacher(started, clock::monotonic());
            machine.handle(clock::monotonic(), Event::EarlyDrop(report));
        }
        None => {}
    }
    let unacknowledged = Unacknowledged::Keep;
    let start = Event::Change { config, unacknowledged, confirm_within: None };
    machine.handle(clock::monotonic(), start);
    for core in machine.missing_cores() {
        tracing::warn!(target: CONFIG, core, "pinning names a core that this process can't use");
    }
    let (explanations, observed) = super::explain::PendingExplanations::open();
    let daemon = Daemon {
        options,
        machine,
        executor,
        log,
        rates: Rates::default(),
        flows_due: None,
        in_progress: Some(InProgress::start(what, from_file)),
        notices,
        heavy: VecDeque::new(),
        heavy_not_before: Duration::ZERO,
        waiting: VecDeque::new(),
        next_dump: Instant::now() + AUDIT_EVERY,
        last_dump: Instant::now(),
        last_check: clock::monotonic(),
        silent: super::health::Silent::default(),
        explanations,
        trace: super::trace::TraceRings::default(),
        bus: crate::event_bus::EventBus::new(flows),
        upgrade: None,
        own_uid: own_identity()?,
        terminal: super::terminal::Terminal::now(),
    };
    let on =
        |kind: SignalKind| -> Result<Signal, DaemonError> { signal(kind).map_err(failed("catch signals")) };
    let sources = Sources {
        monitor: watched(monitor).map_err(failed("watch the network"))?,
        worker_events,
        requests,
        observed,
        terminate: on(SignalKind::terminate())?,
        interrupt: on(SignalKind::interrupt())?,
        hang_up: on(SignalKind::hangup())?,
        upgrade: on(SignalKind::user_defined2())?,
    };
    Ok((daemon, sources))
}

/// Raises the descriptor limit of this process and its workers to the hard limit, and returns it.
fn descriptor_limit() -> u64 {
    use_all_descriptors().unwrap_or_else(|error| {
        tracing::warn!(target: CONTROL, %error, "the limit of file descriptors is unchanged");
        DEFAULT_DESCRIPTORS
    })
}

/// The usual soft limit (getrlimit(2), `RLIMIT_NOFILE`).
const DEFAULT_DESCRIPTORS: u64 = 1024;

fn identity(options: &DaemonOptions) -> Result<Identity, DaemonError> {
    let failed = |step| move |source| DaemonError::Runtime { step, source };
    let socket =
        std::path::absolute(&options.socket).map_err(failed("find the control socket's directory"))?;
    // The running executable, even if its file has been replaced.
    let program = std::fs::metadata("/proc/self/exe").map_err(failed("look at this program"))?;
    Ok(Identity {
        keeper_socket: keeper_socket(&socket),
        startup_file: options.config.display().to_string(),
        program: format!(
            "{}:{}:{}:{}.{}",
            program.dev(),
            program.ino(),
            program.size(),
            program.mtime(),
            program.mtime_nsec()
        ),
    })
}

/// The control server: bound at start, serving once the startup file is in force, so that the first client sees
/// active rules.
pub(super) struct Server {
    stage: Stage,
    /// Present connections stay while it is paused.
    pub(super) gate: Gate,
}

enum Stage {
    /// Clients stay in the backlog.
    Waiting {
        socket: ControlSocket,
        access: Access,
        requests: mpsc::Sender<Envelope>,
    },
    /// Clients are served.
    Open(JoinHandle<std::io::Result<Infallible>>),
    Closed,
}

impl Server {
    pub(super) fn waiting(
        socket: ControlSocket,
        access: Access,
        requests: mpsc::Sender<Envelope>,
    ) -> Result<Self, DaemonError> {
        let gate = socket.gate()?;
        Ok(Self { stage: Stage::Waiting { socket, access, requests }, gate })
    }

    /// Begins to serve. Returns false, without effect, if it serves already.
    pub(super) fn open(&mut self) -> bool {
        match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Waiting { socket, access, requests } => {
                tracing::info!(target: CONTROL, socket = %socket.path().display(), "ready");
                let limits = ServerLimits::within(descriptor_limit());
                self.stage = Stage::Open(tokio::spawn(serve(socket, access, limits, requests)));
                true
            }
            other => {
                self.stage = other;
                false
            }
        }
    }

    /// Ends all connections and removes the socket file.
    pub(super) async fn close(self) {
        if let Stage::Open(task) = self.stage {
            task.abort();
            // Only its end matters, not its result.
            let _ = task.await;
        }
    }
}
