//! The part of the data plane without system calls: what is done with a frame, given the rules in force.
//!
//! ```text
//!  frame ─▶ parse (mcr-wire) ─▶ Table: group, port, source ─▶ Runs: one open run per rule ─▶ Outlet::transmit
//!              │                    │                            │                                 │
//!              └─ skip              └─ skip                      └─ due, or dropped here           └─ sent, dropped
//! ```
//!
//! - [`table`]: which rules admit a datagram;
//! - [`index`]: the hash table from destination to rules;
//! - [`runs`]: datagrams of one rule gathered for one segmented send per output;
//! - [`transmission`]: one send as a value, and the [`Outlet`](transmission::Outlet) that executes it;
//! - [`flows`]: who sends to a rule;
//! - [`health`]: what a stream's own numbering tells of loss;
//! - [`rate_limit`]: how many datagrams per second a rule relays at most;
//! - [`segmentation`]: what an output's path is known to take;
//! - [`pace`]: whether datagrams gather before they are taken;
//! - [`accounts`]: the telemetry page, and the trace rings;
//! - [`tracing`]: what is written into these while a rule is traced;
//! - [`dispatch`]: the [`Engine`](dispatch::Engine) that ties them together and keeps the accounts.
//!
//! Nothing here allocates after a table is built.

pub(crate) mod accounts;
pub(crate) mod dispatch;
pub(crate) mod flows;
pub(crate) mod health;
pub(crate) mod index;
pub(crate) mod pace;
pub(crate) mod rate_limit;
pub(crate) mod runs;
pub(crate) mod segmentation;
pub(crate) mod table;
pub(crate) mod tracing;
pub(crate) mod transmission;
