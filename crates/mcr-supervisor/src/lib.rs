//! The control plane: reads the config, follows the network, plans, and starts, feeds and watches the workers.
//!
//! ```text
//!   control_server ── request ──▶ daemon (one loop, one thread) ──▶ core (decides) ──▶ hands (do)
//!   signals, netlink, workers ──▶
//! ```
//!
//! - [`core`]: every decision, pure;
//! - `daemon`: the loop; `hands`: what it does to the kernel and to workers; `requests`, `statistics`: its answers;
//! - `event_bus`: what happens, for clients that subscribed;
//! - `observer`, `host_facts`: what it looks at when somebody asks why;
//! - [`startup_file`], [`log`]: the file it starts from, and what it says;
//! - [`control_server`], [`request`]: clients.
#![forbid(unsafe_code)]

pub mod control_server;
pub mod core;
mod daemon;
mod event_bus;
mod hands;
mod host_facts;
pub mod log;
mod observer;
mod options;
mod readiness;
pub mod request;
mod requests;
pub mod startup_file;
mod statistics;

pub use daemon::run;
pub use options::{DaemonError, DaemonOptions};
