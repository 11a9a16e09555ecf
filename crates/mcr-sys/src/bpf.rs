//! Programs in the kernel (bpf(2)), without a library: loading, maps, attaching to the ingress of an interface.
//!
//! ```text
//!  bpf/early_drop.c ── cargo xtask bpf ─▶ early_drop/generated.rs ── Program::load ─▶ kernel
//!                                         instructions, uses of maps      │
//!                                  tcx (Linux 6.6), or clsact ◀── attach ─┘
//! ```
//!
//! - [`early_drop`]: the program of that name with its maps;
//! - [`attachment`]: where a program runs;
//! - `map`, `program`: the kernel's objects; `call`: the system call; `clsact`: the older way to attach, by rtnetlink.

pub mod attachment;
mod call;
mod clsact;
pub mod early_drop;
mod map;
mod program;

pub use program::{Code, Program};
