//! Sizing of a capture socket's receive buffer (`SO_RCVBUF`, socket(7)): it holds what arrives while no worker reads.
//!
//! ```text
//!  bytes = rate × (detection time + replacement time) × 2.3 KiB / 2
//! ```
//!
//! A frame of 1,000 B or more is charged 2.3 KiB; the kernel doubles the requested size (socket(7)).

use std::time::Duration;

/// What a full-size frame is charged in the queue (`skb->truesize` on x86-64).
const FRAME_BYTES: u64 = 2304;
/// The longest outage: a stall is detected after 750 ms, and the replacement has its rules 50 ms later.
pub(crate) const LONGEST_OUTAGE: Duration = Duration::from_millis(750 + 50);

/// Returns how many full-size frames fit into a buffer requested with this size.
pub(crate) fn frames_held(receive_buffer_bytes: u64) -> u64 {
    receive_buffer_bytes.saturating_mul(2) / FRAME_BYTES
}

/// Returns the maximum rate without loss while a stalled worker is replaced.
pub(crate) fn sustained_rate_pps(receive_buffer_bytes: u64) -> u64 {
    let outage_ms = u64::try_from(LONGEST_OUTAGE.as_millis()).unwrap_or(u64::MAX);
    frames_held(receive_buffer_bytes).saturating_mul(1000) / outage_ms
}

/// Returns the size to request for no loss at this rate while a stalled worker is replaced.
pub(crate) fn buffer_for(rate_pps: u64) -> u64 {
    let outage_ms = u64::try_from(LONGEST_OUTAGE.as_millis()).unwrap_or(u64::MAX);
    let frames = rate_pps.saturating_mul(outage_ms).div_ceil(1000);
    frames.saturating_mul(FRAME_BYTES).div_ceil(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arithmetic_agrees_with_what_was_measured() {
        assert_eq!(frames_held(8 << 20), 7_281, "measured: 7,282 frames in 8 MiB");
    }

    #[test]
    fn what_is_asked_for_a_rate_sustains_it() {
        for rate in [1, 1_000, 12_345, 1_000_000] {
            assert!(sustained_rate_pps(buffer_for(rate)) >= rate, "{rate}");
        }
    }

    #[test]
    fn the_default_carries_half_of_the_load_that_is_promised_through_a_stall() {
        let default = u64::from(mcr_rules::Settings::default().receive_buffer_bytes);
        assert!(sustained_rate_pps(default) >= 10_000, "20,000 datagrams/s on two workers");
    }
}
