//! What is measured: loads, sizes, numbers of rules and outputs.

use crate::measurement::{self, Sample};
use crate::peers::{Peer, Running, Work};
use crate::topology::Lab;

/// How the sender sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// As fast as it can, streams in turn in runs of 64 datagrams.
    Saturation,
    /// As fast as it can, streams in turn datagram by datagram.
    SaturationMixed,
    /// As fast as it can, without bursts: each datagram is a send of its own.
    SaturationSingle,
    /// Datagrams per second, verified at the receiver.
    Paced(u64),
    /// Datagrams per second for a group that no rule wants.
    Foreign(u64),
    /// Datagrams per second from each of two cores, to one worker on each.
    TwoWorkers(u64),
}

impl Load {
    /// Whether rates are what the scenario is about.
    pub(crate) const fn is_saturation(self) -> bool {
        matches!(self, Self::Saturation | Self::SaturationMixed | Self::SaturationSingle)
    }
}

/// One row of the plan.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    /// For filters and JSON.
    pub(crate) id: &'static str,
    /// For people.
    pub(crate) title: &'static str,
    pub(crate) load: Load,
    pub(crate) payload_bytes: u64,
    pub(crate) work: Work,
    /// The sender's device takes segmented datagrams: super-frames arrive.
    pub(crate) sender_segments: bool,
    /// The relay's output device takes segmented datagrams.
    pub(crate) device_segments: bool,
    pub(crate) peers: &'static [Peer],
}

const TRANSLATING: &[Peer] = &[
    Peer::Mcr,
    Peer::McrMerged,
    Peer::McrKernel,
    Peer::McrKernelMerged,
    Peer::McrRecvmmsg,
    Peer::Floor,
    Peer::Socat,
];
const MANY_GROUPS: &[Peer] = &[
    Peer::Mcr,
    Peer::McrMerged,
    Peer::McrKernel,
    Peer::McrRecvmmsg,
    Peer::Socat,
    Peer::Smcroute,
    Peer::SmcrouteSteered,
];
const SINGLE: &[Peer] =
    &[Peer::Mcr, Peer::McrMerged, Peer::McrAuto, Peer::McrRecvmmsg, Peer::Socat, Peer::Smcroute];
const EVERYONE: &[Peer] = &[
    Peer::Mcr,
    Peer::McrEarlyDrop,
    Peer::McrKernel,
    Peer::McrKernelMerged,
    Peer::McrSpared,
    Peer::McrMerged,
    Peer::McrRecvmmsg,
    Peer::McrRecvmmsgMerged,
    Peer::Floor,
    Peer::Socat,
    Peer::Smcroute,
    Peer::SmcrouteJoined,
    Peer::SmcrouteSteered,
];
const AT_RATES: &[Peer] = &[
    Peer::Mcr,
    Peer::McrAtOnce,
    Peer::McrPatient,
    Peer::McrTraced,
    Peer::McrSampled,
    Peer::McrMerged,
    Peer::McrKernel,
    Peer::McrRecvmmsg,
    Peer::Floor,
    Peer::Socat,
    Peer::Smcroute,
];
const BUFFERS: &[Peer] = &[Peer::Mcr, Peer::McrFewBuffers, Peer::McrManyBuffers];
const TRACED: &[Peer] = &[Peer::Mcr, Peer::McrTraced, Peer::McrSampled];
const KEPT: &[Peer] = &[Peer::Mcr, Peer::McrKept, Peer::McrRecvmmsg];
/// With and without the sandbox.
const SANDBOX: &[Peer] = &[Peer::Mcr, Peer::McrUnconfined, Peer::McrRecvmmsg, Peer::McrRecvmmsgUnconfined];
const MCR: &[Peer] = &[Peer::Mcr, Peer::McrRecvmmsg];

const ONE: Work = Work { rules: 1, outputs: 1, workers: 1 };
const FAN_OUT: Work = Work { rules: 1, outputs: 8, workers: 1 };
const FIFTY: Work = Work { rules: 50, outputs: 1, workers: 1 };
const TWO_WORKERS: Work = Work { rules: 2, outputs: 1, workers: 2 };

