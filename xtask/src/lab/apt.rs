//! apt-get with lists and cache in a directory of its own: this machine's sources stay as they are.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tool;

const MIRROR: &str = "http://deb.debian.org/debian";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The packages of some suites of Debian.
pub(crate) struct Apt {
    directory: PathBuf,
}

impl Apt {
    /// Reads the suites' lists of packages.
    pub(crate) fn new(lab: &Path, suites: &[&str]) -> Result<Self> {
        if !tool::is_installed("apt-get") || !Path::new(KEYRING).is_file() {
            bail!(
                "the kernels are Debian's packages: apt-get and {KEYRING} are needed\nhint: apt-get install debian-archive-keyring"
            );
        }
        let directory = lab.join("apt").join(suites.join("+"));
        for name in ["lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(directory.join(name)).context("create apt's directories")?;
        }
        let line = |suite: &&str| format!("deb [arch=amd64 signed-by={KEYRING}] {MIRROR} {suite} main\n");
        let sources: String = suites.iter().map(line).collect();
        std::fs::write(directory.join("sources.list"), sources).context("write the sources")?;
        let apt = Self { directory };
        eprintln!("reading Debian's lists of packages");
        apt.run("apt-get", &["update"])?;
        Ok(apt)
    }

    /// The names of packages that have this prefix, one per line.
    pub(crate) fn names(&self, prefix: &str) -> Result<String> {
        self.run("apt-cache", &["pkgnames", prefix])
    }

    /// Fetches a package and unpacks it into a directory, which is made anew.
    pub(crate) fn unpack(&self, package: &str, into: &Path) -> Result<()> {
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
            // Without a network, it is known soon.
            "Acquire::http::Timeout=20".to_owned(),
            "Acquire::Retries=1".to_owned(),
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
