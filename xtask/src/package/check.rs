//! Checks the package: lintian, mandoc, and installation in a minimal Debian, which is booted.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cargo, tool};

/// Maximum exposure level of the service in `systemd-analyze security`.
const MAX_EXPOSURE: f64 = 2.0;
const UNITS: [&str; 2] = ["mcrd.service", "mcrd@red.service"];
/// System calls that the default seccomp profiles of container runtimes deny.
const DENIED_IN_CONTAINERS: &str = "--system-call-filter=~io_uring_setup io_uring_enter io_uring_register";
/// Started by systemd in the container: runs the checks and powers off.
const BOOTED_UNIT: &str = "[Unit]\nAfter=network.target\n[Service]\nType=oneshot\nExecStart=/booted.sh\n\
    StandardOutput=file:/booted.log\nStandardError=inherit\nExecStopPost=/bin/systemctl poweroff --force\n";
/// Plain output, without colors and links.
const PLAIN: [&str; 3] = ["--pipe", "--setenv=SYSTEMD_COLORS=0", "--setenv=SYSTEMD_URLIFY=0"];
/// Timeout of a boot with its checks, in seconds, for timeout(1).
const BOOT_TIMEOUT: &str = "300";

pub(crate) fn run(package: &Path) -> Result<()> {
    let missing: Vec<&str> = ["lintian", "mandoc", "mmdebstrap", "systemd-nspawn"]
        .into_iter()
        .filter(|name| !tool::is_installed(name))
        .collect();
    if !missing.is_empty() {
        bail!(
            "missing: {}\nhint: apt-get install lintian mandoc mmdebstrap systemd-container",
            missing.join(", ")
        );
    }
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on", "error,warning"]).arg(package);
    tool::run(&mut lintian)?;
    eprintln!("ok: lintian");
    for page in std::fs::read_dir("packaging/man").context("read packaging/man")? {
        tool::run(Command::new("mandoc").args(["-Tlint", "-W", "warning"]).arg(page?.path()))?;
    }
    eprintln!("ok: mandoc");
    installed_by_hand()?;

    let root = Root::new()?;
    std::fs::copy(package, root.path.join("mcr.deb")).context("copy the package")?;
    root.run(&[], &["apt-get", "install", "--yes", "/mcr.deb"])?;
    eprintln!("ok: installed in a minimal Debian");
    for unit in UNITS {
        root.run(&[], &["systemd-analyze", "verify", "--man=no", unit])?;
        check_exposure(&root, unit)?;
    }
    container(&root)?;
    container_file(&root, package)?;
    booted(&root)?;
    root.run(&[], &["dpkg", "--purge", "mcr"])?;
    if root.path.join("etc/mcr").exists() {
        bail!("/etc/mcr remains after the package was purged");
    }
    eprintln!("ok: purged");
    Ok(())
}

/// Runs the README's installation without a package, with a private `/usr/local/bin`.
fn installed_by_hand() -> Result<()> {
    let readme = std::fs::read_to_string("README.md").context("read README.md")?;
    let (_, rest) = readme.split_once("\ncargo build --release").context("README.md has no cargo build")?;
    let (commands, _) = rest.split_once("```").context("README.md's block does not end")?;
    let target = cargo::target_directory()?;
    let commands = commands.replace("target/release/", &format!("{}/release/", target.display()));
    let script = format!(
        "set -euo pipefail; sudo() {{ \"$@\"; }}; mount -t tmpfs tmpfs /usr/local/bin
         ${{CARGO:-cargo}} build --release{commands}
         for program in mcrd mcrctl mcrgen; do /usr/local/bin/$program --version; done"
    );
    tool::run(Command::new("unshare").args(["--mount", "bash", "-c", &script]))?;
    eprintln!("ok: manual installation as in README.md");
    Ok(())
}

fn check_exposure(root: &Root, unit: &str) -> Result<()> {
    let report = root.run(&[], &["systemd-analyze", "security", "--offline=true", "--no-pager", unit])?;
    let words: Vec<&str> =
        report.lines().find(|line| line.contains("Overall")).unwrap_or_default().split_whitespace().collect();
    let exposure = words.iter().find_map(|word| word.parse::<f64>().ok()).context("no exposure level")?;
    if exposure > MAX_EXPOSURE {
        bail!("{unit} exposes {exposure}, more than {MAX_EXPOSURE}:\n{report}");
    }
    eprintln!("ok: {unit} verifies, exposure {exposure}");
    Ok(())
}

