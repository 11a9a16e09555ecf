//! Every decision of the supervisor, as values: no clock, no socket, no log. The time is an argument, a [`Duration`]
//! of the monotonic clock.
//!
//! ```text
//!  config ──▶ ┌────────┐        ┌─────────────┐   Action    shell does it,
//!  network ─▶ │ plan() │─ Plan ▶│ reconcile() │───────────▶ tells Actual what came of it
//!  cores ───▶ └────────┘        └─────────────┘                 │
//!                                      ▲────── Actual ◀─────────┘◀── workers: ready, applied, died
//! ```
//!
//! - [`network`]: links and addresses, a fold over netlink events;
//! - [`cores`]: which core an interface's worker runs on;
//! - [`plan`]: what the system should look like;
//! - [`actual`]: what it looks like, as far as the shell has told;
//! - [`reconcile`]: the steps from the one to the other;
//! - [`rule_set`]: a worker's rule set from the plan, its telemetry slots and egress sockets;
//! - [`slots`]: places in a worker's telemetry page;
//! - [`health`]: whether a worker's loop turns, and relays by the rules it was given;
//! - [`restart`]: when to try again what failed;
//! - [`capture_buffer`]: how much a receive buffer holds;
//! - [`ledger`], [`rates`]: counters that survive workers;
//! - [`senders`]: who sends to which rule;
//! - [`rate_limits`]: which rules get more than their `max_pps`;
//! - [`checkpoint`], [`adoption`]: what the next supervisor must know, and how it goes on from there;
//! - [`status`]: how each rule fares, for people;
//! - [`events`], [`flows`]: what happens, for clients that subscribed;
//! - [`explain`]: why a rule relays or does not, with evidence;
//! - [`trace`]: which rules are traced, where and until when;
//! - `rejoin`: joining again some time after a carrier came back;
//! - [`notices`]: what people are told of changes;
//! - [`machine`]: all of these behind one face, with changes of the config as transactions.
//!
//! [`Duration`]: std::time::Duration

pub mod actual;
pub mod adoption;
pub mod capture_buffer;
pub mod checkpoint;
pub mod cores;
pub mod events;
pub mod explain;
pub mod filter_set;
pub mod flows;
pub mod health;
pub mod ledger;
pub mod machine;
pub mod network;
pub mod notices;
pub mod plan;
pub mod rate_limits;
pub mod rates;
pub mod reconcile;
mod rejoin;
pub mod restart;
pub mod rule_set;
pub mod senders;
#[cfg(test)]
mod simulation;
pub mod slots;
pub mod status;
pub mod trace;
