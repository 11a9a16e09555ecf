//! The interface between the supervisor and a worker.
//!
//! ```text
//!   supervisor ── unix SEQPACKET: ToWorker + file descriptors ──▶ worker
//!              ◀─ FromWorker ──────────────────────────────────
//!              ◀─ telemetry page (sealed memfd, 64-bit words) ──
//!              ◀─ trace rings (likewise), one for each traced rule ──
//! ```
//!
//! - [`log`]: the log of the supervisor, the keeper and the workers;
//! - [`message`]: the messages, their encoding and the descriptors that are passed with them;
//! - [`rule_set`]: the rules of one worker, with generation and content hash, and a hash to compare a rule set with the table
//!   built from it;
//! - [`telemetry`]: the page of counters that a worker writes and the supervisor reads;
//! - [`trace`]: the ring of records that a worker writes for a traced rule;
//! - [`reason`]: the lists of reasons why a datagram was not relayed;
//! - [`observation`]: the summary of what an observer captured, for `explain`;

#[cfg(test)]
mod layout;
pub mod log;
pub mod message;
pub mod observation;
pub mod reason;
pub mod rule_set;
pub mod telemetry;
pub mod trace;
