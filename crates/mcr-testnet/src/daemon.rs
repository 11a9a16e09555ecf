//! A running `mcrd` and its control tool.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use mcr_sys::process::{PidFd, Signal};
use serde_json::Value;

use crate::child::Child;
use crate::scratch::Scratch;
use crate::{Host, accounting, binary, wait_for, wait_until};

/// Files of a daemon in its directory.
const CONFIG: &str = "mcr.json5";
const SOCKET: &str = "mcrd.sock";
const LOG: &str = "mcrd.log";

const START_DEADLINE: Duration = Duration::from_secs(20);
const SETTLE_DEADLINE: Duration = Duration::from_secs(10);

/// The I/O backend of the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoBackend {
    /// `io_uring`, the daemon's choice where it is allowed.
    Uring,
    /// `recvmmsg` and `sendmmsg`, the fallback.
    Recvmmsg,
}

impl IoBackend {
    /// Both, for tests that hold on either.
    pub const ALL: [Self; 2] = [Self::Uring, Self::Recvmmsg];

    /// Its value in `MCRD_IO`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Uring => "io_uring",
            Self::Recvmmsg => "recvmmsg",
        }
    }
}

/// The output of `mcrctl`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CtlOutput {
    /// stdout.
    pub stdout: String,
    /// stderr.
    pub stderr: String,
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
}

/// A daemon on a host, with its configuration and socket in its own directory. It is stopped when dropped; if the
/// test is failing then, its log is printed. A death by the sandbox fails the test.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    /// The supervisor that replaced the child.
    replacement: Option<u32>,
    directory: Scratch,
    /// Deaths by the sandbox are part of the test.
    kills_expected: bool,
}

impl Daemon {
    /// Starts a daemon with this configuration (JSON5) and waits until it answers.
    #[must_use]
    pub fn start(host: &Host, io: IoBackend, config: &str) -> Self {
        Self::start_with(host, config, |command| {
            command.env("MCRD_IO", io.as_str());
        })
    }

    /// [`Self::start`] with further arguments or another environment.
    #[must_use]
    pub fn start_with(host: &Host, config: &str, configure: impl FnOnce(&mut Command)) -> Self {
        let directory = Scratch::new();
        std::fs::write(directory.path().join(CONFIG), config).expect("write the configuration");
        let child = start(host, directory.path(), configure);
        let mut daemon = Self { child, replacement: None, directory, kills_expected: false };
        daemon.wait_until_ready();
        daemon
    }

    /// Kills it and starts it again on the same files.
    pub fn kill_and_restart(&mut self, host: &Host, configure: impl FnOnce(&mut Command)) {
        self.kill();
        self.start_again(host, configure);
    }

    /// Kills the supervisor only: its keeper and its workers continue.
    pub fn kill(&mut self) {
        self.child.stop(Signal::KILL);
        if let Some(process) = self.replacement.take().and_then(|pid| PidFd::open(pid).ok()) {
            let _ = process.kill(Signal::KILL);
            wait_until("the end of a replacement", SETTLE_DEADLINE, || process.has_ended().unwrap_or(true));
        }
    }

    /// Upgrades the supervisor to the program on disk.
    pub fn upgrade(&mut self) {
        let reply = self.ctl_json(&["upgrade"]);
        let pid = reply["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        self.replacement = Some(pid.expect("a process id"));
    }

    /// Starts a supervisor on the same files, after the previous one has exited.
    pub fn start_again(&mut self, host: &Host, configure: impl FnOnce(&mut Command)) {
        self.child = start(host, self.directory.path(), configure);
        self.wait_until_ready();
    }

    /// The keeper's process, if there is one.
    #[must_use]
    pub fn keeper(&self) -> Option<u32> {
        let keepers = processes_of(self.directory.path());
        keepers.into_iter().find(|(_, line)| is_keeper(line)).map(|(pid, _)| pid)
    }

    /// The supervisors of these files: the one started here, and its successors after upgrades.
    #[must_use]
    pub fn supervisors(&self) -> Vec<u32> {
        let all = processes_of(self.directory.path());
        all.into_iter().filter(|(_, line)| !is_keeper(line)).map(|(pid, _)| pid).collect()
    }

    fn wait_until_ready(&mut self) {
        wait_for("mcrd to answer", START_DEADLINE, || {
            if let Some(status) = self.child.ended() {
                panic!("mcrd ended with {status}:\n{}", self.log());
            }
            let ping = self.socket().exists().then(|| self.ctl(&["ping"]));
            ping.filter(|output| output.code == 0).ok_or_else(|| self.log())
        });
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.replacement.unwrap_or_else(|| self.child.id())
    }

    /// Its startup file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.directory.path().join(CONFIG)
    }

