//! The supervisor's side of the keeper.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mcr_link::message::{self, Incoming, LinkError};
use mcr_rules::SandboxChoice;
use mcr_rules::log::LogLevels;
use mcr_sys::channel::{Channel, MAX_FDS};
use mcr_sys::clock;
use mcr_sys::credentials;
use mcr_sys::errno::{EAGAIN, ECONNREFUSED, ENOENT, ETOOMANYREFS};
use mcr_sys::listener::connect as connect_to;
use mcr_sys::poll::{wait_readable, wait_writable};
use mcr_sys::process::{PidFd, Signal};
use mcr_sys::shared_memory::{read_sealed, sealed_bytes};
use tokio::io::unix::AsyncFd;

use super::protocol::{
    Change, FromKeeper, Head, KEEPER_VERSION, MAX_BATCH_BYTES, MAX_INLINE_BYTES, ToKeeper,
};
use crate::async_fd::{Watched, watched};

/// A keeper answers and takes messages within this time, or counts as dead.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);
/// A new keeper is ready within this time.
const START_DEADLINE: Duration = Duration::from_secs(5);
/// The largest record: the slots of 16,384 rules with 65,536 outputs take about 6 MB, the ledger twice that.
const MAX_RECORD_BYTES: usize = 64 * 1024 * 1024;
/// First byte of an item if its bytes follow ...
const INLINE: u8 = 0;
/// ... and if its last descriptor holds them.
const IN_FILE: u8 = 1;

/// Why the keeper can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeeperGone {
    /// A message could not be sent or received.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The kernel refused a step.
    #[error(transparent)]
    System(#[from] mcr_sys::SysError),
    /// It could not be started or watched.
    #[error("{step}: {source}")]
    Step { step: &'static str, source: std::io::Error },
    /// It did not answer in time.
    #[error("it did not answer in time")]
    Timeout,
    #[error("it ended")]
    Ended,
    /// It uses another protocol version.
    #[error("protocol version {0} instead of {KEEPER_VERSION}")]
    Version(u32),
    /// It runs as another user.
    #[error("it was started by user {0}")]
    UidMismatch(u32),
    /// It exists and can't be used.
    #[error("{0}")]
    Unusable(Box<KeeperGone>, KeeperClient),
    /// It violated the protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
}

/// A connection to a keeper.
#[derive(Debug)]
pub(crate) struct KeeperClient {
    channel: Arc<AsyncFd<Watched<Channel>>>,
    process: PidFd,
}

/// Starts a keeper; one that is not ready in time is killed. A stale socket file is removed: the caller has ensured
/// that no process listens on it.
pub(crate) fn start(socket: &Path, sandbox: SandboxChoice) -> Result<KeeperClient, KeeperGone> {
    let step = |step| move |source| KeeperGone::Step { step, source };
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(step("remove the keeper's stale socket")(error));
        }
        _ => {}
    }
    let (ours, theirs) = Channel::pair()?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("mcrd")
        .arg("keeper")
        .arg(socket)
        .arg(sandbox.to_string())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()
        .map_err(step("start the keeper"))?;
    let client = PidFd::open(child.id())
        .map_err(KeeperGone::from)
        .and_then(|process| KeeperClient::new(ours, process));
    let client = client.and_then(|client| client.greet(START_DEADLINE).map(|()| client));
    client.inspect_err(|_| {
        let _ = child.kill().and_then(|()| child.wait());
    })
}

