//! The software bill of materials (SBOM) of each program, as CycloneDX 1.5 (JSON), by cargo-cyclonedx.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::tool;

const CARGO_CYCLONEDX: tool::Installed = tool::Installed { name: "cargo-cyclonedx", version: "0.5.9" };
const PROGRAMS: [&str; 3] = ["mcrd", "mcrctl", "mcrgen"];

/// Writes one file for each program into `directory`, from the source archive there, and returns their names.
pub(crate) fn write(directory: &Path, archive: &Path, version: &str) -> Result<Vec<PathBuf>> {
    // cargo-cyclonedx writes into the directory of each Cargo.toml, so it runs in a copy.
    tool::run(Command::new("tar").arg("-xzf").arg(archive).current_dir(directory))?;
    let source = directory.join(format!("mcr-{version}"));
    let mut generate = CARGO_CYCLONEDX.command()?;
    generate.args([
        "cyclonedx",
        "--quiet",
        "--format",
        "json",
        "--spec-version",
        "1.5",
        "--describe",
        "binaries",
    ]);
    generate.args(["--target", &host_target()?]).env("SOURCE_DATE_EPOCH", commit_time()?);
    tool::run(generate.current_dir(&source))?;
    let mut files = Vec::new();
    for program in PROGRAMS {
        let written = source.join(format!("crates/{program}/{program}_bin.cdx.json"));
        let text =
            std::fs::read_to_string(&written).with_context(|| format!("read {}", written.display()))?;
        check(program, &text)?;
        let name = PathBuf::from(format!("{program}-{version}.cdx.json"));
        // References between components contain the path of the source.
        let text = text.replace(&format!("{}/", source.display()), "");
        std::fs::write(directory.join(&name), text).with_context(|| format!("write {}", name.display()))?;
        files.push(name);
    }
    std::fs::remove_dir_all(&source).context("remove the copy of the source")?;
    Ok(files)
}

/// Checks that dependencies are listed, and none of another platform.
fn check(program: &str, text: &str) -> Result<()> {
    let sbom: Value = serde_json::from_str(text).with_context(|| format!("read the SBOM of {program}"))?;
    let list = |name: &str| sbom[name].as_array().into_iter().flatten();
    let root = &sbom["metadata"]["component"]["bom-ref"];
    let used = list("dependencies").find(|relation| relation["ref"] == *root);
    let used = used.and_then(|relation| relation["dependsOn"].as_array()).map_or(0, Vec::len);
    ensure!(used > 0, "the SBOM of {program} has no dependencies");
    let foreign = list("components").find(|component| {
        component["name"]
            .as_str()
            .is_some_and(|name| name.starts_with("windows-") || name.starts_with("wasi"))
    });
    ensure!(foreign.is_none(), "the SBOM of {program} has a component of another platform: {foreign:?}");
    Ok(())
}

/// The platform that the programs are built for.
fn host_target() -> Result<String> {
    let text = tool::run(Command::new("rustc").arg("-vV"))?;
    let target = text.lines().find_map(|line| line.strip_prefix("host: "));
    target.map(str::to_owned).context("rustc printed no host")
}

/// The time of the commit, so that the same source results in the same file.
fn commit_time() -> Result<String> {
    let time = tool::run(Command::new("git").args(["log", "-1", "--format=%ct"]))?;
    Ok(time.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sbom_without_dependencies_or_with_another_platform_is_rejected() {
        let sbom = |used: &str, component: &str| {
            format!(
                r#"{{"metadata":{{"component":{{"bom-ref":"a"}}}},"components":[{{"name":"{component}"}}],
                "dependencies":[{{"ref":"b","dependsOn":["c"]}},{{"ref":"a","dependsOn":[{used}]}}]}}"#
            )
        };
        assert!(check("mcrd", &sbom("\"b\"", "tokio")).is_ok());
        assert!(check("mcrd", &sbom("", "tokio")).is_err());
        assert!(check("mcrd", &sbom("\"b\"", "windows-sys")).is_err());
    }
}
