//! `cargo xtask lab`: the integration tests on kernels and network cards that this machine does not have.
//!
//! ```text
//!  apt-get download ─▶ kernel, modules ─▶ initramfs ─▶ user mode, or qemu without KVM ─▶ this machine's root, read only ─▶ tests
//! ```
//!
//! - [`apt`], [`kernel`]: fetch and unpack kernels of Debian, once;
//! - [`initramfs`]: the guest's first file system; `init.sh` mounts the rest;
//! - [`guest`], [`mod@user_mode`]: one boot;
//! - [`job`]: which tests run in the guest;
//! - [`report`]: what is shown of the guest's output.
#![expect(clippy::print_stdout, reason = "what the guest prints is the result")]

mod apt;
mod guest;
mod initramfs;
mod job;
mod kernel;
mod report;
mod user_mode;

use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::{cargo, tool};
use job::{Job, TestProgram};
use kernel::{Kernel, Machine};
use report::Outcome;

const QEMU: &str = "qemu-system-x86_64";
/// Longest run of all tests on one kernel, and of the short form.
const WHOLE_LIMIT: Duration = Duration::from_mins(60);
const SHORT_LIMIT: Duration = Duration::from_mins(4);

/// A virtual machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guest {
    pub(crate) kernel: Kernel,
    pub(crate) machine: Machine,
    /// Four of them, of qemu: nic0 is cabled to nic1, nic2 to nic3.
    pub(crate) card: Option<Model>,
    /// Of qemu; in user mode, there is one.
    pub(crate) cores: u8,
    pub(crate) limit: Duration,
    /// Others print at the same time, so that each line is to name its guest.
    pub(crate) shares_output: bool,
}

/// Kernels, cards, tests.
#[derive(Debug, Args)]
pub(crate) struct Lab {
    /// Kernels of Debian
    #[arg(value_name = "KERNEL", value_enum, default_values_t = [Kernel::V6_1, Kernel::V6_12])]
    kernels: Vec<Kernel>,
    /// Boot qemu with four network cards of this model, cabled in pairs, and run the tests of network cards; can be repeated
    #[arg(long, value_name = "MODEL", value_enum)]
    nic: Vec<Model>,
    /// Run some of the tests, including those of one network card, on all kernels at the same time
    #[arg(long, conflicts_with = "nic")]
    short: bool,
    /// Run all tests in qemu, some 10 times slower; default: in user mode, and in qemu what is skipped there
    #[arg(long, conflicts_with = "short")]
    qemu: bool,
    /// Excuse tests that fail beside others and pass alone
    #[arg(long)]
    retry: bool,
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
        let mut kernels = self.kernels.clone();
        kernels.dedup();
        let ready = self.provide(&kernels);
        if let (true, Err(error)) = (self.short, &ready) {
            println!("skipped: the lab: {error:#}");
            return Ok(());
        }
        ready?;
        cargo::run(&["build", "--workspace", "--bins"])?;
        let program = TestProgram::build()?;
        let outcomes = if self.short {
            self.selection(&kernels, &program)?
        } else if self.qemu || !self.nic.is_empty() {
            self.in_qemu(&kernels, &program)?
        } else {
            self.in_user_mode_first(&kernels, &program)?
        };
        report::finish(&outcomes, self.retry)
    }

    /// Fetches what the first guests boot.
    ///
    /// # Errors
    /// There is no qemu, or a kernel can't be fetched.
    fn provide(&self, kernels: &[Kernel]) -> Result<()> {
        if !tool::is_installed(QEMU) {
            bail!("{QEMU} is not installed\nhint: apt-get install qemu-system-x86");
        }
        let in_user_mode = if self.qemu || !self.nic.is_empty() { &[][..] } else { kernels };
        in_user_mode.iter().try_for_each(|kernel| kernel.provide(Machine::UserMode))?;
        kernels.last().filter(|_| self.short).map_or(Ok(()), |kernel| kernel.provide(Machine::Qemu))
    }

    /// All kernels in user mode, and the last one in qemu with cards, at the same time.
    fn selection(&self, kernels: &[Kernel], program: &TestProgram) -> Result<Vec<Outcome>> {
        let mut boots = Vec::new();
        for &kernel in kernels {
            let guest = user_mode(kernel, SHORT_LIMIT)?;
            boots.push((guest, Job::short(program, &guest, &self.tests)));
        }
        if let Some(&kernel) = kernels.last() {
            let guest = Guest { shares_output: true, ..qemu(kernel, Some(Model::E1000e), SHORT_LIMIT)? };
            boots.push((guest, Job::short(program, &guest, &self.tests)));
        }
        Ok(at_the_same_time(&boots))
    }

    /// What the kernels in user mode lack is found by the tests, which say so and skip it: these run in qemu.
    fn in_user_mode_first(&self, kernels: &[Kernel], program: &TestProgram) -> Result<Vec<Outcome>> {
        let mut boots = Vec::new();
        for &kernel in kernels {
            let guest = user_mode(kernel, WHOLE_LIMIT)?;
            boots.push((guest, Job::whole(program, &guest, &self.tests)));
        }
        let mut outcomes = at_the_same_time(&boots);
        for number in 0..kernels.len().min(outcomes.len()) {
            let skipped: Vec<String> = outcomes[number].tests.skipped.iter().cloned().collect();
            if !skipped.is_empty() {
                let guest = qemu(kernels[number], None, WHOLE_LIMIT)?;
                outcomes.push(guest.run(&Job::whole(program, &guest, &skipped)));
            }
        }
        Ok(outcomes)
    }

    fn in_qemu(&self, kernels: &[Kernel], program: &TestProgram) -> Result<Vec<Outcome>> {
        let cards: Vec<Option<Model>> =
            if self.nic.is_empty() { vec![None] } else { self.nic.iter().copied().map(Some).collect() };
        let boots = kernels.iter().flat_map(|&kernel| cards.iter().map(move |&card| (kernel, card)));
        let run = |(kernel, card)| {
            let guest = qemu(kernel, card, WHOLE_LIMIT)?;
            Ok(guest.run(&Job::whole(program, &guest, &self.tests)))
        };
        boots.map(run).collect()
    }
}

fn user_mode(kernel: Kernel, limit: Duration) -> Result<Guest> {
    kernel.provide(Machine::UserMode)?;
    Ok(Guest { kernel, machine: Machine::UserMode, card: None, cores: 1, limit, shares_output: true })
}

fn qemu(kernel: Kernel, card: Option<Model>, limit: Duration) -> Result<Guest> {
    kernel.provide(Machine::Qemu)?;
    // Cards with one core: a driver's queues keep the order then.
    let cores = if card.is_some() { 1 } else { 2 };
    Ok(Guest { kernel, machine: Machine::Qemu, card, cores, limit, shares_output: false })
}

/// Each guest has a thread of its own, in the order of the outcomes.
fn at_the_same_time(boots: &[(Guest, Job)]) -> Vec<Outcome> {
    std::thread::scope(|scope| {
        let running: Vec<_> = boots.iter().map(|(guest, job)| scope.spawn(|| guest.run(job))).collect();
        running.into_iter().filter_map(|guest| guest.join().ok()).collect()
    })
}
