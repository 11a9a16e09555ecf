//! `cargo xtask manuals`: the tests that compare the manuals write them instead.

use anyhow::{Context, Result, bail};

use crate::cargo;

/// Crates whose module `manual` compares what they have written.
const CRATES: [&str; 6] = ["mcrd", "mcrctl", "mcrgen", "mcr-control", "mcr-rules", "integration-tests"];

pub(crate) fn run() -> Result<()> {
    let mut command = cargo::cargo();
    command.args(["test", "--quiet"]).env("MCR_WRITE_MANUALS", "1");
    for name in CRATES {
        command.args(["-p", name]);
    }
    // One after another: several write parts of one file.
    let status =
        command.args(["manual::", "--", "--test-threads", "1"]).status().context("start cargo test")?;
    if !status.success() {
        bail!("the manuals could not be written");
    }
    eprintln!(
        "packaging/man, packaging/completions, user_docs/REFERENCE.md and developer_docs/HOSTILE_FRAMES.md are up to date"
    );
    Ok(())
}
