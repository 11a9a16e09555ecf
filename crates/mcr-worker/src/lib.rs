//! The data plane: one worker process per interface and core. `mcrd worker` calls [`run`] with the channel to its supervisor,
//! which passes the capture socket, the telemetry page, the egress sockets and the rules.
//!
//! ```text
//!   channel ─▶ relay: start, drop privileges, loop ──┬── relay::uring   io_uring
//!                        │                           └── relay::mmsg    recvmmsg, sendmmsg
//!                        ▼
//!                     engine: parse, match, batch, count; no system calls
//! ```
//!
//! [`observer`] is a separate process, which captures on all interfaces for `explain`.

#[cfg(any(test, feature = "instruction-count"))]
#[cfg_attr(not(test), expect(dead_code, reason = "some functions are for tests only"))]
mod captured;
mod engine;
#[cfg(feature = "instruction-count")]
pub mod instructions;
pub mod observer;
mod relay;

pub use relay::{WorkerError, run};
