//! Whether merging received datagrams pays on an interface (`settings.aggregate: "auto"`), by the datagrams per frame that are seen.
//!
//! While it is off, nothing tells how many would be merged, so it is tried: above a rate, for some seconds, and if it does not pay,
//! not again for a minute, then for longer times.
//!
//! ```text
//!             busy            few per frame                 quiet for a minute
//!   ┌─ Quiet ──────▶ Trial ──────────────────▶ Pause ─┐   ┌──────────────┐
//!   │                  │ many per frame               │   ▼              │
//!   │                  └──────────────────▶ On ───────┼─▶ Quiet ◀────────┘
//!   └────────── time passed ◀─────────────────────────┘ few per frame: Pause
//! ```

use std::time::Duration;

/// Below this rate (datagrams/s) neither saving nor cost is worth a trial: some hundredths of a core.
pub(super) const WORTHWHILE_PPS: f64 = 20_000.0;
/// A trial is a success from this mean on. At 1, merging takes a fifth of the rate and gives nothing (developer_docs/decisions/030).
pub(super) const PAYS: f64 = 2.0;
/// Below this mean it is switched off again.
pub(super) const COSTS: f64 = 1.5;
/// Frames that arrive with this many are super-frames of a sender on this host: merging has nothing to add.
pub(super) const MERGED_BEFORE: f64 = 8.0;
/// Consecutive samples that decide: a rate that is no peak, a mean that stays low.
const SAMPLES: u32 = 3;
pub(super) const TRIAL: Duration = Duration::from_secs(3);
/// After a trial that did not pay. Doubles with each that follows, [`MAX_DOUBLINGS`] times: about a quarter of an hour.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(60);
const MAX_DOUBLINGS: u32 = 4;
/// Below this rate for [`QUIET_SAMPLES`] it is switched off: the stream is over.
const QUIET_PPS: f64 = 1_000.0;
const QUIET_SAMPLES: u32 = 60;

/// What arrived on an interface since the sample before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Arrived {
    /// Datagrams.
    pub(super) datagrams: u64,
    /// Frames with them.
    pub(super) frames: u64,
    /// The time in which they did.
    pub(super) over: Duration,
}

impl Arrived {
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
    fn pps(self) -> f64 {
        let seconds = self.over.as_secs_f64();
        if seconds > 0.0 { self.datagrams as f64 / seconds } else { 0.0 }
    }

    /// Datagrams per frame; 0 if none arrived.
    #[expect(clippy::cast_precision_loss, reason = "a mean needs no 53 bits")]
    pub(super) fn per_frame(self) -> f64 {
        if self.frames > 0 { self.datagrams as f64 / self.frames as f64 } else { 0.0 }
    }

    fn and(self, more: Self) -> Self {
        Self {
            datagrams: self.datagrams + more.datagrams,
            frames: self.frames + more.frames,
            over: self.over + more.over,
        }
    }
}

/// Where the decision stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stage {
    /// Off: not enough arrives to try it. With the number of consecutive samples in which enough did.
    Quiet { busy: u32 },
    /// Off: what arrives is merged already.
    MergedBefore,
    /// On, to see whether it pays; with what arrived so far.
    Trial { until: Duration, arrived: Arrived },
    /// On: it pays. With the numbers of consecutive samples in which it did not, and in which next to nothing arrived.
    On { costly: u32, quiet: u32 },
    /// Off until then: it did not pay.
    Pause { until: Duration },
}

/// The decision for one interface.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Judge {
    pub(super) stage: Stage,
    /// Trials without success in a row.
    failures: u32,
}

impl Default for Judge {
    fn default() -> Self {
        Self { stage: Stage::Quiet { busy: 0 }, failures: 0 }
    }
}

impl Judge {
    /// Takes over an interface where merging is on already.
    pub(super) fn resumed() -> Self {
        Self { stage: Stage::On { costly: 0, quiet: 0 }, failures: 0 }
    }

    pub(super) fn is_on(&self) -> bool {
        matches!(self.stage, Stage::Trial { .. } | Stage::On { .. })
    }

    /// Takes a sample.
    pub(super) fn sample(&mut self, now: Duration, arrived: Arrived) {
        let (pps, mean) = (arrived.pps(), arrived.per_frame());
        let busy = pps >= WORTHWHILE_PPS;
        self.stage = match self.stage {
            Stage::Pause { until } if now < until => return,
            _ if !self.is_on() && busy && mean >= MERGED_BEFORE => Stage::MergedBefore,
            Stage::Quiet { busy: before } if busy && before + 1 >= SAMPLES => {
                Stage::Trial { until: now + TRIAL, arrived: Arrived::default() }
            }
            Stage::Quiet { busy: before } => Stage::Quiet { busy: if busy { before + 1 } else { 0 } },
            Stage::MergedBefore | Stage::Pause { .. } => Stage::Quiet { busy: busy.into() },
            Stage::Trial { until, arrived: before } => {
                let arrived = before.and(arrived);
                if now < until { Stage::Trial { until, arrived } } else { self.verdict(now, arrived) }
            }
            Stage::On { costly, quiet } => {
                let costly = if busy && mean < COSTS { costly + 1 } else { 0 };
                let quiet = if pps < QUIET_PPS { quiet + 1 } else { 0 };
                if costly >= SAMPLES {
                    self.failed(now)
                } else if quiet >= QUIET_SAMPLES {
                    Stage::Quiet { busy: 0 }
                } else {
                    Stage::On { costly, quiet }
                }
            }
        };
    }

