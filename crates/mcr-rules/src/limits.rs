//! Every bound on a configuration, with its reason. A configuration within the bounds on rules fits into
//! [`MAX_FILE_BYTES`] and [`MAX_FILE_VALUES`] when it is written, so whatever runs can be saved and loaded again.

/// Bytes of an interface name: the kernel's `IFNAMSIZ` (16) less its NUL.
pub const MAX_INTERFACE_NAME_BYTES: usize = 15;

/// Characters of a rule name: it has to fit into one column of a table.
pub const MAX_RULE_NAME_CHARS: usize = 64;

/// Rules of one configuration. Far beyond a full IPTV line-up, and the worker's tables stay within a few MiB.
pub const MAX_RULES: usize = 16_384;

/// Outputs of one rule: one received datagram causes at most this many sends.
pub const MAX_OUTPUTS_PER_RULE: usize = 256;

/// Outputs of all rules together: bounds the rule set, its telemetry page and the saved file.
pub const MAX_OUTPUTS: usize = 65_536;

/// Sources of one rule: each is a membership in the kernel, which holds ten of a group on one socket by default
/// (`net.ipv4.igmp_max_msf`).
pub const MAX_SOURCES_PER_RULE: usize = 256;

/// Sources of all rules together.
pub const MAX_SOURCES: usize = 65_536;

/// Legs of a merged rule.
pub const MAX_LEGS: usize = 4;

/// Merged rules: each has a region of the shared memory of its worker.
pub const MAX_MERGES: usize = 2_048;

/// Longest `window_ms` of a merge: far beyond class C of SMPTE ST 2022-7, 450 ms.
pub const MAX_MERGE_WINDOW_MS: u16 = 2_000;

/// Interfaces that `pinning` may name.
pub const MAX_PINNED_INTERFACES: usize = 1_024;

/// Cores of one interface: a packet fan-out group takes 256 sockets (packet(7), `PACKET_FANOUT`).
pub const MAX_CORES_PER_INTERFACE: usize = 256;

/// The highest core number: Linux is built for at most 8,192 CPUs (`CONFIG_NR_CPUS`).
pub const MAX_CORE: u16 = 8_191;

/// Bytes of a configuration file: the largest permitted configuration, written with the longest addresses, fits.
pub const MAX_FILE_BYTES: usize = 24 * 1024 * 1024;

/// Keys and values of a configuration file together: bounds the memory that a hostile text of [`MAX_FILE_BYTES`] costs.
pub const MAX_FILE_VALUES: usize = 2 * 1024 * 1024;

/// Nesting of a configuration file. A valid one needs five levels; the JSON5 parser recurses and would overflow its stack
/// on thousands.
pub const MAX_DEPTH: usize = 32;

/// Errors that are reported of one configuration. More are of no help, and the report has to fit into a reply.
pub const MAX_ERRORS: usize = 1_000;

/// Longest `worker_grace_s`: one day.
pub const MAX_WORKER_GRACE_S: u32 = 86_400;

/// Longest `flow_silence_s`: one day.
pub const MAX_FLOW_SILENCE_S: u32 = 86_400;

/// Largest `latency_budget_us`: ten milliseconds, in which the kernel's queue still holds what a full gigabit brings.
pub const MAX_LATENCY_BUDGET_US: u32 = 10_000;

/// Longest `orphan_timeout_s`: one day.
pub const MAX_ORPHAN_TIMEOUT_S: u32 = 86_400;

/// Smallest kernel buffer of a socket, in bytes: one of the largest datagrams.
pub const MIN_SOCKET_BUFFER_BYTES: u32 = 65_536;

/// Largest kernel buffer of a socket, in bytes. The kernel doubles the value and keeps it in an `int` (socket(7)).
pub const MAX_SOCKET_BUFFER_BYTES: u32 = 512 * 1024 * 1024;

/// Fewest receive buffers of a worker.
pub const MIN_RING_BUFFERS: u16 = 16;

/// Most receive buffers of a worker. With 64 KiB each, for super-frames, this is 512 MiB.
pub const MAX_RING_BUFFERS: u16 = 8_192;
