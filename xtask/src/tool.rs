//! Programs that this project's commands use.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cargo;

/// A cargo subcommand: the one in `PATH` if it has this version, else one built in the target directory on first use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Installed {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
}

impl Installed {
    /// A command that runs it.
    pub(crate) fn command(self) -> Result<Command> {
        let version = Command::new(self.name).arg("--version").output();
        if version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(self.version)) {
            return Ok(Command::new(self.name));
        }
        let target = cargo::target_directory()?;
        let root = target.join("tools").join(format!("{}-{}", self.name, self.version));
        let program = root.join("bin").join(self.name);
        if !program.is_file() {
            eprintln!("building {} {} into {}", self.name, self.version, root.display());
            // Unoptimized: it runs for seconds, an optimized build would take minutes.
            let status = cargo::cargo()
                .args(["install", "--quiet", "--locked", "--profile", "dev", "--root"])
                .arg(&root)
                .args([self.name, "--version", self.version])
                .env("CARGO_TARGET_DIR", target.join("tools/build"))
                .env("CARGO_PROFILE_DEV_DEBUG", "false")
                .status()
                .context("start cargo install")?;
            if !status.success() {
                bail!("{} could not be installed ({status})", self.name);
            }
        }
        Ok(Command::new(program))
    }
}

/// Runs a program, and returns its standard output.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {:?}", command.get_program()))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed ({}):\n{stdout}{stderr}", output.status);
    }
    Ok(stdout)
}

/// Whether a program is in `PATH`.
pub(crate) fn is_installed(name: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|paths| std::env::split_paths(&paths).any(|dir| dir.join(name).is_file()))
}
