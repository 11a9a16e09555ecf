//! The counters: `GetStats` and `ListFlows`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mcr_rules::{InterfaceName, RuleId, RuleName};
use serde::{Deserialize, Serialize};

use super::Engine;
use crate::message::ReplyBody;

/// `GetStats`. All counters start at 0 with the daemon and never fall while a rule stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatsReply {
    /// Per rule, in the order of the running config.
    pub rules: Vec<RuleStats>,
    /// Per worker.
    pub workers: Vec<WorkerStats>,
    /// The sums over workers that have left.
    #[serde(default)]
    pub past_workers: PastWorkers,
    /// What the kernel relays, if it does.
    #[serde(default)]
    pub kernel: Option<KernelStats>,
    /// Datagrams that were due on an output and did not leave, by reason, over all workers and the kernel.
    pub drops: BTreeMap<String, u64>,
    /// Datagrams received and not matched, by reason, over all workers.
    pub skips: BTreeMap<String, u64>,
}

/// The kernel's totals: `received = matched`, `due = sent + Σ drops`. Frames that it leaves to workers are in theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelStats {
    /// Datagrams received; a super-frame counts as the datagrams it carries.
    pub received: u64,
    /// Frames received.
    pub frames: u64,
    /// Datagrams that some rule admitted: all.
    pub matched: u64,
    /// Sends due for them.
    pub due: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that were due and did not leave, by reason; reasons with 0 are left out.
    pub drops: BTreeMap<String, u64>,
}

/// One rule's counters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleStats {
    /// The rule's id.
    pub id: RuleId,
    /// Its name.
    pub name: Option<RuleName>,
    /// Datagrams the rule admitted.
    pub packets: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Datagrams per second, over the last seconds.
    pub pps: f64,
    /// Payload bits per second, over the last seconds.
    pub bps: f64,
    /// Frames in which they came: fewer than datagrams where several were merged.
    #[serde(default)]
    pub frames: u64,
    /// Datagrams per frame, over the last second in which any came; 0 if none did.
    #[serde(default)]
    pub per_frame: f64,
    /// Sends due: datagrams times the outputs there were at their time.
    pub due: u64,
    /// When the first datagram came, in milliseconds since 1970 (UTC); `None` if none did.
    pub first_ms: Option<u64>,
    /// When the last datagram came.
    pub last_ms: Option<u64>,
    /// It is ready, its groups are joined, and nothing came for `settings.flow_silence_s`.
    #[serde(default)]
    pub silent: bool,
    /// What was found in its stream; `None` if it does not ask.
    pub health: Option<HealthStats>,
    /// Frames for its destination that it did not relay, by reason; reasons with 0 are left out.
    #[serde(default)]
    pub skips: BTreeMap<String, u64>,
    /// The last of them.
    #[serde(default)]
    pub last_skip: Option<LastSkip>,
    /// What each leg of a merged rule brought, in the order of the rule; empty for others.
    #[serde(default)]
    pub legs: Vec<LegStats>,
    /// Datagrams of a merged rule that were missing on all legs; with MoldUDP64, messages.
    #[serde(default)]
    pub lost: Option<u64>,
    /// Datagrams of a merged rule that wait for those before them.
    #[serde(default)]
    pub held: Option<u64>,
    /// Per output, in the order of the rule.
    pub outputs: Vec<OutputStats>,
}

/// One leg of a merged rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegStats {
    /// The interface that it arrives on.
    pub interface: InterfaceName,
    /// Its group or address.
    #[serde(with = "mcr_rules::destination")]
    pub group: IpAddr,
    /// Its UDP port.
    pub port: u16,
    /// Datagrams that it brought.
    pub packets: u64,
    /// Datagrams that were missing on it when the window had passed.
    pub lost: u64,
    /// Copies of what had left before.
    pub duplicates: u64,
    /// Datagrams that came on no other leg.
    pub unique: u64,
    /// Datagrams that came after the window.
    pub too_late: u64,
    /// Datagrams of another stream.
    pub other_stream: u64,
    /// How long after the first copy its copies come, microseconds, smoothed.
    pub skew_us: u64,
}

/// The last frame for a rule's destination that it did not relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastSkip {
    /// When it came, in milliseconds since 1970 (UTC).
    pub at_ms: u64,
    /// Why it was not relayed.
    pub reason: String,
    /// Who sent it.
    pub source: IpAddr,
    /// To which UDP port; `None` if it could not be read, as in all fragments but the first.
    pub port: Option<u16>,
}

/// One output's counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputStats {
    /// The interface it leaves on.
    pub interface: InterfaceName,
    /// The group or host it is sent to.
    #[serde(with = "mcr_rules::destination")]
    pub group: IpAddr,
    /// The UDP port it is sent to.
    pub port: u16,
    /// What relays its datagrams, and counts them.
    #[serde(default)]
    pub engine: Engine,
    /// Datagrams sent.
    pub packets: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Datagrams dropped: the sum of `drops`.
    pub errors: u64,
    /// Datagrams dropped, by reason; reasons with 0 are left out.
    pub drops: BTreeMap<String, u64>,
    /// What the last failed send said, e.g. `Network is unreachable (os error 101)`.
    pub last_error: Option<String>,
    /// Datagrams that came back to the port it is sent from, which other outputs may share. They go no further.
    #[serde(default)]
    pub replies: u64,
}

