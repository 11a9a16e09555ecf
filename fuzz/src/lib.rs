//! The property that each fuzz target asserts of arbitrary bytes. A violation is a panic.
//!
//! - [`frame`]: a frame is parsed as `etherparse`, an independent oracle, parses it, and segments cover the payload;
//! - [`config`]: what is accepted is written and read back the same; what is refused has errors in order, with places;
//! - [`control`]: messages are the same however the stream is cut, and survive being written again;
//! - [`fragments`]: datagrams are put together as by an oracle that compares each fragment with each, and any frame is no harm;
//! - [`health`]: losses of an RTP stream are what has not come; continuity errors are those of each packet identifier alone;
//! - [`link`]: messages and rule sets between supervisor and worker survive being written again.
#![forbid(unsafe_code)]

pub mod config;
pub mod control;
pub mod fragments;
pub mod frame;
pub mod health;
pub mod link;

#[path = "../../crates/mcr-wire/src/frame/tests/oracle.rs"]
mod oracle;
#[path = "../../crates/mcr-wire/src/reassembly/tests/oracle.rs"]
mod reassembly_oracle;
// The names that the oracles use, which are test modules of `mcr_wire`.
use mcr_wire::{
    Datagram, Fragment, FragmentHead, FrameMeta, LinkLayer, Loss, Reassembly, Refusal, Taken, ipv6, parse_frame,
    reassembly,
};
