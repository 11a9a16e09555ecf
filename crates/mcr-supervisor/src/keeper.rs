//! The keeper: a small process that holds what must outlive the supervisor, and does nothing else.
//!
//! ```text
//!  supervisor ── puts, removals (descriptors by SCM_RIGHTS) ──▶ keeper ── reads ──▶ next supervisor
//!      │                                                          │
//!      └── channel ──▶ worker ◀── the same end of the channel ────┘
//! ```
//!
//! It keeps named items: some bytes and some descriptors each. It looks into none of them, so it needs no change when
//! they do. A message changes items all or nothing, and what a supervisor had sent before it was killed still arrives.
//! While the keeper has their descriptors, groups stay joined, capture sockets stay in their fan-out groups and go on
//! queueing, and workers' channels stay open. When it ends, all of that ends with it, and workers end by themselves: so
//! there are never two sets of them.
//!
//! - `protocol`: the messages; `store`: the items, pure;
//! - `process`: the keeper itself; `hold`: the supervisor's side.

mod hold;
mod process;
mod protocol;
mod store;

use std::path::{Path, PathBuf};

pub(crate) use hold::{Bundle, Found, Hold, KeeperGone, connect, start};
pub use process::{KeeperError, run};

/// Where the keeper of the daemon with this control socket listens: beside it.
pub(crate) fn keeper_socket(control_socket: &Path) -> PathBuf {
    let mut name = control_socket.as_os_str().to_owned();
    name.push(".keeper");
    PathBuf::from(name)
}
