//! Frames that the kernel discards when they are read.
//!
//! With `PACKET_VNET_HDR`, Linux before 6.2 has no way to describe a UDP super-frame: recv(2) takes it off the queue and
//! returns EINVAL. That is the only reason for EINVAL on a capture socket, so each is one frame. What it contained, and
//! for which rule, can't be known.

use mcr_link::reason::SkipReason;
use mcr_link::telemetry::Total;
use mcr_rules::log::DATAPLANE;
use tracing::warn;

use crate::engine::accounts::Accounts;

/// Counts them, and logs the first.
#[derive(Debug, Default)]
pub(super) struct LostFrames {
    logged: bool,
}

impl LostFrames {
    /// A receive failed with EINVAL.
    #[cold]
    #[inline(never)]
    pub(super) fn count(&mut self, page: &Accounts) {
        page.count(Total::Frames, 1);
        page.count(Total::Received, 1);
        page.skip(SkipReason::SuperFrameLost, 1);
        if !std::mem::replace(&mut self.logged, true) {
            warn!(
                target: DATAPLANE,
                "lost a super-frame: this kernel can't give UDP super-frames to a packet socket (Linux before 6.2); \
                 counted as super_frame_lost; `mcrctl doctor` says what to do"
            );
        }
    }
}
