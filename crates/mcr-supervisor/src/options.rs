//! How a daemon is started, and why it could not be.

use std::ffi::OsString;
use std::path::PathBuf;

use mcr_rules::IoChoice;
use mcr_rules::log::LogLevels;

use crate::control_server::{AccessError, SocketError};
use crate::service_manager::ServiceManager;
use crate::startup_file::StartupError;

/// What `mcrd` was told on its command line and by its environment.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// The startup file.
    pub config: PathBuf,
    /// Whether the startup file must exist; if not, a missing one means an empty config.
    pub config_required: bool,
    /// Where a copy of the startup file is kept that loaded without errors, to be started from if the startup file
    /// can't be used.
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
        /// What is wrong with the startup file.
        startup: StartupError,
        /// What is wrong with the copy.
        copy: StartupError,
    },
    /// The control socket can't be opened.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Nobody can be given rights.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// It can't take the place of another mcrd.
    #[error("can't take over: {0}")]
    TakeOver(String),
    /// The process lacks a capability.
    #[error("mcrd lacks {0}: it can't open capture sockets")]
    Capability(&'static str),
    /// The kernel refuses a step.
    #[error(transparent)]
    System(#[from] mcr_sys::SysError),
    /// The runtime can't be set up.
    #[error("{step}: {source}")]
    Runtime {
        /// What was tried.
        step: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

impl DaemonError {
    /// What to do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Startup(error) => error.hint(),
            Self::LastGood { copy: StartupError::Missing(_), .. } => {
                Some("no startup file has loaded with --last-good yet; correct the startup file".to_owned())
            }
            Self::LastGood { startup, .. } => startup.hint(),
            Self::Capability(_) => Some(
                "run mcrd as root, or with CAP_NET_RAW, CAP_NET_ADMIN, CAP_SETUID, CAP_SETGID and CAP_SETPCAP \
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
