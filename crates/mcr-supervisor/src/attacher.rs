//! The attacher: a small process that alone keeps CAP_BPF and CAP_NET_ADMIN. It loads the early drop program, attaches it to
//! the interfaces that the supervisor names, and keeps it there. It parses no frame and talks to no client.
//!
//! ```text
//!  supervisor ── destinations by interface (sealed memfd) ──▶ attacher ── bpf(2), rtnetlink ──▶ kernel
//!      ▲  └── the keeper has this end of the channel, too ─┐     │
//!      └──────────── state of each interface, each second ─┴─────┘
//! ```
//!
//! What it has attached lasts as long as it does, and it lasts as long as someone has the other end of its channel: the
//! supervisor, or the keeper while there is none. So a crash or an upgrade of the supervisor changes nothing, and the end of
//! the keeper ends it. If it is killed itself, the kernel detaches the program (tcx), or the program passes everything after
//! some seconds (`STAY`).
//!
//! - `protocol`: the messages; `process`: the attacher itself; `client`: the supervisor's side.

mod client;
mod process;
mod protocol;

pub(crate) use client::{AttacherClient, Attention, Started, may_attach, start};
pub use process::run;
