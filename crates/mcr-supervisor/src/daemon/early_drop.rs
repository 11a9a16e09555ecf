//! The attacher of the early drop: started when there is something to drop, and read when it speaks.

use mcr_sys::clock;

use super::Daemon;
use crate::core::early_drop::wanted;
use crate::core::machine::Event;

impl Daemon {
    /// Starts an attacher if one is needed and there is none.
    pub(super) fn ensure_attacher(&mut self) {
        if self.executor.has_attacher() || wanted(self.machine.plan()).is_empty() {
            return;
        }
        let now = clock::monotonic();
        if let Some(report) = self.executor.ensure_attacher(now) {
            self.machine.handle(now, Event::EarlyDrop(report));
        }
    }

    /// Returns whether there may be actions to execute.
    pub(super) fn attacher_spoke(&mut self) -> bool {
        let now = clock::monotonic();
        let mut new = false;
        for report in self.executor.read_attacher(now) {
            new |= self.machine.handle(now, Event::EarlyDrop(report));
        }
        new || !self.executor.has_attacher()
    }
}
