//! `Subscribe`: what happens, one event per reply.

use std::net::IpAddr;

use mcr_rules::RuleId;
use serde::{Deserialize, Serialize};

/// What an event is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// The first one: from now on nothing is left out.
    Subscribed,
    /// Nothing happened for a while.
    #[default]
    Alive,
    /// The client was too slow: `count` events were left out.
    Missed,
    /// A rule, or (with `count`) several, changed their state.
    Rule,
    /// An output, or (with `count`) several, changed their state.
    Output,
    /// Datagrams of a rule began to come, or ceased; with `count`, of several.
    Flow,
    /// A worker changed its state.
    Worker,
    /// An interface came, went, or changed its state.
    Link,
    /// A group was joined, left, or refused.
    Membership,
    /// An input interface began or ceased to merge received datagrams, or why it does or does not changed.
    Aggregation,
}

/// Something that happened. Fields that don't apply are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, in milliseconds since 1970 (UTC), by the host's clock.
    pub at_ms: u64,
    /// What it is about.
    pub kind: EventKind,
    /// What happened, in words.
    pub words: String,
    /// The state that it is in now: of a rule or output "active", "pending", "paused"; of a flow "started", "stopped", "silent";
    /// of a worker as in `ListWorkers`, "killed_by_sandbox" and "gone"; of a link "up", "no_carrier", "down", "gone"; of a membership
    /// "joined", "refused", "left"; of an aggregation "on", "off".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Which rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleId>,
    /// Which of its outputs, as "INTERFACE GROUP:PORT".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Which interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Which worker of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub core: Option<u16>,
    /// Its process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Which group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<IpAddr>,
    /// From which source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// How many it stands for, if it is more than one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl Event {
    /// An event at a time that is filled in later, without details.
    #[must_use]
    pub fn new(kind: EventKind, words: impl Into<String>) -> Self {
        Self { kind, words: words.into(), ..Self::default() }
    }
}

/// A reply to `Subscribe`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventReply {
    /// What happened.
    pub event: Event,
}

impl crate::message::ReplyBody for EventReply {}
