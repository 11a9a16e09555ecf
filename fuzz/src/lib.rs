//! The property that each fuzz target asserts of arbitrary bytes. A violation is a panic.
//!
//! - [`frame`]: a frame is parsed as `etherparse`, an independent oracle, parses it, and segments cover the payload;
//! - [`config`]: what is accepted is written and read back the same; what is refused has errors in order, with places;
//! - [`control`]: messages are the same however the stream is cut, and survive being written again;
//! - [`health`]: losses of an RTP stream are what has not come; continuity errors are those of each packet identifier alone;
//! - [`link`]: messages and rule sets between supervisor and worker survive being written again.
#![forbid(unsafe_code)]

pub mod config;
pub mod control;
pub mod frame;
pub mod health;
pub mod link;

#[path = "../../crates/mcr-wire/src/frame/tests/oracle.rs"]
mod oracle;
// The names that the oracle uses, which is a test module of `mcr_wire`.
use mcr_wire::{Datagram, FrameMeta, LinkLayer, ipv6, parse_frame};
