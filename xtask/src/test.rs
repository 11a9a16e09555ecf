//! `cargo xtask test`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;

use crate::{cargo, privilege};

/// Most tests wait most of the time.
const TESTS_PER_CORE: usize = 2;
/// Tests that assert rates; they run without other tests (for nextest: .config/nextest.toml).
const RATE_TESTS: &str = "rate_";

/// With `release`, the tests are those of the development build, and the programs that they run are not.
pub(crate) fn run(release: bool, arguments: &[String]) -> Result<()> {
    cargo::run(&["build", "--workspace", "--bins"])?;
    let mut environment = BTreeMap::new();
    if release {
        environment.insert("MCR_BIN_DIR", release_programs()?);
    }
    privilege::acquire()?;
    let run = |arguments: &[&str]| cargo::run_with(&environment, arguments);
    let extra: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if cargo::has("nextest") {
        let cores = std::thread::available_parallelism()?.get();
        let threads = (TESTS_PER_CORE * cores).to_string();
        let mut line = vec!["nextest", "run", "--workspace"];
        if !extra.contains(&"--test-threads") {
            line.extend(["--test-threads", &threads]);
        }
        line.extend(&extra);
        run(&line)?;
        if extra.is_empty() {
            run(&["test", "--quiet", "--workspace", "--doc"])?;
        }
    } else if extra.is_empty() {
        // Fewer threads than cores: each integration test has several processes of its own.
        run(&["test", "--workspace", "--no-fail-fast", "--", "--test-threads", "2", "--skip", RATE_TESTS])?;
        run(&["test", "--workspace", "--no-fail-fast", "--", "--test-threads", "1", RATE_TESTS])?;
    } else {
        run(&[&["test", "--workspace", "--", "--test-threads", "1"], extra.as_slice()].concat())?;
    }
    Ok(())
}

fn release_programs() -> Result<PathBuf> {
    cargo::run(&["build", "--release", "--bins", "-p", "mcrd", "-p", "mcrctl", "-p", "mcrgen"])?;
    Ok(cargo::target_directory()?.join("release"))
}
