//! The control plane: reads the config, follows the network, plans, and starts, feeds and watches the workers.
//!
//! ```text
//!   control_server ── request ──▶ daemon (one loop, one thread) ──▶ core (decides) ──▶ executor (acts)
//!   signals, netlink, workers ──▶
//! ```
//!
//! - `core`: every decision, pure;
//! - `daemon`: the loop; `executor`: what it does to the kernel and to workers; `config_change`, `statistics`: its answers;
//! - `event_bus`: what happens, for clients that subscribed;
//! - `observer`, `host_facts`: what `explain` examines;
//! - `handover`: how another binary takes over; `service_manager`: what systemd is told;
//! - `keeper`: the process that holds what must outlive this one;
//! - [`startup_file`]: the file it starts from;
//! - `control_server`, `request`: clients.

mod async_fd;
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

pub use daemon::{run, take_over};
pub use keeper::{KeeperError, run as run_keeper};
pub use options::{DaemonError, DaemonOptions};
pub use service_manager::ServiceManager;
