//! The clock rate of a stream: by its payload type, or measured, because packets with a dynamic type don't carry it.

/// Clock rates of streams with dynamic types, in Hz: audio (RFC 3551 §4.1, AES67), and 90 kHz for everything else.
const COMMON_HZ: [u32; 11] =
    [8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 90_000, 96_000, 192_000];
/// Tolerance of a measured rate, in percent: rates differ by at least 6.7 percent.
const TOLERANCE: u64 = 3;
/// Duration of a measurement: long enough that pictures sent out of presentation order stay within the tolerance.
const WINDOW_NS: u64 = 5_000_000_000;

/// The clock of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Clock {
    hz: Option<u32>,
    is_measured: bool,
    /// Timestamp and arrival of the first packet of the measurement.
    since: (u32, u64),
}

impl Clock {
    /// The clock of a stream that starts with this packet.
    pub(super) fn new(payload_type: u8, timestamp: u32, arrived_ns: u64) -> Self {
        let hz = assigned_hz(payload_type);
        Self { hz, is_measured: hz.is_none(), since: (timestamp, arrived_ns) }
    }

    /// The rate; `None` while it is unknown.
    pub(super) const fn hz(&self) -> Option<u32> {
        self.hz
    }

    /// Records a packet. Returns whether the rate has changed.
    #[inline]
    pub(super) fn measure(&mut self, timestamp: u32, arrived_ns: u64) -> bool {
        let (first, started_ns) = self.since;
        let elapsed_ns = arrived_ns.saturating_sub(started_ns);
        if !self.is_measured || elapsed_ns < WINDOW_NS {
            return false;
        }
        self.since = (timestamp, arrived_ns);
        let ticks = u64::from(timestamp.wrapping_sub(first));
        let matches = |hz: &u32| {
            let expected = u128::from(*hz) * u128::from(elapsed_ns) / 1_000_000_000;
            u128::from(ticks).abs_diff(expected) * 100 <= expected * u128::from(TOLERANCE)
        };
        // No rate matches if the stream was interrupted, or its timestamps jumped.
        let found = COMMON_HZ.into_iter().find(matches).or(self.hz);
        std::mem::replace(&mut self.hz, found) != found
    }
}

/// The clock rate of a static payload type (RFC 3551 §6); `None` for dynamic types.
const fn assigned_hz(payload_type: u8) -> Option<u32> {
    Some(match payload_type {
        0 | 3..=5 | 7..=9 | 12 | 13 | 15 | 18 => 8_000,
        6 => 16_000,
        10 | 11 => 44_100,
        16 => 11_025,
        17 => 22_050,
        14 | 25 | 26 | 28 | 31..=34 => 90_000,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    /// The rate that is found for packets with these delays, in this presentation order.
    fn found(
        hz: u32,
        packets_per_s: u32,
        late_ns: impl Fn(u64) -> u64,
        shown: impl Fn(u64) -> u64,
    ) -> Option<u32> {
        let mut clock = Clock::new(97, 0, 0);
        let first = u32::MAX - 1_000;
        for n in 0..u64::from(packets_per_s) * 12 {
            let ticks = shown(n) * u64::from(hz) / u64::from(packets_per_s);
            let timestamp = first.wrapping_add(u32::try_from(ticks).unwrap());
            let arrived = n * SECOND_NS / u64::from(packets_per_s) + late_ns(n);
            if n == 0 {
                clock = Clock::new(97, timestamp, arrived);
            } else {
                clock.measure(timestamp, arrived);
            }
        }
        clock.hz()
    }

    #[test]
    fn each_common_rate_is_found_across_the_wrap_and_with_jitter() {
        for hz in COMMON_HZ {
            assert_eq!(found(hz, 100, |n| n % 7 * 10_000_000, |n| n), Some(hz));
        }
        // 25 pictures a second: two of three are presented before the one that was sent before them.
        let shown = |n: u64| [n + 3, n, n].get(usize::try_from(n % 3).unwrap()).copied().unwrap();
        assert_eq!(found(90_000, 25, |_| 0, shown), Some(90_000));
        assert_eq!(found(27_000_000, 100, |_| 0, |n| n), None, "no common rate");
    }

    #[test]
    fn an_assigned_rate_is_not_measured() {
        let mut clock = Clock::new(33, 0, 0);
        assert!(!clock.measure(48_000 * 10, 10 * SECOND_NS));
        assert_eq!(clock.hz(), Some(90_000));
        assert_eq!((assigned_hz(0), assigned_hz(10), assigned_hz(96)), (Some(8_000), Some(44_100), None));
    }

    #[test]
    fn a_rate_is_kept_through_an_interruption() {
        let mut clock = Clock::new(96, 0, 0);
        assert!(clock.measure(48_000 * 5, 5 * SECOND_NS));
        assert!(!clock.measure(48_000 * 6, 60 * SECOND_NS), "nearly a minute without timestamps");
        assert_eq!(clock.hz(), Some(48_000));
        assert!(clock.measure(48_000 * 6 + 90_000 * 5, 65 * SECOND_NS), "and is corrected");
        assert_eq!(clock.hz(), Some(90_000));
    }
}