/// Connects to the keeper left by an earlier supervisor; `None` if there is none. The error says why it can't be used;
/// [`KeeperGone::end`] ends it.
pub(crate) fn connect(socket: &Path, own_uid: u32) -> Result<Option<KeeperClient>, KeeperGone> {
    let channel = match connect_to(socket) {
        Ok(channel) => channel,
        Err(error) if matches!(error.errno(), Some(ENOENT | ECONNREFUSED)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let peer = credentials::peer(channel.as_fd())?;
    if peer.uid != own_uid {
        return Err(KeeperGone::UidMismatch(peer.uid));
    }
    let process = PidFd::open(peer.pid.unsigned_abs())?;
    let client = KeeperClient::new(channel, process)?;
    match client.greet(ANSWER_DEADLINE) {
        Ok(()) => Ok(Some(client)),
        Err(KeeperGone::Ended) => Ok(None),
        Err(error) => Err(KeeperGone::Unusable(Box::new(error), client)),
    }
}

impl KeeperGone {
    /// Ends a keeper that exists and can't be used.
    pub(crate) fn end(&self) {
        if let Self::Unusable(_, client) = self {
            client.kill();
        }
    }
}

/// A stored item.
#[derive(Debug)]
pub(crate) struct Found {
    bytes: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

impl AsRef<[u8]> for Found {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// All stored items, by name.
pub(crate) type StoredItems = std::collections::BTreeMap<String, Found>;

impl KeeperClient {
    fn new(channel: Channel, process: PidFd) -> Result<Self, KeeperGone> {
        let watch = |source| KeeperGone::Step { step: "watch the keeper", source };
        Ok(Self { channel: Arc::new(watched(channel).map_err(watch)?), process })
    }

    fn raw(&self) -> &Channel {
        &self.channel.get_ref().0
    }

    /// Becomes readable when it has sent a message, or exited.
    pub(crate) fn watch(&self) -> Arc<AsyncFd<Watched<Channel>>> {
        Arc::clone(&self.channel)
    }

    fn greet(&self, deadline: Duration) -> Result<(), KeeperGone> {
        self.send(&ToKeeper::Hello { version: KEEPER_VERSION }, &[])?;
        match self.receive(deadline)?.0 {
            FromKeeper::Welcome { version: KEEPER_VERSION } => Ok(()),
            FromKeeper::Welcome { version } => Err(KeeperGone::Version(version)),
            other => Err(KeeperGone::Protocol(format!("{other:?}"))),
        }
    }

    fn receive(&self, within: Duration) -> Result<(FromKeeper, Vec<OwnedFd>), KeeperGone> {
        let end = clock::monotonic() + within;
        loop {
            match message::receive(self.raw())? {
                Incoming::Message(message, fds) => return Ok((message, fds)),
                Incoming::Closed => return Err(KeeperGone::Ended),
                Incoming::WouldBlock => {}
            }
            let left = end.saturating_sub(clock::monotonic());
            if left.is_zero() {
                return Err(KeeperGone::Timeout);
            }
            wait_readable([self.raw().as_fd()], Some(left))?;
        }
    }

    /// Sends a message, and waits for room if there is none: a record must be sent before what it describes happens.
    fn send(&self, message: &ToKeeper, fds: &[BorrowedFd<'_>]) -> Result<(), KeeperGone> {
        let end = clock::monotonic() + ANSWER_DEADLINE;
        loop {
            match message::send(self.raw(), message, fds) {
                Err(LinkError::Channel(error)) if matches!(error.errno(), Some(EAGAIN | ETOOMANYREFS)) => {
                    let left = end.saturating_sub(clock::monotonic());
                    if left.is_zero() {
                        return Err(KeeperGone::Timeout);
                    }
                    wait_writable(self.raw().as_fd(), left)?;
                }
                other => return Ok(other?),
            }
        }
    }

    /// Returns the changes that it refused.
    pub(crate) fn complaints(&self) -> Result<Vec<String>, KeeperGone> {
        let mut complaints = Vec::new();
        loop {
            match message::receive(self.raw())? {
                Incoming::Message(FromKeeper::Refused(reason), _) => complaints.push(reason),
                Incoming::Message(other, _) => return Err(KeeperGone::Protocol(format!("{other:?}"))),
                Incoming::WouldBlock => return Ok(complaints),
                Incoming::Closed => return Err(KeeperGone::Ended),
            }
        }
    }

    /// Becomes its supervisor; the previous one is disconnected.
    pub(crate) fn own(&self, levels: &LogLevels, json: bool) -> Result<(), KeeperGone> {
        self.send(&ToKeeper::Own, &[])?;
        self.send(&ToKeeper::Log { levels: levels.clone(), json }, &[])
    }

    /// Sets how long it waits for a supervisor.
    pub(crate) fn set_orphan_timeout(&self, seconds: u32) -> Result<(), KeeperGone> {
        self.send(&ToKeeper::OrphanTimeout(seconds), &[])
    }

    /// Changes items.
    pub(crate) fn update(&self, mut bundle: Bundle<'_>) -> Result<(), KeeperGone> {
        bundle.end_group();
        for Group { changes, fds, .. } in bundle.messages {
            if changes.is_empty() {
                continue;
            }
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(HeldFd::borrow).collect();
            self.send(&ToKeeper::Update(changes), &fds)?;
        }
        Ok(())
    }

    /// Reads all items.
    pub(crate) fn read(&self) -> Result<StoredItems, KeeperGone> {
        let mut kept = StoredItems::new();
        loop {
            let after = kept.last_key_value().map(|(name, _)| name.clone());
            self.send(&ToKeeper::Read { after }, &[])?;
            let (heads, fds) = match self.receive(ANSWER_DEADLINE)? {
                (FromKeeper::Items(heads), fds) => (heads, fds),
                (FromKeeper::Refused(_), _) => continue,
                (other, _) => return Err(KeeperGone::Protocol(format!("{other:?}"))),
            };
            if heads.is_empty() {
                return Ok(kept);
            }
            let mut fds = fds.into_iter();
            for head in heads {
                let of_item: Vec<OwnedFd> = fds.by_ref().take(head.fds.into()).collect();
                let name = head.name.clone();
                kept.insert(name, found(head, of_item)?);
            }
        }
    }

    /// Asks it to release everything and exit, and waits for that.
    pub(crate) fn stop(self) {
        if self.send(&ToKeeper::Stop, &[]).is_err() {
            self.kill();
        }
        let _ = wait_readable([self.process.as_fd()], Some(ANSWER_DEADLINE));
        if !self.process.has_ended().unwrap_or(true) {
            self.kill();
        }
        let _ = self.process.reap();
    }

    /// Kills it, and waits for its exit.
    pub(crate) fn kill(&self) {
        // It may have exited already.
        let _ = self.process.kill(Signal::KILL);
        let _ = wait_readable([self.process.as_fd()], Some(ANSWER_DEADLINE));
        let _ = self.process.reap();
    }
}

fn found(head: Head, mut fds: Vec<OwnedFd>) -> Result<Found, KeeperGone> {
    let mut bytes = head.bytes;
    match bytes.first() {
        Some(&IN_FILE) => {
            let file = fds.pop().ok_or_else(|| KeeperGone::Protocol(format!("{}: no file", head.name)))?;
            Ok(Found { bytes: read_sealed(file.as_fd(), MAX_RECORD_BYTES)?, fds })
        }
        Some(&INLINE) => Ok(Found { bytes: bytes.split_off(1), fds }),
        _ => Err(KeeperGone::Protocol(format!("{}: no record", head.name))),
    }
}

#[derive(Debug)]
enum HeldFd<'a> {
    Borrowed(BorrowedFd<'a>),
    Owned(OwnedFd),
}

impl HeldFd<'_> {
    fn borrow(&self) -> BorrowedFd<'_> {
        match self {
            Self::Borrowed(fd) => *fd,
            Self::Owned(fd) => fd.as_fd(),
        }
    }
}

/// Changes sent in one message.
#[derive(Debug, Default)]
struct Group<'a> {
    changes: Vec<Change>,
    fds: Vec<HeldFd<'a>>,
    bytes: usize,
}

impl Group<'_> {
    fn has_room_for(&self, other: &Self) -> bool {
        self.changes.is_empty()
            || self.bytes + other.bytes <= MAX_BATCH_BYTES && self.fds.len() + other.fds.len() <= MAX_FDS
    }
}

impl<'a> Group<'a> {
    fn of(change: Change, fds: Vec<HeldFd<'a>>) -> Self {
        let bytes = 16
            + match &change {
                Change::Put(head) => head.name.len() + head.bytes.len(),
                Change::Remove(name) => name.len(),
            };
        Self { changes: vec![change], fds, bytes }
    }

    fn append(&mut self, mut other: Self) {
        self.changes.append(&mut other.changes);
        self.fds.append(&mut other.fds);
        self.bytes += other.bytes;
    }
}

/// Changes of items, in groups. A group that fits into a message is atomic.
#[derive(Debug, Default)]
pub(crate) struct Bundle<'a> {
    messages: Vec<Group<'a>>,
    group: Group<'a>,
}

