//! One boot of a kernel.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mcr_sys::clock::monotonic;
use mcr_sys::process::CommandExt as _;

use super::job::Job;
use super::kernel::Machine;
use super::report::{Outcome, Reader};
use super::{Guest, Model, QEMU, initramfs, user_mode};
use crate::cargo;

const MEMORY_MIB: u32 = 3072;
/// Only what is critical is printed: busybox offers compressed modules to the kernel first as they are. A panic ends the guest. No time for mitigations, nor for verifying qemu's clock.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=3 panic=-1 mitigations=off nokaslr tsc=reliable";

/// A line of the guest's console with this is a command for qemu's monitor: a test can pull a card's cable by `set_link nic0 off`.
const MONITOR_COMMAND: &str = "lab: monitor: ";
const MONITOR_PATIENCE: Duration = Duration::from_secs(10);
const PROMPT: &[u8] = b"(qemu) ";

impl Guest {
    /// Boots, runs the job, and powers off.
    pub(crate) fn run(&self, job: &Job) -> Outcome {
        let card = self.card.map_or_else(String::new, |card| format!(", {}", card.device()));
        let name = format!("Linux {} ({}{card})", self.kernel, self.machine);
        let start = monotonic();
        let mut reader = Reader::default();
        let error = self.boot(job, &name, start, &mut reader).err();
        let (tests, broken) = reader.end();
        let broken = error.map(|error| format!("{error:#}")).or(broken);
        Outcome { name, tests, broken, time: monotonic().saturating_sub(start) }
    }

    fn boot(&self, job: &Job, name: &str, start: Duration, reader: &mut Reader) -> Result<()> {
        let initramfs = self.initramfs(job)?;
        let mut command = match self.machine {
            Machine::UserMode => {
                user_mode::command(&self.kernel.directory(Machine::UserMode)?, &initramfs, MEMORY_MIB)
            }
            Machine::Qemu => self.qemu(&initramfs)?,
        };
        // Killed with the thread that waits for it.
        let started = command.die_with_parent().spawn();
        let mut guest = started.with_context(|| format!("start {}", command.get_program().display()))?;
        let console = guest.stdout.take().context("the guest has no output")?;
        let (send, lines) = std::sync::mpsc::channel();
        // Ends with the guest.
        std::thread::spawn(move || {
            for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
                if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        let result = self.follow(&lines, name, start, reader);
        // It may have ended.
        let _ = guest.kill();
        let _ = guest.wait();
        result
    }

    /// Shows and reads the lines of the console until the guest ends.
    fn follow(
        &self,
        lines: &Receiver<String>,
        name: &str,
        start: Duration,
        reader: &mut Reader,
    ) -> Result<()> {
        loop {
            let left = (start + self.limit).saturating_sub(monotonic());
            match lines.recv_timeout(left) {
                Ok(line) => {
                    if let Some((_, command)) = line.split_once(MONITOR_COMMAND) {
                        self.tell_monitor(command.trim())?;
                        continue;
                    }
                    let Some(shown) = reader.line(&line) else { continue };
                    if self.shares_output { println!("{name}: {shown}") } else { println!("{shown}") }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => bail!("not finished within {} s", self.limit.as_secs()),
            }
        }
    }

    /// Gives a command to qemu's monitor, and waits until it is carried out.
    fn tell_monitor(&self, command: &str) -> Result<()> {
        let address = SocketAddr::from_abstract_name(self.monitor()).context("name qemu's monitor")?;
        let mut monitor = UnixStream::connect_addr(&address).context("connect to qemu's monitor")?;
        monitor.set_read_timeout(Some(MONITOR_PATIENCE)).context("set a timeout")?;
        writeln!(monitor, "{command}").context("write to qemu's monitor")?;
        // It prints a prompt before the command and after it.
        let mut said: Vec<u8> = Vec::new();
        let mut buffer = [0_u8; 512];
        while said.windows(PROMPT.len()).filter(|bytes| *bytes == PROMPT).count() < 2 {
            match monitor.read(&mut buffer).context("read from qemu's monitor")? {
                0 => break,
                bytes => said.extend(buffer.iter().take(bytes)),
            }
        }
        Ok(())
    }

    /// The name of the monitor's socket.
    fn monitor(&self) -> String {
        format!("mcr-lab-{}-{}", std::process::id(), self.kernel)
    }

    /// A file without a name, so that nothing is left whatever ends this program.
    fn initramfs(&self, job: &Job) -> Result<File> {
        let name = format!("lab/initramfs-{}-{}-{}", self.kernel, self.machine.name(), std::process::id());
        let path = cargo::target_directory()?.join(name);
        let open = File::options().read(true).write(true).create_new(true).open(&path);
        let mut file = open.with_context(|| format!("create {}", path.display()))?;
        std::fs::remove_file(&path).context("remove the name of the initramfs")?;
        initramfs::write(&mut file, self, job)?;
        Ok(file)
    }

    fn qemu(&self, initramfs: &File) -> Result<Command> {
        let mut qemu = Command::new(QEMU);
        qemu.stdin(Stdio::null()).stdout(Stdio::piped());
        // In one thread: with several, qemu 7.2 sees half of a jump that the kernel patches on another core (an oops, int3).
        qemu.args(["-accel", "tcg,thread=single", "-cpu", "max", "-m", &MEMORY_MIB.to_string()]);
        qemu.args(["-smp", &self.cores.to_string()]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        qemu.arg("-kernel").arg(self.kernel.image()?);
        qemu.arg("-initrd").arg(format!("/proc/{}/fd/{}", std::process::id(), initramfs.as_raw_fd()));
        qemu.args(["-append", COMMAND_LINE]);
        qemu.args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
        let monitor = format!("socket,id=monitor,path={},abstract=on,server=on,wait=off", self.monitor());
        qemu.args(["-chardev", &monitor, "-mon", "chardev=monitor,mode=readline"]);
        qemu.args(["-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"]);
        qemu.args(["-device", "virtio-9p-pci,fsdev=root,mount_tag=root"]);
        for number in self.card.iter().flat_map(|_| 0..4) {
            qemu.args(["-netdev", &format!("hubport,id=cable{number},hubid={}", number / 2)]);
            let model = self.card.map_or("", Model::device);
            let address = format!("52:54:00:00:00:0{number}");
            qemu.args([
                "-device",
                &format!("{model},id=nic{number},netdev=cable{number},mac={address},romfile="),
            ]);
        }
        Ok(qemu)
    }
}
