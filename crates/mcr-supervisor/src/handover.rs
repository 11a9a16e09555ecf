//! What a supervisor and the one that is to take its place say to each other, over the channel that is the replacement's
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

/// A replacement is ready within this time.
pub(crate) const READY_DEADLINE: Duration = Duration::from_secs(10);
/// A replacement that was given everything confirms within this time.
pub(crate) const CONFIRM_DEADLINE: Duration = Duration::from_secs(10);

/// To the replacement. New kinds are added at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToReplacement {
    /// It is its turn. With the listening control socket and its lock.
    HandOver,
}

/// From the replacement. New kinds are added at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromReplacement {
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
