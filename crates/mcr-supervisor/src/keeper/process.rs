//! The keeper's process: one thread, one poll loop, no privileges.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use mcr_link::log::LogControl;
use mcr_link::message::{self, Incoming, LinkError};
use mcr_rules::SandboxChoice;
use mcr_rules::log::{LogLevels, WORKERS};
use mcr_sys::channel::{Channel, MAX_FDS};
use mcr_sys::clock;
use mcr_sys::credentials::{self, Peer};
use mcr_sys::listener::Listener;
use mcr_sys::poll::readable_among;
use mcr_sys::privileges::drop_privileges;
use mcr_sys::process::{leave_session, raise_descriptor_limit};
use mcr_sys::sandbox::lists::KEEPER;
use mcr_sys::sandbox::{self, Filter};

use super::protocol::{FromKeeper, KEEPER_VERSION, ToKeeper};
use super::store::{Limits, Store};

/// Desired descriptor limit: two of each of 256 workers, 16,384 unicast inputs, memberships in hundreds of sockets,
/// and as many again while they are replaced.
const WANTED_DESCRIPTORS: u64 = 65_536;
/// Descriptors of the keeper itself: its listener, its clients, and those of one incoming message.
const OWN_DESCRIPTORS: usize = 128;
/// Maximum number of items, whatever the descriptor limit.
const MAX_ITEMS: usize = 100_000;
/// Maximum bytes of all items; large ones are in memfds.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Concurrent supervisor connections: one, its replacement, and one that failed.
const MAX_CLIENTS: usize = 4;
/// Messages handled in a row per client.
const MAX_TURN: usize = 256;
/// Default time without a supervisor before it exits.
const DEFAULT_ORPHAN_TIMEOUT: Duration = Duration::from_secs(600);

/// Holds items for the supervisor at the other end of the channel, and for its successors, who connect to `socket`.
/// Returns on `Stop`, or without a supervisor: at once if it has no items, else after a timeout.
///
/// # Errors
/// It can't be set up, or drop its privileges.
pub fn run(channel: Channel, socket: &Path, sandbox: SandboxChoice) -> mcr_sys::Result<()> {
    let own = credentials::peer(channel.as_fd())?.uid;
    leave_session()?;
    let descriptors = raise_descriptor_limit(WANTED_DESCRIPTORS)?;
    // Before privileges are dropped: clients see the uid that opened the socket.
    let listener = Listener::open(socket)?;
    sandbox::prime();
    let dropped = drop_privileges()?;
    let fds = usize::try_from(descriptors).unwrap_or(usize::MAX).saturating_sub(OWN_DESCRIPTORS);
    let mut keeper = Keeper {
        store: Store::new(Limits { items: MAX_ITEMS, fds, bytes: MAX_BYTES }),
        listener,
        own_uid: own,
        clients: BTreeMap::from([(0, Client { channel, peer: None })]),
        owner: Some(0),
        next_client: 1,
        alone_since: None,
        orphan_timeout: DEFAULT_ORPHAN_TIMEOUT,
        log: None,
        sandbox,
        notes: dropped.notes,
    };
    while keeper.turn()? {}
    Ok(())
}

struct Client {
    channel: Channel,
    /// `None` for the supervisor that started the keeper.
    peer: Option<Peer>,
}

struct Keeper {
    store: Store<OwnedFd>,
    listener: Listener,
    own_uid: u32,
    clients: BTreeMap<u64, Client>,
    /// The client that is the supervisor.
    owner: Option<u64>,
    next_client: u64,
    /// Since when there has been no supervisor.
    alone_since: Option<Duration>,
    orphan_timeout: Duration,
    /// Set up by the first supervisor's message, and with it the sandbox.
    log: Option<LogControl>,
    sandbox: SandboxChoice,
    /// Messages for the log until it is set up.
    notes: Vec<String>,
}

/// What to do with a client after a message.
#[derive(PartialEq, Eq)]
enum Next {
    Stays,
    Goes,
    End,
}

impl Keeper {
    /// Starts the log with its thread and then confines both: afterwards no thread can start. The first messages are from the
    /// supervisor that started this process, before any other client is served.
    fn start_log(&mut self, levels: &LogLevels, json: bool) -> mcr_sys::Result<()> {
        if let Some(log) = &mut self.log {
            log.replace(levels);
            return Ok(());
        }
        let log = self.log.insert(LogControl::start(levels, json));
        if self.sandbox == SandboxChoice::Off {
            log.spawn_writer();
            return Ok(());
        }
        if let Err(error) = sandbox::landlock() {
            self.notes.push(format!("the sandbox has no layer landlock: {error}"));
        }
        if !sandbox::is_available() {
            log.spawn_writer();
            self.notes
                .push("the sandbox has no layer seccomp: the kernel has no system call filters".to_owned());
            return Ok(());
        }
        let filter = Filter::new(&KEEPER, None)?;
        let of_thread = filter.clone();
        log.spawn_confined_writer(move || of_thread.install())?;
        filter.install()
    }

