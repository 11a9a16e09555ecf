//! The data plane: one worker process per interface and core. `mcrd worker` calls [`run`] with the channel to its
//! supervisor and gets from there all it works with: the capture socket, the telemetry page, egress sockets, rules.
//!
//! ```text
//!   channel ─▶ relay: start, drop privileges, loop ──┬── relay::uring   io_uring
//!                        │                           └── relay::mmsg    recvmmsg, sendmmsg
//!                        ▼
//!                     engine: parse, match, gather, account; no system calls
//! ```
//!
//! [`observer`] is another process: it looks at what arrives when somebody asks why nothing does.
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "instruction-count"))]
#[cfg_attr(not(test), expect(dead_code, reason = "what only tests ask of a frame"))]
mod captured;
mod engine;
#[cfg(feature = "instruction-count")]
pub mod instructions;
pub mod observer;
mod relay;

pub use relay::{WorkerError, run};
