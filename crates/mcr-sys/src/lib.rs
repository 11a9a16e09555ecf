//! All unsafe code and every system call of MCR: one file per facility of the kernel, each with a safe face.
//!
//! This file is a table of contents only.

pub mod absorber;
pub mod bpf;
mod buffer_memory;
pub mod channel;
pub mod clock;
pub mod credentials;
pub mod egress;
pub mod errno;
pub mod error;
pub mod error_queue;
pub mod ethtool;
pub mod filter;
#[cfg(test)]
mod fixture;
pub mod group;
pub mod host_network;
pub mod ingress_users;
mod interface_mode;
pub mod link;
pub mod listener;
pub mod membership;
pub mod mmsg;
pub mod netlink;
pub mod network;
pub mod observation;
mod owned_fd;
pub mod packet;
pub mod poll;
pub mod privileges;
pub mod process;
pub mod querier_listener;
mod recvmsg;
pub mod sandbox;
pub mod scheduling;
pub mod shared_memory;
pub mod socket_memory;
mod socket_option;
#[cfg(any(test, feature = "test-env"))]
pub mod test_env;
pub mod udp_sockets;
pub mod uring;

pub(crate) use error::failed;
pub use error::{Result, SysError};
