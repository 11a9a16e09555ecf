//! `cargo xtask manuals`: runs the tests that compare the manuals, in a mode in which they write them.

use anyhow::{Context, Result, bail};

use crate::cargo;

/// Crates with a test module `manual`.
const CRATES: [&str; 6] = ["mcrd", "mcrctl", "mcrgen", "mcr-control", "mcr-rules", "integration-tests"];

pub(crate) fn run() -> Result<()> {
    let mut command = cargo::cargo();
    command.args(["test", "--quiet"]).env("MCR_WRITE_MANUALS", "1");
    for name in CRATES {
        command.args(["-p", name]);
    }
    // Single-threaded: several tests write parts of the same file.
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