/// All scenarios.
pub(crate) fn all() -> Vec<Scenario> {
    use Load::{Foreign, Paced, Saturation, SaturationMixed, SaturationSingle, TwoWorkers};
    let row = |id, title, load, payload_bytes, work, device_segments, peers| Scenario {
        id,
        title,
        load,
        payload_bytes,
        work,
        sender_segments: false,
        device_segments,
        peers,
    };
    let with_super_frames = |scenario| Scenario { sender_segments: true, ..scenario };
    vec![
        row("one-200", "1→1, 200 B", Saturation, 200, ONE, true, EVERYONE),
        row("one-1400", "1→1, 1,400 B", Saturation, 1400, ONE, true, EVERYONE),
        row("one-200-split", "1→1, 200 B, device does not segment", Saturation, 200, ONE, false, EVERYONE),
        row(
            "one-1400-split",
            "1→1, 1,400 B, device does not segment",
            Saturation,
            1400,
            ONE,
            false,
            EVERYONE,
        ),
        row("fan-200", "1→8, 200 B", Saturation, 200, FAN_OUT, true, TRANSLATING),
        row("fan-1400", "1→8, 1,400 B", Saturation, 1400, FAN_OUT, true, TRANSLATING),
        row("fifty-200", "50 rules, 200 B", Saturation, 200, FIFTY, true, MANY_GROUPS),
        row("fifty-1400", "50 rules, 1,400 B", Saturation, 1400, FIFTY, true, MANY_GROUPS),
        row("fifty-200-mixed", "50 rules in turn, 200 B", SaturationMixed, 200, FIFTY, true, MANY_GROUPS),
        row("single-200", "1→1, 200 B, a sender without bursts", SaturationSingle, 200, ONE, true, SINGLE),
        row("buffers-200", "1→1, 200 B, numbers of buffers", Saturation, 200, ONE, true, BUFFERS),
        row("buffers-1400", "1→1, 1,400 B, numbers of buffers", Saturation, 1400, ONE, true, BUFFERS),
        row("traced-200", "1→1, 200 B, traced", Saturation, 200, ONE, true, TRACED),
        row("kept-200", "1→1, 200 B, kept source", Saturation, 200, ONE, true, KEPT),
        with_super_frames(row("super-200", "1→1, super-frames of 200 B", Saturation, 200, ONE, true, KEPT)),
        row("rate-100k", "100,000/s, 200 B", Paced(100_000), 200, ONE, true, AT_RATES),
        row("rate-20k", "20,000/s, 200 B", Paced(20_000), 200, ONE, true, AT_RATES),
        row("sandbox-full", "1→1, 200 B, sandbox", Saturation, 200, ONE, true, SANDBOX),
        row("sandbox-100k", "100,000/s, 200 B, sandbox", Paced(100_000), 200, ONE, true, SANDBOX),
        row("sandbox-20k", "20,000/s, 200 B, sandbox", Paced(20_000), 200, ONE, true, SANDBOX),
        row("sandbox-5k", "5,000/s, 200 B, sandbox", Paced(5_000), 200, ONE, true, SANDBOX),
        row("foreign-500k", "500,000/s that match no rule", Foreign(500_000), 200, ONE, true, MCR),
        row("workers-2", "2 workers, 2 × 40,000/s", TwoWorkers(40_000), 200, TWO_WORKERS, true, MCR),
    ]
}

impl Scenario {
    /// Measures one peer once.
    pub(crate) fn run(&self, lab: &Lab, peer: Peer, seconds: u64) -> Sample {
        let running = Running::start(peer, lab, self.work);
        measurement::wait_until_it_relays(lab, self);
        match self.load {
            Load::Saturation => measurement::saturated(lab, self, &running, seconds, "auto"),
            Load::SaturationMixed | Load::SaturationSingle => {
                measurement::saturated(lab, self, &running, seconds, "never")
            }
            Load::Paced(rate) => measurement::paced(lab, self, &running, seconds, rate),
            Load::Foreign(rate) => measurement::foreign(lab, &running, seconds, rate),
            Load::TwoWorkers(rate) => measurement::two_workers(lab, self, &running, seconds, rate),
        }
    }
}
