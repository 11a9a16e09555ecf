//! The options of a daemon, and its start errors.

use std::ffi::OsString;
use std::path::PathBuf;

use mcr_rules::IoChoice;
use mcr_rules::log::LogLevels;

use crate::control_server::{AccessError, SocketError};
use crate::service_manager::ServiceManager;
use crate::startup_file::StartupError;

/// Options of `mcrd`, from its command line and environment.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// The startup file.
    pub config: PathBuf,
    /// Whether the startup file must exist; if not, a missing one means an empty config.
    pub config_required: bool,
    /// Path of the copy of the last startup file that loaded without errors, used if the startup file can't be.
    pub last_good: Option<PathBuf>,
    /// The control socket.
    pub socket: PathBuf,
    /// The group whose members may read through the control socket.
    pub observers: Option<String>,
    /// What to log.
    pub log_levels: LogLevels,
    /// Log lines as JSON.
    pub log_json: bool,
    /// Overrides the setting `io`.
    pub io: Option<IoChoice>,
    /// The service manager.
    pub service: ServiceManager,
    /// The command line, for a replacement.
    pub arguments: Vec<OsString>,
}

/// Why the daemon ends.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The startup file can't be used.
    #[error(transparent)]
    Startup(#[from] StartupError),
    /// Neither the startup file nor the copy can be used.
    #[error("{startup}\n{copy}")]
    LastGood {
        /// The error of the startup file.
        startup: StartupError,
        /// The error of the copy.
        copy: StartupError,
    },
    /// The control socket can't be opened.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Rights can't be determined.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// It can't replace another mcrd.
    #[error("can't take over: {0}")]
    TakeOver(String),
    /// The process lacks a capability.
    #[error("mcrd lacks {0}: it can't open capture sockets")]
    Capability(&'static str),
    /// The kernel refuses a step.
    #[error(transparent)]
    System(#[from] mcr_sys::SysError),
    /// The attacher of the early drop could not be started.
    #[error("{0}")]
    Attacher(String),
    /// The runtime can't be set up.
    #[error("{step}: {source}")]
    Runtime {
        /// The step.
        step: &'static str,
        /// The error.
        source: std::io::Error,
    },
}

impl DaemonError {
    /// Returns the remedy, if known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Startup(error) => error.hint(),
            Self::LastGood { copy: StartupError::Missing(_), .. } => {
                Some("no startup file has loaded with --last-good yet; correct the startup file".to_owned())
            }
            Self::LastGood { startup, .. } => startup.hint(),
            Self::Capability(_) => Some(
                "run mcrd as root, or with CAP_NET_RAW, CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_SETUID, CAP_SETGID and CAP_SETPCAP \
                 (systemd: AmbientCapabilities=)"
                    .to_owned(),
            ),
            Self::Socket(SocketError::InUse(_)) => {
                Some("stop the other mcrd, or give this one its own --socket".to_owned())
            }
            _ => None,
        }
    }
}
