//! `cargo xtask fuzz`: runs the targets of `fuzz/` with cargo-fuzz.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{cargo, tool};

const CARGO_FUZZ: tool::Installed = tool::Installed { name: "cargo-fuzz", version: "0.13.2" };
/// Without a sanitizer, the stable toolchain suffices. The fuzzed crates have no unsafe code that one would check.
const NO_SANITIZER: [&str; 2] = ["--sanitizer", "none"];
/// libFuzzer's limits: an input that takes longer than a second is a finding (R29).
const LIMITS: [&str; 4] = ["-timeout=1", "-max_len=4096", "-rss_limit_mb=1024", "-print_final_stats=1"];

/// What to fuzz and for how long.
#[derive(Debug, Args)]
pub(crate) struct Fuzz {
    /// Seconds for each target
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Build without optimization, which takes half as long: for a run of seconds
    #[arg(long)]
    dev: bool,
    /// Target [default: all, one after the other]
    target: Option<String>,
}

impl Fuzz {
    pub(crate) fn run(&self) -> Result<()> {
        let all = tool::run(CARGO_FUZZ.command()?.args(["fuzz", "list"]))?;
        let chosen: Vec<&str> =
            all.lines().filter(|name| self.target.as_ref().is_none_or(|wanted| wanted == name)).collect();
        if chosen.is_empty() {
            let all: Vec<&str> = all.lines().collect();
            bail!("there is no target {:?}\nhint: the targets are {}", self.target, all.join(", "));
        }
        // cargo-fuzz has no --locked.
        let manifest = ["--manifest-path", "fuzz/Cargo.toml"];
        tool::run(cargo::cargo().args(["metadata", "--format-version", "1", "--locked"]).args(manifest))?;
        let built = cargo::target_directory()?.join("fuzz");
        eprintln!("building the fuzz targets");
        let build = CARGO_FUZZ
            .command()?
            .args(["fuzz", "build"])
            .args(self.build_options())
            .arg("--target-dir")
            .arg(&built)
            .output();
        let build = build.context("start cargo-fuzz")?;
        if !build.status.success() {
            let output = String::from_utf8_lossy(&build.stderr);
            bail!("the fuzz targets do not build:\n{output}\nhint: libFuzzer needs a C++ compiler");
        }
        chosen.into_iter().try_for_each(|name| self.fuzz(name, &built))
    }

    fn build_options(&self) -> impl Iterator<Item = &'static str> {
        NO_SANITIZER.into_iter().chain(self.dev.then_some("--dev"))
    }

    /// Runs one target. New inputs go to the target directory, so that the committed corpus stays small; findings go to
    /// fuzz/artifacts.
    fn fuzz(&self, name: &str, built: &PathBuf) -> Result<()> {
        let found = built.join("found").join(name);
        std::fs::create_dir_all(&found).with_context(|| format!("make {}", found.display()))?;
        let log = found.with_extension("log");
        let output = std::fs::File::create(&log).with_context(|| format!("write {}", log.display()))?;
        let status = CARGO_FUZZ
            .command()?
            .args(["fuzz", "run"])
            .args(self.build_options())
            .arg("--target-dir")
            .args([built, &PathBuf::from(name), &found, &PathBuf::from("fuzz/corpus").join(name)])
            .arg("--")
            .args(LIMITS)
            .arg(format!("-max_total_time={}", self.seconds))
            .stdout(output.try_clone().context("share the log")?)
            .stderr(output)
            .status()
            .context("start cargo-fuzz")?;
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if !status.success() {
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(60)..];
            bail!("{name}: {status}; the end of {}:\n{}", log.display(), tail.join("\n"));
        }
        let number = |what: &str| {
            let found =
                text.lines().rev().find_map(|line| line.split_once(what)?.1.split_whitespace().next());
            found.unwrap_or("?").to_owned()
        };
        eprintln!(
            "{name}: {} executions in {} s, {} edges, nothing found",
            number("stat::number_of_executed_units:"),
            self.seconds,
            number("cov:")
        );
        Ok(())
    }
}
