//! Paths of the programs under test.

use std::path::PathBuf;
use std::sync::OnceLock;

static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();

/// Uses the programs in this directory from now on. Only the first call has an effect.
pub fn use_binaries_in(directory: PathBuf) {
    DIRECTORY.get_or_init(|| directory);
}

/// Returns the path of a program of this workspace: in `MCR_BIN_DIR` if that is set, else where cargo put this
/// executable.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let directory = DIRECTORY
        .get_or_init(|| std::env::var_os("MCR_BIN_DIR").map_or_else(beside_this_executable, PathBuf::from));
    let path = directory.join(name);
    assert!(path.is_file(), "{} is missing: run `cargo build --bins`, or `cargo xtask test`", path.display());
    path
}

/// Test executables are in `deps`, below the programs.
fn beside_this_executable() -> PathBuf {
    let mut path = std::env::current_exe().expect("this executable has a path");
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path
}
