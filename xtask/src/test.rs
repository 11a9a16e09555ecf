//! `cargo xtask test`.

use anyhow::Result;

use crate::{cargo, privilege};

/// Most tests wait most of the time.
const TESTS_PER_CORE: usize = 2;
/// Tests that assert rates; they run without other tests (for nextest: .config/nextest.toml).
const RATE_TESTS: &str = "rate_";

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    cargo::run(&["build", "--workspace", "--bins"])?;
    privilege::acquire()?;
    let extra: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if cargo::has("nextest") {
        let cores = std::thread::available_parallelism()?.get();
        let threads = (TESTS_PER_CORE * cores).to_string();
        let mut run = vec!["nextest", "run", "--workspace"];
        if !extra.contains(&"--test-threads") {
            run.extend(["--test-threads", &threads]);
        }
        run.extend(&extra);
        cargo::run(&run)?;
        if extra.is_empty() {
            cargo::run(&["test", "--quiet", "--workspace", "--doc"])?;
        }
    } else if extra.is_empty() {
        // Fewer threads than cores: each integration test has several processes of its own.
        cargo::run(&[
            "test",
            "--workspace",
            "--no-fail-fast",
            "--",
            "--test-threads",
            "2",
            "--skip",
            RATE_TESTS,
        ])?;
        cargo::run(&["test", "--workspace", "--no-fail-fast", "--", "--test-threads", "1", RATE_TESTS])?;
    } else {
        cargo::run(&[&["test", "--workspace", "--", "--test-threads", "1"], extra.as_slice()].concat())?;
    }
    Ok(())
}
