//! State that must survive a supervisor, as items of name, record and descriptors. The keeper holds them; the next
//! supervisor restores its state from them ([`adoption`](crate::core::adoption)).
//!
//! | item | record | descriptors |
//! |---|---|---|
//! | [`Key::Rules`], [`Key::Config`] | the running config, its rules in parts ([`ConfigRecord`]) | |
//! | [`Key::Ledger`] | accumulated counters | |
//! | [`Key::Slot`] | [`SlotRecord`] | capture socket, telemetry page |
//! | [`Key::Process`] | [`ProcessRecord`] | channel, pidfd |
//! | [`Key::Worker`] | [`WorkerRecord`] | |
//! | [`Key::PageSlots`] | [`PageSlots`] | |
//! | [`Key::KernelDrops`] | a number | |
//! | [`Key::Offloads`] | [`OffloadRecord`](crate::core::aggregation::OffloadRecord)s | |
//! | [`Key::Joining`] | memberships | |
//! | [`Key::Memberships`] | memberships | their socket |
//! | [`Key::Absorber`] | | its socket |
//! | [`Key::Attacher`] | | its channel and pidfd |
//! | [`Key::KernelEngine`] | slots of its counters | maps, filter, sockets that hold ports |
//!
//! Small records are JSON, readable by other versions; page slots and ledger can be large, use a compact encoding,
//! and are valid only for the same [`CHECKPOINT_VERSION`](records::CHECKPOINT_VERSION).
//!
//! - `derive`: derives all items from the state, and the difference from what the keeper holds;
//! - `stored`: reading them; `records`: their format; `key`: their names; `config_parts`: rules in parts.

mod config_parts;
mod derive;
mod key;
mod records;
mod stored;

pub(crate) use derive::{Change, Checkpoint, HeldItems};
pub(crate) use key::Key;
pub(crate) use records::{ConfigRecord, KernelSlots, PageSlots, ProcessRecord, SlotRecord, WorkerRecord};
pub(crate) use stored::{
    Stored, StoredWorker, check, read_config, read_kernel_slots, read_ledger, read_memberships,
    read_offloads, read_worker, workers,
};

#[cfg(test)]
mod tests;