fn container(root: &Root) -> Result<()> {
    root.add_script("container.sh")?;
    let output = root.run(&["--as-pid2", DENIED_IN_CONTAINERS], &["/container.sh"])?;
    eprintln!("{}", output.lines().last().unwrap_or_default());
    Ok(())
}

/// Builds and runs the container file with podman, in separate namespaces.
fn container_file(root: &Root, package: &Path) -> Result<()> {
    if !tool::is_installed("podman") {
        eprintln!("skipped: the container file: podman is not installed");
        return Ok(());
    }
    let packages = package.parent().context("the package is in no directory")?;
    let work = root.path.with_file_name("podman");
    remove(&work)?;
    std::fs::create_dir_all(&work).context("create podman's directory")?;
    let mut podman = Command::new("unshare");
    podman.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    podman.args([Path::new("packaging/tests/podman.sh"), &root.clean, packages]);
    let output = tool::run(podman.args([&root.path.join("usr/bin/mcrgen"), &work]))?;
    eprintln!("{}", output.lines().last().unwrap_or_default());
    remove(&work)
}

fn booted(root: &Root) -> Result<()> {
    root.add_script("booted.sh")?;
    let units = root.path.join("etc/systemd/system");
    std::fs::write(units.join("booted.service"), BOOTED_UNIT)?;
    std::os::unix::fs::symlink(
        "/etc/systemd/system/booted.service",
        units.join("multi-user.target.wants/booted.service"),
    )?;
    let mut boot = Command::new("timeout");
    boot.args([BOOT_TIMEOUT, "systemd-nspawn"]).args(root.options()).args(["--boot"]);
    // Its exit code is that of the poweroff; the log has the result.
    let console = boot.output().context("start timeout")?;
    let log = std::fs::read_to_string(root.path.join("booted.log")).unwrap_or_default();
    eprint!("{log}");
    if !log.ends_with("\n0 checks failed\n") {
        bail!("the booted service fails; console:\n{}", String::from_utf8_lossy(&console.stdout));
    }
    Ok(())
}

/// A minimal Debian, copied from one in the target directory.
struct Root {
    path: PathBuf,
    /// The original.
    clean: PathBuf,
}

impl Root {
    fn new() -> Result<Self> {
        let directory = cargo::target_directory()?.join("package");
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        let codename = codename.context("/etc/os-release has no VERSION_CODENAME")?;
        let clean = directory.join(format!("clean-{codename}"));
        if !clean.exists() {
            let unfinished = directory.join("clean-unfinished");
            remove(&unfinished)?;
            eprintln!("creating a minimal Debian {codename}");
            let mut bootstrap = Command::new("mmdebstrap");
            bootstrap.args([
                "--quiet",
                "--variant=minbase",
                "--include=systemd,systemd-sysv,iproute2,procps",
                codename,
            ]);
            tool::run(bootstrap.arg(&unfinished))?;
            std::fs::rename(&unfinished, &clean).context("keep the clean root")?;
        }
        let root = directory.join("root");
        remove(&root)?;
        tool::run(Command::new("cp").arg("-a").arg(&clean).arg(&root))?;
        Ok(Self { path: root, clean })
    }

    /// Options of systemd-nspawn: a private network, not registered with machined.
    fn options(&self) -> Vec<String> {
        let root = format!("--directory={}", self.path.display());
        let machine = format!("--machine=mcr-{}", std::process::id());
        ["--quiet", "--register=no", "--keep-unit", "--private-network", &machine, &root]
            .map(str::to_owned)
            .into()
    }

    fn run(&self, options: &[&str], words: &[&str]) -> Result<String> {
        tool::run(Command::new("systemd-nspawn").args(self.options()).args(PLAIN).args(options).args(words))
    }

    fn add_script(&self, name: &str) -> Result<()> {
        std::fs::copy(Path::new("packaging/tests").join(name), self.path.join(name))
            .context("copy a script")?;
        Ok(())
    }
}

fn remove(directory: &Path) -> Result<()> {
    if directory.exists() { std::fs::remove_dir_all(directory).context("remove an old root") } else { Ok(()) }
}
