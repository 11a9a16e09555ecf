//! `cargo xtask simulate`.

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cargo;

/// The amount of simulation.
#[derive(Debug, Args)]
pub(crate) struct Simulate {
    /// Number of seeds
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    seeds: u64,
    /// First seed; a failure reports the seed that reproduces it
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1_000_000_000_000))]
    first_seed: u64,
    /// Steps of each seed
    #[arg(long, default_value_t = 3_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    steps: u64,
}

impl Simulate {
    pub(crate) fn run(&self) -> Result<()> {
        let status = cargo::cargo()
            .args(["test", "--release", "--quiet", "--package", "mcr-supervisor", "--lib", "simulation_"])
            .env("MCR_SIMULATION_SEEDS", self.seeds.to_string())
            .env("MCR_SIMULATION_FIRST_SEED", self.first_seed.to_string())
            .env("MCR_SIMULATION_STEPS", self.steps.to_string())
            .status()
            .context("start cargo")?;
        if !status.success() {
            bail!("the simulation failed; the seed that reproduces it is printed above");
        }
        eprintln!("{} seeds of {} steps: no violation", self.seeds, self.steps);
        Ok(())
    }
}
