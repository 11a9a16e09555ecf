//! `cargo xtask release`: writes all files of a release to one directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cargo, package, sbom, tool};

pub(crate) fn run(dry_run: bool) -> Result<()> {
    let version = version()?;
    check_changelogs(&version, dry_run)?;
    if !dry_run && !tool::run(Command::new("git").args(["status", "--porcelain"]))?.is_empty() {
        bail!("the tree has uncommitted changes");
    }
    let directory = cargo::target_directory()?.join(format!("release-{version}"));
    if directory.exists() {
        std::fs::remove_dir_all(&directory).context("remove the previous files")?;
    }
    std::fs::create_dir_all(&directory).context("create the directory")?;

    let mut files = Vec::new();
    let deb = package::build()?;
    let name = deb.file_name().context("the package has no name")?;
    std::fs::copy(&deb, directory.join(name)).context("copy the package")?;
    files.push(PathBuf::from(name));
    let archive = source(&directory, &version)?;
    files.extend(sbom::write(&directory, &archive, &version)?);
    files.push(archive);

    let sums = tool::run(Command::new("sha256sum").args(&files).current_dir(&directory))?;
    std::fs::write(directory.join("SHA256SUMS"), &sums).context("write the checksums")?;
    eprint!("{sums}");
    if dry_run {
        eprintln!("{} is complete; without --dry-run v{version} would be tagged", directory.display());
        return Ok(());
    }
    tool::run(Command::new("git").args([
        "tag",
        "-a",
        &format!("v{version}"),
        "-m",
        &format!("Version {version}"),
    ]))?;
    eprintln!("{} is complete, v{version} is tagged", directory.display());
    Ok(())
}

/// The version of the workspace.
fn version() -> Result<String> {
    let metadata = cargo::metadata(false)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let mut versions: Vec<&str> = packages.filter_map(|package| package["version"].as_str()).collect();
    versions.sort_unstable();
    versions.dedup();
    match versions.as_slice() {
        [version] => Ok((*version).to_owned()),
        _ => bail!("the crates have several versions: {}", versions.join(", ")),
    }
}

/// Checks that both changelogs have this version; in a dry run, the first may have "Unreleased" instead.
fn check_changelogs(version: &str, dry_run: bool) -> Result<()> {
    let changes = std::fs::read_to_string("CHANGELOG.md").context("read CHANGELOG.md")?;
    let headings = if dry_run { vec!["Unreleased", version] } else { vec![version] };
    if !headings.iter().any(|heading| has_entries(&changes, heading)) {
        bail!("CHANGELOG.md has no entries under {}", headings.join(" or "));
    }
    let debian = std::fs::read_to_string("packaging/debian/changelog").context("read Debian's changelog")?;
    if !debian.starts_with(&format!("mcr ({version}-")) {
        bail!("packaging/debian/changelog does not begin with {version}");
    }
    Ok(())
}

fn has_entries(changelog: &str, heading: &str) -> bool {
    let mut sections = changelog.split("\n## ").skip(1);
    sections.any(|section| {
        let (title, body) = section.split_once('\n').unwrap_or((section, ""));
        title.split_whitespace().next() == Some(heading) && body.contains("\n- ") | body.starts_with("- ")
    })
}

fn source(directory: &Path, version: &str) -> Result<PathBuf> {
    let name = PathBuf::from(format!("mcr-{version}.tar.gz"));
    let prefix = format!("--prefix=mcr-{version}/");
    let mut archive = Command::new("git");
    archive.args(["archive", "--format=tar.gz", &prefix, "-o"]).arg(directory.join(&name)).arg("HEAD");
    tool::run(&mut archive)?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heading_without_entries_is_not_accepted() {
        let log = "# Changelog\n\n## Unreleased\n\n## 0.1.0 (2026-11-22)\n\n- The first.\n";
        assert!(!has_entries(log, "Unreleased"));
        assert!(has_entries(log, "0.1.0"));
        assert!(!has_entries(log, "0.1"));
    }
}
