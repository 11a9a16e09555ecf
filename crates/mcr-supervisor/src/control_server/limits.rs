//! Every limit and deadline of the control socket, in one place. Tests shorten the deadlines.

use std::time::Duration;

use mcr_control::framing::FrameLimits;
use mcr_control::{
    ALIVE_INTERVAL, MAX_READER_REQUEST_BYTES, MAX_REQUEST_BYTES, REQUEST_DEADLINE, REQUEST_LIMITS,
    STATS_INTERVAL, WRITE_DEADLINE,
};

/// Limits on the number of connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotLimits {
    /// Of all users. Each costs a descriptor and some KiB.
    pub(crate) total: usize,
    /// Of these, reserved for root and the daemon's user, so that no other user locks them out.
    pub(crate) reserved: usize,
    /// Of one user who has rights and is not root or the daemon's user.
    pub(crate) per_user: usize,
    /// Of all users without rights together: enough to send refusals.
    pub(crate) without_rights: usize,
    /// Of one user without rights.
    pub(crate) per_user_without_rights: usize,
}

/// Limits and deadlines of the control socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerLimits {
    pub(crate) slots: SlotLimits,
    /// Length and nesting of a request from a user with the right to change.
    pub(crate) request: FrameLimits,
    /// The same for a user with the right to read.
    pub(crate) request_of_reader: FrameLimits,
    /// The same for a user without rights: any single call fits.
    pub(crate) request_without_rights: FrameLimits,
    /// A request must be complete this long after its first byte. The whole connection of a user without rights has
    /// no longer.
    pub(crate) request_deadline: Duration,
    /// A reply must be read within this time.
    pub(crate) write_deadline: Duration,
    /// The daemon's loop answers within this time; shorter than the timeout of `mcrctl`.
    pub(crate) answer_deadline: Duration,
    /// The pause between replies of `GetStats` with `more`.
    pub(crate) stats_interval: Duration,
    /// How often `Subscribe` replies without an event.
    pub(crate) alive_interval: Duration,
    /// A message longer than this is counted in a budget; a request longer than this is parsed off the loop's thread.
    pub(crate) large_message_bytes: usize,
    /// Bytes of all large requests together.
    pub(crate) request_bytes: usize,
    /// Bytes of all large replies that clients have not read yet.
    pub(crate) reply_bytes: usize,
    /// A reply with more rules and outputs than this is encoded off the loop's thread.
    pub(crate) large_reply_items: usize,
    /// How many large messages are parsed or encoded at once.
    pub(crate) parallel_conversions: usize,
    pub(crate) accept_pause: Duration,
    /// Log lines about refusals, per window.
    pub(crate) refusal_lines: u32,
    pub(crate) refusal_window: Duration,
}

impl ServerLimits {
    /// Returns the limits for a process with this number of descriptors: connections take at most a quarter, since
    /// workers and their sockets need the others.
    pub(crate) fn within(descriptors: u64) -> Self {
        let mut limits = Self::default();
        let slots = &mut limits.slots;
        let total = usize::try_from(descriptors / 4).unwrap_or(usize::MAX).max(4);
        if total < slots.total {
            let SlotLimits { total: all, reserved, per_user, without_rights, per_user_without_rights } =
                *slots;
            let part = |of: usize| (of * total / all).max(1);
            *slots = SlotLimits {
                total,
                reserved: part(reserved),
                per_user: part(per_user),
                without_rights: part(without_rights),
                per_user_without_rights: part(per_user_without_rights),
            };
        }
        limits
    }
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            slots: SlotLimits {
                total: 256,
                reserved: 64,
                per_user: 64,
                without_rights: 32,
                per_user_without_rights: 4,
            },
            request: REQUEST_LIMITS,
            request_of_reader: FrameLimits { config_bytes: MAX_READER_REQUEST_BYTES, ..REQUEST_LIMITS },
            request_without_rights: FrameLimits {
                bytes: 4096,
                config_bytes: 4096,
                depth: REQUEST_LIMITS.depth,
            },
            request_deadline: REQUEST_DEADLINE,
            write_deadline: WRITE_DEADLINE,
            answer_deadline: Duration::from_secs(20),
            stats_interval: STATS_INTERVAL,
            alive_interval: ALIVE_INTERVAL,
            large_message_bytes: 64 * 1024,
            request_bytes: MAX_REQUEST_BYTES + MAX_REQUEST_BYTES / 2,
            reply_bytes: 64 * 1024 * 1024,
            large_reply_items: 500,
            parallel_conversions: 1,
            accept_pause: Duration::from_millis(100),
            refusal_lines: 20,
            refusal_window: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_mean_few_connections_for_everybody() {
        let slots = |descriptors| ServerLimits::within(descriptors).slots;
        assert_eq!(slots(u64::MAX).total, 256);
        assert_eq!((slots(256).total, slots(256).reserved, slots(256).per_user), (64, 16, 16));
        assert_eq!((slots(0).total, slots(0).per_user_without_rights), (4, 1));
    }
}
