//! Programs in the kernel (bpf(2)), without a library: loading, maps, attaching to the ingress of an interface.
//!
//! ```text
//!  bpf/*.c ── cargo xtask bpf ─▶ generated.rs ── Program::load ─▶ kernel
//!                                instructions, uses of maps  │
//!                     tcx (Linux 6.6), or clsact ◀── attach ─┘
//! ```
//!
//! - [`early_drop`]: the program of that name with its maps;
//! - [`relay`]: the two programs that relay, with theirs;
//! - [`attachment`]: where a program runs;
//! - `map`, `program`: the kernel's objects; `call`: the system call; `clsact`: the older way to attach, by rtnetlink.

pub mod attachment;
mod call;
mod clsact;
pub mod early_drop;
mod generated;
mod map;
mod program;
pub mod relay;

pub use program::{Code, Kind, Program};

/// The maps of the programs; see their sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MapName {
    Destinations,
    Control,
    Counts,
    Accepted,
    Addresses,
    Relays,
    Outputs,
    Places,
    Engine,
    Decisions,
    Counters,
}

/// Instead of the descriptor of a map that a program does not have: the verifier refuses it.
const NO_MAP: i32 = -1;
