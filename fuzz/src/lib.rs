//! The property that each fuzz target asserts of arbitrary bytes. A violation is a panic.
//!
//! - [`frame`]: the walk over a frame finds what `etherparse`, an independent judge, finds, and segments cover the payload;
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

#[path = "../../crates/mcr-wire/src/frame/tests/judge.rs"]
mod oracle;
// What the judge names of `mcr_wire`, where it stands in that crate's own tests.
use mcr_wire::{Datagram, FrameMeta, LinkLayer, ipv6, parse_frame};
