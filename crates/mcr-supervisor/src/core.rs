//! All decisions of the supervisor as pure functions over values: no clock, socket or log. The time is an argument, a
//! [`Duration`] of the monotonic clock.
//!
//! ```text
//!  config ──▶ ┌────────┐        ┌─────────────┐   Action    the shell executes it,
//!  network ─▶ │ plan() │─ Plan ▶│ reconcile() │───────────▶ reports the outcome to the machine
//!  cores ───▶ └────────┘        └─────────────┘                 │
//!                                      ▲────── Actual ◀─────────┘◀── workers: ready, applied, died
//! ```
//!
//! - [`network`]: links and addresses, a fold over netlink events;
//! - [`cores`]: which core an interface's worker runs on;
//! - [`plan`]: the desired state;
//! - [`actual`]: the actual state, as reported by the shell;
//! - [`reconcile`]: the actions that lead from the actual to the desired state;
//! - [`ports`]: which program has the port of a unicast input;
//! - [`early_drop`]: what is dropped at ingress behind the capture;
//! - [`rule_set`]: a worker's rule set from the plan, its telemetry slots and egress sockets;
//! - [`slots`]: slots in a worker's telemetry page;
//! - [`health`]: whether a worker's loop runs, and whether it relays by the rule set it acknowledged;
//! - [`restart`]: when to retry after a failure;
//! - [`capture_buffer`]: the capacity of a receive buffer;
//! - [`ledger`], [`rates`]: counters that survive workers;
//! - [`senders`]: which sources send to which rule;
//! - [`merges`], [`merge_findings`]: what is wrong with the legs of merged rules;
//! - [`rate_limits`]: which rules exceed their `max_pps`;
//! - [`checkpoint`], [`adoption`]: the state that the next supervisor needs, and how it resumes from it;
//! - [`status`]: the state of each rule, for display;
//! - [`events`], [`flows`]: events for subscribed clients;
//! - [`explain`]: why a rule relays or does not, with evidence;
//! - [`aggregation`]: merging of received datagrams, by device settings;
//! - [`trace`]: which rules are traced, where and until when;
//! - `rejoin`: repeated joins after a carrier came back;
//! - [`notices`]: state changes to report;
//! - [`machine`]: all of these as one state machine (`handle` takes events, `poll` returns work), with config changes
//!   as transactions.
//!
//! [`Duration`]: std::time::Duration

pub(crate) mod actual;
pub(crate) mod adoption;
pub(crate) mod aggregation;
pub(crate) mod capture_buffer;
pub(crate) mod checkpoint;
pub(crate) mod cores;
pub(crate) mod early_drop;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod filter_set;
pub(crate) mod flows;
pub(crate) mod health;
pub(crate) mod ledger;
pub(crate) mod machine;
pub(crate) mod merge_findings;
pub(crate) mod merges;
pub(crate) mod network;
pub(crate) mod notices;
pub(crate) mod other_ports;
pub(crate) mod plan;
pub(crate) mod ports;
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
