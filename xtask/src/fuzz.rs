//! `cargo xtask fuzz`: builds the targets of `fuzz/` for libFuzzer and runs them.
//!
//! cargo-fuzz would need its own installation and a nightly toolchain by default. What it does is little: these flags make
//! LLVM count edges and comparisons for libFuzzer, and they work on stable.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::cargo;

/// Coverage for libFuzzer (clang's SanitizerCoverage documentation): edges as counters, their table, comparisons.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=1";
/// An input that takes longer is a finding (R29), in seconds.
const HANG_SECONDS: u32 = 1;
/// Longer inputs only cost time.
const MAX_INPUT_BYTES: u32 = 4_096;
const MEMORY_MIB: u32 = 1_024;

/// What to fuzz and for how long.
#[derive(Debug, Args)]
pub(crate) struct Fuzz {
    /// Seconds for each target
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// One target [default: all of them, one after the other]
    target: Option<String>,
}

impl Fuzz {
    pub(crate) fn run(&self) -> Result<()> {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let triple = host_triple()?;
        build(&directory, &triple)?;
        let metadata = metadata(&directory)?;
        let built =
            metadata["target_directory"].as_str().context("cargo metadata names no target directory")?;
        let built = PathBuf::from(built);
        let all = targets(&metadata);
        let chosen: Vec<&String> =
            all.iter().filter(|name| self.target.as_ref().is_none_or(|wanted| wanted == *name)).collect();
        if chosen.is_empty() {
            bail!("there is no target {:?}\nhint: the targets are {}", self.target, all.join(", "));
        }
        for name in chosen {
            let program = built.join(&triple).join("release").join(name);
            self.fuzz(
                name,
                &program,
                &directory.join("corpus").join(name),
                &built.join("fuzzing").join(name),
            )?;
        }
        Ok(())
    }

    /// Runs one target. New inputs go to `found`, so that the committed corpus stays small.
    fn fuzz(&self, name: &str, program: &Path, corpus: &Path, found: &Path) -> Result<()> {
        std::fs::create_dir_all(found).with_context(|| format!("make {}", found.display()))?;
        let log = found.with_extension("log");
        let output = std::fs::File::create(&log).with_context(|| format!("write {}", log.display()))?;
        let status = Command::new(program)
            .args([found, corpus])
            .arg(format!("-max_total_time={}", self.seconds))
            .arg(format!("-timeout={HANG_SECONDS}"))
            .arg(format!("-max_len={MAX_INPUT_BYTES}"))
            .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
            .arg(format!("-artifact_prefix={}/finding-", found.parent().unwrap_or(found).display()))
            .arg("-print_final_stats=1")
            .stdout(output.try_clone().context("share the log")?)
            .stderr(output)
            .status()
            .with_context(|| format!("start {}", program.display()))?;
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if !status.success() {
            let tail: Vec<&str> = text.lines().rev().take(60).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
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

fn build(directory: &Path, triple: &str) -> Result<()> {
    let manifest = directory.join("Cargo.toml");
    eprintln!("building the fuzz targets");
    let status = cargo::cargo()
        .args(["build", "--release", "--locked", "--quiet", "--target", triple, "--manifest-path"])
        .arg(&manifest)
        // With a target given, the flags are not for build scripts.
        .env("RUSTFLAGS", INSTRUMENTATION)
        .status()
        .context("start cargo")?;
    if !status.success() {
        bail!("the fuzz targets do not build ({status})\nhint: libFuzzer needs a C++ compiler");
    }
    Ok(())
}

fn metadata(directory: &Path) -> Result<Value> {
    let output = cargo::cargo()
        .args(["metadata", "--format-version", "1", "--no-deps", "--manifest-path"])
        .arg(directory.join("Cargo.toml"))
        .output()
        .context("start cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).context("read the output of cargo metadata")
}

fn targets(metadata: &Value) -> Vec<String> {
    let targets = metadata["packages"][0]["targets"].as_array().into_iter().flatten();
    targets
        .filter(|target| target["kind"][0] == "bin")
        .filter_map(|target| Some(target["name"].as_str()?.to_owned()))
        .collect()
}

fn host_triple() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("start rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let triple = text.lines().find_map(|line| line.strip_prefix("host: "));
    triple.map(str::to_owned).context("rustc does not tell its host")
}