    /// Its control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join(SOCKET)
    }

    /// A directory for files of the test, removed with the daemon.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The stderr output of the daemon and its workers so far.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.directory.path().join(LOG)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Runs `mcrctl` with these arguments.
    pub fn ctl(&self, arguments: &[&str]) -> CtlOutput {
        let mut command = Command::new(binary("mcrctl"));
        command.arg("--socket").arg(self.socket()).args(arguments).stdin(Stdio::null());
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        CtlOutput {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        }
    }

    /// Runs `mcrctl --json` with these arguments and returns what it printed.
    pub fn ctl_json(&self, arguments: &[&str]) -> Value {
        let output = self.ctl(&[&["--json"], arguments].concat());
        assert_eq!(output.code, 0, "mcrctl {arguments:?}: {}{}", output.stdout, output.stderr);
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| {
            panic!("mcrctl {arguments:?} printed no JSON: {error}: {}", output.stdout)
        })
    }

    /// The statistics once traffic has ceased: two consecutive readings are equal, and the accounting identity holds.
    pub fn settled_stats(&self) -> Value {
        let mut last = Value::Null;
        wait_for("accounts that add up and rest", SETTLE_DEADLINE, || {
            let stats = self.ctl_json(&["stats"]);
            let rest = counters(&last) == counters(&stats);
            last = stats.clone();
            accounting::check(&stats)?;
            if rest { Ok(stats) } else { Err("counters still move".to_owned()) }
        })
    }

    /// Waits until each of the rules is active.
    pub fn wait_until_active(&self, rules: usize) {
        wait_for("active rules", START_DEADLINE, || {
            let list = self.ctl_json(&["list"]);
            let states = list["rules"].as_array().into_iter().flatten().map(|rule| rule["state"].as_str());
            let active = states.filter(|state| *state == Some("active")).count();
            if active == rules { Ok(()) } else { Err(list) }
        });
    }

    /// Expects that the sandbox kills a worker. Otherwise that fails the test, when this value is dropped.
    pub const fn expect_sandbox_kills(&mut self) {
        self.kills_expected = true;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.child.signal(signal);
    }

    /// Stops it (SIGTERM) and returns its exit status.
    pub fn terminate(&mut self) -> ExitStatus {
        self.child.stop(Signal::TERM)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.signal(Signal::TERM);
        if std::thread::panicking() {
            // The child's own drop kills it; its last log lines may be missing here.
            eprintln!("── log of mcrd ──\n{}─────────────────", self.log());
        } else if self.child.ended().is_none() {
            self.child.wait(SETTLE_DEADLINE);
        }
        // Successors are not our children, and a keeper outlives its supervisor; its workers end with it.
        for (pid, line) in processes_of(self.directory.path()) {
            let signal = if is_keeper(&line) { Signal::KILL } else { Signal::TERM };
            if let Ok(process) = PidFd::open(pid) {
                let _ = process.kill(signal);
            }
        }
        if !self.kills_expected && !std::thread::panicking() {
            let log = self.log();
            assert!(!log.contains("SIGSYS"), "the sandbox killed a process:\n{log}");
        }
    }
}

/// Processes of `mcrd` whose command line names the directory, with their command lines.
fn processes_of(directory: &Path) -> Vec<(u32, String)> {
    let directory = directory.to_string_lossy().into_owned();
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            (line.contains("mcrd") && line.contains(&directory)).then_some((pid, line))
        })
        // mcrctl names the socket, too.
        .filter(|(_, line)| !line.contains("mcrctl"))
        .collect()
}

fn is_keeper(command_line: &str) -> bool {
    command_line.starts_with("mcrd keeper ")
}

fn start(host: &Host, directory: &Path, configure: impl FnOnce(&mut Command)) -> Child {
    let log = File::options().create(true).append(true).open(directory.join(LOG)).expect("open the log");
    let mut command = Command::new(binary("mcrd"));
    command.arg("--config").arg(directory.join(CONFIG)).arg("--socket").arg(directory.join(SOCKET));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    configure(&mut command);
    Child::start("mcrd", host, command)
}

/// The fields of the statistics that don't change without traffic.
fn counters(stats: &Value) -> Option<(&Value, &Value, Vec<&Value>)> {
    let received =
        stats.get("workers")?.as_array()?.iter().filter_map(|worker| worker.get("received")).collect();
    Some((stats.get("drops")?, stats.get("skips")?, received))
}
