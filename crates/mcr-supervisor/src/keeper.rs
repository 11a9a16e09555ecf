//! The keeper: a small process that holds the state that must survive the supervisor, and does nothing else.
//!
//! ```text
//!  supervisor ── puts, removals (descriptors by SCM_RIGHTS) ──▶ keeper ── reads ──▶ next supervisor
//!      │                                                          │
//!      └── channel ──▶ worker ◀── the same end of the channel ────┘
//! ```
//!
//! It stores named items of bytes and descriptors. It does not interpret them, so it need not change when they do. A
//! message changes items atomically, and what a supervisor had sent before it was killed still arrives. While the
//! keeper has their descriptors, groups stay joined, capture sockets stay in their fan-out groups and keep queueing,
//! and workers' channels stay open. When it exits, all of that ends, and workers exit: so there are never two sets of
//! them.
//!
//! - `protocol`: the messages; `store`: the items, pure;
//! - `process`: the keeper itself; `hold`: the supervisor's side.

mod client;
mod process;
mod protocol;
mod store;

use std::path::{Path, PathBuf};

use crate::startup_file::beside;

pub(crate) use client::{Bundle, Found, KeeperClient, KeeperGone, connect, start};
pub use process::run;

/// Returns the path of the keeper's socket for a daemon with this control socket: beside it.
pub(crate) fn keeper_socket(control_socket: &Path) -> PathBuf {
    beside(control_socket, ".keeper")
}
