//! What a supervisor and the one that is to take its place say to each other, over the channel that is the successor's
//! standard input.
//!
//! ```text
//!  old                                          new
//!   │ starts `mcrd take-over …same options…` ──▶ reads options, reaches the keeper, reads what it has, decodes it
//!   │ serves on                            ◀──  Ready, within 10 s
//!   │ stops reading, deciding and accepting
//!   │ HandOver + control socket, lock  ────────▶ takes everything over from the keeper, reconciles
//!   │                                      ◀──  Confirmed, within 10 s
//!   │ answers the client, ends                   serves
//! ```
//!
//! Whatever goes wrong before `Confirmed`: the new one is killed, and the old one takes over from the keeper itself,
//! which knows what the new one did meanwhile.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A successor is ready within this time.
pub(crate) const READY_DEADLINE: Duration = Duration::from_secs(10);
/// A successor that was given everything confirms within this time.
pub(crate) const CONFIRM_DEADLINE: Duration = Duration::from_secs(10);

/// To the successor. New kinds are added at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToSuccessor {
    /// It is its turn. With the listening control socket and its lock.
    HandOver,
}

/// From the successor. New kinds are added at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromSuccessor {
    /// It can do it.
    Ready {
        /// Its version.
        version: String,
    },
    /// It can't.
    Failed {
        /// Why.
        reason: String,
    },
    /// It has done it: everything relays as it should.
    Confirmed,
}
