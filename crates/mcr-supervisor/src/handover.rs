//! The protocol between a supervisor and its replacement, over the channel that is the replacement's standard input.
//!
//! ```text
//!  old                                          new
//!   │ starts `mcrd take-over …same options…` ──▶ parses options, reads and decodes the keeper's items
//!   │ continues to serve                   ◀──  Ready, within 10 s
//!   │ stops reading, deciding and accepting
//!   │ HandOver + control socket, lock  ────────▶ adopts everything from the keeper, reconciles
//!   │                                      ◀──  Confirmed, within 10 s
//!   │ answers the client, exits                  serves
//! ```
//!
//! On any failure before `Confirmed` the new one is killed, and the old one adopts again from the keeper, which has
//! recorded what the new one did.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) const READY_DEADLINE: Duration = Duration::from_secs(10);
/// Deadline for `Confirmed` after `HandOver`.
pub(crate) const CONFIRM_DEADLINE: Duration = Duration::from_secs(10);

/// Messages to the replacement. New variants are added at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToReplacement {
    /// Take over. With the listening control socket and its lock.
    HandOver,
}

/// Messages from the replacement. New variants are added at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromReplacement {
    /// It can take over.
    Ready { version: String },
    /// It can't take over.
    Failed { reason: String },
    /// It has taken over, and everything relays as planned.
    Confirmed,
}
