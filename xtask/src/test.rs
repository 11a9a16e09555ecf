//! `cargo xtask test`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;

use crate::{cargo, privilege};

/// Most tests wait most of the time.
const TESTS_PER_CORE: usize = 2;
/// Tests that assert rates; they run without other tests (for nextest: .config/nextest.toml).
const RATE_TESTS: &str = "rate_";

/// Which of the tests that assert rates to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Rates {
    /// These and no others
    Only,
    /// All others
    Without,
}

/// With `release`, the tests are those of the development build, and the programs that they run are not.
pub(crate) fn run(release: bool, rates: Option<Rates>, arguments: &[String]) -> Result<()> {
    cargo::run(&["build", "--workspace", "--bins"])?;
    let mut environment = BTreeMap::new();
    if release {
        environment.insert("MCR_BIN_DIR", release_programs()?);
    }
    privilege::acquire()?;
    let run = |line: &[&str]| {
        let extra = arguments.iter().map(String::as_str);
        cargo::run_with(&environment, &line.iter().copied().chain(extra).collect::<Vec<_>>())
    };
    let others = rates != Some(Rates::Only);
    let all = arguments.is_empty();
    if cargo::has("nextest") {
        nextest(rates, arguments, run)?;
        if all && others {
            run(&["test", "--quiet", "--workspace", "--doc"])?;
        }
        return Ok(());
    }
    let workspace = ["test", "--workspace", "--no-fail-fast", "--", "--test-threads"];
    if !all && rates.is_none() {
        return run(&[&workspace[..], &["1"]].concat());
    }
    if others {
        // Fewer threads than cores: each integration test has several processes of its own.
        run(&[&workspace[..], &["2", "--skip", RATE_TESTS]].concat())?;
    }
    if rates != Some(Rates::Without) {
        run(&[&workspace[..], &["1", RATE_TESTS]].concat())?;
    }
    Ok(())
}

fn nextest(rates: Option<Rates>, arguments: &[String], run: impl Fn(&[&str]) -> Result<()>) -> Result<()> {
    let threads = (TESTS_PER_CORE * std::thread::available_parallelism()?.get()).to_string();
    let filter = match rates {
        None => None,
        Some(Rates::Only) => Some(format!("test(/{RATE_TESTS}/)")),
        Some(Rates::Without) => Some(format!("not test(/{RATE_TESTS}/)")),
    };
    let mut line = vec!["nextest", "run", "--workspace"];
    if !arguments.iter().any(|argument| argument == "--test-threads") {
        line.extend(["--test-threads", &threads]);
    }
    if let Some(filter) = &filter {
        line.extend(["--filterset", filter]);
    }
    run(&line)
}

fn release_programs() -> Result<PathBuf> {
    cargo::run(&["build", "--release", "--bins", "-p", "mcrd", "-p", "mcrctl", "-p", "mcrgen"])?;
    Ok(cargo::target_directory()?.join("release"))
}
