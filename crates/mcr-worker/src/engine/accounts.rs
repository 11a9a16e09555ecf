//! The telemetry page, and the trace rings while a rule is traced.

use std::cell::{Cell, RefCell};
use std::ops::Deref;

use mcr_link::telemetry::PageWriter;

use super::tracing::Tracer;

/// See the module documentation. Without a trace, only the page and a flag are used.
pub(crate) struct Accounts {
    page: PageWriter,
    tracing: Cell<bool>,
    tracer: RefCell<Tracer>,
}

impl From<PageWriter> for Accounts {
    fn from(page: PageWriter) -> Self {
        Self { page, tracing: Cell::new(false), tracer: RefCell::default() }
    }
}

impl Deref for Accounts {
    type Target = PageWriter;

    #[inline]
    fn deref(&self) -> &PageWriter {
        &self.page
    }
}

impl Accounts {
    /// Whether a rule is traced. Changes between batches only.
    #[inline]
    pub(crate) fn is_tracing(&self) -> bool {
        self.tracing.get()
    }

    /// Calls `work` with the tracer.
    #[cold]
    #[inline(never)]
    pub(crate) fn trace<R: Default>(&self, work: impl FnOnce(&mut Tracer) -> R) -> R {
        // Calls do not nest.
        self.tracer.try_borrow_mut().map(|mut tracer| work(&mut tracer)).unwrap_or_default()
    }

    /// Changes the traces. Only between batches.
    pub(crate) fn change_traces<R: Default>(&self, change: impl FnOnce(&mut Tracer) -> R) -> R {
        self.trace(|tracer| {
            let result = change(tracer);
            self.tracing.set(!tracer.is_idle());
            result
        })
    }
}
