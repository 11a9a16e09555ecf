//! `mcrctl exporter`: the counters in the format of OpenMetrics (<https://openmetrics.io>) and Prometheus, over HTTP on
//! an address or a unix socket. A program of its own: whoever scrapes it can't disturb the daemon, and it needs no right
//! but to read.
//!
//! ```text
//!   Prometheus ── GET /metrics ──▶ server ──▶ control socket: GetStats, ListRules, ListWorkers, …
//!                ◀── exposition ── metrics ◀──
//! ```

mod exposition;
mod metrics;
mod server;

pub(crate) use server::{Address, serve};
