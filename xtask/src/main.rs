//! The project's commands: `cargo xtask --help` lists them.

mod bench;
mod cargo;
mod demo;
mod fuzz;
mod hooks;
mod instructions;
mod layers;
mod manuals;
mod package;
mod pre_commit;
mod privilege;
mod release;
mod sbom;
mod simulate;
mod soak;
mod test;
mod tool;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The commands of this project, for everything that plain cargo can't do.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Relay real multicast between network namespaces and verify what arrives
    ///
    /// Builds the release programs, makes a sender, a relay and a receiver as network namespaces, and sends four
    /// streams for some seconds. Needs root, or the right to make user namespaces. Touches no interface of this host
    /// and leaves nothing behind. Exit code 0 says that nothing was lost.
    Demo,
    /// Run every test: unit, property, integration and documentation
    ///
    /// Builds the programs first, since integration tests run them. Uses cargo-nextest if it is installed. Needs root,
    /// or the right to make user namespaces.
    Test {
        /// Passed on to the test runner, such as the name of a test
        #[arg(last = true, value_name = "ARGUMENT")]
        arguments: Vec<String>,
    },
    /// Measure how fast MCR forwards, against what people use today
    ///
    /// Builds the release programs and relays between network namespaces, with sender and receiver on core 0 and the
    /// relay on core 1. Needs root, or the right to make user namespaces; two idle cores; and `ethtool`.
    ///
    /// The peers are `socat` and `smcroute` (kernel multicast forwarding): `apt-get install socat smcroute ethtool`
    /// on Debian. A peer that is not installed is skipped and named. `recvmmsg+sendmmsg` is a plain relay of a hundred
    /// lines that comes with the benchmark, as a floor.
    Bench(bench::Bench),
    /// Simulate the supervisor's core under random faults, with a virtual clock
    ///
    /// Commands, network events, deaths, stalls, lost and late messages in the order that a seed gives. `cargo xtask
    /// test` runs 256 seeds of 3,000 steps; this runs as many as you like, in a release build.
    Simulate(simulate::Simulate),
    /// Relay for a long time while faults happen, and account for every datagram
    ///
    /// Kills and stops processes, takes interfaces down, away and elsewhere, changes rules, floods the control socket, sends
    /// hostile frames. At the end the ledger: what each fault cost, what was lost without one (nothing may), memory and
    /// descriptors.
    Soak(soak::Soak),
    /// Feed mutated input to every parser, and assert a property of what comes out
    ///
    /// The targets are in fuzz/. Needs a C++ compiler, for libFuzzer.
    Fuzz(fuzz::Fuzz),
    /// Write manual pages, completions and the reference from the command lines
    Manuals,
    /// Have git run `pre-commit` before each commit of this checkout
    Hooks,
    /// Format, lints and unit tests of what is staged; no test may be newly ignored or lose its assertions
    PreCommit,
    /// Check version and changelogs, and make packages, source, SBOM and checksums in target/release-VERSION
    Release {
        /// Make everything but the tag; the tree may have changes
        #[arg(long)]
        dry_run: bool,
    },
    /// Build the Debian package
    Package {
        /// Look at it with lintian, install it in a minimal Debian, boot that, and relay there; needs root
        #[arg(long)]
        check: bool,
    },
    /// Count the data plane's instructions per datagram, and compare with the record
    ///
    /// Parse, match and batch, without system calls, under valgrind: nearly the same on every machine. More than 5 %
    /// above the record is a failure, more than 5 % below asks for a new record. Needs `apt-get install valgrind`.
    Instructions(instructions::Instructions),
    /// Check that dependencies between crates point one way, and where unsafe code may be
    Layers,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo => demo::run(),
        Command::Test { arguments } => test::run(&arguments),
        Command::Instructions(instructions) => instructions.run(),
        Command::Bench(bench) => bench.run(),
        Command::Simulate(simulate) => simulate.run(),
        Command::Soak(soak) => soak.run(),
        Command::Fuzz(fuzz) => fuzz.run(),
        Command::Manuals => manuals::run(),
        Command::Hooks => hooks::run(),
        Command::PreCommit => pre_commit::run(),
        Command::Release { dry_run } => release::run(dry_run),
        Command::Package { check } => package::run(check),
        Command::Layers => layers::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Arguments::command().debug_assert();
    }
}
