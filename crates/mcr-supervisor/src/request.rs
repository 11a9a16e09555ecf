//! What a client asks of the daemon's loop, already parsed and permitted: the control server makes these, the loop
//! answers them.
//!
//! ```text
//!   control server ── Envelope (bounded mpsc) ──▶ daemon loop
//!   (one task per      ◀── Answer (oneshot) ────  (one request at a time)
//!    connection)
//! ```
//!
//! `GetVersion` and `CheckConfig` need no running state: the control server answers them itself.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mcr_control::event::Event;
use mcr_control::explanation::ExplainReply;
use mcr_control::reply::{
    ConfigReply, DiffReply, FlowsReply, InterfacesReply, LoadReply, LogLevelsReply, MembershipsReply,
    RuleReply, RulesReply, SaveReply, StatsReply, StatusReply, UpgradeReply, WorkersReply,
};
use mcr_control::trace::{Cursor, TraceReply};
use mcr_link::log::Level;
use mcr_rules::{Config, Rule, RuleId, RuleName};
use mcr_sys::credentials::Peer;
use tokio::sync::{broadcast, oneshot};

use crate::core::trace::TraceOptions;

pub(crate) use mcr_control::failure::{Failure as RequestError, FailureKind as RequestErrorKind};

/// How many requests may wait for the loop; more connections wait in their own task.
pub(crate) const MAX_WAITING_REQUESTS: usize = 64;

/// One request.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    /// Is the loop alive? Answered by [`Reply::Done`].
    Ping,
    /// Adds a rule to the running config. Answered by [`Reply::Rule`].
    AddRule(Box<Rule>),
    /// Takes a rule out of the running config. Answered by [`Reply::Rule`].
    RemoveRule(RuleSelector),
    /// All rules with their states. Answered by [`Reply::Rules`].
    ListRules,
    /// The running config as text. Answered by [`Reply::Config`].
    GetConfig,
    /// What [`Request::LoadConfig`] with `replace` would change. Answered by [`Reply::Diff`].
    DiffConfig {
        /// The config to compare the running one to; `None` for the startup file as it is now.
        config: Option<Box<Config>>,
    },
    /// Changes the running config, all or nothing. Answered by [`Reply::Loaded`].
    LoadConfig {
        /// The config from the client.
        config: Box<Config>,
        /// True: the running config becomes exactly this one. False: its rules are added, or replace those of the
        /// same id; its pinning is added; settings stay as they run.
        replace: bool,
        /// Only tell what would change.
        dry_run: bool,
        /// The change returns after this time unless it is confirmed.
        confirm_within: Option<Duration>,
    },
    /// Keeps the load that waits to be confirmed. Answered by [`Reply::Done`].
    Confirm {
        /// Return to the config before it instead.
        revert: bool,
    },
    /// Answered by [`Reply::Status`].
    GetStatus,
    /// Writes the running config to a file. Answered by [`Reply::Saved`].
    SaveConfig {
        /// An absolute path (the server lets only root and the daemon's own user name one); `None` for the startup
        /// file.
        path: Option<PathBuf>,
    },
    /// Answered by [`Reply::Workers`].
    ListWorkers,
    /// Answered by [`Reply::Interfaces`].
    ListInterfaces,
    /// Answered by [`Reply::Memberships`].
    ListMemberships,
    /// Why a rule relays or does not. Answered by [`Reply::Explained`].
    Explain {
        /// `None`: all rules, and the host.
        rule: Option<RuleSelector>,
        /// How long to look at what arrives; zero for not at all.
        listen: Duration,
    },
    /// Writes down what becomes of a rule's datagrams. Answered by [`Reply::Rule`].
    EnableTrace {
        /// Which rule.
        rule: RuleSelector,
        /// What to write, and how long.
        options: TraceOptions,
    },
    /// Answered by [`Reply::Rule`].
    DisableTrace {
        /// Which rule.
        rule: RuleSelector,
    },
    /// What was written. Answered by [`Reply::Trace`].
    GetTrace {
        /// Which rule.
        rule: RuleSelector,
        /// From where on; `None`: from the beginning.
        after: Option<Cursor>,
        /// With the first bytes of frames.
        frames: bool,
    },
    /// Answered by [`Reply::Stats`].
    GetStats,
    /// Who sends to the rules. Answered by [`Reply::Flows`].
    ListFlows {
        /// Only to this rule.
        rule: Option<RuleSelector>,
    },
    /// What happens from now on. Answered by [`Reply::Subscribed`].
    Subscribe,
    /// Lets another binary take this daemon's place. Answered by [`Reply::Upgraded`] by the one that goes.
    Upgrade {
        /// An absolute path (the server lets only root and the daemon's own user name one); `None` for the file that this
        /// program was started from, as it is now.
        binary: Option<PathBuf>,
    },
    /// Answered by [`Reply::LogLevels`].
    GetLogLevels,
    /// Changes log levels here and in the workers. Answered by [`Reply::LogLevels`] with what is in force then.
    SetLogLevel {
        /// The facility (one of `mcr_link::log::FACILITIES`, checked by the server); `None` for all.
        facility: Option<String>,
        /// The new level.
        level: Level,
    },
    /// Makes workers err. Answered by [`Reply::Done`]. Not in release builds.
    #[cfg(any(debug_assertions, feature = "fault-injection"))]
    InjectFault {
        /// All workers of this interface.
        interface: mcr_rules::InterfaceName,
        /// How.
        fault: mcr_link::message::Fault,
    },
}

