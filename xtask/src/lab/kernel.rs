//! Debian's kernels: fetched with apt-get, with package lists of their own, and unpacked into the target directory.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{cargo, tool};

const MIRROR: &str = "http://deb.debian.org/debian";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const SUITES: [&str; 2] = ["bookworm", "bookworm-backports"];
/// The guest's first program.
const BUSYBOX: &str = "busybox-static";

/// A kernel for 64-bit PCs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 12.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 12's backports, from Debian 13.
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

impl Kernel {
    /// Fetches the kernel unless that has been done.
    ///
    /// # Errors
    /// apt-get can't reach the mirror, or there is no such package.
    pub(crate) fn provide(self) -> Result<()> {
        let directory = self.directory()?;
        if directory.is_dir() {
            return Ok(());
        }
        let apt = Apt::new(&lab_directory()?)?;
        if !busybox()?.is_file() {
            apt.unpack(BUSYBOX, &lab_directory()?.join(BUSYBOX))?;
        }
        let package = apt.newest(&format!("linux-image-{self}."))?;
        let unfinished = directory.with_extension("unfinished");
        apt.unpack(&package, &unfinished)?;
        let modules = only_entry(&unfinished.join("lib/modules"))?;
        tool::run(Command::new(busybox()?).args(["depmod", "-b"]).arg(&unfinished).arg(modules))?;
        std::fs::rename(&unfinished, &directory).context("keep the kernel")
    }

    /// The compressed kernel.
    pub(crate) fn image(self) -> Result<PathBuf> {
        let boot = self.directory()?.join("boot");
        let entries = std::fs::read_dir(&boot).with_context(|| format!("read {}", boot.display()))?;
        let mut paths = entries.flatten().map(|entry| entry.path());
        paths
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")))
            .with_context(|| format!("no kernel in {}", boot.display()))
    }

    /// The directory with the modules of each version, of which there is one.
    pub(crate) fn modules(self) -> Result<PathBuf> {
        Ok(self.directory()?.join("lib/modules"))
    }

    /// The directory with the modules and the list of their dependencies.
    pub(crate) fn modules_of_version(self) -> Result<PathBuf> {
        let modules = self.modules()?;
        Ok(modules.join(only_entry(&modules)?))
    }

    fn directory(self) -> Result<PathBuf> {
        Ok(lab_directory()?.join(format!("linux-{self}")))
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

/// apt-get with lists and cache in a directory of its own: this machine's sources stay as they are.
struct Apt {
    directory: PathBuf,
}

impl Apt {
    /// Reads the lists of packages.
    fn new(lab: &Path) -> Result<Self> {
        if !tool::is_installed("apt-get") || !Path::new(KEYRING).is_file() {
            bail!(
                "the kernels are Debian's packages: apt-get and {KEYRING} are needed\nhint: apt-get install debian-archive-keyring"
            );
        }
        let directory = lab.join("apt");
        for name in ["lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(directory.join(name)).context("create apt's directories")?;
        }
        let line = |suite| format!("deb [arch=amd64 signed-by={KEYRING}] {MIRROR} {suite} main\n");
        std::fs::write(directory.join("sources.list"), SUITES.map(line).concat())
            .context("write the sources")?;
        let apt = Self { directory };
        eprintln!("reading Debian's lists of packages");
        apt.run("apt-get", &["update"])?;
        Ok(apt)
    }

    /// The newest kernel whose package has this prefix.
    fn newest(&self, prefix: &str) -> Result<String> {
        let names = self.run("apt-cache", &["pkgnames", prefix])?;
        newest(names.lines()).map(str::to_owned).with_context(|| format!("Debian has no package {prefix}…"))
    }

    /// Fetches a package and unpacks it into a directory, which is made anew.
    fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        eprintln!("fetching {package}");
        let archives = self.directory.join("cache/archives");
        if into.exists() {
            std::fs::remove_dir_all(into).context("remove what is unfinished")?;
        }
        self.run("apt-get", &["download", package])?;
        let file = std::fs::read_dir(&archives)
            .context("read apt's cache")?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                name.strip_prefix(package).is_some_and(|rest| rest.starts_with('_') && rest.ends_with(".deb"))
            })
            .with_context(|| format!("apt-get fetched no {package}"))?;
        tool::run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(into))?;
        std::fs::remove_file(&file).context("remove a package")
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let path = |name: &str| self.directory.join(name).display().to_string();
        let options = [
            format!("Dir::Etc::sourcelist={}", path("sources.list")),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::lists={}", path("lists")),
            format!("Dir::Cache={}", path("cache")),
            "APT::Architecture=amd64".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            // Its own user can't write into the target directory of root.
            "APT::Sandbox::User=root".to_owned(),
        ];
        let mut command = Command::new(program);
        command.current_dir(self.directory.join("cache/archives"));
        for option in options {
            command.args(["-o", &option]);
        }
        tool::run(command.arg("-q").args(arguments))
    }
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