    fn verdict(&mut self, now: Duration, arrived: Arrived) -> Stage {
        if arrived.per_frame() >= PAYS {
            self.failures = 0;
            Stage::On { costly: 0, quiet: 0 }
        } else if arrived.pps() < WORTHWHILE_PPS / 2.0 {
            // What was to be merged has ceased.
            Stage::Quiet { busy: 0 }
        } else {
            self.failed(now)
        }
    }

    fn failed(&mut self, now: Duration) -> Stage {
        let until = now + FIRST_PAUSE * (1 << self.failures.min(MAX_DOUBLINGS));
        self.failures = self.failures.saturating_add(1);
        Stage::Pause { until }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds of traffic; `merged` is the mean while it is on, else frames carry one. Returns in how many it was on.
    fn run(judge: &mut Judge, now: &mut Duration, seconds: u32, pps: u64, merged: u64) -> u32 {
        let mut on = 0;
        for _ in 0..seconds {
            *now += Duration::from_secs(1);
            let per_frame = if judge.is_on() { merged } else { 1 };
            on += u32::from(judge.is_on());
            let arrived = Arrived { datagrams: pps, frames: pps / per_frame, over: Duration::from_secs(1) };
            judge.sample(*now, arrived);
        }
        on
    }

    #[test]
    fn it_stays_on_where_it_pays_and_ends_with_the_stream() {
        let (mut judge, mut now) = (Judge::default(), Duration::from_secs(100));
        assert_eq!(run(&mut judge, &mut now, 100, 19_999, 64), 0, "too slow to try");
        assert_eq!(run(&mut judge, &mut now, 2, 20_000, 64), 0, "a peak");
        run(&mut judge, &mut now, 5, 1, 64);
        assert_eq!(run(&mut judge, &mut now, 1_003, 100_000, 64), 1_000);
        assert_eq!(judge.stage, Stage::On { costly: 0, quiet: 0 });
        assert_eq!(run(&mut judge, &mut now, 500, 5_000, 2), 500, "a lower rate");
        assert_eq!(run(&mut judge, &mut now, 500, 0, 64), 60, "silence");
        assert_eq!(judge.stage, Stage::Quiet { busy: 0 });
    }

    #[test]
    fn where_it_costs_it_is_tried_for_seconds_and_ever_more_rarely() {
        let (mut judge, mut now) = (Judge::default(), Duration::from_secs(100));
        let in_minutes: Vec<u32> = (0..60).map(|_| run(&mut judge, &mut now, 60, 100_000, 1)).collect();
        let tried: u32 = in_minutes.iter().sum();
        assert!((12..=24).contains(&tried), "{in_minutes:?}: seconds of an hour");
        assert!(in_minutes.iter().all(|on| *on <= 6), "{in_minutes:?}");
        let later = run(&mut judge, &mut now, 24 * 3600, 100_000, 1);
        assert!(later < 24 * 5 * 4, "{later} seconds of a day");
    }

    #[test]
    fn a_mean_between_the_thresholds_changes_nothing() {
        let (mut judge, mut now) = (Judge::default(), Duration::ZERO);
        run(&mut judge, &mut now, 20, 100_000, 2);
        assert!(judge.is_on());
        let sample = |datagrams, frames| Arrived { datagrams, frames, over: Duration::from_secs(1) };
        for second in 0..100 {
            judge.sample(now + Duration::from_secs(second), sample(30_000, 18_000));
        }
        assert!(judge.is_on(), "1.67 is enough to stay");
        let mut other =
            Judge { stage: Stage::Trial { until: now, arrived: Arrived::default() }, failures: 0 };
        other.sample(now, sample(30_000, 18_000));
        assert!(!other.is_on(), "and not enough to begin");
        for second in 0..2 {
            judge.sample(now + Duration::from_secs(second), sample(30_000, 30_000));
        }
        judge.sample(now, sample(30_000, 1_000));
        judge.sample(now, sample(30_000, 30_000));
        assert!(judge.is_on(), "two samples in a row are no trend");
        (0..2).for_each(|_| judge.sample(now, sample(30_000, 30_000)));
        assert!(!judge.is_on());
    }

    #[test]
    fn super_frames_of_a_sender_on_the_host_need_no_trial() {
        let (mut judge, mut now) = (Judge::default(), Duration::ZERO);
        for _ in 0..100 {
            now += Duration::from_secs(1);
            judge.sample(now, Arrived { datagrams: 640_000, frames: 10_000, over: Duration::from_secs(1) });
            assert!(!judge.is_on());
        }
        assert_eq!(judge.stage, Stage::MergedBefore);
        assert!(run(&mut judge, &mut now, 10, 640_000, 64) > 0, "single ones do");
    }

    #[test]
    fn a_trial_without_traffic_proves_nothing() {
        let (mut judge, mut now) = (Judge::default(), Duration::ZERO);
        run(&mut judge, &mut now, 3, 100_000, 1);
        assert!(judge.is_on());
        run(&mut judge, &mut now, 5, 0, 1);
        assert_eq!(judge.stage, Stage::Quiet { busy: 0 });
        assert_eq!(judge.failures, 0);
    }
}
