//! The rate of a stream's clock: by its payload type, or measured, since of dynamic types a packet does not tell it.

/// Rates that streams of dynamic types have, in Hz: audio (RFC 3551 §4.1, AES67), and 90 kHz, that of all else.
const USUAL_HZ: [u32; 11] =
    [8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 90_000, 96_000, 192_000];
/// How far a measured rate may be off, in hundredths: rates differ by 6.7 hundredths at least.
const TOLERANCE: u64 = 3;
/// Measured for so long: pictures that are sent in another order than they are shown make less than the tolerance then.
const WINDOW_NS: u64 = 5_000_000_000;

/// What is known of a stream's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Clock {
    hz: Option<u32>,
    is_measured: bool,
    /// Timestamp and arrival of the packet that a measurement began with.
    since: (u32, u64),
}

impl Clock {
    /// That of a stream that begins with this packet.
    pub(super) fn new(payload_type: u8, timestamp: u32, arrived_ns: u64) -> Self {
        let hz = assigned_hz(payload_type);
        Self { hz, is_measured: hz.is_none(), since: (timestamp, arrived_ns) }
    }

    /// Its rate; `None` if it is not known yet.
    pub(super) const fn hz(&self) -> Option<u32> {
        self.hz
    }

    /// Takes another packet; whether the rate is another one now.
    #[inline]
    pub(super) fn measure(&mut self, timestamp: u32, arrived_ns: u64) -> bool {
        let (first, began_ns) = self.since;
        let elapsed_ns = arrived_ns.saturating_sub(began_ns);
        if !self.is_measured || elapsed_ns < WINDOW_NS {
            return false;
        }
        self.since = (timestamp, arrived_ns);
        let ticks = u64::from(timestamp.wrapping_sub(first));
        let is_it = |hz: &u32| {
            let expected = u128::from(*hz) * u128::from(elapsed_ns) / 1_000_000_000;
            u128::from(ticks).abs_diff(expected) * 100 <= expected * u128::from(TOLERANCE)
        };
        // Of none of them if the stream was interrupted, or its timestamps jumped.
        let found = USUAL_HZ.into_iter().find(is_it).or(self.hz);
        std::mem::replace(&mut self.hz, found) != found
    }
}

/// The rate that a payload type has (RFC 3551 §6); `None` for dynamic types.
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

    /// The rate that is found in so many packets, by turns of their order, with what they are late by.
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
    fn each_usual_rate_is_found_over_the_wrap_and_through_jitter() {
        for hz in USUAL_HZ {
            assert_eq!(found(hz, 100, |n| n % 7 * 10_000_000, |n| n), Some(hz));
        }
        // Pictures, 25 a second: two of three are shown before the one that was sent before them.
        let shown = |n: u64| [n + 3, n, n].get(usize::try_from(n % 3).unwrap()).copied().unwrap();
        assert_eq!(found(90_000, 25, |_| 0, shown), Some(90_000));
        assert_eq!(found(27_000_000, 100, |_| 0, |n| n), None, "a rate that nobody has");
    }

    #[test]
    fn an_assigned_rate_is_not_measured() {
        let mut clock = Clock::new(33, 0, 0);
        assert!(!clock.measure(48_000 * 10, 10 * SECOND_NS));
        assert_eq!(clock.hz(), Some(90_000));
        assert_eq!((assigned_hz(0), assigned_hz(10), assigned_hz(96)), (Some(8_000), Some(44_100), None));
    }

    #[test]
    fn what_is_known_stays_through_an_interruption() {
        let mut clock = Clock::new(96, 0, 0);
        assert!(clock.measure(48_000 * 5, 5 * SECOND_NS));
        assert!(!clock.measure(48_000 * 6, 60 * SECOND_NS), "nearly a minute without timestamps");
        assert_eq!(clock.hz(), Some(48_000));
        assert!(clock.measure(48_000 * 6 + 90_000 * 5, 65 * SECOND_NS), "and is corrected");
        assert_eq!(clock.hz(), Some(90_000));
    }
}
