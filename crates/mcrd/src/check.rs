//! `mcrd --check`: reports all errors in the startup file.

use std::io::Write;
use std::path::Path;

use mcr_supervisor::startup_file::load;

use crate::{DONE, FAILED, print_error};

/// Checks the file; all errors go to standard error as `file:line:column: path: message`.
pub(crate) fn check(path: &Path) -> u8 {
    match load(path) {
        Ok(config) => {
            let line = format!("{}: valid, {} rules\n", path.display(), config.rules.len());
            // A closed standard output does not make the file invalid.
            let _ = std::io::stdout().write_all(line.as_bytes());
            DONE
        }
        Err(error @ mcr_supervisor::startup_file::StartupError::Invalid { .. }) => {
            eprintln!("{error}");
            FAILED
        }
        Err(error) => {
            print_error(&error, error.hint());
            FAILED
        }
    }
}
