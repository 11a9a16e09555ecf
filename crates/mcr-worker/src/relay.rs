//! The I/O of the data plane: a worker from its first message to its last send.
//!
//! - [`start`]: from the first message to the loop: I/O, core, privileges, `Ready`;
//! - [`confinement`]: the sandbox;
//! - [`session`]: messages of the supervisor, for both loops;
//! - [`sockets`]: the egress sockets that were passed;
//! - [`uring`], [`mmsg`]: the two loops; both drive an [`Engine`](crate::engine::Engine);
//! - [`retry`]: sends outside a batch: segmentation probes, and repeated sends;
//! - [`lost`]: frames that the kernel discards when they are read;
//! - [`drift_check`]: hashes the table in use, for the supervisor;
//! - [`stopwatch`]: samples the latency;

mod confinement;
mod drift_check;
mod lost;
mod mmsg;
mod retry;
mod session;
mod sockets;
mod start;
mod stopwatch;
#[cfg(test)]
mod tests;
mod uring;

use std::time::Duration;

use mcr_link::message::LinkError;
use mcr_sys::SysError;

pub use start::run;

/// Interval of heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(100);
/// Delay before the next receive after two consecutive failures.
const RECEIVE_PAUSE: Duration = Duration::from_millis(10);

/// The error of a worker.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The channel to the supervisor failed.
    #[error("the channel to the supervisor: {0}")]
    Channel(#[from] LinkError),
    /// The first message of the supervisor is not a valid start message for this version.
    #[error("can't start: {0}")]
    Start(String),
    /// A required system call failed.
    #[error(transparent)]
    System(#[from] SysError),
}
