//! `cargo xtask package`: builds and checks the Debian package.

mod check;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::{cargo, tool};

/// The version that the package was tested with.
const CARGO_DEB: tool::Installed = tool::Installed { name: "cargo-deb", version: "3.8.0" };

pub(crate) fn run(with_check: bool) -> Result<()> {
    let package = build()?;
    eprintln!("built {}", package.display());
    if with_check { check::run(&package) } else { Ok(()) }
}

/// Builds the package and returns its path.
pub(crate) fn build() -> Result<PathBuf> {
    let directory = cargo::target_directory()?.join("package");
    let programs = ["-p", "mcrd", "-p", "mcrctl", "-p", "mcrgen"];
    cargo::run(&[&["build", "--release", "--locked", "--bins"], &programs[..]].concat())?;
    let output = tool::run(
        CARGO_DEB
            .command()?
            .args(["deb", "--locked", "-p", "mcrd", "--no-build", "--strip", "-o"])
            .arg(&directory),
    )?;
    let path = output.lines().last().map(PathBuf::from).context("cargo deb printed no path")?;
    if !path.is_file() {
        bail!("cargo deb made no package: {output}");
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    const UNIT: &str = include_str!("../../packaging/systemd/mcrd.service");
    const TEMPLATE: &str = include_str!("../../packaging/systemd/mcrd@.service");

    /// Whether a line may differ for the daemon of a namespace.
    fn is_of_instance(line: &&str) -> bool {
        ["Description=", "ExecStart=", "StateDirectory=", "NetworkNamespacePath="]
            .iter()
            .any(|key| line.starts_with(key))
    }

    #[test]
    fn the_template_differs_from_the_unit_only_by_instance() {
        let common =
            |unit: &'static str| unit.lines().filter(|line| !is_of_instance(line)).collect::<Vec<_>>();
        assert_eq!(common(UNIT), common(TEMPLATE));
        let own = |unit: &'static str| unit.lines().filter(is_of_instance).count();
        assert_eq!((own(UNIT), own(TEMPLATE)), (3, 4));
    }

    #[test]
    fn the_service_has_two_capabilities() {
        for key in ["AmbientCapabilities=", "CapabilityBoundingSet="] {
            let given: Vec<&str> = UNIT.lines().filter_map(|line| line.strip_prefix(key)).collect();
            assert_eq!(given, ["CAP_NET_RAW CAP_NET_BIND_SERVICE"], "{key}");
        }
    }
}
