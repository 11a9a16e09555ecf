//! The socket file and its ownership.
//!
//! A lock file beside the socket is locked (`flock`) while the daemon runs, and the lock alone decides which process
//! is the daemon: its holder may remove the socket file of a dead daemon. Two daemons that start at once can't both
//! find the file stale.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::startup_file::beside;

/// A bound control socket. Dropping it removes its file; the lock is released with the process or with the value.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
    lock: File,
    gate: Arc<State>,
}

/// A handle to a control socket that is being served.
#[derive(Debug)]
pub(crate) struct Gate {
    listener: UnixListener,
    lock: File,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    paused: watch::Sender<bool>,
    /// The file belongs to another process.
    left: AtomicBool,
}

impl Gate {
    /// Pauses or resumes accepting; paused, clients stay in the backlog.
    pub(crate) fn pause(&self, paused: bool) {
        self.state.paused.send_replace(paused);
    }

    /// Duplicates the listening socket and its lock, for [`ControlSocket::adopt`] in another process.
    pub(crate) fn descriptors(&self) -> io::Result<[OwnedFd; 2]> {
        Ok([self.listener.try_clone()?.into(), self.lock.try_clone()?.into()])
    }

    /// Keeps the file when the socket is dropped.
    pub(crate) fn leave_file(&self) {
        self.state.left.store(true, Ordering::Relaxed);
    }
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon answers there.
    #[error("another mcrd is running on {}", .0.display())]
    InUse(PathBuf),
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    #[error("can't {step} {}: {source}", path.display())]
    Step {
        step: &'static str,
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
}

impl SocketError {
    /// Returns the remedy.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::InUse(_) => "stop it first, or give this one its own --socket PATH",
            Self::NotASocket(_) => "give another --socket PATH, or remove the file",
            Self::Step { .. } => "give a --socket PATH in a directory that this user may write to",
        }
    }
}

fn step<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> SocketError + 'a {
    move |source| SocketError::Step { step, path: path.to_owned(), source }
}

impl ControlSocket {
    /// Binds the socket. Its directory is created if missing; a stale socket file is replaced.
    pub(crate) fn bind(path: &Path) -> Result<Self, SocketError> {
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(directory)
                .map_err(step("make the directory", directory))?;
        }
        let lock = take_lock(path)?;
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(step("bind the socket", path))?;
        // All users may connect: the peer credentials decide, and refusals can be sent and logged.
        fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(step("open up the socket", path))?;
        Self::of(path, listener, lock)
    }

    /// Adopts the socket and lock of another process of this daemon. Fails if the file no longer exists.
    pub(crate) fn adopt(path: &Path, listener: OwnedFd, lock: OwnedFd) -> Result<Self, SocketError> {
        Self::of(path, listener.into(), lock.into())
    }

    fn of(path: &Path, listener: UnixListener, lock: File) -> Result<Self, SocketError> {
        let metadata = fs::symlink_metadata(path).map_err(step("look at the socket", path))?;
        let gate = Arc::new(State { paused: watch::Sender::new(false), left: AtomicBool::new(false) });
        let identity = (metadata.dev(), metadata.ino());
        Ok(Self { listener, path: path.to_owned(), identity, lock, gate })
    }

    /// Returns a handle that remains usable while this value is served.
    pub(crate) fn gate(&self) -> Result<Gate, SocketError> {
        let failed = || step("duplicate", &self.path);
        Ok(Gate {
            listener: self.listener.try_clone().map_err(failed())?,
            lock: self.lock.try_clone().map_err(failed())?,
            state: Arc::clone(&self.gate),
        })
    }

    /// Returns the paused state, as a channel.
    pub(super) fn watch_gate(&self) -> watch::Receiver<bool> {
        self.gate.paused.subscribe()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The listening socket, non-blocking.
    pub(super) fn listener(&self) -> io::Result<UnixListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if self.gate.left.load(Ordering::Relaxed) {
            return;
        }
        // Another process may have replaced the file.
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(target: "control", path = %self.path.display(), %error, "can't remove the control socket");
        }
    }
}

/// The lock file is never removed: otherwise two daemons could lock two files of the same name.
fn take_lock(path: &Path) -> Result<File, SocketError> {
    let lock_path = beside(path, ".lock");
    let lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock_path)
        .map_err(step("open the lock file", &lock_path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(SocketError::InUse(path.to_owned())),
        Err(TryLockError::Error(source)) => Err(step("lock", &lock_path)(source)),
    }
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(step("look at", path)(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    // By the lock no mcrd runs here, but the socket may be another program's.
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(step("remove the stale socket", path))
        }
        Err(error) => Err(step("probe", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let directory = std::env::temp_dir().join(format!("mcr-socket-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&directory);
            Self(directory)
        }

        fn socket(&self) -> PathBuf {
            self.0.join("run/mcrd.sock")
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_second_daemon_is_refused_while_the_first_lives() {
        let place = Place::new("second");
        let first = ControlSocket::bind(&place.socket()).unwrap();
        let error = ControlSocket::bind(&place.socket()).unwrap_err();
        assert!(matches!(error, SocketError::InUse(_)), "{error}");
        assert!(error.to_string().contains("another mcrd is running on"), "{error}");
        drop(first);
        assert!(!place.socket().exists());
        ControlSocket::bind(&place.socket()).unwrap();
    }

    #[test]
    fn a_stale_socket_file_is_replaced() {
        let place = Place::new("stale");
        fs::create_dir_all(place.socket().parent().unwrap()).unwrap();
        drop(UnixListener::bind(place.socket()).unwrap());
        assert!(place.socket().exists());
        let socket = ControlSocket::bind(&place.socket()).unwrap();
        UnixStream::connect(socket.path()).unwrap();
    }

    #[test]
    fn a_living_socket_without_lock_is_left_alone() {
        let place = Place::new("foreign");
        fs::create_dir_all(place.socket().parent().unwrap()).unwrap();
        let _foreign = UnixListener::bind(place.socket()).unwrap();
        assert!(matches!(ControlSocket::bind(&place.socket()), Err(SocketError::InUse(_))));
        UnixStream::connect(place.socket()).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let place = Place::new("file");
        fs::create_dir_all(place.socket().parent().unwrap()).unwrap();
        fs::write(place.socket(), "precious").unwrap();
        assert!(matches!(ControlSocket::bind(&place.socket()), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read_to_string(place.socket()).unwrap(), "precious");
    }

    #[test]
    fn a_socket_that_took_its_place_is_not_removed() {
        let place = Place::new("replaced");
        let socket = ControlSocket::bind(&place.socket()).unwrap();
        fs::remove_file(place.socket()).unwrap();
        fs::write(place.socket(), "another").unwrap();
        drop(socket);
        assert!(place.socket().exists());
    }
}
