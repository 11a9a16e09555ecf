//! Measures how long relaying takes, some times a second: from the kernel's taking a frame off the device to the end of
//! the sends of the turn that it was in.

use std::os::fd::AsFd;
use std::time::Duration;

use mcr_link::telemetry::{PageWriter, Total};
use mcr_sys::clock::since_1970;
use mcr_sys::packet::last_frame_time;

/// See the module. A turn without a measurement pays two tests.
#[derive(Debug, Default)]
pub(super) struct Stopwatch {
    /// The kernel was asked to note times, at an earlier beat.
    noting: bool,
    due: bool,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    taken_at: Duration,
    sent_before: u64,
}

impl Stopwatch {
    /// One more measurement may be made.
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

    /// Frames were taken from the capture socket and are about to be relayed.
    #[cold]
    #[inline(never)]
    pub(super) fn start(&mut self, capture: &impl AsFd, page: &PageWriter) {
        self.due = false;
        // Without the time there is no measurement, and relaying goes on.
        let taken_at = last_frame_time(capture.as_fd()).ok().flatten();
        // The first call makes the kernel note times: what it says of earlier frames is nothing.
        if std::mem::replace(&mut self.noting, true) && self.running.is_none() {
            self.running =
                taken_at.map(|taken_at| Running { taken_at, sent_before: page.total(Total::Sent) });
        }
    }

    /// All their sends have ended.
    #[cold]
    #[inline(never)]
    pub(super) fn stop(&mut self, page: &PageWriter) {
        let Some(Running { taken_at, sent_before }) = self.running.take() else { return };
        // A clock that was set back meanwhile measures nothing.
        if let Some(took) = since_1970().checked_sub(taken_at)
            && page.total(Total::Sent) > sent_before
        {
            page.latency(took);
        }
    }
}
