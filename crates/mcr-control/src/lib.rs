//! The operator protocol: Varlink on a unix stream socket, interface `io.mcr.Control`. The interface description
//! ([`DESCRIPTION`]) is the reference; the types here follow it.
//!
//! - [`reply`]: what the daemon answers; `mcrctl --json` prints these;
//! - [`failure`]: why it refuses.
#![forbid(unsafe_code)]

pub mod failure;
pub mod reply;

/// The version of `io.mcr.Control`. Another major number means that the two don't understand each other.
pub const PROTOCOL_VERSION: &str = "1.0";
