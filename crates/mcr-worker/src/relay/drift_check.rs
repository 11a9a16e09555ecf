//! When a worker looks at the table that it uses, and tells the supervisor the hash of what it found: some times a
//! second, in slices between two batches, so that no datagram waits longer than for a batch more.

use mcr_link::telemetry::PageWriter;

use crate::engine::table::{Audit, Table};

/// Facts per turn of the loop: some 5 µs.
const SLICE: usize = 256;
/// A look begins every so many heartbeats: 300 ms.
const BEATS: u8 = 3;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Inspection {
    under_way: Option<Audit>,
    beats: u8,
}

impl Inspection {
    /// A look that begins now: of a new table.
    pub(super) fn begun() -> Self {
        Self { under_way: Some(Audit::default()), beats: 0 }
    }

    /// A heartbeat has passed.
    pub(super) fn beat(&mut self) {
        self.beats = self.beats.saturating_add(1);
        if self.beats >= BEATS && self.under_way.is_none() {
            *self = Self::begun();
        }
    }

    #[inline]
    pub(super) const fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Goes on by one slice; the last one publishes what was found.
    #[cold]
    pub(super) fn go_on(&mut self, table: &Table, page: &PageWriter) {
        let hash = self.under_way.as_mut().and_then(|audit| audit.step(table, SLICE));
        if let Some(hash) = hash {
            page.audited(table.generation, hash);
            self.under_way = None;
        }
    }
}
