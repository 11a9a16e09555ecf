//! Samples the latency of relaying at each heartbeat: from the kernel's receive timestamp of a frame to the completion of the
//! sends of its batch.

use std::os::fd::AsFd;
use std::time::Duration;

use mcr_link::telemetry::{PageWriter, Total};
use mcr_sys::clock::since_epoch;
use mcr_sys::packet::last_frame_time;

/// See the module documentation. A batch without a measurement costs two branches.
#[derive(Debug, Default)]
pub(super) struct Stopwatch {
    /// Whether receive timestamps are enabled, since an earlier heartbeat.
    has_timestamps: bool,
    due: bool,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    received_at: Duration,
    sent_before: u64,
}

impl Stopwatch {
    /// Called at each heartbeat: the next batch is measured.
    pub(super) const fn beat(&mut self) {
        self.due = true;
    }

    #[inline]
    pub(super) const fn is_due(&self) -> bool {
        self.due
    }

    #[inline]
    pub(super) const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Frames were received from the capture socket and are about to be relayed.
    #[cold]
    #[inline(never)]
    pub(super) fn start(&mut self, capture: &impl AsFd, page: &PageWriter) {
        self.due = false;
        // Without a timestamp there is no measurement.
        let received_at = last_frame_time(capture.as_fd()).ok().flatten();
        // The first call enables timestamps, so earlier frames have none.
        if std::mem::replace(&mut self.has_timestamps, true) && self.running.is_none() {
            self.running =
                received_at.map(|received_at| Running { received_at, sent_before: page.total(Total::Sent) });
        }
    }

    /// All sends of the batch are complete.
    #[cold]
    #[inline(never)]
    pub(super) fn stop(&mut self, page: &PageWriter) {
        let Some(Running { received_at, sent_before }) = self.running.take() else { return };
        // The wall clock may have been set back.
        if let Some(took) = since_epoch().checked_sub(received_at)
            && page.total(Total::Sent) > sent_before
        {
            page.latency(took);
        }
    }
}
