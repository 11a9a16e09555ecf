//! Requests whose answers grow with the config: with thousands of rules one takes the loop tens of milliseconds. They get
//! a share of the loop only, so that a client that pulls statistics without pause delays nobody's small request.

use std::time::Duration;

use mcr_sys::clock;

use super::Daemon;
use super::changes::reply;
use crate::request::{Envelope, Request, RequestError, RequestErrorKind};

/// After an answer that took some time, so many times that time is left to everything else.
const REST: u32 = 3;
/// An answer that takes less than this delays nobody.
const QUICK: Duration = Duration::from_millis(2);
/// Requests that may wait for their share.
const MAX_WAITING_HEAVY: usize = 64;

fn is_heavy(request: &Request) -> bool {
    matches!(
        request,
        Request::ListRules
            | Request::GetConfig
            | Request::DiffConfig { .. }
            | Request::LoadConfig { dry_run: true, .. }
            | Request::ListMemberships
            | Request::ListInterfaces
            | Request::GetStats
            | Request::GetTrace { .. }
            | Request::ListFlows { .. }
    )
}

impl Daemon {
    /// Answers a request, or lets it wait for its share. Gives whether there may be something new to settle.
    pub(super) fn take_in(&mut self, envelope: Envelope) -> bool {
        if is_heavy(&envelope.request) {
            if self.heavy.len() >= MAX_WAITING_HEAVY {
                let failure =
                    RequestError::new(RequestErrorKind::Unavailable, "too many large requests are waiting");
                reply(Some(envelope.answer), Err(failure.with_hint("try again in a moment")));
            } else {
                self.heavy.push_back(envelope);
            }
            return false;
        }
        let changes = matches!(
            envelope.request,
            Request::AddRule(_)
                | Request::RemoveRule(_)
                | Request::LoadConfig { .. }
                | Request::Confirm { .. }
        );
        self.request(envelope);
        changes
    }

    /// How long until the next heavy request may be answered.
    pub(super) fn until_heavy(&self) -> Duration {
        self.heavy_not_before.saturating_sub(clock::monotonic())
    }

    /// Answers the next heavy request. Gives whether there may be something new to settle.
    pub(super) fn serve_heavy(&mut self) -> bool {
        let Some(envelope) = self.heavy.pop_front() else { return false };
        let dry_run = matches!(envelope.request, Request::LoadConfig { .. });
        let began = clock::monotonic();
        self.request(envelope);
        let ended = clock::monotonic();
        let took = ended.saturating_sub(began);
        self.heavy_not_before = if took > QUICK { ended + took * REST } else { ended };
        dry_run
    }
}
