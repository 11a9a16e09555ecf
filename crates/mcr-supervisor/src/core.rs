//! Every decision of the supervisor, as values: no clock, no socket, no log. The time is an argument, a [`Duration`]
//! of the monotonic clock.
//!
//! ```text
//!  config ──▶ ┌────────┐        ┌─────────────┐   Action    shell does it,
//!  network ─▶ │ plan() │─ Plan ▶│ reconcile() │───────────▶ tells the machine what came of it
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
//! - [`machine`]: all of these as one state machine (events in by `handle`, work out by `poll`), with changes of the
//!   config as transactions.
//!
//! [`Duration`]: std::time::Duration

pub(crate) mod actual;
pub(crate) mod adoption;
pub(crate) mod capture_buffer;
pub(crate) mod checkpoint;
pub(crate) mod cores;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod filter_set;
pub(crate) mod flows;
pub(crate) mod health;
pub(crate) mod ledger;
pub(crate) mod machine;
pub(crate) mod network;
pub(crate) mod notices;
pub(crate) mod plan;
pub(crate) mod rate_limits;
pub(crate) mod rates;
pub(crate) mod reconcile;
mod rejoin;
pub(crate) mod restart;
pub(crate) mod rule_set;
pub(crate) mod senders;
#[cfg(test)]
mod simulation;
pub(crate) mod slots;
pub(crate) mod status;
pub(crate) mod trace;
