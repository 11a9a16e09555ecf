//! The control plane: reads the config, follows the network, plans, and starts, configures and watches the workers.
//!
//! ```text
//!   control_server ── request ──▶ daemon (one loop, one thread) ──▶ core (decides) ──▶ executor (acts)
//!   signals, netlink, workers ──▶
//! ```
//!
//! - `core`: every decision, pure;
//! - `daemon`: the loop; `executor`: side effects on the kernel and workers; `config_change`, `statistics`: its
//!   answers;
//! - `event_bus`: events for subscribed clients;
//! - `observer`, `host_facts`: data for explanations;
//! - `handover`: replacement by another binary; `service_manager`: notifications to systemd;
//! - `keeper`: the process that holds the state that must survive this one;
//! - `attacher`: the process that attaches programs to interfaces;
//! - [`startup_file`]: the persistent config;
//! - `control_server`, `request`: clients and their calls.

mod altname;
mod async_fd;
mod attacher;
mod config_change;
mod control_server;
mod core;
mod daemon;
mod event_bus;
mod executor;
mod handover;
mod host_facts;
mod keeper;
mod observer;
mod options;
mod request;
mod service_manager;
pub mod startup_file;
mod statistics;

pub use attacher::run as run_attacher;
pub use daemon::{run, take_over};
pub use keeper::run as run_keeper;
pub use options::{DaemonError, DaemonOptions};
pub use service_manager::ServiceManager;