impl<'a> Bundle<'a> {
    /// Stores this record with these descriptors.
    pub(crate) fn put(&mut self, name: String, record: &[u8], fds: &[BorrowedFd<'a>]) {
        let mut held: Vec<HeldFd<'a>> = fds.iter().copied().map(HeldFd::Borrowed).collect();
        let mut bytes = vec![INLINE];
        if record.len() <= MAX_INLINE_BYTES {
            bytes.extend_from_slice(record);
        } else {
            match sealed_bytes("mcr-record", record) {
                Ok(file) => {
                    bytes = vec![IN_FILE];
                    held.push(HeldFd::Owned(file));
                }
                // Without memory the item is removed rather than stored in part.
                Err(error) => {
                    tracing::error!(target: mcr_rules::log::WORKERS, %error, "{name} can't be stored at the keeper");
                    return self.remove(name);
                }
            }
        }
        let fds = u8::try_from(held.len()).unwrap_or(u8::MAX);
        self.add(Group::of(Change::Put(Head { name, bytes, fds }), held));
    }

    /// Removes this item.
    pub(crate) fn remove(&mut self, name: String) {
        self.add(Group::of(Change::Remove(name), Vec::new()));
    }

    /// Starts another group.
    pub(crate) fn end_group(&mut self) {
        let group = std::mem::take(&mut self.group);
        match self.messages.last_mut() {
            Some(last) if last.has_room_for(&group) => last.append(group),
            _ => self.messages.push(group),
        }
    }

    fn add(&mut self, change: Group<'a>) {
        if !self.group.has_room_for(&change) {
            self.end_group();
        }
        self.group.append(change);
    }
}
