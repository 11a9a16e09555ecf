//! The control socket: each client of `io.mcr.Control` has a task of its own, so that a slow or silent one delays no
//! other. The daemon uses it in three ways: [`ControlSocket::bind`] at start (before anything else, since it also
//! refuses a second daemon), [`serve`] as a task of its runtime, and answering the [`Envelope`]s that arrive on the
//! channel.
//!
//! ```text
//!   accept ─ credentials ─ slot ─▶ connection task:  bytes ─▶ message ─▶ Call ─▶ Request ──▶ daemon loop
//!                                                          framing   strict   dispatch  │
//!                                  bytes ◀─────────────────────────────────────── Answer ◀┘
//! ```
//!
//! - `access`: rights; `slots`: connection slots; `budget`: bytes held by all connections; `log_limit`: log lines;
//!   `limits`: every limit and deadline;
//! - `dispatch`: calls to requests, pure;
//! - `connection`: the task of one client; `socket`: the socket file.
//!
//! Descriptors sent by a client are closed by the kernel, since the server reads without a control buffer (unix(7));
//! the client gets an error, which is logged. One descriptor is reserved for refusing clients when there are no
//! others.

mod access;
mod budget;
mod connection;
mod dispatch;
mod limits;
mod log_limit;
mod slots;
mod socket;

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use mcr_control::failure::{Failure, FailureKind};
use mcr_control::message::{CallError, encode};
use mcr_rules::log::CONTROL;
use mcr_sys::credentials::{self, Peer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

pub(crate) use access::{Access, AccessError};
pub(crate) use limits::ServerLimits;
pub(crate) use socket::{ControlSocket, Gate, SocketError};

use crate::request::Envelope;
use budget::Budget;
use log_limit::LogLimit;
use slots::{Admission, ConnectionId, Slots};

/// State shared by all connections.
struct Shared {
    access: Access,
    limits: ServerLimits,
    requests: mpsc::Sender<Envelope>,
    slots: Mutex<Slots>,
    /// Bytes of large requests.
    request_bytes: Arc<Budget>,
    /// Bytes of large replies that clients have not read yet.
    reply_bytes: Arc<Budget>,
    /// Large messages being parsed or encoded off the loop's thread.
    conversions: Semaphore,
    refusals: Mutex<LogLimit>,
}

impl Shared {
    fn slots(&self) -> std::sync::MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs a refusal, within the rate limit.
    fn log_refusal(&self, peer: &Peer, what: &str) {
        if let Some(suppressed) = self.may_log() {
            tracing::warn!(target: CONTROL, uid = peer.uid, pid = peer.pid, suppressed, "refused: {what}");
        }
    }

    /// Whether a line caused by a client may be logged; if so, how many were suppressed before it.
    fn may_log(&self) -> Option<u64> {
        let now = tokio::time::Instant::now().into_std();
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).admit(now)
    }
}

/// Accepts and serves clients until the future is dropped, which ends all connections and removes the socket file.
/// Needs a tokio runtime with I/O and time; may be spawned. Fails if the socket can't be registered with the runtime.
pub(crate) async fn serve(
    socket: ControlSocket,
    access: Access,
    limits: ServerLimits,
    requests: mpsc::Sender<Envelope>,
) -> std::io::Result<std::convert::Infallible> {
    let listener = UnixListener::from_std(socket.listener()?)?;
    let mut paused = socket.watch_gate();
    let shared = Arc::new(Shared {
        access,
        requests,
        slots: Mutex::new(Slots::new(limits.slots)),
        request_bytes: Budget::new(limits.request_bytes),
        reply_bytes: Budget::new(limits.reply_bytes),
        conversions: Semaphore::new(limits.parallel_conversions),
        refusals: Mutex::new(LogLimit::new(limits.refusal_lines, limits.refusal_window)),
        limits,
    });
    let mut tasks = JoinSet::new();
    let mut reserve = File::open("/dev/null").ok();
    let mut handles: HashMap<ConnectionId, AbortHandle> = HashMap::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if !*paused.borrow() => match accepted {
                Ok((stream, _)) => welcome(&shared, stream, &mut tasks, &mut handles),
                Err(error) => {
                    if let Some(suppressed) = shared.may_log() {
                        let hint = "more descriptors: LimitNOFILE= of the service, or `ulimit -Hn`";
                        tracing::error!(target: CONTROL, %error, suppressed, hint, "can't accept a client");
                    }
                    if reserve.take().is_some() {
                        let accepted = tokio::time::timeout(shared.limits.accept_pause, listener.accept()).await;
                        if let Ok(Ok((stream, _))) = accepted {
                            turn_away(&stream, NO_DESCRIPTORS, NO_DESCRIPTORS_HINT);
                        }
                    }
                    // Pending clients stay in the backlog, and this must not spin.
                    tokio::time::sleep(shared.limits.accept_pause).await;
                    reserve = File::open("/dev/null").ok();
                }
            },
            Ok(()) = paused.changed() => {}
            Some(ended) = tasks.join_next() => if let Ok(id) = ended {
                handles.remove(&id);
            },
        }
    }
}

fn welcome(
    shared: &Arc<Shared>,
    stream: UnixStream,
    tasks: &mut JoinSet<ConnectionId>,
    handles: &mut HashMap<ConnectionId, AbortHandle>,
) {
    let peer = match credentials::peer(stream.as_fd()) {
        Ok(peer) => peer,
        Err(error) => {
            tracing::warn!(target: CONTROL, %error, "refused a client without credentials");
            return;
        }
    };
    let right = shared.access.right(&peer);
    let admission = shared.slots().admit(peer.uid, right);
    let id = match admission {
        Admission::Admitted { id, evicted } => {
            if let Some(handle) = evicted.and_then(|evicted| handles.remove(&evicted)) {
                tracing::debug!(target: CONTROL, uid = peer.uid, "closed an idle connection to make room");
                handle.abort();
            }
            id
        }
        Admission::Refused => {
            shared.log_refusal(&peer, "too many connections");
            turn_away(&stream, TOO_MANY, TOO_MANY_HINT);
            return;
        }
    };
    let connection = connection::Connection::new(Arc::clone(shared), id, stream, peer, right);
    handles.insert(
        id,
        tasks.spawn(async move {
            connection.run().await;
            id
        }),
    );
}

const TOO_MANY: &str = "mcrd has too many connections of this user";
const TOO_MANY_HINT: &str = "close some, e.g. `mcrctl stats --watch` in other terminals";
const NO_DESCRIPTORS: &str = "mcrd is out of file descriptors; traffic is not affected";
const NO_DESCRIPTORS_HINT: &str =
    "close other clients, or give mcrd more: LimitNOFILE= of the service, or `ulimit -Hn`";

/// Sends the reason, if it fits the socket's buffer, and closes the connection.
fn turn_away(stream: &UnixStream, why: &str, hint: &str) {
    let failure = Failure::new(FailureKind::Unavailable, why).with_hint(hint);
    if let Ok(bytes) = encode(&CallError::from(failure).into_reply()) {
        let _ = stream.try_write(&bytes);
    }
}

#[cfg(test)]
mod tests;
