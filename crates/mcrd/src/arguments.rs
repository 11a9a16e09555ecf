//! The command line and the environment.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use mcr_control::socket_path::daemon_socket;
use mcr_rules::{IoChoice, SandboxChoice};
use mcr_supervisor::{DaemonOptions, ServiceManager};

/// The startup file if none is given.
const DEFAULT_CONFIG: &str = "/etc/mcr/mcr.json5";
/// Directory of the copy of the startup file if systemd sets none.
const DEFAULT_STATE_DIRECTORY: &str = "/var/lib/mcr";
/// Overrides the setting `io`: `auto`, `io_uring` or `recvmmsg`.
const IO_VARIABLE: &str = "MCRD_IO";

/// Relay multicast between the interfaces of this host.
#[derive(Debug, Parser)]
#[command(
    name = "mcrd",
    version,
    after_help = "Environment:\n  MCRD_IO=auto|io_uring|recvmmsg  overrides the setting `io`"
)]
pub(crate) struct Arguments {
    /// Startup file [default: /etc/mcr/mcr.json5 if it exists]
    #[arg(long, value_name = "FILE", overrides_with = "config")]
    config: Option<PathBuf>,
    /// Keep a copy of the startup file that was last loaded successfully, and start from it if the startup file has
    /// errors [default FILE: last-good.json5 in $STATE_DIRECTORY or /var/lib/mcr]
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    last_good: Option<Option<PathBuf>>,
    /// Control socket [default: /run/mcr/mcrd.sock as root, else $XDG_RUNTIME_DIR/mcr/mcrd.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Check the startup file, report every error in it, and exit
    #[arg(long)]
    pub(crate) check: bool,
    /// Log levels: LEVEL[,FACILITY=LEVEL]... (levels: off, error, warn, info, debug, trace; facilities: config, control,
    /// network, membership, workers, dataplane)
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
    /// Format of log lines
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Group whose members have read-only access to the control socket
    #[arg(long, value_name = "GROUP")]
    observers: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// The role of this process.
pub(crate) enum Parsed {
    /// A worker; internal.
    Worker,
    /// The attacher; internal.
    Attacher,
    /// An observer; internal.
    Observer {
        /// How long it observes.
        time: Duration,
        sandbox: SandboxChoice,
    },
    /// The keeper of a daemon, which listens on this socket; internal.
    Keeper(PathBuf, SandboxChoice),
    /// The replacement of a running daemon; internal.
    TakeOver(Box<Arguments>),
    /// The daemon, or a check of its startup file.
    Daemon(Box<Arguments>),
}

/// Parses the command line; on wrong usage and `--help`, clap exits the process (codes 2 and 0).
pub(crate) fn parse() -> Parsed {
    // First, so that workers start without the daemon's setup.
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(role) if role == "worker" => return Parsed::Worker,
        Some(role) if role == "attach" => return Parsed::Attacher,
        Some(role) if role == "keeper" => {
            let socket = arguments.next().unwrap_or_default().into();
            return Parsed::Keeper(socket, sandbox(arguments.next()));
        }
        Some(role) if role == "take-over" => {
            let program = std::env::args_os().take(1);
            return Parsed::TakeOver(Box::new(Arguments::parse_from(program.chain(arguments))));
        }
        Some(role) if role == "observe" => {
            let ms = arguments.next().and_then(|ms| ms.to_str()?.parse().ok()).unwrap_or_default();
            return Parsed::Observer { time: Duration::from_millis(ms), sandbox: sandbox(arguments.next()) };
        }
        _ => {}
    }
    Parsed::Daemon(Box::new(Arguments::parse()))
}

/// The choice that the supervisor passes to another role.
fn sandbox(argument: Option<OsString>) -> SandboxChoice {
    argument.and_then(|word| SandboxChoice::named(word.to_str()?)).unwrap_or_default()
}

impl Arguments {
    /// The startup file.
    pub(crate) fn config(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| DEFAULT_CONFIG.into())
    }

    /// Returns the options of the daemon.
    pub(crate) fn options(&self) -> anyhow::Result<DaemonOptions> {
        Ok(DaemonOptions {
            config: std::path::absolute(self.config())?,
            config_required: self.config.is_some(),
            last_good: self
                .last_good
                .clone()
                .map(|path| std::path::absolute(path.unwrap_or_else(default_last_good)))
                .transpose()?,
            socket: self.socket.clone().unwrap_or_else(default_socket),
            observers: self.observers.clone(),
            log_levels: self.log.parse()?,
            log_json: self.log_format == LogFormat::Json,
            io: io_from_environment()?,
            service: service_manager(),
            arguments: std::env::args_os().skip(1).skip_while(|argument| argument == "take-over").collect(),
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the main program")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// In the service's own directory (systemd.exec(5), `StateDirectory=`).
fn default_last_good() -> PathBuf {
    let directories = variable("STATE_DIRECTORY").unwrap_or_else(|| DEFAULT_STATE_DIRECTORY.to_owned());
    let first = directories.split(':').next().unwrap_or(DEFAULT_STATE_DIRECTORY);
    Path::new(first).join("last-good.json5")
}

fn io_from_environment() -> anyhow::Result<Option<IoChoice>> {
    let Some(word) = variable(IO_VARIABLE) else { return Ok(None) };
    let choice = IoChoice::named(&word);
    anyhow::ensure!(choice.is_some(), "{IO_VARIABLE} is {word:?}; it can be auto, io_uring or recvmmsg");
    Ok(choice)
}

/// sd_notify(3). `WATCHDOG_PID` is ignored: after an upgrade it names the previous process.
fn service_manager() -> ServiceManager {
    let watchdog = variable("WATCHDOG_USEC").and_then(|text| text.parse().ok()).map(Duration::from_micros);
    ServiceManager { socket: std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()), watchdog }
}

/// Returns the path where `mcrctl` expects the socket.
fn default_socket() -> PathBuf {
    // The owner of this directory is the effective user of the process (proc(5)).
    let uid = std::fs::metadata("/proc/self").map_or(0, |metadata| metadata.uid());
    daemon_socket(uid, variable("XDG_RUNTIME_DIR").as_deref().map(Path::new))
}
