//! The startup file: read at start and at SIGHUP, written by `save` so that a crash at any point leaves either the
//! old or the new file. A copy of the last file that loaded is kept for
//! [`--last-good`](crate::DaemonOptions::last_good).

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::altname;
use mcr_rules::Config;
use mcr_rules::file::{ConfigError, decode, has_comments, parse, to_json5};
use mcr_rules::limits::MAX_FILE_BYTES;

/// A startup file that can't be read, used or written.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    /// It does not exist.
    #[error("{}: there is no such file", .0.display())]
    Missing(PathBuf),
    /// The file system refuses a step.
    #[error("{}: can't {step}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The step.
        step: &'static str,
        /// The error.
        source: std::io::Error,
        /// A step of a save.
        is_write: bool,
    },
    /// It is not a valid configuration; all errors.
    #[error("{}", Listed(.path, .errors))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// In file order; not empty.
        errors: Vec<ConfigError>,
    },
}

impl StartupError {
    /// Returns the remedy, if known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing(_) => Some("create it, or leave out --config to start without rules".to_owned()),
            Self::Io { path, source, is_write: true, .. } => {
                write_hint(path.parent().unwrap_or(path), source.kind())
            }
            Self::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
                Some("mcrd's user must be able to read it".to_owned())
            }
            _ => None,
        }
    }
}

fn write_hint(directory: &Path, kind: ErrorKind) -> Option<String> {
    let directory = directory.display();
    match kind {
        ErrorKind::NotFound => Some(format!("is there a directory {directory}?")),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Some(format!("make room in {directory}; the file is as it was, and so is what runs"))
        }
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => Some(format!(
            "mcrd must be able to write to {directory}; `mcrctl show > FILE` writes a file of your own"
        )),
        _ => None,
    }
}

/// Errors as `file:line:column: path: message`, each with its hint on a line of its own.
struct Listed<'a>(&'a Path, &'a [ConfigError]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.1.iter().enumerate() {
            let line = if n == 0 { "" } else { "\n" };
            let colon = if error.location.is_some() { ":" } else { ": " };
            write!(f, "{line}{}{colon}{error}", self.0.display())?;
            if let Some(hint) = &error.hint {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        Ok(())
    }
}

/// The result of a save.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The file that was written.
    pub path: PathBuf,
    /// Backup of the previous file, if the new one lacks something of it.
    pub backup: Option<PathBuf>,
}

fn failed<'a>(path: &'a Path, step: &'static str) -> impl FnOnce(std::io::Error) -> StartupError + 'a {
    move |source| StartupError::Io { path: path.to_owned(), step, source, is_write: false }
}

fn failed_write<'a>(path: &'a Path, step: &'static str) -> impl FnOnce(std::io::Error) -> StartupError + 'a {
    move |source| StartupError::Io { path: path.to_owned(), step, source, is_write: true }
}

/// Reads and checks a startup file.
///
/// # Errors
/// It is missing, unreadable, or not a valid configuration.
pub fn load(path: &Path) -> Result<Config, StartupError> {
    let text = match read(path) {
        Err(StartupError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            return Err(StartupError::Missing(path.to_owned()));
        }
        other => other?,
    };
    parse(&text).map_err(|mut errors| {
        altname::resolve(&mut errors);
        StartupError::Invalid { path: path.to_owned(), errors }
    })
}

fn read(path: &Path) -> Result<String, StartupError> {
    let file = File::open(path).map_err(failed(path, "open it"))?;
    let mut bytes = Vec::new();
    // One byte more than allowed, so that the parser can refuse it by its own limit.
    let limit = MAX_FILE_BYTES as u64 + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(failed(path, "read it"))?;
    decode(bytes).map_err(|errors| StartupError::Invalid { path: path.to_owned(), errors })
}

/// One save at a time: they share the names of temporary files.
static SAVING: Mutex<()> = Mutex::new(());

/// Writes a configuration: to a temporary file beside it, synced, renamed, directory synced. A file with comments (or
/// anything else that would be lost) is backed up beside it as `FILE.bak`.
///
/// # Errors
/// A step failed; the file is unchanged.
pub fn save(path: &Path, config: &Config) -> Result<Saved, StartupError> {
    let _turn = SAVING.lock().unwrap_or_else(PoisonError::into_inner);
    // A symbolic link is kept: its target is replaced.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let before = match read(path) {
        Ok(text) => Some(text),
        Err(StartupError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => None,
        // A file that can't be read as text is backed up too.
        Err(_) => fs::metadata(path).ok().map(|_| String::from("//")),
    };
    let backup = match before {
        Some(text) if has_comments(&text) => Some(keep(path)?),
        _ => None,
    };
    replace(path, path, to_json5(config).as_bytes())?;
    Ok(Saved { path: path.clone(), backup })
}

/// Saves a copy of a startup file that loaded, to start from if the file can't be used later.
///
/// # Errors
/// A step failed; the copy is unchanged.
pub fn keep_copy(copy: &Path, startup_file: &Path, config: &Config) -> Result<(), StartupError> {
    let _turn = SAVING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(directory) = copy.parent() {
        fs::create_dir_all(directory).map_err(failed_write(directory, "make the directory"))?;
    }
    let origin = startup_file.display();
    let text = format!("// Written by mcrd: {origin} as it loaded last.\n{}", to_json5(config));
    replace(copy, startup_file, text.as_bytes())
}

/// The path with a suffix.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn keep(path: &Path) -> Result<PathBuf, StartupError> {
    let backup = beside(path, ".bak");
    let bytes = fs::read(path).map_err(failed(path, "read it for the backup"))?;
    replace(&backup, path, &bytes)?;
    Ok(backup)
}

/// Writes a file with the owner and mode of `like`.
fn replace(path: &Path, like: &Path, bytes: &[u8]) -> Result<(), StartupError> {
    // A fixed name, so that files of killed processes are found and don't accumulate.
    let temporary = beside(path, ".tmp");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(failed_write(&temporary, "remove it")(error));
        }
        _ => {}
    }
    write_synced(&temporary, like, bytes)
        .and_then(|()| fs::rename(&temporary, path).map_err(failed_write(path, "replace it")))
        .inspect_err(|_| {
            // The original failure is the one to report.
            let _ = fs::remove_file(&temporary);
        })?;
    let directory = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(directory).and_then(|d| d.sync_all()).map_err(failed_write(directory, "sync the directory"))
}

fn write_synced(temporary: &Path, like: &Path, bytes: &[u8]) -> Result<(), StartupError> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        // Never through a symbolic link created by another user.
        .create_new(true)
        .mode(0o644)
        .open(temporary)
        .map_err(failed_write(temporary, "create it"))?;
    if let Ok(old) = fs::metadata(like) {
        let mode = fs::Permissions::from_mode(old.mode() & 0o7777);
        file.set_permissions(mode).map_err(failed_write(temporary, "set its permissions"))?;
        // Only root can change the owner; other users keep their own.
        let _ = std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()));
    }
    file.write_all(bytes).map_err(failed_write(temporary, "write it"))?;
    file.sync_all().map_err(failed_write(temporary, "sync it"))
}

#[cfg(test)]
mod tests;
