//! `cargo xtask bench`: builds and runs tests/benchmarks/forwarding_rate.rs.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use crate::{cargo, privilege};

const TARGET: [&str; 5] = ["bench", "--package", "integration-tests", "--bench", "forwarding_rate"];

/// What to measure, and where to write the results.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Run only measurements whose SCENARIO/PEER contains this, such as `one-200/` or `/socat`; may be repeated
    #[arg(long, value_name = "TEXT")]
    filter: Vec<String>,
    /// Number of measurements of each peer, in round robin order
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    repetitions: u64,
    /// Duration of each measurement
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// One repetition of one second
    #[arg(long, conflicts_with_all = ["repetitions", "seconds"])]
    quick: bool,
    /// Write the results to this file (JSON)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the rates at saturation into this file (SVG)
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
    /// List the scenarios and exit
    #[arg(long)]
    list: bool,
}

impl Bench {
    pub(crate) fn run(&self) -> Result<()> {
        cargo::run(&["build", "--release", "--bins", "-p", "mcrd", "-p", "mcrctl", "-p", "mcrgen"])?;
        cargo::run(&[&TARGET[..], &["--no-run"]].concat())?;
        privilege::acquire()?;
        let absolute = |path: &Option<PathBuf>| path.as_ref().map(std::path::absolute).transpose();
        let (repetitions, seconds) = if self.quick { (1, 1) } else { (self.repetitions, self.seconds) };
        let options = json!({
            "filter": self.filter,
            "repetitions": repetitions,
            "seconds": seconds,
            "json": absolute(&self.json)?,
            "chart": absolute(&self.chart)?,
            "list": self.list,
            "commit": answer("git", &["describe", "--always", "--dirty", "--abbrev=10"]),
            "date": answer("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        });
        cargo::run(&[&TARGET[..], &["--", "--options", &options.to_string()]].concat())
            .context("the benchmark failed; it needs two idle cores, and `apt-get install ethtool`")
    }
}

/// The output of a program; empty if it fails.
fn answer(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
