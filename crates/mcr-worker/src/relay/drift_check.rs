//! Hashes the table in use about three times a second, and publishes the hash for the supervisor, which detects drift by it. The
//! hash is computed in slices between batches, to limit the delay of datagrams.

use mcr_link::telemetry::PageWriter;

use crate::engine::table::{Audit, Table};

/// Facts per iteration of the loop: about 5 µs.
const SLICE: usize = 256;
/// Heartbeats between two checks: 300 ms.
const BEATS: u8 = 3;

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct DriftCheck {
    running: Option<Audit>,
    beats: u8,
}

impl DriftCheck {
    /// A check that starts now, of a new table.
    pub(super) fn started() -> Self {
        Self { running: Some(Audit::default()), beats: 0 }
    }

    /// Called at each heartbeat: starts a check if one is due.
    pub(super) fn beat(&mut self) {
        self.beats = self.beats.saturating_add(1);
        if self.beats >= BEATS && self.running.is_none() {
            *self = Self::started();
        }
    }

    #[inline]
    pub(super) const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Hashes one slice; the last publishes the hash.
    #[cold]
    pub(super) fn step(&mut self, table: &Table, page: &PageWriter) {
        let hash = self.running.as_mut().and_then(|audit| audit.step(table, SLICE));
        if let Some(hash) = hash {
            page.audited(table.generation, hash);
            self.running = None;
        }
    }
}
