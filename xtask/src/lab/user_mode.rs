//! User-mode Linux: the kernel is a process of this machine, and its programs run at nearly the machine's speed. It has one core,
//! and neither network cards nor all that Debian's other kernels have.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::apt::Apt;

/// The kernel's memory is a file without a name there.
const MEMORY: &str = "/dev/shm";
const PROGRAM: &str = "linux.uml";
/// The C library that the program was built for may be newer than this machine's.
const LIBRARIES: [&str; 2] = ["ld-linux-x86-64.so.2", "libc.so.6"];
/// The program's interpreter (elf(5), `PT_INTERP`), and one in the directory that it is started in.
const INTERPRETER: &[u8] = b"/lib64/ld-linux-x86-64.so.2\0";
const OWN_INTERPRETER: &[u8] = b"./ld-linux-x86-64.so.2\0\0\0\0\0\0";

/// Unpacks the newest kernel of the suite: program, modules (below `modules` there), C library.
pub(crate) fn unpack(apt: &Apt, into: &Path, modules: &str) -> Result<()> {
    apt.unpack("user-mode-linux", into)?;
    let packaged = into.join("usr/bin").join(PROGRAM);
    let program = std::fs::read(&packaged).with_context(|| format!("read {}", packaged.display()))?;
    std::fs::write(&packaged, with_own_interpreter(program)?).context("change the kernel's interpreter")?;
    std::fs::rename(packaged, into.join(PROGRAM)).context("move the kernel")?;
    std::fs::create_dir(into.join("lib")).context("create a directory for modules")?;
    std::fs::rename(into.join("usr/lib/uml/modules"), into.join(modules)).context("move the modules")?;
    let library = into.with_extension("library");
    apt.unpack("libc6", &library)?;
    for name in LIBRARIES {
        let found = ["lib", "usr/lib"].map(|lib| library.join(lib).join("x86_64-linux-gnu").join(name));
        let file =
            found.iter().find(|file| file.is_file()).with_context(|| format!("libc6 has no {name}"))?;
        std::fs::copy(file, into.join(name)).with_context(|| format!("copy {name}"))?;
    }
    std::fs::remove_dir_all(library).context("remove the rest of the C library")
}

fn with_own_interpreter(mut program: Vec<u8>) -> Result<Vec<u8>> {
    let places: Vec<usize> = program
        .windows(INTERPRETER.len())
        .enumerate()
        .filter_map(|(place, bytes)| (bytes == INTERPRETER).then_some(place))
        .collect();
    let [place] = places[..] else { bail!("{PROGRAM} names its interpreter {} times", places.len()) };
    program.splice(place..place + INTERPRETER.len(), OWN_INTERPRETER.iter().copied());
    Ok(program)
}

/// The command that boots the kernel in a directory.
pub(crate) fn command(directory: &Path, initramfs: &File, memory_mib: u32) -> Command {
    // Its helper processes outlive it; in a PID namespace of its own they end with it.
    let mut linux = Command::new("unshare");
    linux.args(["--pid", "--fork", "--kill-child"]);
    if !mcr_testnet::may_create_namespaces() {
        linux.args(["--user", "--map-root-user"]);
    }
    // Not for unshare, which is this machine's.
    linux.args(["env", &format!("TMPDIR={MEMORY}"), &format!("LD_LIBRARY_PATH={}", directory.display())]);
    linux.arg(directory.join(PROGRAM)).current_dir(directory);
    linux.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    linux.arg(format!("mem={memory_mib}M"));
    linux.arg(format!("initrd=/proc/{}/fd/{}", std::process::id(), initramfs.as_raw_fd()));
    // Its control socket's directory, which it removes; not the home directory.
    linux.arg(format!("uml_dir={}", directory.join("run").display()));
    linux.args(["con=null", "con0=null,fd:1", "loglevel=3", "quiet"]);
    linux
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_interpreter_is_changed() {
        let program = [b"ELF\0", INTERPRETER, b"rest"].concat();
        assert_eq!(with_own_interpreter(program).unwrap(), [b"ELF\0", OWN_INTERPRETER, b"rest"].concat());
        assert!(with_own_interpreter(b"statically linked".to_vec()).is_err());
    }
}
