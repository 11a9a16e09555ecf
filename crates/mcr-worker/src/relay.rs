//! The shell of the data plane: a worker's life from its first message to its last send.
//!
//! - [`start`]: what happens before the first datagram: I/O, core, privileges, `Ready`;
//! - [`control`]: messages of the supervisor, alike for both loops;
//! - [`sockets`]: the egress sockets that were passed;
//! - [`uring`], [`mmsg`]: the two loops; both drive one [`Engine`](crate::engine::Engine);
//! - [`direct`]: sends outside a batch: trials of segmentation, and what failed for a curable reason;
//! - [`inspection`]: the hash of the table in use, for the supervisor;
//! - [`logging`]: log lines, with levels that change at run time.

mod drift_check;
mod logging;
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

/// How often a worker shows that its loop turns.
const HEARTBEAT: Duration = Duration::from_millis(100);
/// How long to wait before receiving is tried again after it failed twice in a row.
const RECEIVE_PAUSE: Duration = Duration::from_millis(10);

/// Why a worker ends before it is told to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The channel to the supervisor failed.
    #[error("the channel to the supervisor: {0}")]
    Channel(#[from] LinkError),
    /// The supervisor's first message is not what a worker of this version can start from.
    #[error("can't start: {0}")]
    Start(String),
    /// The kernel refused something that a worker can't do without.
    #[error(transparent)]
    System(#[from] SysError),
}
