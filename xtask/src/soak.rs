//! `cargo xtask soak`.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use mcr_testnet::soak::{SoakOptions, run, table};
use mcr_testnet::{IoBackend, use_binaries_in};
use serde_json::Value;

use crate::{cargo, privilege};

/// Duration and load.
#[derive(Debug, Args)]
pub(crate) struct Soak {
    /// Duration
    #[arg(long, value_name = "N", default_value_t = 30.0, value_parser = positive)]
    minutes: f64,
    /// Seconds between faults
    #[arg(long, value_name = "SECS", default_value_t = 30.0, value_parser = positive)]
    fault_every: f64,
    /// Datagrams per second, over four groups on two workers
    #[arg(long, value_name = "PPS", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    /// Payload bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1_400, value_parser = clap::value_parser!(u16).range(32..=1_472))]
    size: u16,
    /// Seed of the order of faults
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// I/O backend of the workers
    #[arg(long, value_enum, default_value_t = Io::Uring)]
    io: Io,
    /// Print the ledger as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Io {
    Uring,
    Recvmmsg,
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|number: &f64| *number > 0.0 && *number < 1e6)
        .ok_or("a number above 0".to_owned())
}

impl Soak {
    pub(crate) fn run(&self) -> Result<()> {
        cargo::run(&["build", "--release", "--bins", "-p", "mcrd", "-p", "mcrctl", "-p", "mcrgen"])?;
        let metadata = cargo::metadata(false)?;
        let target =
            metadata["target_directory"].as_str().context("cargo metadata names no target directory")?;
        use_binaries_in(PathBuf::from(target).join("release"));
        privilege::acquire()?;
        eprintln!("{} minutes, a fault every {} s, seed {}", self.minutes, self.fault_every, self.seed);
        // A panic during a fault is reported in the ledger.
        std::panic::set_hook(Box::new(|_| ()));
        let report = run(&SoakOptions {
            duration: Duration::from_secs_f64(self.minutes * 60.0),
            fault_every: Duration::from_secs_f64(self.fault_every),
            rate_pps: self.rate,
            size_bytes: self.size.into(),
            seed: self.seed,
            io: match self.io {
                Io::Uring => IoBackend::Uring,
                Io::Recvmmsg => IoBackend::Recvmmsg,
            },
            progress: |line| eprintln!("{line}"),
        });
        let text = if self.json { format!("{report:#}\n") } else { table(&report) };
        std::io::stdout().write_all(text.as_bytes()).context("write the ledger")?;
        match report["failures"].as_array().map_or(0, Vec::len) {
            0 => Ok(()),
            count => bail!("{count} failures: {}", Value::to_string(&report["failures"])),
        }
    }
}
