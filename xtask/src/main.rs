//! The project's development commands: see `cargo xtask --help`.

mod bench;
mod bpf;
mod cargo;
mod demo;
mod fuzz;
mod hooks;
mod instructions;
mod lab;
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

/// Development commands beyond those of cargo.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Relay multicast between network namespaces and verify it at the receiver
    ///
    /// Builds the release programs, creates a sender, a relay and a receiver as network namespaces, and sends four
    /// streams for some seconds. Requires root, or permission to create user namespaces. Does not change the host's
    /// interfaces, and removes the namespaces. Exit code 0: no loss.
    Demo,
    /// Run every test: unit, property, integration and documentation
    ///
    /// Builds the programs first, since integration tests run them. Uses cargo-nextest if it is installed. Requires root,
    /// or permission to create user namespaces.
    Test {
        /// Test the release programs; faults can't be injected into them, so name tests that do not, such as `sandbox::`
        #[arg(long)]
        release: bool,
        /// Tests that assert rates need the machine for themselves: run these only, or all others
        #[arg(long, value_enum, value_name = "WHICH")]
        rates: Option<test::Rates>,
        /// Arguments for the test runner, such as the name of a test
        #[arg(last = true, value_name = "ARGUMENT")]
        arguments: Vec<String>,
    },
    /// Benchmark the forwarding rate of MCR and other programs
    ///
    /// Builds the release programs and relays between network namespaces, with sender and receiver on core 0 and the
    /// relay on core 1. Requires root, or permission to create user namespaces; two idle cores; and `ethtool`.
    ///
    /// The other programs are `socat` and `smcroute` (kernel multicast routing): `apt-get install socat smcroute ethtool`
    /// on Debian. Programs that are not installed are reported and skipped. `recvmmsg+sendmmsg` is a plain relay of a
    /// hundred lines, included as a baseline.
    Bench(bench::Bench),
    /// Compile the programs for the kernel in bpf/, and write their instructions into mcr-sys
    ///
    /// Requires `apt-get install clang` of Debian 12. Everything else builds without it: the instructions are in the
    /// repository, with a hash of their sources.
    Bpf(bpf::Bpf),
    /// Simulate the supervisor's core under random faults, with a virtual clock
    ///
    /// Commands, network events, crashes, stalls, lost and late messages in a random order. `cargo xtask test` runs 256
    /// seeds of 3,000 steps; this runs more, in a release build.
    Simulate(simulate::Simulate),
    /// Relay for a long time while faults are injected, and account for every datagram
    ///
    /// Kills and stops processes, sets interfaces down, deletes and renames them, changes rules, floods the control socket,
    /// sends malformed frames. Reports the loss by each fault, the loss without a fault (a failure), memory and
    /// descriptors.
    Soak(soak::Soak),
    /// Run the integration tests on other kernels, and on network cards, in a virtual machine
    ///
    /// Fetches Debian's kernels with apt-get into the target directory and boots them in qemu, without KVM, with this
    /// machine's root as theirs, read only under a layer in memory. Runs all tests except those that assert a rate; with
    /// `--nic`, the tests of network cards. Requires `apt-get install qemu-system-x86`.
    Lab(lab::Lab),
    /// Fuzz every parser, and assert properties of the result
    ///
    /// The targets are in fuzz/. Requires a C++ compiler, for libFuzzer.
    Fuzz(fuzz::Fuzz),
    /// Generate manual pages, completions and the reference
    Manuals,
    /// Install `pre-commit` as git's pre-commit hook
    Hooks,
    /// Check format, lints and unit tests of staged files; no test may become ignored or lose its assertions
    PreCommit,
    /// Check version and changelogs, and write packages, source, SBOM and checksums to target/release-VERSION
    Release {
        /// Do not create the tag; uncommitted changes are permitted
        #[arg(long)]
        dry_run: bool,
    },
    /// Build the Debian package
    Package {
        /// Check it with lintian, install it in a minimal Debian, boot that, and relay there; requires root
        #[arg(long)]
        check: bool,
    },
    /// Count the data plane's instructions per datagram, and compare with the record
    ///
    /// Parse, match and batch, without system calls, under valgrind: nearly the same on every machine. A difference of
    /// more than 5 % from the record is a failure. Requires `apt-get install valgrind`.
    Instructions(instructions::Instructions),
    /// Check the dependencies between crates, and which crates contain unsafe code
    Layers,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo => demo::run(),
        Command::Test { release, rates, arguments } => test::run(release, rates, &arguments),
        Command::Instructions(instructions) => instructions.run(),
        Command::Bench(bench) => bench.run(),
        Command::Bpf(bpf) => bpf.run(),
        Command::Simulate(simulate) => simulate.run(),
        Command::Soak(soak) => soak.run(),
        Command::Lab(lab) => lab.run(),
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
    fn the_command_line_is_valid() {
        super::Arguments::command().debug_assert();
    }
}