/// One worker's totals: `received = matched + Σ skips + held`, `due = sent + Σ drops`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStats {
    /// The interface it receives on.
    pub interface: InterfaceName,
    /// The same, or all of them: the legs of merged rules arrive on several.
    #[serde(default)]
    pub interfaces: Vec<InterfaceName>,
    /// Datagrams that wait for those before them, of merged rules in order.
    #[serde(default)]
    pub held: u64,
    /// Its core.
    pub core: u16,
    /// It takes what programs of this host send on the interface, instead of what arrives.
    #[serde(default)]
    pub local: bool,
    /// Its process id; 0 while there is none.
    pub pid: u32,
    /// Datagrams received; a super-frame counts as the datagrams it carries. Fragments that are put together count as one, when
    /// their datagram is complete or given up.
    pub received: u64,
    /// Frames received.
    pub frames: u64,
    /// Datagrams that some rule admitted.
    pub matched: u64,
    /// Sends due for them.
    pub due: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Frames the kernel dropped because the capture queue was full.
    pub kernel_drops: u64,
    /// Frames with fragments that were put together, or were to be.
    #[serde(default)]
    pub fragments: u64,
    /// Datagrams put together.
    #[serde(default)]
    pub reassembled: u64,
    /// How long relaying took.
    #[serde(default)]
    pub latency: LatencyStats,
}

impl WorkerStats {
    /// The interface, for messages: `eth0`, or `eth0 local` for what programs of this host send on it.
    #[must_use]
    pub fn place(&self) -> String {
        let what = if self.local { " local" } else { "" };
        format!("{}{what}", self.interface)
    }
}

/// From the kernel's taking a frame off the device to the end of its sends, of some frames per second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyStats {
    /// How many were measured.
    pub samples: u64,
    /// All of them together, in microseconds.
    pub sum_us: u64,
    /// What half of them do not exceed: the bound of a bucket. Absent without samples.
    pub p50_us: Option<u64>,
    /// What 99 of 100 do not exceed.
    pub p99_us: Option<u64>,
    /// How many, by length; those with none are left out.
    pub buckets: Vec<LatencyBucket>,
}

/// A bucket of [`LatencyStats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyBucket {
    /// None of its samples is longer, in microseconds; absent: longer than all other bounds.
    pub le_us: Option<u64>,
    /// Its samples, without those of the buckets below.
    pub count: u64,
}

/// What workers that have left had counted; in `drops` and `skips` it is contained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastWorkers {
    /// See [`WorkerStats::received`].
    pub received: u64,
    /// See [`WorkerStats::frames`].
    pub frames: u64,
    /// See [`WorkerStats::matched`].
    pub matched: u64,
    /// See [`WorkerStats::due`].
    pub due: u64,
    /// See [`WorkerStats::sent`].
    pub sent: u64,
    /// See [`WorkerStats::kernel_drops`].
    pub kernel_drops: u64,
    /// See [`WorkerStats::fragments`].
    #[serde(default)]
    pub fragments: u64,
    /// See [`WorkerStats::reassembled`].
    #[serde(default)]
    pub reassembled: u64,
}

/// `ListFlows`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowsReply {
    /// Who sends to which rule, as many as there is room for; by rule, then source.
    pub flows: Vec<FlowStatus>,
    /// Datagrams of flows that found no room, over all rules.
    pub unlisted: u64,
}

/// What one source sends to one rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowStatus {
    /// The rule's id.
    pub rule: RuleId,
    /// The rule's name.
    pub name: Option<RuleName>,
    /// Who sends.
    pub source: IpAddr,
    /// From which UDP port.
    pub port: u16,
    /// Datagrams.
    pub packets: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Datagrams per second, over the last second.
    pub pps: f64,
    /// Payload bits per second, over the last second.
    pub bps: f64,
    /// When the first datagram came, in milliseconds since 1970 (UTC).
    pub first_ms: u64,
    /// When the last datagram came.
    pub last_ms: u64,
    /// Whether one came within `settings.flow_silence_s`.
    pub flowing: bool,
    /// What was found in it; `None` if it is not checked.
    pub health: Option<HealthStats>,
}

/// What a stream's own numbering tells: what was lost, late or double before it came here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthStats {
    /// Datagrams that were checked.
    pub checked: u64,
    /// RTP packets that have not come; falls when one comes late.
    pub lost: u64,
    /// RTP packets that came after a later one.
    pub reordered: u64,
    /// RTP packets that came twice.
    pub duplicates: u64,
    /// MPEG-TS packets whose continuity counter is not what must follow.
    pub continuity_errors: u64,
    /// Datagrams that are no such stream.
    pub malformed: u64,
    /// Interarrival jitter of RTP (RFC 3550), in microseconds, as it is now; 0 until the rate of its clock is known.
    pub jitter_us: u64,
}

impl ReplyBody for StatsReply {
    fn items(&self) -> usize {
        self.rules.iter().map(|rule| 1 + rule.outputs.len()).sum()
    }
}

impl ReplyBody for FlowsReply {
    fn items(&self) -> usize {
        self.flows.len()
    }
}
