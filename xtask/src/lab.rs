//! `cargo xtask lab`: the integration tests on kernels and network cards that this machine does not have.
//!
//! ```text
//!  apt-get download ─▶ kernel, modules ─▶ initramfs ─▶ qemu without KVM ─▶ this machine's root, read only ─▶ tests
//! ```
//!
//! - [`kernel`]: fetches and unpacks a kernel of Debian, once;
//! - [`initramfs`]: the guest's first file system; `init.sh` mounts the rest;
//! - [`guest`]: one boot of qemu;
//! - [`job`]: which tests run in the guest;
//! - [`report`]: what is shown of the guest's output.
#![expect(clippy::print_stdout, reason = "what the guest prints is the result")]

mod guest;
mod initramfs;
mod job;
mod kernel;
mod report;

use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::{cargo, tool};
use guest::Guest;
use job::{Job, TestProgram};
use kernel::Kernel;
use report::Outcome;

const QEMU: &str = "qemu-system-x86_64";
/// Longest run of all tests on one kernel, and of the short form.
const WHOLE_LIMIT: Duration = Duration::from_mins(60);
const SHORT_LIMIT: Duration = Duration::from_mins(5);

/// Kernels, cards, tests.
#[derive(Debug, Args)]
pub(crate) struct Lab {
    /// Kernels of Debian
    #[arg(value_name = "KERNEL", value_enum, default_values_t = [Kernel::V6_1, Kernel::V6_12])]
    kernels: Vec<Kernel>,
    /// Boot with four network cards of this model, cabled in pairs, and run the tests of network cards; can be repeated
    #[arg(long, value_name = "MODEL", value_enum)]
    nic: Vec<Model>,
    /// Run some of the tests, including those of one network card, on all kernels at the same time
    #[arg(long, conflicts_with = "nic")]
    short: bool,
    /// Names of tests, whole or in part; default: all, except those that assert a rate
    #[arg(last = true, value_name = "TEST")]
    tests: Vec<String>,
}

/// A network card that qemu emulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Model {
    E1000e,
    VirtioNet,
    Vmxnet3,
}

impl Model {
    /// Its name for qemu.
    const fn device(self) -> &'static str {
        match self {
            Self::E1000e => "e1000e",
            Self::VirtioNet => "virtio-net-pci",
            Self::Vmxnet3 => "vmxnet3",
        }
    }

    /// The module with its driver.
    const fn module(self) -> &'static str {
        match self {
            Self::E1000e => "e1000e",
            Self::VirtioNet => "virtio_net",
            Self::Vmxnet3 => "vmxnet3",
        }
    }
}

impl Lab {
    pub(crate) fn run(&self) -> Result<()> {
        if !tool::is_installed(QEMU) {
            if self.short {
                println!("skipped: the lab: {QEMU} is not installed");
                return Ok(());
            }
            bail!("{QEMU} is not installed\nhint: apt-get install qemu-system-x86");
        }
        cargo::run(&["build", "--workspace", "--bins"])?;
        let program = TestProgram::build()?;
        let mut kernels = self.kernels.clone();
        kernels.dedup();
        for kernel in &kernels {
            kernel.provide()?;
        }
        let outcomes = if self.short {
            self.at_the_same_time(&kernels, &program)
        } else {
            self.in_turn(&kernels, &program)
        };
        report::finish(&outcomes)
    }

    /// Both cores are used by as many guests; each has one.
    fn at_the_same_time(&self, kernels: &[Kernel], program: &TestProgram) -> Vec<Outcome> {
        std::thread::scope(|scope| {
            let running: Vec<_> = kernels
                .iter()
                .map(|&kernel| {
                    let guest = Guest {
                        kernel,
                        card: Some(Model::E1000e),
                        cores: 1,
                        limit: SHORT_LIMIT,
                        shares_output: true,
                    };
                    scope.spawn(move || guest.run(&Job::short(program, &self.tests)))
                })
                .collect();
            running.into_iter().filter_map(|guest| guest.join().ok()).collect()
        })
    }

    fn in_turn(&self, kernels: &[Kernel], program: &TestProgram) -> Vec<Outcome> {
        let cards: Vec<Option<Model>> =
            if self.nic.is_empty() { vec![None] } else { self.nic.iter().copied().map(Some).collect() };
        let boots = kernels.iter().flat_map(|&kernel| cards.iter().map(move |&card| (kernel, card)));
        boots
            .map(|(kernel, card)| {
                // Cards with one core: a driver's queues keep the order then.
                let cores = if card.is_some() { 1 } else { 2 };
                let guest = Guest { kernel, card, cores, limit: WHOLE_LIMIT, shares_output: false };
                guest.run(&Job::whole(program, card.is_some(), &self.tests))
            })
            .collect()
    }
}
