//! The operator protocol: Varlink (<https://varlink.org>) on a unix stream socket, interface `io.mcr.Control`. The
//! interface description ([`DESCRIPTION`]) is the reference; the types here follow it.
//!
//! - [`framing`]: bytes to messages, with limits;
//! - [`strict_json`]: messages to values;
//! - [`message`]: calls, replies and errors on the wire;
//! - [`method`]: the methods as a client calls them;
//! - [`reply`]: what the daemon answers; `mcrctl --json` prints these;
//! - [`event`]: what `Subscribe` tells;
//! - [`explanation`]: what `Explain` answers: findings with evidence and what to do;
//! - [`trace`]: what `GetTrace` answers: what became of single datagrams;
//! - [`failure`]: why it refuses;
//! - [`client`]: a blocking client;
//! - [`socket_path`]: where the socket is when nobody says.

use std::time::Duration;

use framing::FrameLimits;

pub mod client;
pub mod event;
pub mod explanation;
pub mod failure;
pub mod framing;
#[cfg(test)]
mod manual;
pub mod message;
pub mod method;
pub mod reply;
pub mod socket_path;
pub mod strict_json;
pub mod trace;

/// The version of `io.mcr.Control`, `major.minor`. Another major number means that the two don't understand each
/// other.
pub const PROTOCOL_VERSION: &str = "1.4";

/// The name of the operator's interface.
pub const INTERFACE: &str = "io.mcr.Control";
/// The description of [`INTERFACE`] in Varlink's language: the reference documentation.
pub const DESCRIPTION: &str = include_str!("io.mcr.Control.varlink");

/// The name of the interface that every Varlink service has.
pub const SERVICE_INTERFACE: &str = "org.varlink.service";
/// The description of [`SERVICE_INTERFACE`].
pub const SERVICE_DESCRIPTION: &str = include_str!("org.varlink.service.varlink");

/// The longest request that carries no config text: a rule with all its outputs and sources, with room.
pub const MAX_SMALL_REQUEST_BYTES: usize = 256 * 1024;
/// The longest request: the largest config file, every character of which JSON may have to escape, so that what loads as
/// a startup file loads through the socket too.
pub const MAX_REQUEST_BYTES: usize = 2 * mcr_rules::limits::MAX_FILE_BYTES + MAX_SMALL_REQUEST_BYTES;
/// The longest request of a client that may only read: enough for its config texts, and no burden.
pub const MAX_READER_REQUEST_BYTES: usize = 1024 * 1024;
/// How deep a request may nest. Our own go to 6; the rest is room for other clients' taste.
pub const MAX_DEPTH: usize = 64;
/// How many values a request may hold: a rule with 256 outputs of 6 fields and as many sources as fit a socket, with
/// room. Config texts are one value.
pub const MAX_REQUEST_VALUES: usize = 16 * 1024;
/// How many values a reply may hold: the statistics of 65,536 outputs, with room.
pub const MAX_REPLY_VALUES: usize = 4 * 1024 * 1024;
/// What the daemon takes.
pub const REQUEST_LIMITS: FrameLimits =
    FrameLimits { bytes: MAX_SMALL_REQUEST_BYTES, config_bytes: MAX_REQUEST_BYTES, depth: MAX_DEPTH };
/// What a client takes: the statistics of 65,536 outputs, with room to grow.
pub const REPLY_LIMITS: FrameLimits =
    FrameLimits { bytes: MAX_REPLY_BYTES, config_bytes: MAX_REPLY_BYTES, depth: MAX_DEPTH };
const MAX_REPLY_BYTES: usize = 64 * 1024 * 1024;

/// A request must be complete this long after its first byte.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// A reply must be read within this time.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// How often `GetStats` with `more` replies.
pub const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// How often `Subscribe` replies although nothing happened, so that each side sees that the other is there.
pub const ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// The longest that `Explain` looks at what arrives, milliseconds: the reply comes within the deadline of all replies.
pub const MAX_LISTEN_MS: u64 = 10_000;

/// The longest time that a load may wait to be confirmed, seconds: one day.
pub const MAX_CONFIRM_S: u64 = 86_400;

/// Whether two protocol versions understand each other: the same major number.
#[must_use]
pub fn versions_agree(ours: &str, theirs: &str) -> bool {
    let major = |version: &str| version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    major(theirs).is_some_and(|theirs| major(ours) == Some(theirs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_agree_on_their_major_number() {
        for (theirs, agree) in [("1.0", true), ("1.7", true), ("1", true), ("2.0", false), ("0.9", false)] {
            assert_eq!(versions_agree("1.0", theirs), agree, "{theirs}");
        }
        for garbage in ["", ".", "one", "1x.0", "-1", "99999999999999999999"] {
            assert!(!versions_agree("1.0", garbage), "{garbage}");
        }
    }

    #[test]
    fn changelog_and_definition_name_the_protocol_version() {
        let changelog = include_str!("../../../CHANGELOG.md");
        let newest = changelog.split("(protocol ").nth(1).and_then(|rest| rest.split(':').next());
        assert_eq!(newest, Some(PROTOCOL_VERSION), "CHANGELOG.md: `(protocol VERSION: what is new)`");
        let example = format!("its own protocol version (\"{PROTOCOL_VERSION}\")");
        assert!(DESCRIPTION.contains(&example), "io.mcr.Control.varlink: {example}");
    }
}
