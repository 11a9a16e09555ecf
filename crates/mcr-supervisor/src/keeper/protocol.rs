//! What supervisors and the keeper say. One message is one SEQPACKET datagram; the descriptors of its items travel with
//! it, in their order.

use mcr_rules::log::LogLevels;
use serde::{Deserialize, Serialize};

/// The version of these messages.
pub(super) const KEEPER_VERSION: u32 = 1;

/// Bytes of an item that travel in the message; more are put into a sealed memory file.
pub(super) const MAX_INLINE_BYTES: usize = 4 * 1024;
/// Bytes of an item's name.
pub(super) const MAX_NAME_BYTES: usize = 200;
/// Descriptors of one item.
pub(super) const MAX_ITEM_FDS: usize = 8;
/// Bytes of changes or items in one message, well below what a channel takes.
pub(super) const MAX_BATCH_BYTES: usize = 32 * 1024;

/// One change of what is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Change {
    /// Keep this, in place of what has the name.
    Put(Head),
    /// Keep this no more.
    Remove(String),
}

/// An item without its descriptors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    /// How many descriptors it has.
    pub(super) fds: u8,
}

/// To the keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ToKeeper {
    /// The first message on a connection; answered by `Welcome`.
    Hello { version: u32 },
    /// How to log.
    Log { levels: LogLevels, json: bool },
    /// The sender is the supervisor from now on: only it may change anything, and the keeper's time runs when it is
    /// gone.
    Own,
    /// Changes, all or nothing. Answered only if refused.
    Update(Vec<Change>),
    /// How many seconds without a supervisor are too many.
    OrphanTimeout(u32),
    /// Answered by `Items` with those after this name; none are left if there are none in it.
    Read { after: Option<String> },
    /// Let go of everything and end.
    Stop,
}

/// From the keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum FromKeeper {
    /// The answer to `Hello`.
    Welcome { version: u32 },
    /// A change that was not made, and why.
    Refused(String),
    /// Some items, in the order of their names.
    Items(Vec<Head>),
}
