//! `mcrctl exporter`: the counters in the format of OpenMetrics (<https://openmetrics.io>) and Prometheus, over HTTP on
//! an address or a unix socket. A program of its own: whoever scrapes it can't disturb the daemon, and it needs no right
//! but to read.
//!
//! ```text
//!   Prometheus ── GET /metrics ──▶ server ──▶ control socket: GetStats, ListRules, ListWorkers, …
//!                ◀── exposition ── metrics ◀──
//! ```

mod collector;
#[cfg(test)]
mod comparison;
mod exposition;
mod families;
mod metrics;
mod server;
mod snapshot;

pub(crate) use server::{Address, serve};
