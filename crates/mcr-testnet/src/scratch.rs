//! Directories for one run, removed at its end, or at the start of a later run if this one crashes.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use tempfile::TempDir;

const PREFIX: &str = "mcr-testnet-";
const LOCK: &str = "lock";
/// A directory younger than this may not be locked yet.
const CREATION: Duration = Duration::from_secs(60);

/// A directory that stays locked while its owner exists.
#[derive(Debug)]
pub(crate) struct Scratch {
    directory: TempDir,
    _lock: File,
}

impl Scratch {
    /// Creates one. Its path is short enough for a Unix socket in it.
    pub(crate) fn new() -> Self {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(|| sweep(&std::env::temp_dir(), CREATION));
        Self::new_in(&std::env::temp_dir())
    }

    fn new_in(parent: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent).expect("make a directory");
        let lock = File::create(directory.path().join(LOCK)).expect("make a lock");
        lock.lock().expect("lock a directory");
        Self { directory, _lock: lock }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Removes the directories of crashed runs: those that are not locked. A failure means that it is another user's.
fn sweep(parent: &Path, min_age: Duration) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if ours && is_abandoned(&entry.path(), min_age) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn is_abandoned(directory: &Path, min_age: Duration) -> bool {
    let age =
        std::fs::symlink_metadata(directory).and_then(|status| status.modified()).map(|time| time.elapsed());
    if !matches!(age, Ok(Ok(age)) if age >= min_age) {
        return false;
    }
    File::open(directory.join(LOCK))
        .is_ok_and(|lock| !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unlocked_directories_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let held = Scratch::new_in(parent.path());
        let Scratch { directory, _lock: lock } = Scratch::new_in(parent.path());
        let crashed = directory.keep();
        drop(lock);
        let foreign = parent.path().join("mcr-other");
        std::fs::create_dir(&foreign).unwrap();

        sweep(parent.path(), CREATION);
        assert!(crashed.exists(), "it may be new");
        sweep(parent.path(), Duration::ZERO);
        assert!(!crashed.exists() && held.path().exists() && foreign.exists());
    }
}
