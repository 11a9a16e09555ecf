//! The messages between the supervisor and a worker. A message is a SEQPACKET datagram with its descriptors (SCM_RIGHTS,
//! unix(7)).
//!
//! | message | descriptors |
//! |---|---|
//! | `Start` | capture socket, telemetry page; the capture sockets of further linked interfaces |
//! | `Egress` | one UDP socket per id, in the same order |
//! | `RuleSet` | one sealed memfd with the encoded set |
//! | `RuleSetChange` | one sealed memfd with the encoded change |
//! | `Trace` | the trace ring |
//! | all others | none |

use std::os::fd::{BorrowedFd, OwnedFd};

use mcr_rules::log::LogLevels;
use mcr_rules::{IoChoice, RuleId, SandboxChoice};
use mcr_sys::channel::{Channel, MAX_MESSAGE_BYTES, Received};
use serde::{Deserialize, Serialize};

use crate::rule_set::EgressId;
use crate::trace::TraceRequest;

/// The version of these messages and of the telemetry page; a worker refuses any other.
pub const LINK_VERSION: u32 = 11;

/// The link layer header before the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkLayer {
    /// 14 bytes of Ethernet header, also on loopback.
    Ethernet,
    /// No header: tun, WireGuard, GRE, IPIP.
    None,
}

/// The first message to a worker: its identity and parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStart {
    /// [`LINK_VERSION`] of the supervisor.
    pub version: u32,
    /// The interface's name, for log lines only.
    pub interface: String,
    /// The core to run on.
    pub core: u16,
    /// The link layer of captured frames.
    pub link: LinkLayer,
    /// For a worker of linked interfaces, the link layers of all of its capture sockets, the first among them; empty for others.
    pub linked: Vec<LinkLayer>,
    /// The interface's MTU in bytes.
    pub mtu: u32,
    /// The I/O backend.
    pub io: IoChoice,
    /// Number of receive buffers; a power of two.
    pub ring_buffers: u16,
    /// Maximum delay of a datagram for coalescing, in microseconds; 0: no coalescing.
    pub latency_budget_us: u32,
    /// Whether it is confined.
    pub sandbox: SandboxChoice,
    /// The log levels.
    pub log_levels: LogLevels,
    /// Log lines as JSON instead of text.
    pub log_json: bool,
}

/// From the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// Start; answered by [`FromWorker::Ready`] or [`FromWorker::Failed`].
    Start(WorkerStart),
    /// Sockets for the rule sets to come; not answered.
    Egress(Vec<EgressId>),
    /// The rules in force from now on; answered by [`FromWorker::Applied`] or [`FromWorker::Refused`].
    RuleSet {
        /// The set's generation.
        generation: u64,
        /// The set's content hash.
        hash: u64,
    },
    /// The same, as a change of the set in force; refused if that is not the base of the change.
    RuleSetChange {
        /// The generation of the resulting set.
        generation: u64,
        /// The content hash of the resulting set.
        hash: u64,
    },
    /// New log levels; not answered.
    LogLevels(LogLevels),
    /// Trace a rule to the ring that is passed with the message; not answered.
    Trace(TraceRequest),
    /// End the trace of a rule; `None`: of every rule. Not answered.
    EndTrace(Option<RuleId>),
    /// Complete the sends in flight and exit.
    Stop,
    /// Inject a fault; not answered. Not in release builds.
    #[cfg(any(debug_assertions, feature = "fault-injection"))]
    Fault(Fault),
}

/// A fault injected by tests of its detection and repair.
#[cfg(any(debug_assertions, feature = "fault-injection"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// The table loses a rule.
    ForgetRule,
    /// The table sends a rule's datagrams elsewhere.
    AlterOutput,
    /// The next rule set is acknowledged but not applied.
    LoseUpdate,
}

#[cfg(any(debug_assertions, feature = "fault-injection"))]
impl std::str::FromStr for Fault {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "forget_rule" => Ok(Self::ForgetRule),
            "alter_output" => Ok(Self::AlterOutput),
            "lose_update" => Ok(Self::LoseUpdate),
            _ => Err(format!("{name:?} is not a fault (forget_rule, alter_output, lose_update)")),
        }
    }
}

/// The I/O backend of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoBackend {
    /// io_uring with multishot receive and provided buffers.
    IoUring,
    /// recvmmsg(2) and sendmmsg(2).
    Recvmmsg,
}

impl IoBackend {
    /// The name in `mcrctl workers` and in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Recvmmsg => "recvmmsg",
        }
    }
}

/// From a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromWorker {
    /// Initialized, privileges dropped; waits for its rule set.
    Ready {
        /// The I/O backend.
        io: IoBackend,
        /// Why io_uring is not used although it was requested.
        io_note: Option<String>,
        /// The uid it runs as.
        uid: u32,
        /// Privileges that could not be dropped, and why.
        privilege_notes: Vec<String>,
        /// The layers of the sandbox that are in force, such as `seccomp`; empty without one.
        sandbox: Vec<String>,
        /// The layers that are not, and why.
        sandbox_notes: Vec<String>,
    },
    /// The rule set is in force, and no send in flight uses an older one.
    Applied {
        /// Its generation.
        generation: u64,
        /// The hash of the table in use.
        hash: u64,
    },
    /// The rule set can't be used; the previous one stays in force.
    Refused {
        /// Its generation.
        generation: u64,
        /// Why.
        reason: String,
    },
    /// The worker exits.
    Failed {
        /// Why.
        reason: String,
    },
}

/// A message that can't be sent or decoded.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The channel failed.
    #[error(transparent)]
    Channel(#[from] mcr_sys::SysError),
    /// The bytes are not a message, or the message is too long.
    #[error("the message can't be encoded or decoded: {0}")]
    Encoding(#[from] postcard::Error),
}

/// The result of a receive.
#[derive(Debug)]
pub enum Incoming<M> {
    /// A message and its descriptors.
    Message(M, Vec<OwnedFd>),
    /// Nothing to read now.
    WouldBlock,
    /// The peer closed the channel.
    Closed,
}

/// Sends one message with its descriptors; never blocks.
///
/// # Errors
/// The channel is full or closed, or the message exceeds [`MAX_MESSAGE_BYTES`].
pub fn send<M: Serialize>(channel: &Channel, message: &M, fds: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    let bytes = postcard::to_slice(message, &mut buffer)?;
    channel.send(bytes, fds)?;
    Ok(())
}

/// Receives one message; never blocks.
///
/// # Errors
/// The channel failed, or the bytes are not a message.
pub fn receive<M: for<'de> Deserialize<'de>>(channel: &Channel) -> Result<Incoming<M>, LinkError> {
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    Ok(match channel.receive(&mut buffer)? {
        Received::Message { bytes, fds } => {
            Incoming::Message(postcard::from_bytes(buffer.get(..bytes).unwrap_or_default())?, fds)
        }
        Received::WouldBlock => Incoming::WouldBlock,
        Received::Closed => Incoming::Closed,
    })
}
