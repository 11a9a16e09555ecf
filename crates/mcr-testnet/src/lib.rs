//! Test networks: hosts as network namespaces, links between them, daemons and generators as values that clean up after
//! themselves. Used by the integration tests, the demo and the benchmarks.
//!
//! Nothing here has a name outside of the process, so nothing is left behind by a crash: namespaces end with their
//! last descriptor, each child is killed with the thread that started it, and a directory without an owner is removed by the
//! next run. What fails panics, with the step and its cause, and with
//! the log or the screen where there is one.

mod accounting;
mod binary;
mod child;
mod daemon;
pub mod frames;
mod generator;
mod host;
mod link_setup;
mod namespace;
mod raw_sender;
mod receive_buffer;
mod scratch;
pub mod soak;
mod terminal;
mod topology;
mod wait;

pub use accounting::assert_accounting;
pub use binary::{binary, use_binaries_in};
pub use daemon::{CtlOutput, Daemon, IoBackend};
pub use generator::{Generator, Outcome};
pub use host::Host;
pub use link_setup::LinkSetup;
pub use namespace::{NetNamespace, enter_user_namespace, may_create_namespaces};
pub use raw_sender::{RawPrefix, RawSender};
pub use receive_buffer::with_room;
pub use terminal::{Program, Terminal};
pub use topology::{Segment, Topology};
pub use wait::{patience, wait_for, wait_until, wait_within};
