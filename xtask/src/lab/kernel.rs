//! Debian's kernels: fetched and unpacked into the target directory.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::apt::Apt;
use super::user_mode;
use crate::{cargo, tool};

/// The guest's first program.
const BUSYBOX: &str = "busybox-static";
/// Where a kernel's directory has the modules.
pub(crate) const MODULES: &str = "lib/modules";

/// A kernel for 64-bit PCs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 12.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 12's backports, from Debian 13; for user mode, Debian 13.
    #[value(name = "6.12")]
    V6_12,
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        })
    }
}

/// What runs a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Machine {
    /// The kernel is a process of this machine.
    UserMode,
    Qemu,
}

impl Machine {
    /// Its part in the names of files.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::UserMode => "user-mode",
            Self::Qemu => "linux",
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UserMode => "user mode",
            Self::Qemu => "qemu",
        })
    }
}

impl Kernel {
    /// Fetches the kernel for this machine unless that has been done.
    ///
    /// # Errors
    /// apt-get can't reach the mirror, or there is no such package.
    pub(crate) fn provide(self, machine: Machine) -> Result<()> {
        let directory = self.directory(machine)?;
        if directory.is_dir() {
            return Ok(());
        }
        let suites = match (machine, self) {
            (Machine::UserMode, Self::V6_12) => &["trixie"][..],
            _ => &["bookworm", "bookworm-backports"],
        };
        let apt = Apt::new(&lab_directory()?, suites)?;
        if !busybox()?.is_file() {
            apt.unpack(BUSYBOX, &lab_directory()?.join(BUSYBOX))?;
        }
        let unfinished = directory.with_extension("unfinished");
        match machine {
            Machine::UserMode => user_mode::unpack(&apt, &unfinished, MODULES)?,
            Machine::Qemu => {
                let prefix = format!("linux-image-{self}.");
                let names = apt.names(&prefix)?;
                let package =
                    newest(names.lines()).with_context(|| format!("Debian has no package {prefix}…"))?;
                apt.unpack(package, &unfinished)?;
            }
        }
        let modules = only_entry(&unfinished.join(MODULES))?;
        tool::run(Command::new(busybox()?).args(["depmod", "-b"]).arg(&unfinished).arg(modules))?;
        std::fs::rename(&unfinished, &directory).context("keep the kernel")
    }

    /// The compressed kernel, for qemu.
    pub(crate) fn image(self) -> Result<PathBuf> {
        let boot = self.directory(Machine::Qemu)?.join("boot");
        let entries = std::fs::read_dir(&boot).with_context(|| format!("read {}", boot.display()))?;
        let mut paths = entries.flatten().map(|entry| entry.path());
        paths
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")))
            .with_context(|| format!("no kernel in {}", boot.display()))
    }

    /// The directory with the modules of each version, of which there is one.
    pub(crate) fn modules(self, machine: Machine) -> Result<PathBuf> {
        Ok(self.directory(machine)?.join(MODULES))
    }

    /// The directory with the modules and the list of their dependencies.
    pub(crate) fn modules_of_version(self, machine: Machine) -> Result<PathBuf> {
        let modules = self.modules(machine)?;
        Ok(modules.join(only_entry(&modules)?))
    }

    pub(crate) fn directory(self, machine: Machine) -> Result<PathBuf> {
        Ok(lab_directory()?.join(format!("{}-{self}", machine.name())))
    }
}

/// The program that the guest starts with.
pub(crate) fn busybox() -> Result<PathBuf> {
    Ok(lab_directory()?.join(BUSYBOX).join("bin/busybox"))
}

fn lab_directory() -> Result<PathBuf> {
    Ok(cargo::target_directory()?.join("lab"))
}

fn only_entry(directory: &Path) -> Result<std::ffi::OsString> {
    let mut entries =
        std::fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    let first = entries.next().with_context(|| format!("{} is empty", directory.display()))?;
    Ok(first?.file_name())
}

/// Of the names of Debian's kernel packages, the one with the highest version for 64-bit PCs: neither `-rt`, `-cloud` nor
/// `-unsigned`.
fn newest<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let version = |name: &str| -> Option<Vec<u64>> {
        let version = name.strip_prefix("linux-image-")?.strip_suffix("-amd64")?;
        let plain = version.replace("+deb", ".");
        plain.split(['.', '-']).map(|number| number.parse().ok()).collect()
    };
    names.filter_map(|name| Some((version(name)?, name))).max().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_plain_kernel_is_taken() {
        let names = [
            "linux-image-6.12.9+deb12-amd64",
            "linux-image-6.12.90+deb12-amd64",
            "linux-image-6.12.90+deb12.1-amd64",
            "linux-image-6.12.99+deb12-rt-amd64",
            "linux-image-6.12.99+deb12-cloud-amd64",
            "linux-image-6.12.99+deb12-amd64-unsigned",
        ];
        assert_eq!(newest(names.into_iter()), Some("linux-image-6.12.90+deb12.1-amd64"));
        let names =
            ["linux-image-6.1.0-9-amd64", "linux-image-6.1.0-50-amd64", "linux-image-6.1.0-51-rt-amd64"];
        assert_eq!(newest(names.into_iter()), Some("linux-image-6.1.0-50-amd64"));
        assert_eq!(newest(std::iter::empty()), None);
    }
}
