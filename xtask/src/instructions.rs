//! `cargo xtask instructions`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::cargo;

/// Instructions per datagram, by case.
const RECORD: &str = "tests/benchmarks/instructions.json";
/// Permitted relative difference from the record.
const TOLERANCE: f64 = 0.05;
/// Two run lengths; their difference excludes the cost of startup.
const BATCHES: [u64; 2] = [20, 220];

/// Options of `cargo xtask instructions`.
#[derive(Debug, Args)]
pub(crate) struct Instructions {
    /// Write the counts to the record
    #[arg(long)]
    record: bool,
}

type Counts = BTreeMap<String, f64>;

impl Instructions {
    pub(crate) fn run(&self) -> Result<()> {
        let program = build()?;
        let counts = count_all(&program)?;
        if self.record {
            std::fs::write(RECORD, format!("{}\n", serde_json::to_string_pretty(&counts)?))
                .with_context(|| format!("write {RECORD}"))?;
        }
        compare(&counts, &read_record()?)
    }
}

fn build() -> Result<PathBuf> {
    // Together with the product's packages, so that dependencies are built once, with the same features.
    let packages = ["-p", "mcrd", "-p", "mcrctl", "-p", "mcrgen", "-p", "mcr-worker"];
    let program = ["--features", "mcr-worker/instruction-count", "--bin", "instructions"];
    cargo::run(&[&["build", "--release", "--locked"], &packages[..], &program[..]].concat())?;
    Ok(cargo::target_directory()?.join("release/instructions"))
}

fn count_all(program: &Path) -> Result<Counts> {
    let names = Command::new(program).output().context("start the cases")?;
    let names = String::from_utf8(names.stdout).context("the names of the cases")?;
    // In parallel: the time does not affect the counts.
    std::thread::scope(|scope| {
        let counts: Vec<_> =
            names.lines().map(|name| (name, scope.spawn(move || per_datagram(program, name)))).collect();
        let counts = counts.into_iter().map(|(name, count)| {
            let count = count.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok((name.to_owned(), count))
        });
        counts.collect()
    })
}

fn per_datagram(program: &Path, case: &str) -> Result<f64> {
    let [(few, few_datagrams), (many, many_datagrams)] =
        [count(program, case, BATCHES[0])?, count(program, case, BATCHES[1])?];
    ensure!(many > few && many_datagrams > few_datagrams, "{case}: more batches must take more instructions");
    #[expect(clippy::cast_precision_loss, reason = "millions")]
    let quotient = (many - few) as f64 / (many_datagrams - few_datagrams) as f64;
    Ok((quotient * 10.0).round() / 10.0)
}

/// Instructions and datagrams of one run.
fn count(program: &Path, case: &str, batches: u64) -> Result<(u64, u64)> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([case, &batches.to_string()])
        .output()
        .context("start valgrind; install it with: apt-get install valgrind")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("valgrind failed:\n{stderr}");
    }
    let instructions = stderr
        .lines()
        .find_map(|line| line.split_once("Collected :"))
        .and_then(|(_, number)| number.trim().parse().ok())
        .with_context(|| format!("no count in the output of valgrind:\n{stderr}"))?;
    let datagrams =
        String::from_utf8_lossy(&output.stdout).trim().parse().context("the number of datagrams")?;
    Ok((instructions, datagrams))
}

fn read_record() -> Result<Counts> {
    let text = std::fs::read_to_string(RECORD).with_context(|| format!("read {RECORD}"))?;
    serde_json::from_str(&text).with_context(|| format!("parse {RECORD}"))
}

fn compare(counts: &Counts, record: &Counts) -> Result<()> {
    let (mut more, mut less) = (false, false);
    eprintln!("{:<24} {:>12} {:>10} {:>8}", "instructions/datagram", "counted", "record", "change");
    for (case, counted) in counts {
        let recorded = record.get(case).copied().unwrap_or_default();
        let change = if recorded > 0.0 { counted / recorded - 1.0 } else { f64::INFINITY };
        more |= change > TOLERANCE;
        less |= change < -TOLERANCE;
        eprintln!("{case:<24} {counted:>12.1} {recorded:>10.1} {:>7.1}%", change * 100.0);
    }
    let hint = "if this is intended, update the record: cargo xtask instructions --record";
    ensure!(!more, "the data plane takes more instructions than recorded in {RECORD}\nhint: {hint}");
    ensure!(!less, "the data plane takes fewer instructions than recorded in {RECORD}\nhint: {hint}");
    ensure!(counts.keys().eq(record.keys()), "{RECORD} has other cases\nhint: {hint}");
    Ok(())
}
