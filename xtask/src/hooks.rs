//! `cargo xtask hooks`: git's pre-commit hook.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tool;

const HOOK: &str = "#!/bin/sh\n# Written by cargo xtask hooks.\nexec cargo xtask pre-commit\n";

pub(crate) fn run() -> Result<()> {
    let output = tool::run(Command::new("git").args(["rev-parse", "--git-path", "hooks/pre-commit"]))?;
    let path = PathBuf::from(output.trim());
    match std::fs::read_to_string(&path) {
        Ok(text) if text != HOOK => {
            bail!(
                "{} exists already\nhint: remove it, or call `cargo xtask pre-commit` in it",
                path.display()
            )
        }
        _ => {}
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).context("create git's hooks directory")?;
    }
    std::fs::write(&path, HOOK).context("write the hook")?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
        .context("make the hook executable")?;
    eprintln!("wrote {}; `git commit --no-verify` skips it", path.display());
    Ok(())
}
