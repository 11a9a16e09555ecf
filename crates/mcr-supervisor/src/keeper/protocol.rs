//! Messages between supervisors and the keeper. One message is one SEQPACKET datagram; it carries the descriptors of
//! its items, in their order.

use mcr_rules::log::LogLevels;
use serde::{Deserialize, Serialize};

pub(super) const KEEPER_VERSION: u32 = 1;

/// Maximum bytes of an item within the message; more are put into a sealed memfd.
pub(super) const MAX_INLINE_BYTES: usize = 4 * 1024;
/// Maximum bytes of an item's name.
pub(super) const MAX_NAME_BYTES: usize = 200;
/// Maximum descriptors of one item.
pub(super) const MAX_ITEM_FDS: usize = 8;
/// Maximum bytes of changes or items in one message, well below what a channel takes.
pub(super) const MAX_BATCH_BYTES: usize = 32 * 1024;

/// A change of one item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Change {
    /// Store this item, replacing the one with the same name.
    Put(Head),
    /// Remove the item with this name.
    Remove(String),
}

/// An item without its descriptors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    /// Number of its descriptors.
    pub(super) fds: u8,
}

/// Messages to the keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ToKeeper {
    /// The first message on a connection; answered by `Welcome`.
    Hello { version: u32 },
    /// The log settings.
    Log { levels: LogLevels, json: bool },
    /// The sender becomes the supervisor: only it may change anything, and the keeper's timeout starts when it
    /// disconnects.
    Own,
    /// Changes, applied atomically. Answered only if refused.
    Update(Vec<Change>),
    /// Exit after this number of seconds without a supervisor.
    OrphanTimeout(u32),
    /// Answered by `Items` with those after this name; an empty answer ends the list.
    Read { after: Option<String> },
    /// Release everything and exit.
    Stop,
}

/// Messages from the keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum FromKeeper {
    /// The answer to `Hello`.
    Welcome { version: u32 },
    /// A change that was refused, and why.
    Refused(String),
    /// Some items, in the order of their names.
    Items(Vec<Head>),
}
