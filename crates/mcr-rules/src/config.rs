//! A whole configuration: rules, pinning, settings.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::name::InterfaceName;
use crate::rule::Rule;

/// How workers receive and send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoChoice {
    /// io_uring where the kernel allows it, else `recvmmsg`.
    #[default]
    Auto,
    /// io_uring or not at all.
    IoUring,
    /// recvmmsg(2) and sendmmsg(2).
    Recvmmsg,
}

/// Every knob, each with a default that needs no change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// How workers receive and send.
    pub io: IoChoice,
    /// Seconds that a worker stays without rules.
    pub worker_grace_s: u32,
    /// The kernel's receive queue of one worker, in bytes.
    pub receive_buffer_bytes: u32,
    /// The kernel's send buffer of one output socket, in bytes.
    pub send_buffer_bytes: u32,
    /// A worker's receive buffers; a power of two.
    pub ring_buffers: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            io: IoChoice::Auto,
            worker_grace_s: 10,
            receive_buffer_bytes: 16 * 1024 * 1024,
            send_buffer_bytes: 4 * 1024 * 1024,
            ring_buffers: 256,
        }
    }
}

/// A whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The cores of an interface's workers; interfaces not named have one worker.
    #[serde(default)]
    pub pinning: BTreeMap<InterfaceName, Vec<u16>>,
    /// The rules.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// The knobs.
    #[serde(default)]
    pub settings: Settings,
}
