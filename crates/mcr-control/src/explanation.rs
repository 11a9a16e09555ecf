//! `Explain`: why a rule relays or does not, in words, with evidence and what to do. Every finding has an id that
//! user_docs/TROUBLESHOOTING.md explains.

use std::collections::BTreeMap;

use mcr_rules::{Input, RuleId, RuleName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

mcr_rules::named! {
    /// How bad a finding is, the worst last.
    pub enum Severity {
        /// Good to know; nothing is lost by it.
        Note = "note",
        /// Something is lost, or will be.
        Warning = "warning",
        /// Nothing gets past it.
        Error = "error",
    }
}

mcr_rules::named! {
    /// A stage of a datagram's way, in order.
    pub enum Stage {
        /// The interface it arrives on.
        Input = "input",
        /// The group's membership.
        Join = "join",
        /// Its arrival, and the queue in front of the worker.
        Capture = "capture",
        /// Whether the rule takes it.
        Match = "match",
        /// The worker.
        Relay = "relay",
        /// The sends.
        Output = "output",
        /// Who waits for it.
        Downstream = "downstream",
        /// The host as a whole.
        Host = "host",
    }
}

impl Stage {
    /// The stages of a rule, in order.
    pub const OF_RULE: [Self; 7] =
        [Self::Input, Self::Join, Self::Capture, Self::Match, Self::Relay, Self::Output, Self::Downstream];
}

/// Declares the closed list of findings: name, stage and usual severity.
macro_rules! findings {
    ($($(#[$doc:meta])* $entry:ident = $name:literal, $stage:ident, $severity:ident;)+) => {
        mcr_rules::named! {
            /// What can be found, in the order of a datagram's way: a closed list.
            pub enum FindingId { $($(#[$doc])* $entry = $name,)+ }
        }

        impl FindingId {
            /// Where on a datagram's way.
            #[must_use]
            pub const fn stage(self) -> Stage {
                match self { $(Self::$entry => Stage::$stage,)+ }
            }

            /// How bad it is unless circumstances say otherwise.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$entry => Severity::$severity,)+ }
            }
        }
    };
}

findings! {
    /// The input's interface does not exist.
    InterfaceMissing = "interface_missing", Input, Error;
    /// The input's interface is set down.
    InterfaceDown = "interface_down", Input, Error;
    /// The input's interface has no carrier.
    NoCarrier = "no_carrier", Input, Error;
    /// The link type of the input's interface is not supported.
    InterfaceUnreadable = "interface_unreadable", Input, Error;
    /// The input's interface carries no multicast.
    NoMulticast = "no_multicast", Input, Error;
    /// A unicast input is no address of this host.
    NotOurAddress = "not_our_address", Input, Error;
    /// The input's interface has no address to ask for a group with.
    NoInputAddress = "no_input_address", Input, Warning;
    /// The input's interface is a port of a bridge.
    BridgePort = "bridge_port", Input, Warning;
    /// The kernel did not join the group.
    NotJoined = "not_joined", Join, Error;
    /// The port of a unicast input can't be held.
    PortNotHeld = "port_not_held", Join, Warning;
    /// Another program has the port of a unicast input.
    PortHeld = "port_held", Join, Note;
    /// No querier was heard for longer than queriers are silent.
    QuerierSilent = "querier_silent", Join, Warning;
    /// A querier is on the wire, and the kernel does not hear it.
    QuerierFiltered = "querier_filtered", Join, Warning;
    /// A querier was heard, and no report of this host after it.
    ReportNotSeen = "report_not_seen", Join, Warning;
    /// Nothing for the group arrives anywhere.
    NothingArrives = "nothing_arrives", Capture, Error;
    /// Something else arrives on the interface, which may be what the rule is meant for.
    SimilarArrives = "similar_arrives", Capture, Warning;
    /// The group arrives on another interface.
    OtherInterface = "other_interface", Capture, Error;
    /// The group arrives in another VLAN.
    OtherVlan = "other_vlan", Capture, Error;
    /// What arrives does not reach the worker.
    NotTaken = "not_taken", Capture, Error;
    /// The kernel's queue in front of a worker overflows.
    QueueOverflow = "queue_overflow", Capture, Warning;
    /// The kernel discards super-frames that arrive on the interface.
    SuperFramesLost = "super_frames_lost", Capture, Warning;
    /// The group arrives on another port.
    OtherPort = "other_port", Match, Error;
    /// The senders are not among the rule's sources.
    SourceExcluded = "source_excluded", Match, Error;
    /// Frames arrive for another host's MAC address.
    OtherHost = "other_host", Match, Error;
    /// The datagrams are from this host.
    OwnSource = "own_source", Match, Error;
    /// A program of this host sends them.
    LocalSender = "local_sender", Match, Error;
    /// Datagrams arrive in fragments, which the rule does not take.
    Fragments = "fragments", Match, Warning;
    /// Fragments of datagrams were lost, or refused.
    FragmentsLost = "fragments_lost", Match, Warning;
    /// Datagrams arrive with a wrong checksum.
    BadChecksum = "bad_checksum", Match, Warning;
    /// Datagrams arrive with TTL 0.
    TtlZero = "ttl_zero", Match, Warning;
    /// Datagrams contradict themselves.
    Malformed = "malformed", Match, Warning;
    /// Packets of the stream were lost before they came here.
    StreamLoss = "stream_loss", Match, Warning;
    /// Datagrams are not of the format that the rule's `health` names.
    OtherFormat = "other_format", Match, Warning;
    /// A leg of a merged rule comes after the window.
    LegLate = "leg_late", Match, Warning;
    /// Copies on the legs of a merged rule have different payloads.
    LegsDiffer = "legs_differ", Match, Warning;
    /// Datagrams of a merged rule are missing on all legs.
    LegsLost = "legs_lost", Match, Warning;
    /// The worker does not run, or not with this rule.
    WorkerDown = "worker_down", Relay, Error;
    /// A worker died, and datagrams with it.
    WorkerDied = "worker_died", Relay, Warning;
    /// The rule gets more than its `max_pps`.
    RateLimited = "rate_limited", Relay, Warning;
    /// The worker had no free place for sends.
    NoBuffer = "no_buffer", Relay, Warning;
    /// An output's interface does not exist.
    OutputInterfaceMissing = "output_interface_missing", Output, Error;
    /// An output's interface is set down.
    OutputInterfaceDown = "output_interface_down", Output, Error;
    /// An output's interface has no carrier.
    OutputNoCarrier = "output_no_carrier", Output, Error;
    /// There is no address to send from.
    OutputNoAddress = "output_no_address", Output, Error;
    /// An output's interface carries no multicast.
    OutputNoMulticast = "output_no_multicast", Output, Error;
    /// An output's socket can't be opened.
    OutputSocket = "output_socket", Output, Error;
    /// The kernel has no route to an output.
    NoRoute = "no_route", Output, Warning;
    /// Datagrams exceed an output's MTU.
    TooBig = "too_big", Output, Warning;
    /// Datagrams leave in fragments.
    OutputFragments = "output_fragments", Output, Warning;
    /// An output's interface queue is full.
    QueueFull = "queue_full", Output, Warning;
    /// An output's socket buffer is full.
    SocketFull = "socket_full", Output, Warning;
    /// The host that is sent to refuses.
    Refused = "refused", Output, Warning;
    /// A firewall of this host refuses.
    Firewall = "firewall", Output, Warning;
    /// The TTL would reach 0.
    TtlExpired = "ttl_expired", Output, Warning;
    /// Sends fail for another reason.
    SendFailed = "send_failed", Output, Warning;
    /// Receivers answer to the port that is sent from.
    Replies = "replies", Downstream, Note;
    /// A snooping bridge of this host knows no receiver.
    NoReceiver = "no_receiver", Downstream, Warning;
    /// The host that is sent to answers no ARP or neighbour discovery.
    ReceiverSilent = "receiver_silent", Downstream, Warning;
    /// The kernel is older than wanted.
    KernelOld = "kernel_old", Host, Warning;
    /// Workers run without io_uring.
    IoUringUnavailable = "io_uring_unavailable", Host, Note;
    /// The capture queue is smaller than the setting.
    BufferClamped = "buffer_clamped", Host, Warning;
    /// A worker is not well.
    WorkerUnwell = "worker_unwell", Host, Warning;
    /// What rules take goes through the host's IP input, too.
    NoEarlyDrop = "no_early_drop", Host, Note;
    /// A worker was killed by its sandbox.
    WorkerKilledBySandbox = "worker_killed_by_sandbox", Host, Warning;
    /// A worker has fewer layers of the sandbox than there are.
    SandboxIncomplete = "sandbox_incomplete", Host, Note;
    /// Several workers share an interface whose frames all go to one core.
    OneCoreGetsAll = "one_core_gets_all", Host, Warning;
    /// A core is shared by several workers.
    CoreShared = "core_shared", Host, Note;
    /// An interface does not merge what it receives, although it is wanted: mcrd lacks a capability.
    AggregationNotPermitted = "aggregation_not_permitted", Host, Note;
    /// An interface can't merge what it receives.
    AggregationUnsupported = "aggregation_unsupported", Host, Note;
    /// Somebody else has set what an interface merges, and mcrd leaves it so.
    AggregationOverridden = "aggregation_overridden", Host, Note;
    /// Reverse path filtering is on.
    RpFilter = "rp_filter", Host, Note;
    /// The daemon lacks a capability.
    CapabilityMissing = "capability_missing", Host, Warning;
    /// A bridge of this host snoops, and nobody asks.
    SnoopingWithoutQuerier = "snooping_without_querier", Host, Warning;
    /// There are more rules than are examined at once.
    NotAllExamined = "not_all_examined", Host, Note;
    /// What arrives could not be observed.
    NotObserved = "not_observed", Host, Note;
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Which one; the name of a [`FindingId`].
    pub id: String,
    /// How bad it is.
    pub severity: Severity,
    /// Where on a datagram's way.
    pub stage: Stage,
    /// What was found.
    pub words: String,
    /// The numbers behind the words.
    pub evidence: BTreeMap<String, Value>,
    /// What to do.
    pub hint: Option<String>,
}

impl Finding {
    /// A finding with its usual severity, without evidence.
    #[must_use]
    pub fn new(id: FindingId, words: impl Into<String>) -> Self {
        Self {
            id: id.name().to_owned(),
            severity: id.severity(),
            stage: id.stage(),
            words: words.into(),
            evidence: BTreeMap::new(),
            hint: None,
        }
    }

    /// With one more piece of evidence.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.evidence.insert(name.to_owned(), value.into());
        self
    }

    /// With what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With another severity than usual.
    #[must_use]
    pub fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }
}

mcr_rules::named! {
    /// How a stage fares.
    pub enum StepState {
        /// As it should be.
        Ok = "ok",
        /// With a warning.
        Warning = "warning",
        /// Nothing gets past it.
        Stopped = "stopped",
        /// Nothing is known of it.
        Unknown = "unknown",
    }
}

impl StepState {
    /// What the worst finding makes of a stage.
    #[must_use]
    pub fn of(worst: Option<Severity>) -> Self {
        match worst {
            Some(Severity::Error) => Self::Stopped,
            Some(Severity::Warning) => Self::Warning,
            Some(Severity::Note) | None => Self::Ok,
        }
    }
}

/// One stage of a rule's path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStep {
    /// Which.
    pub stage: Stage,
    /// How it fares.
    pub state: StepState,
    /// What is known of it.
    pub words: String,
}

mcr_rules::named! {
    /// What becomes of a rule's datagrams.
    pub enum Verdict {
        /// They go out.
        Relaying = "relaying",
        /// They go out, but not all, or something is about to go wrong.
        Impaired = "impaired",
        /// None goes out.
        Stopped = "stopped",
    }
}

/// One rule, explained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The rule's id.
    pub id: RuleId,
    /// Its name.
    pub name: Option<RuleName>,
    /// What it takes.
    pub input: Input,
    /// What becomes of its datagrams.
    pub verdict: Verdict,
    /// The same in a sentence.
    pub summary: String,
    /// Its path, in order.
    pub path: Vec<PathStep>,
    /// What was found, along the path.
    pub findings: Vec<Finding>,
}

/// Something about the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCheck {
    /// What was examined.
    pub topic: String,
    /// How it fares.
    pub state: StepState,
    /// What is known of it.
    pub words: String,
}

/// The host, examined.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostReport {
    /// What was examined.
    pub checks: Vec<HostCheck>,
    /// What was found.
    pub findings: Vec<Finding>,
}

/// `Explain`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExplainReply {
    /// How long it was listened for what arrives, milliseconds; 0 if not at all.
    pub listened_ms: u64,
    /// The rule that was asked for, or all.
    pub rules: Vec<Explanation>,
    /// The host, if all was asked for.
    pub host: Option<HostReport>,
}

impl crate::message::ReplyBody for ExplainReply {
    fn items(&self) -> usize {
        // Seven stages each.
        self.rules.len() * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_explains_every_finding_and_no_other() {
        let manual = include_str!("../../../user_docs/TROUBLESHOOTING.md");
        let (_, findings) = manual.split_once("\n## Findings").unwrap();
        let findings = findings.split_once("\n## ").map_or(findings, |(findings, _)| findings);
        let explained: Vec<&str> =
            findings.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0)).collect();
        let all: Vec<&str> = FindingId::ALL.iter().map(|id| id.name()).collect();
        assert_eq!(explained, all);
    }

    #[test]
    fn findings_are_listed_along_the_way() {
        assert!(FindingId::ALL.is_sorted_by_key(|id| id.stage()));
    }
}
