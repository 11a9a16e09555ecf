//! What must outlive a supervisor, as items: a name, a record and descriptors each. The keeper holds them; the next
//! supervisor makes its state of them ([`adoption`](crate::core::adoption)).
//!
//! | item | record | descriptors |
//! |---|---|---|
//! | [`Key::Rules`], [`Key::Config`] | the running config, its rules in parts ([`ConfigRecord`]) | |
//! | [`Key::Ledger`] | counters of the past | |
//! | [`Key::Slot`] | [`SlotRecord`] | capture socket, telemetry page |
//! | [`Key::Process`] | [`ProcessRecord`] | channel, pidfd |
//! | [`Key::Worker`] | [`WorkerRecord`] | |
//! | [`Key::PageSlots`] | [`PageSlots`] | |
//! | [`Key::KernelDrops`] | a number | |
//! | [`Key::Joining`] | memberships | |
//! | [`Key::Memberships`] | memberships | their socket |
//! | [`Key::Absorber`] | | its socket, if it has one |
//!
//! Small records are JSON, which other versions can read; page slots and ledger can be large, are compact, and are only
//! for the same [`CHECKPOINT_VERSION`](records::CHECKPOINT_VERSION).
//!
//! - `derive`: all items from the state, and what differs from what the keeper holds;
//! - `stored`: reading them; `records`: their form; `key`: their names; `config_parts`: rules in parts.

mod config_parts;
mod derive;
mod key;
mod records;
mod stored;

pub(crate) use derive::{Change, Checkpoint, Held};
pub(crate) use key::Key;
pub(crate) use records::{ConfigRecord, PageSlots, ProcessRecord, SlotRecord, WorkerRecord};
pub(crate) use stored::{
    Stored, StoredWorker, check, read_config, read_ledger, read_memberships, read_worker, workers,
};

#[cfg(test)]
mod tests;
