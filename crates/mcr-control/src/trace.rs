//! What `EnableTrace` takes and `GetTrace` answers.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use mcr_rules::{InterfaceName, RuleId, RuleName};
use serde::{Deserialize, Serialize};

/// Records of a trace if nobody says how many.
pub const DEFAULT_TRACE_RECORDS: u64 = 10_000;
/// The most records of a trace: a day of a thousand per second, and no count that never ends.
pub const MAX_TRACE_RECORDS: u64 = 100_000_000;
/// How long a trace runs if nobody says, seconds.
pub const DEFAULT_TRACE_S: u64 = 60;
/// The longest that a trace runs, seconds: one day.
pub const MAX_TRACE_S: u64 = 86_400;
/// The largest sample: one of this number of datagrams is traced.
pub const MAX_TRACE_SAMPLE: u64 = 1_000_000;

/// Whether a rule is traced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TraceState {
    /// It never was.
    #[default]
    Off,
    /// It is.
    Running,
    /// It was; the records are still there.
    Ended,
}

mcr_rules::named! {
    /// What happened.
    pub enum TraceWhat {
        /// A frame for the rule was taken from the capture socket.
        Received = "received",
        /// The rule admitted it.
        Matched = "matched",
        /// It was not relayed.
        Skipped = "skipped",
        /// Datagrams left on an output.
        Sent = "sent",
        /// Datagrams did not leave on an output.
        Dropped = "dropped",
    }
}

/// An output of the rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceOutput {
    /// The interface.
    pub interface: InterfaceName,
    /// The address that it sends to.
    #[serde(with = "mcr_rules::destination")]
    pub group: IpAddr,
    /// The port.
    pub port: u16,
}

impl fmt::Display for TraceOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.interface, SocketAddr::from((self.group, self.port)))
    }
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRecord {
    /// When, in nanoseconds since 1970 (UTC), by the host's clock.
    pub at_ns: u64,
    /// The worker's core.
    pub core: u16,
    /// The arrival's number in this worker, from 1; of a run, that of its first arrival that was chosen.
    pub arrival: u64,
    /// The run, from 1: datagrams that were sent together; 0 if it is about none.
    pub run: u64,
    /// What happened.
    pub what: TraceWhat,
    /// Why it was skipped or dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the system call failed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<u16>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The output; absent too if the rule does not have it any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<TraceOutput>,
    /// How many datagrams.
    pub datagrams: u16,
    /// Payload bytes of all.
    pub bytes: u32,
    /// Payload bytes of each but the last.
    pub segment_bytes: u16,
    /// Who sent it; absent if it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SocketAddr>,
    /// To whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<SocketAddr>,
    /// TTL or hop limit on arrival.
    pub ttl: u8,
    /// DSCP on arrival.
    pub dscp: u8,
    /// The frame's length on arrival, from the link header on.
    pub frame_bytes: u32,
    /// Its first bytes, in hexadecimal; only for clients that may change things.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame: Option<String>,
}

/// `GetTrace`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceReply {
    /// The rule.
    pub id: Option<RuleId>,
    /// Its name.
    pub name: Option<RuleName>,
    /// The interface of its input.
    pub interface: Option<InterfaceName>,
    /// Frames begin with the IP header, and not with that of Ethernet.
    pub headerless: bool,
    /// Whether it is traced.
    pub state: TraceState,
    /// Why it is not any more.
    pub ended: Option<String>,
    /// One of this number of datagrams is traced.
    pub sample: u64,
    /// Only what was skipped or dropped is.
    pub drops_only: bool,
    /// It ends after this number of records.
    pub max_records: u64,
    /// It ends after this number of seconds.
    pub max_seconds: u64,
    /// Arrivals for the rule since the trace began; a super-frame is one.
    pub arrivals: u64,
    /// Arrivals that records were written of.
    pub chosen: u64,
    /// Records written.
    pub written: u64,
    /// Sends without a record of their outcome, since too many were under way.
    pub untold: u64,
    /// Records between the last reply and this one that were overwritten before they were read.
    pub lost: u64,
    /// The records, by time.
    pub records: Vec<TraceRecord>,
    /// Where the next call goes on.
    pub next: String,
    /// There are more already.
    pub more: bool,
}

impl crate::message::ReplyBody for TraceReply {
    fn items(&self) -> usize {
        self.records.len()
    }
}

/// How far a client has read: which trace, and the number of the next record in each of its rings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cursor {
    /// Which trace.
    pub trace: u64,
    /// By ring.
    pub next: Vec<u64>,
}

/// The text is none that the daemon wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a position in a trace")]
pub struct CursorError;

/// More rings than a rule has: one for each worker that it ever had while it was traced.
const MAX_RINGS: usize = 1_024;

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let (trace, next) = text.split_once(':').ok_or(CursorError)?;
        let number = |text: &str| text.parse().map_err(|_| CursorError);
        let rings = next.split(',').filter(|part| !part.is_empty());
        let next: Vec<u64> = rings.take(MAX_RINGS + 1).map(number).collect::<Result<_, _>>()?;
        if next.len() > MAX_RINGS {
            return Err(CursorError);
        }
        Ok(Self { trace: number(trace)?, next })
    }
}

impl TryFrom<String> for Cursor {
    type Error = CursorError;

    fn try_from(text: String) -> Result<Self, CursorError> {
        text.parse()
    }
}

impl From<Cursor> for String {
    fn from(cursor: Cursor) -> Self {
        cursor.to_string()
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let next: Vec<String> = self.next.iter().map(u64::to_string).collect();
        write!(f, "{}:{}", self.trace, next.join(","))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_position_survives_the_way(trace: u64, next in proptest::collection::vec(any::<u64>(), 0..5)) {
            let cursor = Cursor { trace, next };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }

        #[test]
        fn other_texts_are_refused_without_panic(text: String) {
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert!(cursor.next.len() <= MAX_RINGS);
            }
        }
    }

    #[test]
    fn what_is_no_position() {
        for text in ["", "1", "1:x", "x:1", "-1:1", "1:1,99999999999999999999"] {
            assert_eq!(text.parse::<Cursor>(), Err(CursorError), "{text}");
        }
        assert!(format!("1:{}", "1,".repeat(2000)).parse::<Cursor>().is_err());
    }
}
