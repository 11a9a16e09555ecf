//! Calls whose cost grows with the config: with thousands of rules one takes tens of milliseconds of the loop. They
//! get only a share of the loop, so that a client that polls statistics continuously does not delay other clients'
//! small calls.

use std::time::Duration;

use mcr_control::failure::{Failure, FailureKind};
use mcr_control::method::Weight;
use mcr_sys::clock;

use super::Daemon;
use crate::request::Envelope;

/// After a heavy call, the loop is left to everything else for this multiple of its duration.
const REST_FACTOR: u32 = 3;
/// A call that takes less than this counts as light.
const LIGHT_CALL: Duration = Duration::from_millis(2);
/// Number of calls that may be queued.
const MAX_WAITING_HEAVY: usize = 64;

impl Daemon {
    /// Handles a call, or queues a heavy one. Returns whether a change waits to be begun.
    pub(super) fn take_in(&mut self, envelope: Envelope) -> bool {
        if envelope.called.weight() == Weight::Light {
            self.handle_call(envelope);
        } else if self.heavy.len() < MAX_WAITING_HEAVY {
            self.heavy.push_back(envelope);
        } else {
            let failure = Failure::new(FailureKind::Unavailable, "too many large requests are waiting");
            envelope.pending.refuse(failure.with_hint("try again in a moment"));
        }
        !self.waiting.is_empty()
    }

    /// Returns the time until the next heavy call may be handled.
    pub(super) fn until_heavy(&self) -> Duration {
        self.heavy_not_before.saturating_sub(clock::monotonic())
    }

    /// Handles the next heavy call. Returns whether a change waits to be begun.
    pub(super) fn serve_heavy(&mut self) -> bool {
        let Some(envelope) = self.heavy.pop_front() else { return false };
        let began = clock::monotonic();
        self.handle_call(envelope);
        let ended = clock::monotonic();
        let took = ended.saturating_sub(began);
        self.heavy_not_before = if took > LIGHT_CALL { ended + took * REST_FACTOR } else { ended };
        !self.waiting.is_empty()
    }
}
