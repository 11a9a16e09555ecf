//! The attacher of the early drop: started when there is something to drop, and read when it speaks.

use mcr_sys::clock;

use super::Daemon;
use mcr_control::reply::EngineReason;

use crate::core::early_drop::{Report, wanted};
use crate::core::machine::Event;
use crate::core::machine::KernelReport;

impl Daemon {
    /// Starts an attacher if one is needed and there is none.
    pub(super) fn ensure_attacher(&mut self) {
        if self.executor.has_attacher() || wanted(self.machine.plan()).is_empty() {
            return;
        }
        let now = clock::monotonic();
        if let Some(report) = self.executor.ensure_attacher(now) {
            if let Report::Absent { no_permission: true, .. } = &report {
                let unavailable = KernelReport::Unavailable(EngineReason::NoPermission);
                self.machine.handle(now, Event::Kernel(unavailable));
            }
            self.machine.handle(now, Event::EarlyDrop(report));
        }
    }

    /// Returns whether there may be actions to execute.
    pub(super) fn attacher_spoke(&mut self) -> bool {
        let now = clock::monotonic();
        let mut new = false;
        for report in self.executor.read_attacher(&mut self.machine, now) {
            new |= self.machine.handle(now, Event::EarlyDrop(report));
        }
        self.executor.end_kernel_engine_without_attacher(&mut self.machine, now);
        new || !self.executor.has_attacher()
    }
}
