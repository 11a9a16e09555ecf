//! Memory and descriptors of the supervisor and its workers, over time.

use std::collections::BTreeMap;
use std::time::Duration;

use mcr_sys::clock::monotonic;
use serde_json::{Value, json};

use super::faults::Site;

/// Minimum time for a slope: memory grows in pages of 4 KiB.
const SHORTEST: Duration = Duration::from_secs(300);
/// The promise (R25).
const MOST_KIB_PER_MINUTE: f64 = 1.0;
/// Maximum growth of a run that is too short for a slope.
const MOST_GROWTH_KIB: u64 = 16 * 1024;

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    memory_kib: u64,
    descriptors: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Supervisor,
    Keeper,
    Worker,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Supervisor, Self::Keeper, Self::Worker];

    const fn name(self) -> &'static str {
        match self {
            Self::Supervisor => "supervisor",
            Self::Keeper => "keeper",
            Self::Worker => "workers",
        }
    }
}

/// One process.
#[derive(Debug)]
struct Process {
    kind: Kind,
    /// The round of all faults in which it was first seen.
    cycle: usize,
    all: Vec<Sample>,
    /// Samples after warm-up.
    warm: Vec<Sample>,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Processes {
    processes: BTreeMap<u32, Process>,
}

impl Processes {
    /// Samples all running processes; `cycle` counts rounds of all faults. A process is warm after a whole round:
    /// memory first needed for a fault is not growth.
    pub(super) fn sample(&mut self, site: &Site<'_>, cycle: usize) {
        let workers = site.workers().into_iter().map(|worker| (worker.pid, Kind::Worker));
        let keeper = site.daemon.keeper().map(|pid| (pid, Kind::Keeper));
        for (pid, kind) in [(site.daemon.pid(), Kind::Supervisor)].into_iter().chain(keeper).chain(workers) {
            let Some(sample) = Sample::of(pid) else { continue };
            let new = || Process { kind, cycle, all: Vec::new(), warm: Vec::new() };
            let process = self.processes.entry(pid).or_insert_with(new);
            process.all.push(sample);
            let warm = cycle > process.cycle + 1;
            if warm {
                process.warm.push(sample);
            }
        }
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Process> {
        self.processes.values().filter(move |process| process.kind == kind)
    }

    /// The mean slope over all processes, weighted by their uptime, and the sum of the uptimes.
    fn slope(&self, kind: Kind) -> (f64, Duration) {
        let measured = || self.of(kind).filter(|process| process.length() > Duration::ZERO);
        let length: Duration = measured().map(Process::length).sum();
        let growth: f64 =
            measured().map(|process| slope(&process.warm) * process.length().as_secs_f64() / 60.0).sum();
        (if length.is_zero() { 0.0 } else { growth / (length.as_secs_f64() / 60.0) }, length)
    }

    pub(super) fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for kind in Kind::ALL {
            let name = kind.name();
            let (slope, length) = self.slope(kind);
            if length >= SHORTEST && slope > MOST_KIB_PER_MINUTE {
                failures.push(format!("the memory of the {name} grows by {slope:.2} KiB/min"));
            }
            for process in self.of(kind) {
                let [first, .., last] = process.all.as_slice() else { continue };
                if last.memory_kib > first.memory_kib + MOST_GROWTH_KIB {
                    failures.push(format!(
                        "the memory of one of the {name} grew from {} to {} KiB",
                        first.memory_kib, last.memory_kib
                    ));
                }
            }
        }
        // A worker's descriptors depend on its rules; the supervisor must have as many after each fault as before.
        for process in self.of(Kind::Supervisor) {
            let (before, after) = process.descriptors();
            if after > before + SPARE_SOCKETS + super::load::FLOWS {
                failures.push(format!("the supervisor had {before} descriptors and has {after}"));
            }
        }
        failures
    }

    pub(super) fn json(&self) -> Value {
        let one = |kind: Kind| {
            let (slope, length) = self.slope(kind);
            let enough = length >= SHORTEST;
            let most = self.of(kind).flat_map(|process| &process.all).map(|sample| sample.memory_kib).max();
            json!({
                "process": kind.name(), "processes": self.of(kind).count(), "memory_kib": most,
                "slope_kib_per_minute": enough.then(|| (slope * 1e3).round() / 1e3),
                "minutes": (length.as_secs_f64() / 6.0).round() / 10.0,
                "descriptors_first": self.of(kind).next().map(|process| process.descriptors().0),
                "descriptors_last": self.of(kind).last().map(|process| process.descriptors().1),
            })
        };
        Kind::ALL.into_iter().map(one).collect()
    }
}

/// Capture sockets that the supervisor keeps ready, or is about to prepare again. Beside them, it keeps the last trace of each rule. A
/// leak shows as more after many faults.
const SPARE_SOCKETS: usize = 2;
/// Number of samples whose minimum is what a process holds permanently: at each, it may be about to close a client's
/// connection.
const LOOKS: usize = 3;

impl Process {
    /// The number of descriptors held permanently, at its start and at its end.
    fn descriptors(&self) -> (usize, usize) {
        let least = |samples: &[Sample]| samples.iter().map(|sample| sample.descriptors).min().unwrap_or(0);
        let looks = self.all.len().min(LOOKS);
        (least(&self.all[..looks]), least(&self.all[self.all.len() - looks..]))
    }

    fn length(&self) -> Duration {
        match self.warm.as_slice() {
            [first, .., last] => last.at - first.at,
            _ => Duration::ZERO,
        }
    }
}

impl Sample {
    /// Samples a process; `None` if it has exited.
    fn of(pid: u32) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        let memory_kib = line.split_whitespace().next()?.parse().ok()?;
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
        Some(Self { at: monotonic(), memory_kib, descriptors })
    }
}

/// Slope in KiB per minute, by least squares.
#[expect(clippy::cast_precision_loss, reason = "KiB and counts are far below 2^52")]
fn slope(samples: &[Sample]) -> f64 {
    let Some(first) = samples.first() else { return 0.0 };
    let points: Vec<(f64, f64)> = samples
        .iter()
        .map(|sample| ((sample.at - first.at).as_secs_f64() / 60.0, sample.memory_kib as f64))
        .collect();
    let count = points.len() as f64;
    let mean = |axis: fn(&(f64, f64)) -> f64| points.iter().map(axis).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let over: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let under: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if under > 0.0 { over / under } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_is_found() {
        let samples = |growth: u64| -> Vec<Sample> {
            (0..100)
                .map(|n| Sample {
                    at: Duration::from_secs(n * 6),
                    memory_kib: 1_000 + n * growth,
                    descriptors: 9,
                })
                .collect()
        };
        assert!(slope(&samples(0)).abs() < 1e-9);
        assert!((slope(&samples(2)) - 20.0).abs() < 1e-6);
        assert!(slope(&[]).abs() < 1e-9);
    }

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let sample = Sample::of(std::process::id()).unwrap();
        assert!(sample.memory_kib > 100 && sample.descriptors >= 3);
    }
}
