//! The startup file: read at start and at SIGHUP, written by `save` so that a crash at any point leaves the old file
//! or the new one.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mcr_rules::Config;
use mcr_rules::file::{ConfigError, has_comments, parse, to_json5};
use mcr_rules::limits::MAX_FILE_BYTES;

/// A startup file that can't be read, used or written.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    /// It is not there.
    #[error("{}: there is no such file", .0.display())]
    Missing(PathBuf),
    /// The file system refuses a step.
    #[error("{}: can't {step}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// It is no configuration; everything that is wrong.
    #[error("{}", Listed(.path, .errors))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// In the order of their places; not empty.
        errors: Vec<ConfigError>,
    },
}

impl StartupError {
    /// What to do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing(_) => Some("create it, or leave out --config to start without rules".to_owned()),
            Self::Io { path, source, .. } if source.kind() == ErrorKind::NotFound => {
                let directory = path.parent().unwrap_or(path);
                Some(format!("is there a directory {}?", directory.display()))
            }
            _ => None,
        }
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

/// What a save did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The file that was written.
    pub path: PathBuf,
    /// Where the file before it is kept, if the new one lacks something of it.
    pub backup: Option<PathBuf>,
}

fn failed<'a>(path: &'a Path, step: &'static str) -> impl FnOnce(std::io::Error) -> StartupError + 'a {
    move |source| StartupError::Io { path: path.to_owned(), step, source }
}

/// Reads and checks a startup file.
///
/// # Errors
/// It is missing, unreadable, or no valid configuration.
pub fn load(path: &Path) -> Result<Config, StartupError> {
    let text = match read(path) {
        Err(StartupError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            return Err(StartupError::Missing(path.to_owned()));
        }
        other => other?,
    };
    parse(&text).map_err(|errors| StartupError::Invalid { path: path.to_owned(), errors })
}

fn read(path: &Path) -> Result<String, StartupError> {
    let file = File::open(path).map_err(failed(path, "open it"))?;
    let mut bytes = Vec::new();
    // One byte more than is allowed, so that the parser can refuse it by its own limit.
    let limit = MAX_FILE_BYTES as u64 + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(failed(path, "read it"))?;
    String::from_utf8(bytes).map_err(|error| {
        let source = std::io::Error::new(ErrorKind::InvalidData, error.utf8_error());
        failed(path, "read it as UTF-8")(source)
    })
}

/// Writes a configuration: to a temporary file beside it, synced, renamed, directory synced. A file with comments (or
/// anything else that would be lost) is kept beside it as `FILE.bak`.
///
/// # Errors
/// A step failed; the file is the old one.
pub fn save(path: &Path, config: &Config) -> Result<Saved, StartupError> {
    // A link stays a link: what it points to is replaced.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let before = match read(path) {
        Ok(text) => Some(text),
        Err(StartupError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => None,
        // What can't be read as text is kept too.
        Err(_) => fs::metadata(path).ok().map(|_| String::from("//")),
    };
    let backup = match before {
        Some(text) if has_comments(&text) => Some(keep(path)?),
        _ => None,
    };
    replace(path, to_json5(config).as_bytes())?;
    Ok(Saved { path: path.clone(), backup })
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn keep(path: &Path) -> Result<PathBuf, StartupError> {
    let backup = beside(path, ".bak");
    let bytes = fs::read(path).map_err(failed(path, "read it for the backup"))?;
    replace(&backup, &bytes)?;
    Ok(backup)
}

fn replace(path: &Path, bytes: &[u8]) -> Result<(), StartupError> {
    let temporary = beside(path, &format!(".{}.tmp", std::process::id()));
    write_synced(&temporary, path, bytes)
        .and_then(|()| fs::rename(&temporary, path).map_err(failed(path, "replace it")))
        .inspect_err(|_| {
            // The failure that led here is the one to tell.
            let _ = fs::remove_file(&temporary);
        })?;
    let directory = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(directory).and_then(|d| d.sync_all()).map_err(failed(directory, "sync the directory"))
}

fn write_synced(temporary: &Path, like: &Path, bytes: &[u8]) -> Result<(), StartupError> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(temporary)
        .map_err(failed(temporary, "create it"))?;
    if let Ok(old) = fs::metadata(like) {
        let mode = fs::Permissions::from_mode(old.mode() & 0o7777);
        file.set_permissions(mode).map_err(failed(temporary, "set its permissions"))?;
        // Only root can give files away; for others the new file is their own.
        let _ = std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()));
    }
    file.write_all(bytes).map_err(failed(temporary, "write it"))?;
    file.sync_all().map_err(failed(temporary, "sync it"))
}

#[cfg(test)]
mod tests;