/// Which rule is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RuleSelector {
    /// By id.
    Id(RuleId),
    /// By name.
    Name(RuleName),
}

impl fmt::Display for RuleSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "id {id}"),
            Self::Name(name) => write!(f, "name {name:?}", name = name.to_string()),
        }
    }
}

/// Where a client's events come from; the first one to take it has it.
#[derive(Clone, Debug)]
pub(crate) struct Subscription(Arc<Mutex<Option<broadcast::Receiver<Arc<Event>>>>>);

impl Subscription {
    pub(crate) fn new(events: broadcast::Receiver<Arc<Event>>) -> Self {
        Self(Arc::new(Mutex::new(Some(events))))
    }

    pub(crate) fn take(&self) -> Option<broadcast::Receiver<Arc<Event>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The answer to a request that was done. Which one belongs to which request stands at [`Request`].
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Done, nothing to tell.
    Done,
    /// A rule came or went.
    Rule(RuleReply),
    /// All rules.
    Rules(RulesReply),
    /// The running config.
    Config(ConfigReply),
    /// What would change.
    Diff(DiffReply),
    /// What changed or would change.
    Loaded(LoadReply),
    /// What was written.
    Saved(SaveReply),
    /// What an operator should know.
    Status(StatusReply),
    /// All workers.
    Workers(WorkersReply),
    /// All interfaces.
    Interfaces(InterfacesReply),
    /// All memberships.
    Memberships(MembershipsReply),
    /// Why.
    Explained(Box<ExplainReply>),
    /// Where events come from.
    Subscribed(Subscription),
    /// A rule's trace.
    Trace(Box<TraceReply>),
    /// All counters.
    Stats(StatsReply),
    /// Who sends.
    Flows(FlowsReply),
    /// The log levels in force.
    LogLevels(LogLevelsReply),
    /// Another process is the daemon.
    Upgraded(UpgradeReply),
}

/// A reply, or why there is none.
pub(crate) type Answer = Result<Reply, RequestError>;

/// A request on its way to the loop.
#[derive(Debug)]
pub(crate) struct Envelope {
    /// What is asked.
    pub(crate) request: Request,
    /// Who asks; for the log.
    pub(crate) peer: Peer,
    /// Where the answer goes; a client that is gone is no error.
    pub(crate) answer: oneshot::Sender<Answer>,
}
