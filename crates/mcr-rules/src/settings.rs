//! The knobs, each with a default that needs no change.

use serde::{Deserialize, Serialize};

/// How a worker talks to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IoChoice {
    /// `io_uring` where the kernel permits it, else `recvmmsg`.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// `io_uring`: a worker fails where it is denied.
    #[serde(rename = "io_uring")]
    IoUring,
    /// `recvmmsg` and `sendmmsg`.
    #[serde(rename = "recvmmsg")]
    Recvmmsg,
}

impl IoChoice {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::Auto, Self::IoUring, Self::Recvmmsg];

    /// The word in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::IoUring => "io_uring",
            Self::Recvmmsg => "recvmmsg",
        }
    }
}

impl std::fmt::Display for IoChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Settings of the whole daemon.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// How workers talk to the kernel.
    pub io: IoChoice,
    /// Seconds that a worker without rules stays, so that a quick change of rules finds it warm.
    pub worker_grace_s: u32,
    /// Kernel queue of a capture socket, in bytes: what it holds while its worker is busy or being replaced.
    pub receive_buffer_bytes: u32,
    /// Kernel queue of an egress socket, in bytes.
    pub send_buffer_bytes: u32,
    /// Receive buffers of a worker: a power of two.
    pub ring_buffers: u16,
    /// The longest time, in microseconds, that a worker lets a datagram wait for others to come; 0: never.
    pub latency_budget_us: u32,
    /// Seconds without a datagram after which a flow has stopped, and a rule that is ready is silent.
    pub flow_silence_s: u32,
    /// Seconds that workers go on without a supervisor, after it crashed.
    pub orphan_timeout_s: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            io: IoChoice::Auto,
            worker_grace_s: 10,
            receive_buffer_bytes: 16 * 1024 * 1024,
            send_buffer_bytes: 4 * 1024 * 1024,
            ring_buffers: 256,
            latency_budget_us: 50,
            flow_silence_s: 10,
            orphan_timeout_s: 600,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_io_are_the_same_for_serde_and_for_people() {
        for choice in IoChoice::ALL {
            assert_eq!(serde_json::to_value(choice).unwrap(), choice.to_string());
        }
    }
}
