//! What crosses between the supervisor and a worker, and nothing else.
//!
//! ```text
//!   supervisor ── unix SEQPACKET: ToWorker + file descriptors ──▶ worker
//!              ◀─ FromWorker ──────────────────────────────────
//!              ◀─ telemetry page (sealed memfd, 64-bit words) ──
//!              ◀─ trace rings (the same), one for each rule that is traced ──
//! ```
//!
//! - [`log`]: the log of the supervisor, the keeper and the workers;
//! - [`message`]: the messages, their encoding and which descriptors travel with them;
//! - [`rule_set`]: the rules one worker must have, with generation and content hash, and one hash for a rule set and for
//!   the table made from it;
//! - [`telemetry`]: the page of counters a worker writes and the supervisor reads without asking;
//! - [`trace`]: the ring of records that a worker writes for a rule that is traced;
//! - [`reason`]: the closed lists of why a datagram was not relayed;
//! - [`observation`]: what an observer saw on the wire, for `explain`;

#[cfg(test)]
mod layout;
pub mod log;
pub mod message;
pub mod observation;
pub mod reason;
pub mod rule_set;
pub mod telemetry;
pub mod trace;