    /// Waits for events and handles them. Returns whether to continue.
    fn turn(&mut self) -> mcr_sys::Result<bool> {
        let now = clock::monotonic();
        if self.owner.is_some() {
            self.alone_since = None;
        } else if self.clients.is_empty() && self.store.is_empty() {
            return Ok(false);
        } else if self.alone_since.is_none() {
            self.alone_since = Some(now);
            let (items, seconds) = (self.store.len(), self.orphan_timeout.as_secs());
            tracing::warn!(
                target: WORKERS, items, seconds,
                "the supervisor is gone; workers continue, and their sockets and memberships are kept for its replacement"
            );
        }
        let deadline = self.alone_since.map(|since| since + self.orphan_timeout);
        if deadline.is_some_and(|deadline| now >= deadline) {
            tracing::error!(target: WORKERS, "no supervisor adopted the workers in time: releasing everything, workers exit");
            return Ok(false);
        }
        let clients: Vec<u64> = self.clients.keys().copied().collect();
        let mut descriptors: Vec<BorrowedFd<'_>> = vec![self.listener.as_fd()];
        descriptors.extend(self.clients.values().map(|client| client.channel.as_fd()));
        let ready = readable_among(&descriptors, deadline.map(|deadline| deadline.saturating_sub(now)))?;
        for (client, _) in clients.into_iter().zip(ready.iter().skip(1)).filter(|(_, ready)| **ready) {
            match self.read(client) {
                Next::Stays => {}
                Next::Goes => self.hang_up(client),
                Next::End => return Ok(false),
            }
        }
        if ready.first() == Some(&true) {
            self.admit();
        }
        Ok(true)
    }

    fn admit(&mut self) {
        let client = match self.listener.accept() {
            Ok(Some(channel)) => channel,
            Ok(None) => return,
            Err(error) => return tracing::warn!(target: WORKERS, %error, "the keeper can't accept a client"),
        };
        let peer = match credentials::peer(client.as_fd()) {
            Ok(peer) => peer,
            Err(error) => {
                return tracing::warn!(target: WORKERS, %error, "a client of the keeper without credentials");
            }
        };
        if peer.uid != self.own_uid && peer.uid != 0 {
            tracing::warn!(target: WORKERS, uid = peer.uid, pid = peer.pid, "refused: the keeper serves the daemon's own user only");
            return;
        }
        if self.clients.len() >= MAX_CLIENTS {
            tracing::warn!(target: WORKERS, pid = peer.pid, "refused: too many clients of the keeper");
            return;
        }
        self.clients.insert(self.next_client, Client { channel: client, peer: Some(peer) });
        self.next_client += 1;
    }

    fn hang_up(&mut self, client: u64) {
        self.clients.remove(&client);
        self.owner = self.owner.filter(|owner| *owner != client);
    }

    fn read(&mut self, id: u64) -> Next {
        for _ in 0..MAX_TURN {
            let Some(client) = self.clients.get(&id) else { return Next::Goes };
            match message::receive::<ToKeeper>(&client.channel) {
                Ok(Incoming::Message(message, fds)) => match self.answer(id, message, fds) {
                    Ok(Next::Stays) => {}
                    Ok(other) => return other,
                    Err(error) => {
                        tracing::warn!(target: WORKERS, %error, "the keeper can't reply and closes the connection");
                        return Next::Goes;
                    }
                },
                Ok(Incoming::WouldBlock) => return Next::Stays,
                Ok(Incoming::Closed) => return Next::Goes,
                Err(error) => {
                    let pid = client.peer.as_ref().map(|peer| peer.pid);
                    tracing::warn!(target: WORKERS, ?pid, %error, "protocol error of a keeper client: closing the connection");
                    return Next::Goes;
                }
            }
        }
        Next::Stays
    }

    fn answer(&mut self, id: u64, message: ToKeeper, fds: Vec<OwnedFd>) -> Result<Next, LinkError> {
        let Some(client) = self.clients.get(&id) else { return Ok(Next::Goes) };
        let owner = self.owner == Some(id);
        match message {
            ToKeeper::Hello { .. } => {
                // The client decides; it can end this process if the versions are incompatible.
                message::send(&client.channel, &FromKeeper::Welcome { version: KEEPER_VERSION }, &[])?;
            }
            ToKeeper::Read { after } => {
                let (heads, fds) = self.store.after(after.as_deref(), MAX_FDS);
                let fds: Vec<BorrowedFd<'_>> = fds.into_iter().map(AsFd::as_fd).collect();
                message::send(&client.channel, &FromKeeper::Items(heads), &fds)?;
            }
            ToKeeper::Own => {
                // The previous supervisor gets no message; its connection is closed.
                if let Some(before) = self.owner.filter(|before| *before != id) {
                    self.hang_up(before);
                }
                self.owner = Some(id);
            }
            ToKeeper::Log { levels, json } if owner => {
                if let Err(error) = self.start_log(&levels, json) {
                    tracing::error!(target: WORKERS, %error, "the keeper can't be confined");
                    return Ok(Next::End);
                }
                for note in std::mem::take(&mut self.notes) {
                    tracing::debug!(target: WORKERS, "keeper: {note}");
                }
            }
            ToKeeper::Update(changes) if owner => {
                if let Err(error) = self.store.apply(changes, fds) {
                    message::send(&client.channel, &FromKeeper::Refused(error.to_string()), &[])?;
                }
            }
            ToKeeper::OrphanTimeout(seconds) if owner => {
                self.orphan_timeout = Duration::from_secs(seconds.into());
            }
            ToKeeper::Stop if owner => return Ok(Next::End),
            _ => {
                tracing::warn!(target: WORKERS, "a client of the keeper asks for what only the supervisor may");
                return Ok(Next::Goes);
            }
        }
        Ok(Next::Stays)
    }
}
