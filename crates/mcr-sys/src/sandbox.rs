//! Confines a process to what it needs (seccomp(2), landlock(7)): a worker, the keeper, an observer.
//!
//! ```text
//!  prime() ─▶ drop privileges ─▶ landlock() ─▶ threads start ─▶ Filter::install() in each thread ─▶ untrusted input
//! ```
//!
//! - [`lists`]: which system calls each process may make, and why;
//! - [`filter`]: a list as a program of the kernel's filter machine;
//! - `landlock`: no file, no TCP, no signal, no abstract socket.
//!
//! A call that is not in the list kills the process (`SECCOMP_RET_KILL_PROCESS`): whoever makes it is not MCR's code.

pub mod filter;
mod landlock;
pub mod lists;
#[cfg(test)]
mod tests;

use std::hash::RandomState;

use crate::clock;

pub use self::filter::{Filter, is_available};
pub use self::landlock::restrict as landlock;

/// Runs once what later code would do with a system call of its own when it runs first: the page size (which kernels before 6.4
/// give in a file that a process can't read any more once it has dropped its privileges), the seed of hash maps (getrandom(2)),
/// the clocks.
pub fn prime() {
    std::hint::black_box(rustix::param::page_size());
    std::hint::black_box(RandomState::new());
    std::hint::black_box((clock::monotonic(), clock::since_epoch()));
}
