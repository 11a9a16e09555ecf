//! Saves a config as the daemon does, and nothing else: `save_config FROM TO`. For the test that interrupts a save at
//! each of its system calls, which must not mix with those of a daemon.

use std::path::Path;
use std::process::ExitCode;

use mcr_supervisor::startup_file::{load, save};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = arguments.as_slice() else {
        eprintln!("usage: save_config FROM TO");
        return ExitCode::from(2);
    };
    let config = match load(Path::new(from)) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    // The save begins here, for who counts system calls.
    let _ = Path::new("/save-begins").exists();
    match save(Path::new(to), &config) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}
